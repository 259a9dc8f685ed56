"""The problems that labels pose, in one table, and the weighted loss, in which rare classes count for more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, softmax
from torch import Tensor
from torch.nn import functional as F

Array = NDArray[Any]
LossFunction = Callable[..., Tensor]


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


def build_loss(
    problem: str,
    references: Array,
    num_labels: int,
    class_weights: str | None = None,
    label_smoothing: float = 0.0,
) -> LossFunction | None:
    """Return what `Trainer` takes as `compute_loss_func`, or None where the model's own loss is the one wanted.

    Args:
        references: right answers of the training rows, from which balanced weights are counted.
        label_smoothing: of `Trainer`, which smooths the plain cross entropy of classes and nothing else.
    """
    has_classes = problem in ("single_label_classification", "ordinal")
    if problem == "regression" and class_weights:
        raise ValueError("A regression has no classes: leave class_weights out.")
    if label_smoothing and (class_weights or not has_classes):
        raise ValueError(
            f"label_smoothing_factor={label_smoothing} smooths the plain cross entropy of classes alone. Leave it "
            f"out, or leave out class_weights; the problem here is {problem}."
        )
    if class_weights is None:
        return None
    weights = balanced_weights(references, num_labels)

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        logits = outputs["logits"].float()
        weight = weights.to(logits.device)
        if has_classes:
            losses = F.cross_entropy(logits, labels, weight=weight, reduction="none")
        else:
            targets = labels.to(logits.dtype)
            losses = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="none")
        return losses.mean() if num_items_in_batch is None else losses.sum() / num_items_in_batch

    return loss


def balanced_weights(references: Array, num_labels: int) -> Tensor:
    """Return the weight of each class, N / (C * its rows), or of each label's positives, negatives / positives.

    The references are (N,) class numbers, or (N, C) 0 and 1. A class without rows has the weight 1.
    """
    if references.ndim == 2:
        positives = references.sum(axis=0)
        ratios = (len(references) - positives) / np.maximum(positives, 1)
    else:
        positives = np.bincount(references, minlength=num_labels)
        ratios = len(references) / (num_labels * np.maximum(positives, 1))
    return torch.tensor(np.where(positives > 0, ratios, 1.0), dtype=torch.float32)
