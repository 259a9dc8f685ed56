"""Run what has no result yet: `python benchmarks/run.py [--rows NAME,NAME] [benchmarks/experiments/NAME.yaml …]`.

An experiment is a YAML file with `settings`, which all its runs share. Its `runs` add to them by name; or its `rows`
do, each trained with every one of `seeds` (of the experiment or of the row) as NAME-seed-N: first the first seed of
all rows, then the second. `{seed}` in a path stands for the seed, `draw` says which rows of a file are taken
(draws.py), and `recipe` what trains (RECIPES). The scores stand in `benchmarks/results/NAME.json`, the predictions of
the evaluation splits in `benchmarks/predictions/NAME`. Models stay in `runs`, unless the experiment says
`keep_models: false`. An experiment is added, never edited.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from draws import drawn
from linear import run_embedding, run_tfidf
from max_pool import MaxPoolArguments
from setfit_peer import run_setfit
from stock import StockNerArguments
from stock_classification import StockArguments

from hf_selfattn import NerArguments, TextClassificationArguments, build_arguments, run
from hf_selfattn.arguments import read_yaml
from hf_selfattn.files import read_json, write_json
from hf_selfattn.hub.results import together

HERE = Path(__file__).parent
EXPERIMENTS, RESULTS, RUNS = HERE / "experiments", HERE / "results", HERE.parent / "runs"
PREDICTIONS = HERE / "predictions"
# What each recipe is told, and what carries it out.
RECIPES = {
    "classification": (TextClassificationArguments, run),
    "ner": (NerArguments, run),
    "stock-ner": (StockNerArguments, run),
    "stock-classification": (StockArguments, run),
    "max-pool": (MaxPoolArguments, run),
    "tfidf": (TextClassificationArguments, run_tfidf),
    "embedding-lr": (TextClassificationArguments, run_embedding),
    "setfit": (TextClassificationArguments, run_setfit),
}
KEPT = (
    "task",
    "problem",
    "label_names",
    "arguments",
    "seed",
    "sweep",
    "calibration",
    "parameters",
    "environment",
    "baseline",
)
KEPT_OF_ROW = ("row", "document", "reference", "output")
PLACES = ("train", "validation", "test")
DIGITS = 5


def run_experiment(path: Path, only: Collection[str] = ()) -> dict[str, Any]:
    """Train what is missing of an experiment and write its results file after each run.

    Args:
        path: of the experiment.
        only: rows, or runs, that are trained; all where none is named.
    """
    experiment = read_yaml(path)
    target = RESULTS / f"{path.stem}.json"
    record = read_json(target) if target.is_file() else {"experiment": path.stem, "runs": {}}
    record["command"] = f"python benchmarks/run.py benchmarks/experiments/{path.name}"
    for name, settings in planned(experiment):
        if name in record["runs"] or (only and not {name, row_of(name)} & set(only)):
            continue
        folder = RUNS / path.stem / name
        kind, carry_out = RECIPES[settings.pop("recipe", "classification")]
        given = drawn(settings, RUNS / path.stem / "drawn" / f"seed-{settings.get('seed')}")
        results = carry_out(build_arguments({**given, "output_dir": str(folder)}, kind=kind))
        keep_predictions(folder, PREDICTIONS / path.stem, name)
        kept = shortened(results, by_class="rows" not in experiment)
        kept |= {"draw": settings["draw"]} if "draw" in settings else {}
        record.update(summarised({**record["runs"], name: kept}, "rows" in experiment))
        write_json(target, record)
        if not experiment.get("keep_models", True):
            shutil.rmtree(folder)
    return record


def planned(experiment: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and settings of each run of an experiment, in its order.

    Args:
        experiment: with `settings`, and `runs` or `rows` and `seeds`.
    """
    shared = experiment["settings"]
    for name, changes in experiment.get("runs", {}).items():
        yield str(name), {**shared, **changes}
    rows = {name: {**shared, **changes} for name, changes in experiment.get("rows", {}).items()}
    seeds = {name: settings.pop("seeds", experiment["seeds"]) for name, settings in rows.items()}
    for place in range(max(map(len, seeds.values()), default=0)):
        for name, settings in rows.items():
            for seed in seeds[name][place : place + 1]:
                paths = {part: str(settings[part]).replace("{seed}", str(seed)) for part in PLACES}
                yield f"{name}-seed-{seed}", {**settings, **paths, "seed": seed}


def row_of(name: str) -> str:
    """Return the row that a run belongs to: its name without the seed."""
    return name.partition("-seed-")[0]


def summarised(runs: dict[str, Any], by_row: bool) -> dict[str, Any]:
    """Return the runs with mean and deviation of their scores, of all together or of each row.

    Args:
        runs: results by name.
        by_row: whether the rows of the experiment have means of their own.
    """
    record = together(runs)
    if by_row:
        rows = dict.fromkeys(map(row_of, runs))
        parts = {row: {name: part for name, part in runs.items() if row_of(name) == row} for row in rows}
        record["summary"] = {row: together(part)["summary"] for row, part in parts.items()}
    return record


def keep_predictions(folder: Path, target: Path, name: str) -> None:
    """Store row, right answer and output of each row of the evaluation splits, small, for paired tests.

    Words can be had from the data. The file of the test split has the name of the run, that of another NAME.SPLIT.

    Args:
        folder: of the run.
        target: folder of the experiment's predictions.
        name: of the run.
    """
    target.mkdir(parents=True, exist_ok=True)
    for source in folder.glob("predictions-*.jsonl"):
        split = source.stem.removeprefix("predictions-")
        if split == "validation":
            continue
        rows = (json.loads(line) for line in source.read_text(encoding="utf-8").splitlines())
        kept = [{key: rounded(row[key]) for key in KEPT_OF_ROW if key in row} for row in rows]
        lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in kept)
        stem = name if split == "test" else f"{name}.{split}"
        (target / f"{stem}.jsonl.gz").write_bytes(gzip.compress(lines.encode("utf-8"), mtime=0))


def rounded(value: Any) -> Any:
    """Return a value of a prediction, numbers with a few digits: probabilities of `DIGITS` after the point suffice."""
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return round(value, DIGITS) if isinstance(value, float) else value


def shortened(results: dict[str, Any], by_class: bool = True) -> dict[str, Any]:
    """Keep of a run what a reader needs to judge and repeat it.

    Args:
        results: of the run.
        by_class: whether to keep the scores of each class, and the errors of a tagger with their examples.
    """
    kept = {name: results[name] for name in KEPT if name in results}
    kept["training"] = without_history(results["training"])
    kept["splits"] = {
        name: {key: value for key, value in split.items() if key != "predictions_file"}
        for name, split in results["splits"].items()
    }
    if not by_class:
        for split in kept["splits"].values():
            scores = split["scores"]
            split.pop("errors", None)
            split["scores"] = {metric: score for metric, score in scores.items() if "/" not in metric}
    return kept


def without_history(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a training, and of its phases, without the losses on the way."""
    kept = {name: value for name, value in record.items() if name != "history"}
    if "phases" in kept:
        kept["phases"] = {name: without_history(phase) for name, phase in kept["phases"].items()}
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the experiments, or what is missing of them.")
    parser.add_argument("paths", nargs="*", type=Path, help="experiments; all where none is named")
    parser.add_argument("--rows", default="", help="rows or runs, with commas between; all where none is named")
    words = parser.parse_args()
    for path in words.paths or sorted(EXPERIMENTS.glob("*.yaml")):
        record = run_experiment(path, [name for name in words.rows.split(",") if name])
        summary = record.get("summary", {})
        for row, splits in (summary if "rows" in read_yaml(path) else {"": summary}).items():
            for split, scores in splits.items():
                means = {metric: f"{s['mean']:.4f} ± {s['sd']:.4f}" for metric, s in scores.items()}
                shown = {metric: mean for metric, mean in means.items() if "/" not in metric}
                print(f"{path.stem} {row} {split}: {shown}")


if __name__ == "__main__":
    main()
