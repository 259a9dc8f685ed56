"""What the results files of the study say: scores, gains and processor time of a row, for the tables and the plot."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hf_selfattn.tasks.preparation import MIXED_LAYERS

from hf_selfattn.files import read_json

RESULTS = Path(__file__).parent / "results"
ALPHA = 0.05

# The rows of the study, each with its title.
SYSTEMS = {
    "tfidf": "TF-IDF, logistic regression",
    "embedding-lr": "sentence embedding, logistic regression",
    "setfit": "SetFit",
    "stock-frozen": "stock head, frozen backbone",
    "stock-lora": "stock head, LoRA",
    "stock-lora-quarter-rate": "stock head, LoRA at a quarter of the rate",
    "stock-lora-all": "stock head, LoRA on every linear layer",
    "stock-full": "stock head, full",
    "max-pool": "MaxPoolBERT head, full",
    "probe": "ours, probe",
    "probe-sweep": "ours, probe, the better of two rates",
    "lora": "ours, LoRA",
    "lora-quarter-rate": "ours, LoRA at a quarter of the rate",
    "lora-class-queries": "ours, LoRA, class queries, standardised",
    "lora-mean": "ours, LoRA, mean, standardised",
    "lora-query-value": "ours, LoRA on queries and values",
    "lora-no-heads": "ours, LoRA, without attention heads",
    "lora-document": "ours, LoRA, whole documents",
    "lora-crf": "ours, LoRA, CRF",
    "probe+lora": "ours, probe + LoRA",
    "full": "ours, full",
}
ABLATIONS = {
    "probe": "probe, as it is",
    "probe-no-self": "without self-attention",
    "probe-no-grouped": "without grouped attention",
    "probe-no-heads": "without both",
    "probe-one-rate": "attention heads at the rate of the task head",
    "probe-slow-attention": "attention heads at .3 of the rate",
    "probe-fixed-fusion": "weights of the sum fixed at .1",
    "probe-from-tenth": "weights of the sum from .1",
    "probe-from-zero": "weights of the sum from 0",
    "probe-no-mix": "last layer instead of four mixed",
    "probe-mean": "mean instead of class queries",
    "probe-cls": "first token instead of class queries",
    "probe-random-prototypes": "random prototypes",
    "probe-moving-prototypes": "prototypes that follow the tokens",
}


@dataclass(frozen=True)
class Column:
    """A test set of the study.

    Args:
        experiment: name of the experiment.
        title: of the column.
        metric: that it shows.
        against: row that gains are marked against.
        split: of the experiment.
    """

    experiment: str
    title: str
    metric: str
    against: str = "stock-lora"
    split: str = "test"


FULL = (
    Column("study-r8", "R8", "macro_f1"),
    Column("study-polarity", "movies", "accuracy"),
    Column("study-polarity", "→ Amazon", "accuracy", split="amazon"),
    Column("study-polarity", "→ NYT", "accuracy", split="nyt"),
    Column("study-valence", "valence", "pearson"),
    Column("study-valence", "→ Amazon", "pearson", split="amazon"),
    Column("study-valence", "→ NYT", "pearson", split="nyt"),
    Column("study-reviews", "reviews", "accuracy"),
    Column("study-conll2003", "CoNLL", "f1"),
)
ABLATED = tuple(replace(column, against="probe") for column in FULL)
MPNET = tuple(replace(column, experiment=column.experiment.replace("study-", "study-mpnet-")) for column in FULL)
FEW = tuple(
    Column(f"study-few-{task}-{count}", f"{title}, {count}", metric, "embedding-lr")
    for task, title, metric in (("bbc", "BBC", "accuracy"), ("r8", "R8", "macro_f1"), ("movies", "movies", "accuracy"))
    for count in (8, 16)
)


def runs_of(column: Column, row: str) -> list[dict[str, Any]]:
    """Return the runs of a row, seed by seed.

    Args:
        column: names the experiment.
        row: of it.
    """
    path = RESULTS / f"{column.experiment}.json"
    runs = read_json(path)["runs"] if path.is_file() else {}
    return [run for name, run in runs.items() if name.partition("-seed-")[0] == row]


def mean_score(column: Column, row: str) -> float | None:
    """Return the mean of the metric over the seeds, or None where nothing was trained.

    Args:
        column: test set and metric.
        row: of the experiment.
    """
    values = [run["splits"][column.split]["scores"][column.metric]["value"] for run in runs_of(column, row)]
    return statistics.fmean(values) if values else None


def gain_of(column: Column, row: str) -> dict[str, Any] | None:
    """Return the paired test of a row against the column's, or None where there is none.

    Args:
        column: test set and row that is compared with.
        row: of the experiment.
    """
    path = RESULTS / f"{column.experiment}-comparisons.json"
    where = "" if column.split == "test" else f" @ {column.split}"
    tests = read_json(path)["comparisons"] if path.is_file() else {}
    found: dict[str, Any] | None = tests.get(f"{row} - {column.against}{where}")
    return found


def cell(column: Column, row: str) -> str:
    """Return the mean score of a row, and whether it is surely better or worse than the column's.

    Args:
        column: test set and row that is compared with.
        row: of the experiment.
    """
    value, test = mean_score(column, row), gain_of(column, row)
    if value is None:
        return ""
    if test is None or test["p_value"] >= ALPHA:
        return f"{value:.3f}"
    return f"{value:.3f} {'+' if test['difference'] > 0 else '−'}"


def table(columns: tuple[Column, ...], rows: dict[str, str], corner: str) -> list[str]:
    """Return a table in Markdown, without the rows and columns that have no result.

    Args:
        columns: test sets.
        rows: names in the experiments, and titles.
        corner: its first cell.
    """
    shown = [column for column in columns if any(runs_of(column, row) for row in rows)]
    if not shown:
        return []
    titles = [f"[{column.title}](benchmarks/results/{column.experiment}.json)" for column in shown]
    lines = [f"| {' | '.join([corner, *titles])} |", "|---" * (len(shown) + 1) + "|"]
    for row, title in rows.items():
        cells = [cell(column, row) for column in shown]
        if any(cells):
            lines.append(f"| {' | '.join([title, *cells])} |")
    return lines


def tables() -> list[str]:
    """Return the tables of the study, with the lines that explain them."""
    parts = [
        table(FULL, SYSTEMS, "MiniLM"),
        table(MPNET, SYSTEMS, "MPNet"),
        table(FEW, SYSTEMS, "rows of each class"),
        table(ABLATED, ABLATIONS, "heads on frozen features"),
    ]
    lines = [line for part in parts if part for line in [*part, ""]]
    if not lines:
        return []
    return [
        *lines,
        "Means over the seeds that are done (of three, of few rows ten). + and − mark a difference to the stock head",
        "with LoRA, of few rows to sentence embeddings, of heads on frozen features to the probe as it is, with",
        "p < .05 (paired bootstrap). Arrows: tests elsewhere.",
        "Trained for three epochs (probes six) on 1,000 rows of R8, 2,000 sentences, 500 reviews and 240 documents of",
        "CoNLL; on R8 and the reviews the stock head has not learned by then ([LOG](benchmarks/LOG.md)). `ours, LoRA`",
        "is as `recipes/sentiment.py` starts on movies and valence; else all rows of ours are as the other recipes.",
        "With MPNet LoRA has 1e-3, as with MiniLM, also the stock head that marks are against, and one of three",
        "runs on movies never learned (LOG); at a quarter of it, which the recipes take at MPNet's width, all did.",
        "Some seeds were trained on a GPU: they have no part in the seconds of the plot.",
        "What each row is stands in [`benchmarks/experiments`](benchmarks/experiments).",
        "",
        "![score against processor seconds of tuning](docs/study.svg)",
    ]


def tuning_seconds(column: Column, row: str) -> float | None:
    """Return the processor seconds that a row takes to tune on one thread, the median over its seeds.

    Features that an earlier run left in the cache are counted for every row that reads them: of all runs with the same
    layers, the greatest time that computing them took. A sweep counts with all of its trainings. Runs on a machine
    with a GPU say nothing of it; where there is no other, the answer is None.

    Args:
        column: names the experiment.
        row: of it.
    """
    greatest: dict[int, float] = {}
    for run in filter(is_on_processor, read_json(RESULTS / f"{column.experiment}.json")["runs"].values()):
        if (seconds := cache_seconds(run)) is not None:
            greatest[layers_of(run)] = max(greatest.get(layers_of(run), 0.0), seconds)
    timed = list(map(partial(with_cache, greatest), filter(is_on_processor, runs_of(column, row))))
    return statistics.median(timed) if timed else None


def is_on_processor(run: dict[str, Any]) -> bool:
    """Return whether a run trained on a machine without a GPU."""
    return not run["environment"]["accelerators"]


def with_cache(greatest: dict[int, float], run: dict[str, Any]) -> float:
    """Return the seconds of a run as if it had computed its features itself.

    Args:
        greatest: seconds that computing them took, by number of layers.
        run: of the study.
    """
    tried = sum(one["cpu_seconds"] for one in run.get("sweep", {}).get("runs", []))
    total, own = float(run["training"]["cpu_seconds"]) + tried, cache_seconds(run)
    return total if own is None else total - own + greatest[layers_of(run)]


def layers_of(run: dict[str, Any]) -> int:
    """Return how many hidden layers the heads of a probe read."""
    return int(run["arguments"]["heads"].get("num_mixed_layers", MIXED_LAYERS))


def cache_seconds(run: dict[str, Any]) -> float | None:
    """Return the seconds that a run spent on the features of a frozen backbone, or None where it keeps none."""
    training = run["training"]
    phase = training.get("phases", {}).get("probe", training)
    cache = phase.get("feature_cache")
    return None if cache is None else float(cache["cpu_seconds"])
