"""Does reading a long review whole pay? `python benchmarks/long_reviews.py [MODEL/SPLIT …]` trains what is missing.

Models for each fixed split, all the first four layers of MiniLM (see LOG.md) with heads and LoRA, the same rows,
epochs and options: trained on 512 random tokens of each text (others in every epoch), on the first 512, on whole
texts. The first reads the test texts in four ways: whole, their first 512 tokens, 512 at a random place, and the
mean of the probabilities of all windows of 512. TF-IDF reads them whole. A paired test draws reviews, each with all
the splits that test it. The predictions stand beside the scores in `benchmarks/results/long_reviews.json`; a run
without arguments compares whatever is there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

import hf_selfattn  # noqa: F401  # registers the model
from hf_selfattn import TextClassificationArguments, build_arguments, run
from hf_selfattn.files import read_json, write_json, write_text
from hf_selfattn.hub.results import environment
from hf_selfattn.metrics.comparison import compare_statistics
from hf_selfattn.tasks.baselines import tfidf_baseline

ROOT = Path(__file__).parent.parent
DATA, RUNS = ROOT / ".data" / "movie-reviews", ROOT / "runs" / "long-reviews"
TARGET = Path(__file__).parent / "results" / "long_reviews.json"
SPLITS = ("split-0", "split-1", "split-2")
LENGTH, NUM_SPECIAL = 512, 2
ROOM = LENGTH - NUM_SPECIAL
SETTINGS: dict[str, Any] = {
    "model": str(ROOT / ".data" / "minilm"),
    "heads": {"subsequence_length": 256},
    "backbone": {"num_hidden_layers": 4, "hidden_dropout_prob": 0.0},
    "num_train_epochs": 3,
    "per_device_train_batch_size": 8,
    "learning_rate": 5e-4,
    "baseline": False,
    "disable_tqdm": True,
}
MODELS: dict[str, dict[str, Any]] = {"random": {"sample_tokens": LENGTH}, "first": {}, "whole": {}}
READINGS = {"random": ("whole", "first", "random", "windows"), "first": ("whole", "first"), "whole": ("whole",)}
Array = NDArray[Any]


def rows_of(split: str, part: str) -> list[dict[str, Any]]:
    """Return the rows of a file of the fixed splits."""
    path = DATA / split / f"{part}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def train(model: str, split: str) -> Path:
    """Train a model where it is missing; return its folder."""
    folder = RUNS / model / split
    files = {part: DATA / split / f"{part}.jsonl" for part in ("train", "validation", "test")}
    if model == "first":
        for part in ("train", "validation"):
            files[part] = RUNS / "first-512" / split / f"{part}.jsonl"
            tokenizer = AutoTokenizer.from_pretrained(SETTINGS["model"])
            cut = [{**row, "text": first_tokens(row["text"], tokenizer)} for row in rows_of(split, part)]
            write_text(files[part], "".join(f"{json.dumps(row)}\n" for row in cut))
    given = {name: str(path) for name, path in files.items()}
    seed = SPLITS.index(split)
    run(
        build_arguments(
            {**SETTINGS, **MODELS[model], **given, "seed": seed, "output_dir": str(folder)},
            TextClassificationArguments,
        )
    )
    return folder


def first_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the beginning of a text that the backbone reads in one window."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    return text if len(offsets) <= ROOM else text[: offsets[ROOM - 1][1]]


def pieces(ids: list[int], reading: str, rng: np.random.Generator) -> list[list[int]]:
    """Return the parts of a framed text that a reading gives to the model, framed."""
    begin, text, end = ids[:1], ids[1:-1], ids[-1:]
    if reading == "whole" or len(text) <= ROOM:
        return [ids]
    if reading == "first":
        return [begin + text[:ROOM] + end]
    if reading == "random":
        start = int(rng.integers(len(text) - ROOM + 1))
        return [begin + text[start : start + ROOM] + end]
    count = -(-len(text) // ROOM)
    bounds = np.linspace(0, len(text), count + 1).astype(int)
    return [begin + text[low:high] + end for low, high in zip(bounds[:-1], bounds[1:], strict=True)]


@torch.no_grad()
def read(folder: Path, texts: list[str], reading: str) -> list[float]:
    """Return the probability of the second label for each text, the mean over its parts."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rng = np.random.default_rng(0)
    answers = []
    for text in texts:
        parts = pieces(tokenizer(text)["input_ids"], reading, rng)
        found = [model(input_ids=torch.tensor([part])).logits.softmax(-1)[0, 1].item() for part in parts]
        answers.append(float(np.mean(found)))
    return answers


def measure(model: str, split: str) -> dict[str, Any]:
    """Train a model and let it read the test texts in its ways."""
    folder = train(model, split)
    record: dict[str, Any] = {"training": read_json(folder / "results.json")["training"]}
    record["training"].pop("history")
    rows = rows_of(split, "test")
    texts, truth = [row["text"] for row in rows], labels_of(rows)
    record["test"] = {}
    for reading in READINGS[model]:
        answer = read(folder, texts, reading)
        record["test"][reading] = {"accuracy": accuracy(answer, truth), "outputs": [round(x, 5) for x in answer]}
    return record


def measure_tfidf(split: str) -> dict[str, Any]:
    """Score TF-IDF with logistic regression on the whole texts."""
    rows = {part: rows_of(split, part) for part in ("train", "validation", "test")}
    texts = {part: [row["text"] for row in rows[part]] for part in rows}
    evaluated = {part: texts[part] for part in ("validation", "test")}
    answers = tfidf_baseline(
        "single_label_classification", texts["train"], labels_of(rows["train"]), evaluated, seed=0, num_labels=2
    )
    return {
        part: {
            "whole": {
                "accuracy": accuracy(answer[:, 1].tolist(), labels_of(rows[part])),
                "outputs": [round(float(value), 5) for value in answer[:, 1]],
            }
        }
        for part, answer in answers.items()
    }


def labels_of(rows: list[dict[str, Any]]) -> Array:
    """Return 1 for the second label in alphabetical order, as in the models."""
    names = sorted({row["label"] for row in rows})
    return np.array([names.index(row["label"]) for row in rows])


def accuracy(outputs: list[float], truth: Array) -> float:
    """Return the share of right answers."""
    return float(np.mean((np.array(outputs) > 0.5) == truth))


def compare(record: dict[str, Any], ours: tuple[str, str], theirs: tuple[str, str]) -> dict[str, Any]:
    """Test whether the accuracies of two (model, reading) differ, over all splits that have both."""
    splits = [
        split for split in SPLITS if all(split in record["models"].get(model, {}) for model, _ in (ours, theirs))
    ]
    units: dict[str, int] = {}
    counts = {name: np.zeros(len(SPLITS) * len(rows_of(SPLITS[0], "test"))) for name in ("ours", "theirs", "rows")}
    for split in splits:
        rows = rows_of(split, "test")
        truth = labels_of(rows)
        places = [units.setdefault(row["text"], len(units)) for row in rows]
        np.add.at(counts["rows"], places, 1)
        for name, (model, reading) in (("ours", ours), ("theirs", theirs)):
            outputs = np.array(record["models"][model][split]["test"][reading]["outputs"])
            np.add.at(counts[name], places, (outputs > 0.5) == truth)
    held = {name: values[: len(units), None] for name, values in counts.items()}

    def accuracy_of(name: str) -> Any:
        return lambda weights: {"accuracy": (held[name] * weights).sum(0) / (held["rows"] * weights).sum(0)}

    test = compare_statistics(
        accuracy_of("ours"), accuracy_of("theirs"), "accuracy", len(units), confidence=0.95, resamples=5000, seed=0
    )
    return {"ours": "/".join(ours), "theirs": "/".join(theirs), "splits": splits, **test.as_dict()}


def comparisons(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Compare the whole reading with the other readings of the same model, and with the other models."""
    ours = ("random", "whole")
    others = [("random", reading) for reading in READINGS["random"][1:]] + [("first", "first"), ("tfidf", "whole")]
    return [
        compare(record, ours, other) for other in others if all(record["models"].get(m) for m in ("random", other[0]))
    ]


def main() -> None:
    record = read_json(TARGET) if TARGET.is_file() else {"models": {"tfidf": {}}}
    record |= {"command": "python benchmarks/long_reviews.py", "settings": {**SETTINGS, "model": "minilm"}}
    for word in sys.argv[1:]:
        model, split = word.split("/")
        measured = measure(model, split)
        record = read_json(TARGET) if TARGET.is_file() else record  # another process may have written meanwhile
        record["models"].setdefault(model, {})[split] = measured
        write_json(TARGET, record)
    for split in SPLITS:
        if split not in record["models"]["tfidf"]:
            record["models"]["tfidf"][split] = measure_tfidf(split)
    record |= {"environment": environment(), "comparisons": comparisons(record)}
    write_json(TARGET, record)
    for test in record["comparisons"]:
        print(
            f"{test['ours']} - {test['theirs']}: {test['difference']:+.3f} [{test['low']:+.3f}, {test['high']:+.3f}]"
        )


if __name__ == "__main__":
    main()
