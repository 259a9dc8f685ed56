"""What a report is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar


@dataclass
class ReportArguments:
    """Show finished runs on one HTML page.

    Args:
        runs: folders of finished runs; two or more also stand side by side, the first against each other one.
        output: file of the page; `report.html` in the folder of the first run where it is not given.
        split: evaluation split whose rows are looked at; `test` where there is one, otherwise `validation`.
        columns: columns of the data by whose values the scores are shown, too.
        examples: how many rows of each kind are shown with their text.
        look_inside: open the model to show what its heads looked at.
    """

    required: ClassVar[tuple[str, ...]] = ("runs",)

    runs: list[str] = field(default_factory=list)
    output: str | None = None
    split: str | None = None
    columns: list[str] = field(default_factory=list)
    examples: int = 10
    look_inside: bool = True

    def __post_init__(self) -> None:
        if self.examples < 0:
            raise ValueError(f"examples={self.examples} must be 0 or more.")
