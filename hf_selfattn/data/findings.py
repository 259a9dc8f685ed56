"""What is wrong with rows: each mistake with its place in the user's file, and the messages that list them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PLACES = 3  # examples that a message gives
ONLY_SCORED = "What the model was not trained on cannot be scored."


@dataclass(frozen=True)
class BadRow:
    """One mistake in one row: its index in the split, its place in the user's file, and what is wrong."""

    index: int
    place: str
    kind: str
    message: str


@dataclass(frozen=True)
class Finding:
    """One sort of mistake in one split, with the number of rows (or of another unit) and places of theirs."""

    kind: str
    split: str
    message: str
    count: int
    places: list[str]
    unit: str = "row(s)"

    def __str__(self) -> str:
        where = f", {listed(self.places, self.count)}" if self.places else ""
        return f"{self.split}: {self.message}: {self.count} {self.unit}{where}"


def finding(
    kind: str, split: str, message: str, places: Sequence[str], unit: str = "row(s)", most: int | None = PLACES
) -> Finding:
    """Make a finding of the places of all its mistakes, of which it keeps so many."""
    return Finding(kind, split, message, len(places), list(places[:most]), unit)


def summarise(split: str, bad: Iterable[BadRow], unit: str = "row(s)", most: int | None = PLACES) -> list[Finding]:
    """Group mistakes of the same sort into findings, which keep so many of their places."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in bad:
        groups.setdefault((row.kind, row.message), []).append(row.place)
    return [finding(kind, split, message, places, unit, most) for (kind, message), places in groups.items()]


def bad_rows_message(findings: Sequence[Finding], mends: Mapping[str, str], splits: Iterable[str]) -> str:
    """Write the error that lists all mistakes in some splits and says how to mend them."""
    if "train" not in splits:
        mends = {**mends, **dict.fromkeys(("label_unknown", "tag_unknown"), ONLY_SCORED)}
    lines = [f"  {found}" for found in findings[:20]]
    if len(findings) > 20:
        lines.append(f"  … and {len(findings) - 20} more kinds")
    kinds = {found.kind for found in findings}
    advice = [mend for kind, mend in mends.items() if kind in kinds]
    ending = "Mend these rows, or set on_bad_row='drop' to leave them out (they are counted)."
    return "\n".join([f"{sum(found.count for found in findings)} mistake(s) in the rows:", *lines, *advice, ending])


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
