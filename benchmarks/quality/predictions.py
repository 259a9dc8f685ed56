"""The predictions of the evaluation splits, for paired tests: row, right answer and output, a small file for a run.

New runs write theirs beside themselves, into `runs/EXPERIMENT/predictions`; those of the results files are fetched
into `.data/predictions` (`python benchmarks/fetch.py predictions`). The words can be had from the data.
"""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

from ..fetch import default_cache_dir
from ..records import RUNS

KEPT = ("row", "document", "reference", "output")
DIGITS = 5
Rows = list[dict[str, Any]]


def keep_predictions(folder: Path, target: Path, name: str) -> None:
    """Store what paired tests need of each evaluation split: the test split as NAME, another one as NAME.SPLIT."""
    target.mkdir(parents=True, exist_ok=True)
    for source in folder.glob("predictions-*.jsonl"):
        split = source.stem.removeprefix("predictions-")
        if split == "validation":
            continue
        rows = (json.loads(line) for line in source.read_text(encoding="utf-8").splitlines())
        kept = [{key: rounded(row[key]) for key in KEPT if key in row} for row in rows]
        lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in kept)
        stem = name if split == "test" else f"{name}.{split}"
        (target / f"{stem}.jsonl.gz").write_bytes(gzip.compress(lines.encode("utf-8"), mtime=0))


def copy_predictions(folder: Path, name: str, other: str) -> None:
    """Store the predictions of a run under another name, too."""
    for source in folder.glob(f"{name}.*"):
        shutil.copyfile(source, folder / f"{other}{source.name.removeprefix(name)}")


def rounded(value: Any) -> Any:
    """Return a value of a prediction, numbers with `DIGITS` after the point: enough for probabilities."""
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    if isinstance(value, dict):
        return {name: rounded(entry) for name, entry in value.items()}
    return round(value, DIGITS) if isinstance(value, float) else value


def predictions_of(experiment: str, row: str, split: str = "test") -> dict[int, Path]:
    """Return the files of predictions of a row by seed, those of own runs before fetched ones."""
    end = ".jsonl.gz" if split == "test" else f".{split}.jsonl.gz"
    found = {}
    for folder in (default_cache_dir() / "predictions" / experiment, RUNS / experiment / "predictions"):
        for path in sorted(folder.glob(f"{row}-seed-*{end}")):
            seed = path.name.removeprefix(f"{row}-seed-").removesuffix(end)
            found |= {int(seed): path} if seed.isdecimal() else {}
    return found


def read_rows(path: Path) -> Rows:
    """Return the predictions of a run, one per row."""
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()]
