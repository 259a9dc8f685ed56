"""What the temperature does to the answers of finished runs: `python benchmarks/calibration.py`.

For each study under `runs` it reads the predictions of validation and test, fits the temperature on validation anew
and scores the test split before and after. Written to `benchmarks/results/calibration.json`; a study whose runs are
not on this machine keeps what stands there.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from hf_selfattn.files import read_json, write_json
from hf_selfattn.hub.results import environment
from hf_selfattn.hub.summary import table
from hf_selfattn.metrics import fit_temperature, metric_values

HERE = Path(__file__).parent
RUNS, TARGET = HERE.parent / "runs", HERE / "results" / "calibration.json"
STUDIES = ("bbc-lora", "r8-lora", "movies-polarity", "long-reviews/random")
PROBLEM = "single_label_classification"
METRICS = ("ece", "nll", "brier", "accuracy")


def read_split(folder: Path, split: str, temperature: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the right classes and the logits, up to a constant of each row, before calibration."""
    lines = (folder / f"predictions-{split}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    probabilities = np.array([row["output"] for row in rows])
    references = np.array([row["reference"] for row in rows])
    return references, np.log(np.maximum(probabilities, np.finfo(float).tiny)) * temperature


def measure(folder: Path) -> dict[str, Any]:
    """Return the temperature of a run and its test scores before and after."""
    results = read_json(folder / "results.json")
    stored = results.get("calibration", {}).get("temperature", 1.0)
    references, logits = read_split(folder, "validation", stored)
    temperature = fit_temperature(PROBLEM, references, logits)
    references, logits = read_split(folder, "test", stored)
    names = results["label_names"]
    before = metric_values(PROBLEM, references, softmax(logits, axis=-1), names)
    after = metric_values(PROBLEM, references, softmax(logits / temperature, axis=-1), names)
    return {
        "rows": len(references),
        "temperature": temperature,
        "before": {name: before[name] for name in METRICS},
        "after": {name: after[name] for name in METRICS},
    }


def shown(runs: list[dict[str, Any]], name: str) -> str:
    """Return the mean of a score over runs, before and after."""
    before, after = (statistics.fmean(run[when][name] for run in runs) for when in ("before", "after"))
    return f"{before:.4f} → {after:.4f}"


def main() -> None:
    record = read_json(TARGET) if TARGET.is_file() else {"studies": {}}
    record |= {"command": "python benchmarks/calibration.py", "environment": environment()}
    lines = []
    for study in STUDIES:
        folders = sorted(path.parent for path in (RUNS / study).glob("*/results.json"))
        if folders:
            record["studies"][study] = {folder.name: measure(folder) for folder in folders}
        runs = list(record["studies"].get(study, {}).values())
        if runs:
            lines.append([study, str(len(runs)), *(shown(runs, name) for name in METRICS)])
    write_json(TARGET, record)
    print(table([["study", "runs", *METRICS], *lines]))


if __name__ == "__main__":
    main()
