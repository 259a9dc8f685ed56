"""The results files: one a study, numbers of six digits, a line for each run, test or row, what runs share said once.

A file of runs has `shared`, the settings, machine and data that all of its runs have or most of them, and in `runs`
what differs from it, with the scores: `[value, low, high]` by split and metric. `comparisons` are the paired tests.
A study on several data sets has one file of settings and one of results, each with a part for every data set: what is
called `study-few-r8-8` is the part `r8-8` of `study-few.yaml` and `study-few.json`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_selfattn.files import read_json, write_text
from hf_selfattn.settings import read_yaml

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS, RESULTS = ROOT / "benchmarks" / "experiments", ROOT / "benchmarks" / "results"
DATA, RUNS = ROOT / ".data", ROOT / "runs"
STUDIES = ("linear-start", "study-contrastive", "study-few", "study-mpnet")  # those on several data sets
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


def home_of(path: Path) -> tuple[Path, str]:
    """Return the file that holds what is called by a path, and its part there: "" for the whole file."""
    for study in STUDIES:
        if path.stem.startswith(f"{study}-"):
            return path.with_stem(study), path.stem.removeprefix(f"{study}-")
    return path, ""


def content_of(path: Path) -> Record:
    """Return a file of settings or results, or the part that is called by a path; results may be missing."""
    file, part = home_of(path)
    if path.suffix != ".yaml" and not file.is_file():
        return {}
    content: Record = read_yaml(file) if path.suffix == ".yaml" else read_json(file)
    return content.get(part, {}) if part else content


def experiments_in(path: Path) -> list[Path]:
    """Return what the experiments of a file are called, of most files as it is itself."""
    return [path.with_stem(f"{path.stem}-{part}") for part in content_of(path)] if path.stem in STUDIES else [path]


def read_results(path: Path) -> Record:
    """Return the results of an experiment, each of its runs whole; no runs where there are none."""
    record = content_of(path) or {"experiment": path.stem, "runs": {}}
    if "runs" in record:
        shared = record.pop("shared", {})
        record["runs"] = {name: merged(shared, run) for name, run in record["runs"].items()}
    return record


def write_results(path: Path, record: Record) -> None:
    """Write the results of an experiment; its runs are whole."""
    record = rounded(record)
    if runs := record.get("runs"):
        shared = shared_part([{key: run[key] for key in SHARED if key in run} for run in runs.values()])
        as_read = {name: merged(shared, difference(run, shared)) for name, run in runs.items()}  # in that order
        differences = {name: difference(run, shared) for name, run in as_read.items()}
        last = {name: record.pop(name) for name in ("runs", "comparisons") if name in record}
        record = {**record, "shared": shared, **last, "runs": differences}
    file, part = home_of(path)
    if not part:
        return write_text(file, as_text(record))
    parts = {name: as_text(one).rstrip() for name, one in {**content_of(file), part: record}.items()}
    write_text(file, "{\n" + ",\n".join(f"{text(name)}: {one}" for name, one in parts.items()) + "\n}\n")


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
