"""Does the pipeline find what the recipe predicted? `python benchmarks/agreement.py --model RUN`.

RUN is the folder of a finished run of `recipes/ner.py` with `context: sentence`; the recipe predicts anew. The
standard token-classification pipeline reads each sentence of its test split as a text, the words joined by spaces, and
finds its words by itself; its entities have to be those of the recipe: the same words of the data. How often they are
the same characters, too, is written beside it. Written to `benchmarks/results/agreement.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from redecode import score
from transformers import pipeline

from hf_selfattn.files import read_json, write_json
from hf_selfattn.hub.results import environment

HERE = Path(__file__).parent
STRATEGIES = ("simple", "first", "max")
SHOWN = 5  # disagreements that the results keep


Span = tuple[int, int, str]  # first and last word, or start and end in the text, and type


def word_spans(tags: Sequence[str]) -> list[Span]:
    """Return first and last word, and type, of the entities of legal IOB2 tags."""
    spans: list[Span] = []
    for number, tag in enumerate(tags):
        if tag[0] == "B":
            spans.append((number, number, tag[2:]))
        elif tag[0] == "I":
            spans[-1] = (spans[-1][0], number, tag[2:])
    return spans


def compare(model: str, rows: list[dict[str, Any]], strategy: str) -> dict[str, Any]:
    """Return in how many sentences the pipeline finds exactly the entities of the recipe."""
    tag = pipeline("token-classification", model=model, aggregation_strategy=strategy, device="cpu")
    texts = [" ".join(row["tokens"]) for row in rows]
    different, different_characters = [], 0
    for row, text, answer in zip(rows, texts, tag(texts, batch_size=32), strict=True):
        starts = np.cumsum([0, *(len(word) + 1 for word in row["tokens"])])
        ends = starts[1:] - 1
        expected = word_spans(row["output"])
        characters = [(int(starts[first]), int(ends[last]), kind) for first, last, kind in expected]
        found = [(entity["start"], entity["end"], entity["entity_group"]) for entity in answer]
        different_characters += found != characters
        words = [(number_of(starts, start), number_of(starts, end - 1), kind) for start, end, kind in found]
        if words != expected:
            different.append({"text": text, "recipe": characters, "pipeline": found})
    return {
        "aggregation_strategy": strategy,
        "sentences": len(rows),
        "different": len(different),
        "equal": 1 - len(different) / len(rows),
        "equal_characters": 1 - different_characters / len(rows),
        "examples": different[:SHOWN],
    }


def number_of(starts: Any, character: int) -> int:
    """Return the number of the word that a character is part of."""
    return int(np.searchsorted(starts, character, side="right")) - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of a finished run")
    folder = Path(parser.parse_args().model)
    results = read_json(folder / "results.json")
    if (context := results["arguments"]["context"]) != "sentence":
        raise ValueError(f"{folder} was trained with context={context!r}; a pipeline reads what `sentence` does.")
    torch.set_num_threads(1)
    output_dir = folder / "agreement"
    score(folder, results["arguments"]["heads"].get("decoding", "viterbi"), output_dir)
    lines = (output_dir / "predictions-test.jsonl").read_text(encoding="utf-8").splitlines()
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
        words, characters = (f"{100 * row[name]:.2f} %" for name in ("equal", "equal_characters"))
        print(f"{row['aggregation_strategy']}: {words} of {row['sentences']} sentences, {characters} to the character")


if __name__ == "__main__":
    main()
