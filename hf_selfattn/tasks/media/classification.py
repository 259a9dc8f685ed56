"""What classifications of images and of sounds have in common beside their rows: options and baselines."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from accelerate import PartialState
from datasets import Dataset

from ...data.media.read import MediaData, raw_media
from ...metrics.baselines import majority_baseline
from ..classification import Classification, ClassificationArguments
from ..evaluation import score_answers
from ..problems import Array, as_references
from .files import FileTask, unopened


@dataclass
class MediaClassificationArguments(ClassificationArguments):
    """What is compared, and which rows are left out.

    Args:
        deduplicate: drop repeated training files, and training files that stand in an evaluation split.
        baseline: score the most frequent class and, where features are kept, a linear model on their mean, beside the
            model.
    """

    medium: ClassVar[str]

    deduplicate: bool = False
    baseline: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sample_tokens:
            raise ValueError(f"sample_tokens={self.sample_tokens} cuts texts, and files are none. Leave it out.")

    def columns(self) -> dict[str, Any]:
        """Return what the user said of the columns and labels."""
        names = (f"{self.medium}_column", "label_column", "problem", "label_names", "label_separator")
        return {name: getattr(self, name) for name in names}


AnyMediaArguments = TypeVar("AnyMediaArguments", bound=MediaClassificationArguments)


class MediaClassification(FileTask[AnyMediaArguments], Classification[AnyMediaArguments]):
    """A row is a file with its labels; answers are calibrated.

    Attributes:
        read_rows: checks raw rows and brings them into one form.
        without_repeats: drops repeated files of train.
    """

    read_rows: ClassVar[Callable[..., MediaData]]
    without_repeats: ClassVar[Callable[..., MediaData]]
    top = 5

    def load(self) -> Any:
        """Load and check the data; every file is opened once."""
        arguments = self.arguments
        kept = [arguments.group_column] if arguments.group_column else []
        options = {"on_bad_row": arguments.on_bad_row, "keep_columns": kept, **arguments.columns()}
        with PartialState().local_main_process_first():
            data = self.read_rows(self.raw_rows(), **options)
        return self.without_repeats(data) if arguments.deduplicate else data

    def settings_found(self) -> tuple[dict[str, Any], list[str]]:
        """Return the columns, the problem and the labels of the data, and notes on them."""
        given, name = self.arguments.columns(), f"{self.medium.name}_column"
        raw = raw_media(self.medium, self.raw_rows(), file_column=given.pop(name), **given)
        found = {name: next(iter(raw.file_columns.values())), "label_column": raw.columns.label}
        found |= {"problem": raw.scheme.problem}
        return found | ({} if raw.scheme.problem == "regression" else {"label_names": raw.scheme.names}), raw.notes

    def encode(self, data: Any, processor: Any) -> dict[str, Dataset]:
        """Return the splits with their files unopened."""
        return {
            name: unopened(split, self.medium, data.problem, self.lengths(split))
            for name, split in data.splits.items()
        }

    def lengths(self, split: Dataset) -> list[int]:
        """Return as how many tokens each file counts: here all alike."""
        return [1] * len(split)

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
        model = self.linear_start(data, means)
        answers = {name: model.answers(values, data.problem) for name, values in means.items() if name != "train"}
        return {"linear_probe": score_answers(data, answers, time.perf_counter() - started, self.top)}
