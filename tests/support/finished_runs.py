"""Finished runs of every problem, with labels and texts that look like code, and the page of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runs import HEADS, QUICK, SIZES, rows_of, settings, text_arguments, write_rows, write_sentences

from hf_selfattn import NerArguments, ReportArguments, build_arguments, report, run

SCRIPT = "<script>alert(1)</script>"
SHORT = {"tuning": "full", "num_train_epochs": 2, "per_device_train_batch_size": 8}
TEXT_PROBLEMS = ("single_label_classification", "multi_label_classification", "regression", "ordinal")


def marked_rows(problem: str, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows whose texts are code, and labels code, a formula and Chinese; with a column of sources."""
    rows = rows_of(problem, count, seed)
    names = {"left": SCRIPT, "right": "$x_1$", "up": "上"}
    for number, row in enumerate(rows):
        row["text"] += f" <img src=x onerror=alert({number})>"
        row["source"] = ("web & shop", "paper")[number % 2]
        if problem == "single_label_classification":
            row["label"] = names.get(row["label"], row["label"])
    return rows


def train(backbone: str, folder: Path, problem: str, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    given = settings(backbone, folder, problem)
    extra = {"problem": problem} if problem == "ordinal" else {}
    files = {
        name: write_rows(folder / f"{name}.jsonl", marked_rows(problem, *size))
        for name, size in {"train": (48, 0), "validation": (30, 2), "test": (40, 1)}.items()
    }
    run(text_arguments({**given, **files, **SHORT, **extra, **changes}))
    return folder / "run"


def train_tagger(backbone: str, folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    files = {name: write_sentences(folder / f"{name}.txt", *size) for name, size in SIZES.items()}
    given = {"model": backbone, "output_dir": str(folder / "run"), **files, "heads": HEADS}
    run(build_arguments({**given, **QUICK, **SHORT, **changes}, NerArguments))
    return folder / "run"


def page_of(folder: Path, output: Path, **options: Any) -> str:
    path = report(ReportArguments(runs=[str(folder)], output=str(output / "page.html"), **options))
    return path.read_text(encoding="utf-8")


def results_of(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return results
