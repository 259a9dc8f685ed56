"""The results files: one a study, numbers of six digits, a line for each run, test or row, what runs share said once.

A file of runs has `shared`, the settings, machine and data that all of its runs have or most of them, and in `runs`
what differs from it, with the scores: `[value, low, high]` by split and metric. `comparisons` are the paired tests.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_selfattn.files import read_json, write_text

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS, RESULTS = ROOT / "benchmarks" / "experiments", ROOT / "benchmarks" / "results"
DATA, RUNS = ROOT / ".data", ROOT / "runs"
DIGITS, WIDTH = 6, 120
SHARED = (
    "task",
    "problem",
    "label_names",
    "arguments",
    "draw",
    "calibration",
    "parameters",
    "environment",
    "training",
    "data",
)
Record = dict[str, Any]


def read_results(path: Path) -> Record:
    """Return a results file, each of its runs whole."""
    record: Record = read_json(path)
    if "runs" in record:
        shared = record.pop("shared", {})
        record["runs"] = {name: merged(shared, run) for name, run in record["runs"].items()}
    return record


def write_results(path: Path, record: Record) -> None:
    """Write a results file; its runs are whole."""
    record = rounded(record)
    if runs := record.get("runs"):
        shared = shared_part([{key: run[key] for key in SHARED if key in run} for run in runs.values()])
        as_read = {name: merged(shared, difference(run, shared)) for name, run in runs.items()}  # in that order
        differences = {name: difference(run, shared) for name, run in as_read.items()}
        last = {name: record.pop(name) for name in ("runs", "comparisons") if name in record}
        record = {**record, "shared": shared, **last, "runs": differences}
    write_text(path, as_text(record))


def shared_part(parts: Sequence[Record]) -> Record:
    """Return the commonest value of each key that all parts have, of dictionaries in their turn."""
    shared: Record = {}
    for key in parts[0]:
        if not all(key in part for part in parts):
            continue
        values = [part[key] for part in parts]
        if all(isinstance(value, dict) for value in values):
            shared[key] = shared_part(values)
        elif not any(isinstance(value, dict) for value in values):
            text, count = Counter(json.dumps(value) for value in values).most_common(1)[0]
            shared |= {key: json.loads(text)} if count > 1 else {}
    return shared


def difference(whole: Record, shared: Record) -> Record:
    """Return what `merged` adds to the shared part to have the whole again."""
    own: Record = {}
    for key, value in whole.items():
        if key not in shared:
            own[key] = value
        elif isinstance(value, dict) and isinstance(shared[key], dict):
            own |= {key: inner} if (inner := difference(value, shared[key])) else {}
        elif value != shared[key]:
            own[key] = value
    return own


def merged(shared: Record, own: Record) -> Record:
    """Return the shared part with what a run has of its own."""
    both = {key: merged(shared[key], own[key]) for key in own if isinstance(shared.get(key), dict)}
    return {**shared, **own, **both}


def rounded(value: Any) -> Any:
    """Return a record, its numbers with `DIGITS` significant digits."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(entry) for entry in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def as_text(record: Record) -> str:
    """Return a record as JSON: a line for each short part, for each entry of a longer one."""
    lines = [
        f" {text(key)}: {text(part) if len(text(part)) <= WIDTH else entries(part)}" for key, part in record.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def entries(part: Any) -> str:
    """Return the entries of a dictionary or list, one a line; a long text as it is."""
    if isinstance(part, dict):
        return "{\n  " + ",\n  ".join(f"{text(key)}: {text(entry)}" for key, entry in part.items()) + "\n }"
    return "[\n  " + ",\n  ".join(map(text, part)) + "\n ]" if isinstance(part, list) else text(part)


def text(value: Any) -> str:
    """Return a value as JSON on one line."""
    return json.dumps(value, ensure_ascii=False)
