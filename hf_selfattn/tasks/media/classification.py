"""What classifications of images and of sounds have in common beside their rows: options and baselines."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from ...data.media.medium import Medium
from ...metrics.baselines import majority_baseline
from ..classification import Classification, ClassificationArguments
from ..evaluation import score_answers
from ..problems import Array, as_references
from .files import OPTIONS_OF_FILES


@dataclass
class MediaClassificationArguments(ClassificationArguments):
    """What is compared, and which rows are left out.

    Args:
        deduplicate: drop repeated training files, and training files that stand in an evaluation split.
        baseline: score the most frequent class and, where features are kept, a linear model on their mean, beside the
            model.
    """

    deduplicate: bool = False
    baseline: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sample_tokens:
            raise ValueError(f"sample_tokens={self.sample_tokens} cuts texts, and files are none. Leave it out.")


AnyMediaArguments = TypeVar("AnyMediaArguments", bound=MediaClassificationArguments)


class MediaClassification(Classification[AnyMediaArguments]):
    """A row is a file with its labels.

    Attributes:
        medium: what the files are.
    """

    medium: ClassVar[Medium]
    encodes_by = "found"
    top = 5

    def training_defaults(self) -> dict[str, Any]:
        """Return the options of `Trainer` that files need."""
        return OPTIONS_OF_FILES

    def rows(self, data: Any) -> list[dict[str, Any]]:
        """Return the files, unopened."""
        name = self.medium.name
        return [{name: source} for source in data.splits["test"][name]]

    def baselines(self, data: Any) -> dict[str, Any]:
        """Score the shares of the classes in train, given to every row alike."""
        if not self.arguments.baseline:
            return {}
        started = time.perf_counter()
        references = as_references(data.splits["train"]["label"][:], data.problem)
        rows = {name: len(split) for name, split in data.splits.items() if name != "train"}
        answers = majority_baseline(data.problem, references, rows, len(data.label_names))
        return {"majority": score_answers(data, answers, time.perf_counter() - started, self.top)}

    def feature_baselines(self, data: Any, features: Callable[[], dict[str, Array]]) -> dict[str, Any]:
        """Score a linear model on the means of the kept features, its regularisation chosen on validation."""
        if not self.arguments.baseline:
            return {}
        means, started = features(), time.perf_counter()
        answers = self.linear_answers(data, means)
        return {"linear_probe": score_answers(data, answers, time.perf_counter() - started, self.top)}
