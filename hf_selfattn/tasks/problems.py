"""The problems that labels of texts pose: one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

Array = NDArray[Any]


@dataclass(frozen=True)
class Problem:
    """What training needs to know of a problem beyond its labels."""

    problem_type: str  # the name that the model's configuration has for it
    probabilities: Callable[[Array], Array]  # logits (N, C) to what is scored, (N, C) or (N,)
    selection_metric: str  # metric of the validation split that picks the checkpoint


PROBLEMS = {
    "single_label_classification": Problem(
        "single_label_classification", lambda logits: softmax(logits, axis=-1), "macro_f1"
    ),
    "multi_label_classification": Problem("multi_label_classification", expit, "macro_f1"),
    "ordinal": Problem("single_label_classification", lambda logits: softmax(logits, axis=-1), "mae"),
    "regression": Problem("regression", lambda logits: logits[:, 0], "rmse"),
}


def as_references(labels: Any, problem: str) -> Array:
    """Return the right answers as losses and scores want them: ints for classes, floats otherwise."""
    return np.asarray(labels, dtype=int if problem in ("single_label_classification", "ordinal") else float)
