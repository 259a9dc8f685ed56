"""Run what has no result: `python -m benchmarks.quality.run [--rows NAME,NAME] [benchmarks/experiments/NAME.yaml …]`.

An experiment is a YAML file, or one of the parts of a study's (records.py), with `settings`, which all its runs share.
Its `runs` add to them by name; or its `rows` do, each trained with every one of `seeds` (of the experiment or of the
row) as NAME-seed-N: first the first seed of all rows, then the second. A row with a `grid`, settings by name, is
trained with each of them for its first seed, as NAME=SETTING-seed-N; the best one by `metric` on validation is the
row's run, and what its later seeds train. `{seed}` in a path stands for the seed, `draw` says which rows of a file are
taken (draws.py), and `recipe` what trains (RECIPES). The scores stand in `benchmarks/results/NAME.json`, models and
the predictions of the evaluation splits in `runs/NAME`; the models of an experiment with `keep_models: false` are
deleted. An experiment is added, never edited.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from hf_selfattn import (
    AudioClassificationArguments,
    ImageClassificationArguments,
    NerArguments,
    SentimentArguments,
    SpeechRecognitionArguments,
    TextClassificationArguments,
    build_arguments,
    run,
)
from hf_selfattn.metrics import LOWER_IS_BETTER

from ..peers.detectors import FrozenDetectionArguments, RetinaArguments
from ..peers.image_probes import run_attention_pool, run_linear_probe, run_neighbours, run_on_features
from ..peers.linear import run_embedding, run_tfidf
from ..peers.max_pool import MaxPoolArguments
from ..peers.recurrent_speech import RecurrentSpeechArguments
from ..peers.setfit_peer import run_setfit
from ..peers.sound_probes import run_deviation_probe, run_spectrogram_probe
from ..peers.stock import StockNerArguments
from ..peers.stock_classification import StockArguments
from ..peers.stock_images import StockImageArguments
from ..records import (
    EXPERIMENTS,
    RESULTS,
    RUNS,
    Record,
    content_of,
    experiments_in,
    home_of,
    read_results,
    write_results,
)
from .draws import drawn
from .predictions import copy_predictions, keep_predictions

# What each recipe is told, and what carries it out.
RECIPES = {
    "classification": (TextClassificationArguments, run),
    "sentiment": (SentimentArguments, run),
    "ner": (NerArguments, run),
    "stock-ner": (StockNerArguments, run),
    "stock-classification": (StockArguments, run),
    "max-pool": (MaxPoolArguments, run),
    "tfidf": (TextClassificationArguments, run_tfidf),
    "embedding-lr": (TextClassificationArguments, run_embedding),
    "setfit": (TextClassificationArguments, run_setfit),
    "images": (ImageClassificationArguments, run),
    "image-probe": (ImageClassificationArguments, run_on_features),
    "stock-images": (StockImageArguments, run),
    "detection": (FrozenDetectionArguments, run),
    "retina": (RetinaArguments, run),
    "linear-probe": (ImageClassificationArguments, run_linear_probe),
    "neighbours": (ImageClassificationArguments, run_neighbours),
    "attention-pool": (ImageClassificationArguments, run_attention_pool),
    "sound-probe": (AudioClassificationArguments, run_on_features),
    "sound-linear-probe": (AudioClassificationArguments, run_linear_probe),
    "sound-neighbours": (AudioClassificationArguments, run_neighbours),
    "deviation-probe": (AudioClassificationArguments, run_deviation_probe),
    "spectrogram-probe": (AudioClassificationArguments, run_spectrogram_probe),
    "speech": (SpeechRecognitionArguments, run),
    "recurrent-speech": (RecurrentSpeechArguments, run),
}
PLACES = ("train", "validation", "test")
# What a reader needs to judge and repeat a run.
KEPT = ("task", "problem", "label_names", "seed", "sweep", "chosen", "calibration", "parameters", "environment")
KEPT_OF_TRAINING = ("seconds", "cpu_seconds", "steps", "epochs", "best_step", "processes", "device", "bf16")
KEPT_OF_AUTO = ("chosen", "metric", "scores", "best", "outlook")
KEPT_OF_DATA = ("rows", "documents", "words", "fingerprint")


def run_experiment(path: Path, only: Collection[str] = ()) -> Record:
    """Train what is missing of an experiment and write its results file after each run.

    Args:
        only: rows, or runs, that are trained; all where none is named.
    """
    experiment = content_of(path)
    target = RESULTS / f"{path.stem}.json"
    record = read_results(target)
    record["command"] = f"python -m benchmarks.quality.run benchmarks/experiments/{home_of(path)[0].name}"
    metric = experiment.get("metric", "f1")
    for name, settings in planned(experiment):
        row = row_of(name).partition("=")[0]
        if name in record["runs"] or (only and not {name, row_of(name), row} & set(only)):
            continue
        folder, predictions = RUNS / path.stem / name, RUNS / path.stem / "predictions"
        if grid := experiment.get("rows", {}).get(name.partition("-seed-")[0], {}).get("grid"):
            tried, run_of_row = best_of(grid, row, record["runs"], metric)
            if tried.endswith(f"-seed-{settings['seed']}"):
                record["runs"][name] = run_of_row
                copy_predictions(predictions, tried, name)
                write_results(target, record)
                continue
            settings |= grid[run_of_row["grid"]]
        kind, carry_out = RECIPES[settings.pop("recipe", "classification")]
        given = drawn(settings, RUNS / path.stem / "drawn" / f"seed-{settings.get('seed')}")
        results = carry_out(build_arguments({**given, "output_dir": str(folder)}, kind=kind))
        keep_predictions(folder, predictions, name)
        record["runs"][name] = shortened(results, settings, metric)
        write_results(target, record)
        if not experiment.get("keep_models", True):
            shutil.rmtree(folder)
    return record


def planned(experiment: Record) -> Iterator[tuple[str, Record]]:
    """Yield name and settings of each run of an experiment, in its order: of rows seed after seed."""
    shared = experiment["settings"]
    for name, changes in experiment.get("runs", {}).items():
        yield str(name), {**shared, **changes}
    rows: dict[str, Record] = {}
    for name, changes in experiment.get("rows", {}).items():
        own = {**shared, "seeds": experiment["seeds"], **changes}
        for tried, more in own.pop("grid", {}).items():
            rows[f"{name}={tried}"] = {**own, **more, "seeds": own["seeds"][:1]}
        rows[name] = own
    seeds = {name: settings.pop("seeds") for name, settings in rows.items()}
    for place in range(max(map(len, seeds.values()), default=0)):
        for name, settings in rows.items():
            for seed in seeds[name][place : place + 1]:
                paths = {part: str(settings[part]).replace("{seed}", str(seed)) for part in PLACES}
                yield f"{name}-seed-{seed}", {**settings, **paths, "seed": seed}


def best_of(grid: Record, row: str, runs: Record, metric: str) -> tuple[str, Record]:
    """Return name and run of what was best on validation of all that a row tries; its `grid` says which it is."""
    tried = {name: run for name, run in runs.items() if name.startswith(f"{row}=")}
    if len(tried) < len(grid):
        raise ValueError(f"{row} tries {', '.join(map(str, grid))}, and these runs alone are done: {list(tried)}.")
    choose = min if metric in LOWER_IS_BETTER else max
    best = choose(tried, key=lambda name: tried[name]["scores"]["validation"][metric][0])
    return best, {**tried[best], "grid": row_of(best).partition("=")[2]}


def row_of(name: str) -> str:
    """Return the row that a run belongs to: its name without the seed."""
    return name.partition("-seed-")[0]


def shortened(results: Record, settings: Record, metric: str = "f1") -> Record:
    """Return what the results file keeps of a run; its data are the files that were drawn from, and the draw."""
    kept = {name: results[name] for name in KEPT if name in results}
    places = {name: settings[name] for name in (*PLACES, "test_files") if name in settings}
    options = {name: value for name, value in results["arguments"]["options"].items() if name != "seed"}
    kept["arguments"] = {**results["arguments"], **places, "options": options}
    kept |= {"draw": settings["draw"]} if "draw" in settings else {}
    kept["training"] = shortened_training(results["training"])
    history = results["training"].get("history", [])
    if curve := [[entry["step"], entry[f"eval_{metric}"]] for entry in history if f"eval_{metric}" in entry]:
        kept["training"]["curve"] = curve
    splits = results["splits"]
    kept["data"] = {name: {key: part[key] for key in KEPT_OF_DATA if key in part} for name, part in splits.items()}
    kept["scores"] = scores_of(splits)
    if "baseline" in results:
        kept["baseline"] = {name: scores_of(found["splits"]) for name, found in results["baseline"].items()}
    return kept


def shortened_training(training: Record) -> Record:
    """Return what the results file keeps of a training and its phases."""
    kept = {name: training[name] for name in KEPT_OF_TRAINING if name in training}
    if cache := training.get("feature_cache"):
        kept["feature_cache"] = {name: cache[name] for name in ("computed_rows", "seconds", "cpu_seconds")}
    if auto := training.get("auto"):
        kept["auto"] = {name: auto[name] for name in KEPT_OF_AUTO}
        kept["auto"]["trials"] = [[trial["state"], trial["value"], trial["settings"]] for trial in auto["trials"]]
    if "phases" in training:
        kept["phases"] = {name: shortened_training(phase) for name, phase in training["phases"].items()}
    return kept


def scores_of(splits: Record) -> Record:
    """Return value, low and high of each score of each split, without those of single classes."""
    return {
        name: {
            metric: [score["value"], score["low"], score["high"]]
            for metric, score in part["scores"].items()
            if "/" not in metric
        }
        for name, part in splits.items()
    }


def shown(runs: Sequence[Record], split: str) -> dict[str, str]:
    """Return mean and standard deviation of each score over the runs of a row, for reading."""
    scores = [run["scores"][split] for run in runs]
    values = {metric: [score[metric][0] for score in scores if metric in score] for metric in scores[0]}
    deviations = {metric: statistics.stdev(found) if len(found) > 1 else 0.0 for metric, found in values.items()}
    return {metric: f"{statistics.fmean(values[metric]):.4f} ± {sd:.4f}" for metric, sd in deviations.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the experiments, or what is missing of them.")
    parser.add_argument("paths", nargs="*", type=Path, help="experiments; all where none is named")
    parser.add_argument("--rows", default="", help="rows or runs, with commas between; all where none is named")
    words = parser.parse_args()
    files = words.paths or sorted(EXPERIMENTS.glob("*.yaml"))
    for path in (experiment for file in files for experiment in experiments_in(file)):
        runs = run_experiment(path, [name for name in words.rows.split(",") if name])["runs"]
        for row in dict.fromkeys(map(row_of, runs)):
            own = [run for name, run in runs.items() if row_of(name) == row]
            for split in own[0]["scores"]:
                print(path.stem, row, split, shown(own, split))


if __name__ == "__main__":
    main()
