"""Fixed draws of the rows that a run trains and is tested on, written as files into the folder of the runs.

`draw` in an experiment: `train_rows`, `validation_rows`, `test_rows` and `shift_rows` take so many rows of train, of
validation, of test and of each of the `test_files` (the same for every run of the experiment), `per_class` so many
training rows of each class, others for every seed, and as many again for validation; `words` cuts every text after so
many. Of files of CoNLL columns `train_documents`, `validation_documents` and `test_documents` take so many documents.
Rows and documents keep the order of their file.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hf_selfattn.files import write_text

Row = dict[str, Any]
Drawn = TypeVar("Drawn")
PARTS = ("train", "validation", "test")
OF_DOCUMENTS = {part: f"{part}_documents" for part in PARTS}
KNOWN = {*(f"{part}_rows" for part in PARTS), "shift_rows", "per_class", "words", *OF_DOCUMENTS.values()}
BORDER = "-DOCSTART-"


def drawn(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return settings without `draw`, whose files are those of the drawn rows.

    Args:
        settings: with paths of JSONL files as `train`, `validation` and `test`, and `seed`.

    Raises:
        ValueError: for an unknown key, or if a class has too few rows.
    """
    draw = settings.get("draw") or {}
    if unknown := sorted(set(draw) - KNOWN):
        raise ValueError(f"draw has {', '.join(unknown)}; it may have {', '.join(sorted(KNOWN))}.")
    kept = {name: value for name, value in settings.items() if name != "draw"}
    if not draw:
        return kept
    if counts := {part: draw[key] for part, key in OF_DOCUMENTS.items() if key in draw}:
        return kept | {
            part: write_documents(Path(kept[part]), count, folder / f"{part}.txt") for part, count in counts.items()
        }
    rows = {part: read_rows(Path(settings[part])) for part in PARTS}
    if "per_class" in draw:
        rows["train"], rows["validation"] = few_of_each(rows["train"], draw["per_class"], settings["seed"])
    rows = {part: some_of(chosen, draw.get(f"{part}_rows")) for part, chosen in rows.items()}
    kept |= {part: write_rows(folder / f"{part}.jsonl", chosen, draw.get("words")) for part, chosen in rows.items()}
    if "shift_rows" in draw:
        others = {
            name: some_of(read_rows(Path(path)), draw["shift_rows"]) for name, path in kept["test_files"].items()
        }
        kept["test_files"] = {name: write_rows(folder / f"{name}.jsonl", chosen) for name, chosen in others.items()}
    return kept


def write_rows(path: Path, rows: Sequence[Row], words: int | None = None) -> str:
    """Write rows as a JSONL file and return its path from here.

    Args:
        words: after so many every text is cut; None for whole texts.
    """
    cut = [{**row, "text": first_words(row["text"], words)} for row in rows]
    write_text(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in cut))
    return os.path.relpath(path)


def write_documents(source: Path, count: int, path: Path) -> str:
    """Write random documents of a file of CoNLL columns, always the same, and return the path from here.

    Args:
        source: the file, in which a line that begins with `BORDER` opens each document.
    """
    documents = [f"{BORDER}{text}" for text in source.read_text(encoding="utf-8").split(BORDER)[1:]]
    write_text(path, "".join(some_of(documents, count)))
    return os.path.relpath(path)


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a JSONL file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def some_of(rows: Sequence[Drawn], count: int | None) -> list[Drawn]:
    """Return so many random rows or documents, always the same, or all."""
    order = np.random.default_rng(0).permutation(len(rows))[:count]
    return [rows[number] for number in sorted(order)]


def few_of_each(rows: Sequence[Row], count: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Return so many random rows of each class, and as many others.

    Raises:
        ValueError: if a class has less than 2 K rows.
    """
    sizes = Counter(row["label"] for row in rows)
    if short := [f"{label} ({size})" for label, size in sizes.items() if size < 2 * count]:
        raise ValueError(f"per_class={count} needs {2 * count} training rows of each class; too few: {short}.")
    taken: Counter[str] = Counter()
    parts: tuple[list[int], list[int]] = ([], [])
    for number in np.random.default_rng(seed).permutation(len(rows)).tolist():
        label = rows[number]["label"]
        if taken[label] < 2 * count:
            parts[taken[label] >= count].append(number)
            taken[label] += 1
    train, validation = ([rows[number] for number in sorted(part)] for part in parts)
    return train, validation


def first_words(text: str, count: int | None) -> str:
    """Return a text cut after so many words; a shorter one, or without a count, as it is."""
    words = text.split()
    return text if count is None or len(words) <= count else " ".join(words[:count])
