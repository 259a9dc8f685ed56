"""Rows of a data set: duplicates dropped, split once and for all by committed seeds, written as JSONL."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sklearn.model_selection import train_test_split

Row = dict[str, Any]
SPLITS = ("train", "validation", "test")
SPLIT_SEEDS = (0, 1, 2)


def tab_separated(content: bytes) -> list[list[str]]:
    """Cuts utf-8 lines at tabs, without quoting; blank lines are left out."""
    lines = content.decode("utf-8").splitlines()
    return [[field.strip() for field in line.split("\t")] for line in lines if line.strip()]


def fold(text: str) -> str:
    """Returns the form in which two texts count as duplicates: case and whitespace folded."""
    return " ".join(text.casefold().split())


def unique(rows: Iterable[Row], seen: Iterable[Row] = ()) -> list[Row]:
    """Keeps the first row of each text, and none whose text stands in `seen`."""
    known = {fold(row["text"]) for row in seen}
    kept: dict[str, Row] = {}
    for row in rows:
        if (key := fold(row["text"])) not in known:
            kept.setdefault(key, row)
    return list(kept.values())


def split(rows: list[Row], classes: list[str], parts: dict[str, float], seed: int) -> dict[str, list[Row]]:
    """Cuts rows into named parts, stratified by class; the first part takes what the other shares leave."""
    rest, rest_classes = rows, classes
    result: dict[str, list[Row]] = {}
    first, *others = parts
    for part in reversed(others):
        rest, result[part], rest_classes, _ = train_test_split(
            rest, rest_classes, test_size=round(parts[part] * len(rows)), stratify=rest_classes, random_state=seed
        )
    return {first: rest, **result}


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_splits(folder: Path, rows: list[Row]) -> None:
    """Writes split-0, split-1 … (one per seed) with train, validation and test.jsonl, duplicates dropped."""
    kept = unique(rows)
    parts = dict(zip(SPLITS, (0.65, 0.10, 0.25), strict=True))
    for seed in SPLIT_SEEDS:
        for part, chosen in split(kept, [row["label"] for row in kept], parts, seed).items():
            write_rows(folder / f"split-{seed}" / f"{part}.jsonl", chosen)
