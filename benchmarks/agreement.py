"""Does the pipeline find what the recipe predicted? `python benchmarks/agreement.py --model RUN`.

RUN is the folder of a finished run of `recipes/ner.py` with `context: sentence`. The standard token-classification
pipeline reads each sentence of its test split as a text, the words joined by spaces, and finds its words by itself;
its entities have to be those of the recipe, character by character. Written to `benchmarks/results/agreement.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import pipeline

from hf_selfattn.results import environment, read_json, write_json

HERE = Path(__file__).parent
STRATEGIES = ("simple", "first", "max")
SHOWN = 5  # disagreements that the results keep


def character_spans(tags: Sequence[str], words: Sequence[str]) -> list[tuple[int, int, str]]:
    """Return start and end in the joined text, and type, of the entities of legal IOB2 tags."""
    spans: list[tuple[int, int, str]] = []
    start = 0
    for tag, word in zip(tags, words, strict=True):
        if tag[0] == "B":
            spans.append((start, start + len(word), tag[2:]))
        elif tag[0] == "I":
            spans[-1] = (spans[-1][0], start + len(word), tag[2:])
        start += len(word) + 1
    return spans


def compare(model: str, rows: list[dict[str, Any]], strategy: str) -> dict[str, Any]:
    """Return in how many sentences the pipeline finds exactly the entities of the recipe."""
    tag = pipeline("token-classification", model=model, aggregation_strategy=strategy, device="cpu")
    texts = [" ".join(row["tokens"]) for row in rows]
    different = []
    for row, text, answer in zip(rows, texts, tag(texts, batch_size=32), strict=True):
        found = [(entity["start"], entity["end"], entity["entity_group"]) for entity in answer]
        if found != (expected := character_spans(row["output"], row["tokens"])):
            different.append({"text": text, "recipe": expected, "pipeline": found})
    return {
        "aggregation_strategy": strategy,
        "sentences": len(rows),
        "different": len(different),
        "equal": 1 - len(different) / len(rows),
        "examples": different[:SHOWN],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of a finished run")
    folder = Path(parser.parse_args().model)
    results = read_json(folder / "results.json")
    if (context := results["arguments"]["context"]) != "sentence":
        raise ValueError(f"{folder} was trained with context={context!r}; a pipeline reads what `sentence` does.")
    torch.set_num_threads(1)
    lines = (folder / "predictions-test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    record = {
        "command": "python benchmarks/agreement.py --model RUN",
        "model": results["arguments"]["model"],
        "seed": results["seed"],
        "environment": environment(),
        "rows": [compare(str(folder), rows, strategy) for strategy in STRATEGIES],
    }
    write_json(HERE / "results" / "agreement.json", record)
    for row in record["rows"]:
        print(f"{row['aggregation_strategy']}: {100 * row['equal']:.2f} % of {row['sentences']} sentences")


if __name__ == "__main__":
    main()
