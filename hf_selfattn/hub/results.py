"""The record of a run: results and predictions on disk, and where they came from."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache

from ..files import read_json

RESULTS_FILE = "results.json"
ARGUMENTS_FILE = "arguments.json"
LOCK_FILE = "_lock"  # `Trainer` pushes no file whose name begins so
RUN_STATE_FILE = "run_state.json"
CARD_FILE = "README.md"
PACKAGES = ("hf-selfattn", "torch", "transformers", "datasets", "accelerate", "peft", "scikit-learn", "numpy")


def together(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Put the results of several runs into one record, with mean and standard deviation of every score."""
    first = next(iter(runs.values()))
    record: dict[str, Any] = {name: first[name] for name in ("task", "problem", "label_names", "environment")}
    record["runs"] = dict(runs)
    record["summary"] = {
        split: {metric: mean_and_deviation(runs, split, metric) for metric in content["scores"]}
        for split, content in first["splits"].items()
    }
    return record


def mean_and_deviation(runs: Mapping[str, Mapping[str, Any]], split: str, metric: str) -> dict[str, float]:
    """Return mean and standard deviation of a score over the runs that define it."""
    scores = (run["splits"][split]["scores"] for run in runs.values() if split in run["splits"])
    values = [score[metric]["value"] for score in scores if metric in score]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "sd": deviation, "runs": len(values)}


def environment() -> dict[str, Any]:
    """Return the versions and the machine that a result belongs to."""
    return {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "processor": torch.cpu.get_capabilities().get("cpu_name", "") or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def backbone_record(name: str, revision: str | None = None) -> dict[str, Any]:
    """Return which backbone a run stands on: a name on the hub and its commit, or the last part of a folder's path."""
    if Path(name).is_dir():
        return {"source": "folder", "name": Path(name).resolve().name}
    found = try_to_load_from_cache(name, "config.json", revision=revision)
    commit = Path(found).parent.name if isinstance(found, str) else None
    return {"source": "hub", "name": name, "revision": revision, "commit": commit}


def differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Name the arguments that differ; of options of a kind, such as those of the heads, the ones that do."""
    found = []
    for key in sorted({*mine, *theirs}):
        one, other = mine.get(key), theirs.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            inner = differences(one, other)
            found += inner if key == "options" else [f"{key}.{name}" for name in inner]
        elif one != other:
            found.append(key)
    return found


def open_run(output_dir: Path, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the results of a finished run with the same arguments, or claim the folder for a new or resumed one."""
    mine = json.loads(json.dumps(arguments))
    claimed = output_dir / ARGUMENTS_FILE
    if claimed.is_file():
        theirs = read_json(claimed)
        if theirs != mine:
            differing = differences(mine, theirs)
            raise ValueError(
                f"{output_dir} already holds another run; it differs in {', '.join(differing)}. Nothing was changed. "
                "Choose another output_dir, or delete that one."
            )
        finished = output_dir / RESULTS_FILE
        return read_json(finished) if finished.is_file() else None
    ours = (LOCK_FILE, f".{ARGUMENTS_FILE}.")  # the second one is left by a kill
    if output_dir.is_dir() and any(not path.name.startswith(ours) for path in output_dir.iterdir()):
        raise ValueError(
            f"{output_dir} is not empty and holds no run of this package. Nothing was changed. Choose another "
            "output_dir."
        )
    return None
