"""Is one row better than another? `python -m benchmarks.quality.compare EXPERIMENT [OURS THEIRS]`.

OURS and THEIRS are names of runs without `-seed-N`, or EXPERIMENT/NAME for those of another experiment. Without them
every row is compared with those that the experiment says to compare `against`, on every test set. The paired bootstrap
draws rows, of taggers documents, each with all its seeds. The outcome is added to
`benchmarks/results/EXPERIMENT.json`, and tests of rows that have no runs any more are taken out of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_selfattn.metrics import paired_bootstrap_spans
from hf_selfattn.metrics.comparison import PairedTest, compare_statistics
from hf_selfattn.metrics.detection import detection_statistic, match_boxes
from hf_selfattn.metrics.inputs import check_predictions
from hf_selfattn.metrics.intervals import Statistic
from hf_selfattn.metrics.recognition import paired_bootstrap_recognition
from hf_selfattn.metrics.scores import statistic_of

from ..records import EXPERIMENTS, RESULTS, Record, content_of, experiments_in, read_results, write_results
from .predictions import Rows, predictions_of, read_rows

RESAMPLES = {"spans": 5000, "texts": 2000}


def place_of(experiment: str, name: str) -> tuple[str, str]:
    """Return experiment and row of a name."""
    other, _, row = name.rpartition("/")
    return other or experiment, row


def seeds_of(experiment: str, name: str) -> set[int]:
    """Return the seeds that a row was trained with, as the results file has them."""
    experiment, row = place_of(experiment, name)
    runs = read_results(RESULTS / f"{experiment}.json")["runs"]
    return {run["seed"] for name, run in runs.items() if name.partition("-seed-")[0] == row}


def compare(experiment: str, ours: str, theirs: str, metric: str = "f1", split: str = "test") -> dict[str, Any]:
    """Return the paired test over the seeds that both have.

    Raises:
        ValueError: if predictions are missing, or they share no seed, or were scored on other rows.
    """
    seeds = sorted(seeds_of(experiment, ours) & seeds_of(experiment, theirs))
    if not seeds:
        raise ValueError(f"{ours} and {theirs} share no seed. Run python -m benchmarks.quality.run first.")
    files = {name: predictions_of(*place_of(experiment, name), split) for name in (ours, theirs)}
    if missing := [f"{name}-seed-{seed}" for name in (ours, theirs) for seed in seeds if seed not in files[name]]:
        raise ValueError(f"No predictions of {', '.join(missing)}: run python benchmarks/fetch.py predictions")
    run = next(iter(read_results(RESULTS / f"{experiment}.json")["runs"].values()))
    pairs = [(read_rows(files[ours][seed]), read_rows(files[theirs][seed])) for seed in seeds]
    for seed, (mine, other) in zip(seeds, pairs, strict=True):
        if [row["reference"] for row in mine] != [row["reference"] for row in other]:
            raise ValueError(f"Seed {seed} of {ours} and {theirs} was scored on other rows or answers.")
    if run["task"] == "token-classification":
        test = compare_tags(pairs, run["label_names"])
    elif run["task"] == "automatic-speech-recognition":
        test = compare_transcripts(pairs, metric)
    else:
        test = compare_rows(pairs, run, metric)
    return {"seeds": seeds, **test.as_dict()}


def compare_transcripts(pairs: Sequence[tuple[Rows, Rows]], metric: str) -> PairedTest:
    """Return the test of an error rate over the rows of all seeds, each of which has other ones."""
    references = [row["reference"] for mine, _ in pairs for row in mine]
    outputs = ([row["output"] for pair in pairs for row in pair[place]] for place in (0, 1))
    return paired_bootstrap_recognition(references, *outputs, metric, resamples=RESAMPLES["texts"])


def compare_tags(pairs: Sequence[tuple[Rows, Rows]], label_names: Sequence[str]) -> PairedTest:
    """Return the test of F1 of entities."""
    number = {name: label for label, name in enumerate(label_names)}

    def tags(place: int, field: str) -> list[list[int]]:
        return [[number[tag] for tag in row[field]] for pair in pairs for row in pair[place]]

    documents = [row["document"] for mine, _ in pairs for row in mine]
    return paired_bootstrap_spans(
        tags(0, "reference"),
        tags(0, "output"),
        tags(1, "output"),
        label_names,
        documents=documents,
        resamples=RESAMPLES["spans"],
    )


def compare_rows(pairs: Sequence[tuple[Rows, Rows]], run: dict[str, Any], metric: str) -> PairedTest:
    """Return the test of the mean of a metric of texts, images or boxes over the seeds.

    Seeds with the same test rows draw the same ones; the rows of several splits are drawn each for itself.
    """
    references = [[row["reference"] for row in mine] for mine, _ in pairs]
    starts: list[int] = []
    total = 0
    for number, rows in enumerate(references):
        first = references.index(rows)  # the first seed with these rows
        starts.append(starts[first] if first < number else total)
        total += len(rows) if first == number else 0

    def mean_over_seeds(place: int) -> Statistic:
        parts = [statistic_of_rows(pair[place], run, metric) for pair in pairs]

        def statistic(weights: Any) -> dict[str, Any]:
            slices = (weights[start : start + len(truth)] for start, truth in zip(starts, references, strict=True))
            values = [part(chosen)[metric] for part, chosen in zip(parts, slices, strict=True)]
            return {metric: np.mean(values, axis=0)}

        return statistic

    return compare_statistics(
        mean_over_seeds(0),
        mean_over_seeds(1),
        metric,
        total,
        confidence=0.95,
        resamples=RESAMPLES["texts"],
        seed=0,
    )


def statistic_of_rows(rows: Rows, run: dict[str, Any], metric: str) -> Statistic:
    """Return the metric of the answers that a run gave to its test rows, as a function of their weights."""
    names = run["label_names"]
    if run["problem"] == "object_detection":
        sides = ([boxes_of(row[side]) for row in rows] for side in ("reference", "output"))
        return detection_statistic(match_boxes(*sides, names))
    truth, answers = ([row[side] for row in rows] for side in ("reference", "output"))
    return statistic_of(check_predictions(run["problem"], truth, answers, names), metric)


def boxes_of(found: dict[str, Any]) -> dict[str, Any]:
    """Return the boxes of an image as scores take them."""
    return {name: np.asarray(values).reshape(-1, 4) if name == "boxes" else values for name, values in found.items()}


def planned(experiment: str, settings: Record) -> list[tuple[str, str, str]]:
    """Return the pairs of rows that an experiment compares on each test set, and that share a seed."""
    splits = ["test", *settings["settings"].get("test_files", {})]
    seeds = {name: seeds_of(experiment, name) for name in (*settings["rows"], *settings.get("against", []))}
    pairs = [(ours, theirs) for theirs in settings.get("against", []) for ours in settings["rows"] if ours != theirs]
    return [(*pair, split) for split in splits for pair in pairs if seeds[pair[0]] & seeds[pair[1]]]


def without_lost(experiment: str, comparisons: Record) -> Record:
    """Return the tests whose two rows still have runs."""
    sides = {name: name.partition(" @ ")[0].split(" - ") for name in comparisons}
    trained = {side: bool(seeds_of(experiment, side)) for pair in sides.values() for side in pair}
    return {name: test for name, test in comparisons.items() if all(trained[side] for side in sides[name])}


def compare_experiment(experiment: str, names: Sequence[str]) -> None:
    """Add to the results of an experiment the paired test of two rows, or of all that it says."""
    settings = content_of(EXPERIMENTS / f"{experiment}.yaml")
    target = RESULTS / f"{experiment}.json"
    record = read_results(target)
    record["comparisons"] = without_lost(experiment, record.get("comparisons", {}))
    for ours, theirs, split in [(names[0], names[1], "test")] if names else planned(experiment, settings):
        where = "" if split == "test" else f" @ {split}"
        try:
            found = compare(experiment, ours, theirs, settings.get("metric", "f1"), split)
        except ValueError as error:
            sys.exit(str(error))
        record["comparisons"][f"{ours} - {theirs}{where}"] = found
        print(f"{ours} - {theirs}{where}: {json.dumps(found)}")
        write_results(target, record)


def main() -> None:
    name, *rows = sys.argv[1:]
    for path in experiments_in(EXPERIMENTS / f"{name}.yaml"):
        compare_experiment(path.stem, rows)


if __name__ == "__main__":
    main()
