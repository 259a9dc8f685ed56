"""Look at every row once: the one inspection that preparing and checking share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from .labels import LabelError, LabelScheme, Target, encode_label, named_values
from .reading import ORIGIN

PLACES = 3  # examples that a message gives


@dataclass(frozen=True)
class Columns:
    """The names of the columns that hold the text, the second text of a pair (or None) and the label."""

    text: str
    text_pair: str | None
    label: str

    @property
    def texts(self) -> list[str]:
        """The one or two text columns."""
        return [self.text] if self.text_pair is None else [self.text, self.text_pair]


@dataclass(frozen=True)
class BadRow:
    """One mistake in one row: its index in the split, its place in the user's file, and what is wrong."""

    index: int
    place: str
    kind: str
    message: str


@dataclass(frozen=True)
class Finding:
    """One sort of mistake in one split, with the number of rows (or of another unit) and up to three places."""

    kind: str
    split: str
    message: str
    count: int
    places: list[str]
    unit: str = "row(s)"

    def __str__(self) -> str:
        return f"{self.split}: {self.message}: {self.count} {self.unit}, {listed(self.places, self.count)}"


def inspect_rows(split: Dataset, columns: Columns, scheme: LabelScheme) -> tuple[list[Target | None], list[BadRow]]:
    """Encode the label of each row and list every mistake, rather than stop at the first.

    Returns:
        One target per row (None where the label is bad), and the mistakes in the order of the columns and rows.
    """
    places = column_values(split, ORIGIN)
    bad: list[BadRow] = []
    for column in columns.texts:
        for index, text in enumerate(column_values(split, column)):
            kind, message = text_mistake(text)
            if kind:
                bad.append(BadRow(index, places[index], kind, f"column '{column}': {message}"))
    targets: list[Target | None] = []
    for index, value in enumerate(named_values(split, columns.label)):
        try:
            targets.append(encode_label(scheme, value))
        except LabelError as error:
            targets.append(None)
            bad.append(BadRow(index, places[index], error.kind, f"column '{columns.label}': {error}"))
    return targets, bad


def summarise(split: str, bad: Iterable[BadRow], unit: str = "row(s)") -> list[Finding]:
    """Group mistakes of the same sort into findings."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in bad:
        groups.setdefault((row.kind, row.message), []).append(row.place)
    return [
        Finding(kind, split, message, len(places), places[:PLACES], unit) for (kind, message), places in groups.items()
    ]


def bad_rows_message(findings: Sequence[Finding], mends: Mapping[str, str]) -> str:
    """Write the error that lists all mistakes and says how to mend them."""
    lines = [f"  {finding}" for finding in findings[:20]]
    if len(findings) > 20:
        lines.append(f"  … and {len(findings) - 20} more kinds")
    kinds = {finding.kind for finding in findings}
    advice = [mend for kind, mend in mends.items() if kind in kinds]
    ending = "Mend these rows, or set on_bad_row='drop' to leave them out (they are counted)."
    return "\n".join([f"{sum(f.count for f in findings)} mistake(s) in the rows:", *lines, *advice, ending])


def column_values(split: Dataset, column: str) -> list[Any]:
    """Read one column as Python values."""
    batches = split.with_format(None).select_columns([column]).iter(batch_size=1000)
    return [value for batch in batches for value in batch[column]]


def listed(places: Sequence[str], count: int) -> str:
    """Write up to three places, and "…" where there are more."""
    return ", ".join(places[:PLACES]) + (", …" if count > PLACES else "")


def text_mistake(text: Any) -> tuple[str, str]:
    """Give the kind of mistake and what is wrong with a text cell; two empty strings if it is right."""
    if text is None:
        return "text_missing", "no text (null)"
    if not isinstance(text, str):
        return "text_type", f"the text is not a string but {type(text).__name__}"
    if not text.strip():
        return "text_empty", "the text is empty or only whitespace"
    return "", ""
