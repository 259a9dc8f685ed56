"""Every file of a split looked at once: what each is, or what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from datasets import Dataset

from ..findings import BadRow
from ..formats import ORIGIN
from .sources import MediaError, source_name

Facts = TypeVar("Facts")


def inspect_media(
    split: Dataset, column: str, look: Callable[[Any, str], Facts]
) -> tuple[list[Facts | None], list[BadRow]]:
    """Look at every file of a split, one at a time; return what each is (None where it is bad), and the bad rows.

    Args:
        look: returns what a file (its cell, and the name of its place) is, or raises a `MediaError`.
    """
    facts: list[Facts | None] = []
    bad: list[BadRow] = []
    for batch in split.with_format(None).select_columns([column, ORIGIN]).iter(batch_size=100):
        for source, origin in zip(batch[column], batch[ORIGIN], strict=True):
            place = place_of(source, origin)
            try:
                facts.append(look(source, place))
            except MediaError as error:
                bad.append(BadRow(len(facts), place, error.kind, f"column '{column}': {error.message}"))
                facts.append(None)
    return facts, bad


def place_of(source: Any, origin: str) -> str:
    """Name a row and, where that is another, the file in it."""
    name = source_name(source)
    return f"{origin} ({name})" if name and name not in origin else origin
