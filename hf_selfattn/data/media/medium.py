"""One sort of files, images or sounds, that rows name by their path or hold as bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, Features

from ..columns import found_columns

BINARY = ("string", "large_string", "binary", "large_binary")


@dataclass(frozen=True)
class Medium:
    """One sort of files.

    Args:
        name: in messages, of the column of prepared rows, and of the options (``image_column``, ``image_folder``).
        feature: type of its columns in `datasets`.
        column_names: known names of columns, the likeliest first.
        endings: returns the suffixes of the formats that are read.
        is_one: tells whether a file is one of them by its content.
        unread_endings: suffixes of formats that are not read: such files are refused by name rather than left out.
    """

    name: str
    feature: type[Any]
    column_names: tuple[str, ...]
    endings: Callable[[], frozenset[str]]
    is_one: Callable[[Path], bool]
    unread_endings: frozenset[str] = frozenset()

    def undecoded(self, split: Dataset) -> Dataset:
        """Return a split whose files stay bytes or paths: `datasets` would decode each row that is looked at."""
        for name, feature in split.features.items():
            if isinstance(feature, self.feature) and feature.decode:
                split = split.cast_column(name, self.feature(decode=False))
        return split

    def find_column(self, split: Dataset, given: str | None = None) -> str:
        """Find the column of files by the name given, its type, a known name, or its first cells."""
        found, option = found_columns(split), f"{self.name}_column"
        if given is not None:
            if given not in found:
                raise ValueError(f"there is no column '{given}' ({option}); the columns found are {found}.")
            return given
        typed = [name for name in found if isinstance(split.features[name], self.feature)]
        named = [name for known in self.column_names for name in found if name.lower() == known][:1]
        candidates = typed or named or [name for name in found if self._are_files(first_cells(split, name))]
        if len(candidates) != 1:
            several = f"several columns hold {self.name}s ({candidates})"
            trouble = several if candidates else f"no column of {self.name}s is known"
            raise ValueError(f"{trouble} among the columns found: {found}. Set {option}=… to one of them.")
        return candidates[0]

    def cells(self, split: Dataset, column: str) -> Dataset:
        """Return a split with the files of a column as the dictionaries of `datasets`, in the column of the name."""
        feature = split.features[column]
        if not isinstance(feature, self.feature):
            if getattr(feature, "dtype", "") not in BINARY and not _is_pair(feature):
                raise ValueError(
                    f"column '{column}' holds no {self.name}s: its type is {feature}. Set {self.name}_column=…."
                )
            split = split.cast_column(column, self.feature(decode=False))
        return split if column == self.name else split.rename_column(column, self.name)

    def _are_files(self, cells: list[Any]) -> bool:
        """Tell whether cells hold bytes, or paths that end as these files do."""
        endings = self.endings()
        held = [cell for cell in cells if cell]
        return bool(held) and all(
            isinstance(cell, bytes)
            or (isinstance(cell, dict) and {"bytes", "path"} <= cell.keys())
            or (isinstance(cell, str) and Path(cell).suffix.lower() in endings)
            for cell in held
        )


def first_cells(split: Dataset, column: str) -> list[Any]:
    """Read the first cells of a column."""
    return list(split.with_format(None).select_columns([column])[:100][column])


def _is_pair(feature: Any) -> bool:
    return isinstance(feature, (dict, Features)) and set(feature) == {"bytes", "path"}
