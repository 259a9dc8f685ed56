"""What a text classification is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..arguments import RunArguments


@dataclass
class TextClassificationArguments(RunArguments):
    """Tune a text classifier.

    Args:
        text_pair_column: column of the second texts; a well-known name is found.
        label_column: column of the labels, or a list of columns of 0 and 1, one per label; a well-known name is found.
        problem: `single_label_classification`, `multi_label_classification`, `regression` or `ordinal`; detected from
            the labels where it is not given.
        label_names: the labels in the order wanted.
        label_separator: stands between the labels of a cell that holds several, such as `,`; found where most labels
            that hold one are made of other labels.
        deduplicate: drop repeated training rows, and training rows that stand in an evaluation split.
        group_column: rows of one group never stand on both sides of a split that is made here.
        streaming: read the rows of train while training, for data that no memory holds (docs/scaling.md); needs
            `max_steps` and a validation split.
        streaming_buffer: rows of a stream among which the next one is drawn at random.
        class_weights: `balanced` weighs a class by the inverse of its frequency.
        calibrate: fit temperature and thresholds on the validation split and store them in the model.
        folds: cross-validate: every row of train is tested once.
        baseline: score TF-IDF with a linear model on the same rows beside the model.
    """

    task: ClassVar[str] = "text-classification"

    text_pair_column: str | None = None
    label_column: str | list[str] | None = None
    problem: str | None = None
    label_names: list[str] | None = None
    label_separator: str | None = None
    deduplicate: bool = False
    group_column: str | None = None
    streaming: bool = False
    streaming_buffer: int = 1000
    class_weights: Literal["balanced"] | None = None
    calibrate: bool = True
    folds: int = 0
    baseline: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.streaming and self.caches_features:
            raise ValueError(self.needs_whole_rows("streaming=true"))
        if self.streaming and self.probe_epochs is not None:
            raise ValueError(
                f"probe_epochs={self.probe_epochs}, but with streaming=true an epoch has no end. Leave it out: each "
                "phase makes max_steps."
            )
        if self.seeds > 1 and self.folds:
            raise ValueError(f"seeds={self.seeds} and folds={self.folds} cannot go together. Leave one out.")

    @property
    def makes_several_models(self) -> bool:
        """Whether the run trains several models that stand side by side."""
        return self.seeds > 1 or self.folds > 0

    def columns(self) -> dict[str, Any]:
        """Return what the user said of the columns and labels."""
        names = ("text_column", "text_pair_column", "label_column", "problem", "label_names", "label_separator")
        return {name: getattr(self, name) for name in names}
