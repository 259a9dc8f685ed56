"""Is one row better than another, over all their seeds? `python benchmarks/compare.py EXPERIMENT [OURS THEIRS]`.

OURS and THEIRS are names of runs without `-seed-N`, or EXPERIMENT/NAME for those of another experiment. Without them
every row is compared with those that the experiment says to compare `against`, on every test set. The paired bootstrap
draws rows, of taggers documents, each with all its seeds; the outcome is added to
`benchmarks/results/EXPERIMENT-comparisons.json`, and tests of rows whose predictions are gone are taken out of it.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_selfattn.arguments import read_yaml
from hf_selfattn.files import read_json, write_json
from hf_selfattn.metrics import paired_bootstrap_spans
from hf_selfattn.metrics.comparison import PairedTest, compare_statistics
from hf_selfattn.metrics.inputs import check_predictions
from hf_selfattn.metrics.intervals import Statistic
from hf_selfattn.metrics.scores import statistic_of

HERE = Path(__file__).parent
RESAMPLES = {"spans": 5000, "texts": 2000}
Rows = list[dict[str, Any]]


def read_rows(path: Path) -> Rows:
    """Return the predictions of a run, one per row."""
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()]


def seeds_of(experiment: str, name: str, split: str = "test") -> dict[int, Path]:
    """Return the files of predictions of a row, by seed."""
    experiment, name = place_of(experiment, name)
    end = ".jsonl.gz" if split == "test" else f".{split}.jsonl.gz"
    files = (HERE / "predictions" / experiment).glob(f"{name}-seed-*{end}")
    ends = {path: path.name.removeprefix(f"{name}-seed-").removesuffix(end) for path in files}
    return {int(end): path for path, end in sorted(ends.items()) if end.isdecimal()}


def place_of(experiment: str, name: str) -> tuple[str, str]:
    """Return experiment and row of a name."""
    other, _, row = name.rpartition("/")
    return other or experiment, row


def compare(experiment: str, ours: str, theirs: str, metric: str = "f1", split: str = "test") -> dict[str, Any]:
    """Return the paired test over the seeds that both have.

    Args:
        experiment: name of the experiment.
        ours, theirs: rows.
        metric: of classifiers; taggers have F1.
        split: test set.

    Raises:
        ValueError: if they share no seed, or were scored on other rows.
    """
    files = {name: seeds_of(experiment, name, split) for name in (ours, theirs)}
    seeds = sorted(set(files[ours]) & set(files[theirs]))
    if not seeds:
        raise ValueError(
            f"There are no predictions of a seed of both {ours} and {theirs}. Run benchmarks/run.py first."
        )
    run = next(iter(read_json(HERE / "results" / f"{experiment}.json")["runs"].values()))
    pairs = [(read_rows(files[ours][seed]), read_rows(files[theirs][seed])) for seed in seeds]
    for seed, (mine, other) in zip(seeds, pairs, strict=True):
        if [row["reference"] for row in mine] != [row["reference"] for row in other]:
            raise ValueError(f"Seed {seed} of {ours} and {theirs} was scored on other rows or answers.")
    test = compare_tags(pairs, run["label_names"]) if is_tagger(run) else compare_texts(pairs, run, metric)
    return {"ours": ours, "theirs": theirs, "seeds": seeds, **test.as_dict()}


def is_tagger(run: dict[str, Any]) -> bool:
    """Return whether a run tagged tokens."""
    return bool(run["task"] == "token-classification")


def compare_tags(pairs: Sequence[tuple[Rows, Rows]], label_names: Sequence[str]) -> PairedTest:
    """Return the test of F1 of entities.

    Args:
        pairs: rows of both taggers, by seed.
        label_names: the tags.
    """
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


def compare_texts(pairs: Sequence[tuple[Rows, Rows]], run: dict[str, Any], metric: str) -> PairedTest:
    """Return the test of the mean of a metric over the seeds.

    Seeds with the same test rows draw the same ones; the rows of several splits are drawn each for itself.

    Args:
        pairs: rows of both systems, by seed.
        run: with `problem` and `label_names`.
        metric: as `score` gives it.
    """
    references = [[row["reference"] for row in mine] for mine, _ in pairs]
    shared = all(other == references[0] for other in references)
    starts = [0] * len(pairs) if shared else np.cumsum([0, *map(len, references)])[:-1].tolist()

    def mean_over_seeds(place: int) -> Statistic:
        parts = [
            statistic_of(
                check_predictions(run["problem"], truth, [row["output"] for row in pair[place]], run["label_names"]),
                metric,
            )
            for pair, truth in zip(pairs, references, strict=True)
        ]

        def statistic(weights: Any) -> dict[str, Any]:
            slices = (weights[start : start + len(truth)] for start, truth in zip(starts, references, strict=True))
            values = [part(chosen)[metric] for part, chosen in zip(parts, slices, strict=True)]
            return {metric: np.mean(values, axis=0)}

        return statistic

    return compare_statistics(
        mean_over_seeds(0),
        mean_over_seeds(1),
        metric,
        starts[-1] + len(references[-1]),
        confidence=0.95,
        resamples=RESAMPLES["texts"],
        seed=0,
    )


def planned(experiment: str, settings: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the pairs of rows that an experiment compares on each test set, and that share a seed.

    Args:
        experiment: its name.
        settings: its content.
    """
    splits = ["test", *settings["settings"].get("test_files", {})]
    pairs = [(ours, theirs) for theirs in settings.get("against", []) for ours in settings["rows"] if ours != theirs]
    return [
        (*pair, split)
        for split in splits
        for pair in pairs
        if set(seeds_of(experiment, pair[0], split)) & set(seeds_of(experiment, pair[1], split))
    ]


def without_lost(experiment: str, comparisons: dict[str, Any]) -> dict[str, Any]:
    """Return the tests whose two rows still have predictions.

    Args:
        experiment: its name.
        comparisons: tests by name.
    """
    return {
        name: test
        for name, test in comparisons.items()
        if all(seeds_of(experiment, test[side]) for side in ("ours", "theirs"))
    }


def main() -> None:
    experiment, *names = sys.argv[1:]
    settings = read_yaml(HERE / "experiments" / f"{experiment}.yaml")
    target = HERE / "results" / f"{experiment}-comparisons.json"
    record = read_json(target) if target.is_file() else {"comparisons": {}}
    record["command"] = f"python benchmarks/compare.py {experiment} OURS THEIRS"
    record["comparisons"] = without_lost(experiment, record["comparisons"])
    for ours, theirs, split in [(names[0], names[1], "test")] if names else planned(experiment, settings):
        found = compare(experiment, ours, theirs, settings.get("metric", "f1"), split)
        where = "" if split == "test" else f" @ {split}"
        record["comparisons"][f"{ours} - {theirs}{where}"] = found
        print(json.dumps(found))
    write_json(target, record)


if __name__ == "__main__":
    main()
