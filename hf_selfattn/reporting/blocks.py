"""What a section of the page is made of; `page.html` has a form for each kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple


class Cell(NamedTuple):
    """A cell of a table, coloured by its weight from 0 to 1."""

    text: str
    weight: float = 0.0


class Word(NamedTuple):
    """A stretch of a text, with what is marked on it."""

    text: str
    weight: float = 0.0  # how strong its colour is, 0 to 1
    group: int | None = None  # gives the colour
    label: str = ""  # shown behind it
    title: str = ""  # shown where the pointer rests on it


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names it."""

    kind: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    numeric: bool = True  # whether the cells after the first are numbers

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows, each cell with its weight."""
        return [[cell if isinstance(cell, Cell) else Cell(str(cell)) for cell in row] for row in self.rows]


@dataclass(frozen=True)
class Figure:
    """A plot."""

    svg: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Figures:
    """Plots side by side."""

    kind: ClassVar[str] = "figures"
    figures: list[Figure]


@dataclass(frozen=True)
class Passage:
    """A text with marks, and what the marks are."""

    name: str
    words: list[Word]


@dataclass(frozen=True)
class Picture:
    """An image, as an address `data:` that holds it."""

    source: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Example:
    """A row of the data: its place, what is said of it, and its text or image, perhaps several times with marks."""

    title: str
    facts: list[tuple[str, str]]
    passages: list[Passage]
    note: str = ""
    pictures: Sequence[Picture] = ()


@dataclass(frozen=True)
class Examples:
    """Rows of the data."""

    kind: ClassVar[str] = "examples"
    name: str
    examples: list[Example]


Block = Text | Table | Figures | Examples


@dataclass(frozen=True)
class Section:
    """A part of the page that has a heading and a place in its contents."""

    anchor: str
    title: str
    blocks: list[Block]


def in_digits(value: Any) -> str:
    """Return a number as tables show it."""
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def percent(value: float) -> str:
    """Return a share in percent."""
    return f"{100 * value:.1f} %"
