"""Run the experiments that have no result yet: `python benchmarks/run.py [benchmarks/experiments/NAME.yaml …]`.

An experiment is a YAML file with `settings`, which all its runs share, and `runs`, which add to them; `recipe` says in
either what trains: `classification`, `ner`, or the peer `stock-ner`. The runs that are missing are trained one after
the other with the recipe itself; the scores of all of them stand in `benchmarks/results/NAME.json`, the predictions of
the test split in `benchmarks/predictions/NAME`. An experiment is added, never edited.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

from stock import StockNerArguments

from hf_selfattn.arguments import NerArguments, RecipeArguments, build_arguments, read_yaml
from hf_selfattn.results import read_json, together, write_json
from hf_selfattn.training import run

HERE = Path(__file__).parent
EXPERIMENTS, RESULTS, RUNS = HERE / "experiments", HERE / "results", HERE.parent / "runs"
PREDICTIONS = HERE / "predictions"
RECIPES = {"classification": RecipeArguments, "ner": NerArguments, "stock-ner": StockNerArguments}
KEPT = ("task", "problem", "label_names", "arguments", "seed", "calibration", "parameters", "environment", "baseline")


def run_experiment(path: Path) -> dict[str, Any]:
    """Train what is missing of an experiment and write its results file after each run."""
    experiment = read_yaml(path)
    target = RESULTS / f"{path.stem}.json"
    record = read_json(target) if target.is_file() else {"experiment": path.stem, "runs": {}}
    record["command"] = f"python benchmarks/run.py benchmarks/experiments/{path.name}"
    for name, changes in experiment["runs"].items():
        if name in record["runs"]:
            continue
        folder = RUNS / path.stem / str(name)
        settings = {**experiment["settings"], **changes, "output_dir": str(folder)}
        kind = RECIPES[settings.pop("recipe", "classification")]
        results = run(build_arguments(settings, kind=kind))
        keep_predictions(folder / "predictions-test.jsonl", PREDICTIONS / path.stem / f"{name}.jsonl.gz")
        runs = {**record["runs"], name: shortened(results)}
        record.update(together(runs))
        write_json(target, record)
    return record


def keep_predictions(source: Path, target: Path) -> None:
    """Store row, right answer and output of each test row, small, for paired tests; words can be had from the data."""
    rows = (json.loads(line) for line in source.read_text(encoding="utf-8").splitlines())
    kept = [{name: row[name] for name in ("row", "document", "reference", "output") if name in row} for row in rows]
    target.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in kept)
    target.write_bytes(gzip.compress(lines.encode("utf-8"), mtime=0))


def shortened(results: dict[str, Any]) -> dict[str, Any]:
    """Keep of a run what a reader needs to judge and repeat it."""
    kept = {name: results[name] for name in KEPT if name in results}
    kept["training"] = {name: value for name, value in results["training"].items() if name != "history"}
    kept["splits"] = {
        name: {key: value for key, value in split.items() if key != "predictions_file"}
        for name, split in results["splits"].items()
    }
    return kept


def main() -> None:
    paths = [Path(word) for word in sys.argv[1:]] or sorted(EXPERIMENTS.glob("*.yaml"))
    for path in paths:
        record = run_experiment(path)
        for split, scores in record["summary"].items():
            shown = {metric: f"{s['mean']:.4f} ± {s['sd']:.4f}" for metric, s in scores.items() if "/" not in metric}
            print(f"{path.stem} {split}: {shown}")


if __name__ == "__main__":
    main()
