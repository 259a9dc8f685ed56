"""Is one tagger better than another, over all their seeds? `python benchmarks/compare.py EXPERIMENT OURS THEIRS`.

OURS and THEIRS are the names of runs without `-seed-N`. The paired bootstrap draws documents, each with all its seeds;
the outcome is added to `benchmarks/results/EXPERIMENT-comparisons.json`.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

from hf_selfattn.metrics import paired_bootstrap_spans
from hf_selfattn.results import read_json, write_json

HERE = Path(__file__).parent


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the predictions of a run, one per sentence."""
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()]


def compare(experiment: str, ours: str, theirs: str) -> dict[str, Any]:
    """Return the paired test of F1 over the seeds that both have."""
    folder = HERE / "predictions" / experiment
    seeds = [
        seed
        for seed in range(10)
        if all((folder / f"{name}-seed-{seed}.jsonl.gz").is_file() for name in (ours, theirs))
    ]
    if not seeds:
        raise ValueError(f"{folder} holds no seed of both {ours} and {theirs}. Run benchmarks/run.py first.")
    label_names = next(iter(read_json(HERE / "results" / f"{experiment}.json")["runs"].values()))["label_names"]
    number = {name: label for label, name in enumerate(label_names)}
    parts: dict[str, list[Any]] = {"references": [], "ours": [], "theirs": [], "documents": []}
    for seed in seeds:
        rows = {name: read_rows(folder / f"{name}-seed-{seed}.jsonl.gz") for name in (ours, theirs)}
        if any(a["reference"] != b["reference"] for a, b in zip(rows[ours], rows[theirs], strict=True)):
            raise ValueError(f"Seed {seed} of {ours} and {theirs} was scored on other sentences or tags.")
        parts["references"] += [[number[tag] for tag in row["reference"]] for row in rows[ours]]
        parts["ours"] += [[number[tag] for tag in row["output"]] for row in rows[ours]]
        parts["theirs"] += [[number[tag] for tag in row["output"]] for row in rows[theirs]]
        parts["documents"] += [row["document"] for row in rows[ours]]
    test = paired_bootstrap_spans(
        parts["references"], parts["ours"], parts["theirs"], label_names, documents=parts["documents"], resamples=5000
    )
    return {"ours": ours, "theirs": theirs, "seeds": seeds, **test.as_dict()}


def main() -> None:
    experiment, ours, theirs = sys.argv[1:]
    target = HERE / "results" / f"{experiment}-comparisons.json"
    record = read_json(target) if target.is_file() else {"comparisons": {}}
    record["comparisons"][f"{ours} - {theirs}"] = found = compare(experiment, ours, theirs)
    record["command"] = f"python benchmarks/compare.py {experiment} OURS THEIRS"
    write_json(target, record)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
