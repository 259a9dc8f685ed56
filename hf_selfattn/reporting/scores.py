"""Scores with their intervals: of each split beside the baselines, of each class, and of parts of a split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..hub.sanitize import last_part
from ..hub.summary import baselines_of, overall_scores, with_interval
from ..metrics import LOWER_IS_BETTER, score, score_spans
from ..metrics.inputs import Array
from .blocks import Block, Figures, Section, Table, Text, in_digits
from .plots import interval_plot
from .runs import FinishedRun

# What is shown in large type, by problem; the first of them is also the score of parts of a split.
HEADLINES = {
    "single_label_classification": ("accuracy", "macro_f1", "ece"),
    "multi_label_classification": ("micro_f1", "macro_f1", "ece"),
    "ordinal": ("mae", "quadratic_kappa", "accuracy"),
    "regression": ("mae", "pearson", "rmse"),
    "named_entities": ("f1", "precision", "recall"),
    "object_detection": ("map", "map_50", "map_75"),
    "speech_recognition": ("wer", "cer", "exact"),
}
# Of words in the names of metrics and baselines, those that are written otherwise.
NAMES = {
    "tfidf": "TF-IDF",
    "vader": "VADER",
    "map": "mAP",
    "ap": "AP",
    "f1": "F1",
    "wer": "word error rate",
    "cer": "character error rate",
    "mcc": "Matthews correlation",
    "roc": "ROC",
    "auc": "AUC",
    "ece": "calibration error",
    "brier": "Brier score",
    "nll": "log loss",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "pearson": "Pearson r",
    "spearman": "Spearman ρ",
}
MOST_PARTS = 12  # values of a column that are shown apart
LENGTH_PARTS = 5
RESAMPLES = 500  # of the intervals of parts


def headlines(run: FinishedRun) -> list[tuple[str, str, str]]:
    """Return name and value of the scores that matter most, and what stands below: interval and best baseline."""
    scores = overall_scores(run.scored)
    wanted = [name for name in HEADLINES.get(run.problem, ()) if name in scores] or list(scores)[:3]
    tiles = []
    for metric in wanted:
        baselines = baselines_of(run.results, run.split).items()
        others = [(of[metric]["value"], kind) for kind, of in baselines if metric in of]
        value, below = scores[metric], f"{in_digits(scores[metric]['low'])} to {in_digits(scores[metric]['high'])}"
        if others:
            best, kind = (min if metric in LOWER_IS_BETTER else max)(others)
            below += f"; {metric_name(kind)} {in_digits(best)}"
        tiles.append((metric_name(metric), in_digits(value["value"]), below))
    return tiles


def metric_name(metric: str) -> str:
    """Return the name of a metric in words, marked where less is better."""
    words = [NAMES.get(word, word) for word in metric.split("_")]
    return " ".join([*words, "↓"] if metric in LOWER_IS_BETTER else words)


def all_scores(run: FinishedRun) -> Section:
    """Return a table and a plot of the scores of each evaluation split, the baselines beside the model."""
    blocks: list[Block] = [Text("With 95 % confidence intervals. An arrow ↓ marks scores of which less is better.")]
    for name, split in run.results["splits"].items():
        baselines = baselines_of(run.results, name).items()
        columns = {"model": overall_scores(split), **{metric_name(kind): of for kind, of in baselines}}
        polarity = run.results.get("polarity", {}).get(name, {})
        rows = [
            [metric_name(metric), *(with_interval(scores.get(metric)) for scores in columns.values())]
            for metric in columns["model"]
        ]
        for metric in ("accuracy", "macro_f1") if polarity else ():
            values = with_interval(polarity[metric]), *[""] * (len(columns) - 1)
            rows.append([f"polarity {metric_name(metric)}", *values])
        bounded = [metric for metric in columns["model"] if metric not in LOWER_IS_BETTER]
        series = {kind: [scores.get(metric) for metric in bounded] for kind, scores in columns.items()}
        names = [metric_name(metric) for metric in bounded]
        caption = f"Scores on {last_part(name)}, {in_digits(split['rows'])} rows."
        blocks.append(Figures([interval_plot(names, series, caption, title=last_part(name))]))
        blocks.append(Table(f"{last_part(name)}: {in_digits(split['rows'])} rows", ["score", *columns], rows))
    return Section("scores", "Scores", blocks)


def scores_by_class(run: FinishedRun) -> Section | None:
    """Return the scores of each class of the split."""
    by_class: dict[str, dict[str, Any]] = {}
    for metric, value in run.scored["scores"].items():
        kind, found, label = metric.partition("/")
        if found:
            by_class.setdefault(label, {})[kind] = value
    if not by_class:
        return None
    counts = run.results.get("train", {}).get("labels") or {}
    kinds = list(dict.fromkeys(kind for scores in by_class.values() for kind in scores))
    rows = [
        [label, *(with_interval(scores.get(kind)) for kind in kinds), in_digits(counts.get(label))]
        for label, scores in by_class.items()
    ]
    main = "f1" if "f1" in kinds else kinds[0]
    ranked = sorted(by_class, key=lambda label: by_class[label].get(main, {"value": 0.0})["value"])[: 2 * MOST_PARTS]
    caption = f"{metric_name(main)} of each class on {last_part(run.split)}, the weakest first."
    values = {main: [by_class[label].get(main) for label in ranked]}
    plot = interval_plot(ranked, values, caption, x=metric_name(main))
    table = Table(f"Classes on {last_part(run.split)}", ["class", *map(metric_name, kinds), "in train"], rows)
    return Section("classes", "Scores by class", [Figures([plot]), table])


def scores_by_part(run: FinishedRun) -> Section:
    """Return the scores of the split by the length of its rows, and by the columns that are asked for."""
    size = {"image": "size in pixels", "sound": "length in seconds"}.get(run.medium, "length in tokens")
    parts = {size: numeric_parts(np.array(run.lengths(), dtype=float))}
    for column in run.options.columns:
        parts[column] = column_parts(run.column(column))
    blocks: list[Block] = []
    metric = HEADLINES[run.problem][0]
    for name, groups in parts.items():
        scores = [score_of(run, rows, metric) for rows in groups.values()]
        caption = f"{metric_name(metric)} by {name}."
        plot = interval_plot(list(groups), {metric: scores}, caption, title=name, x=metric_name(metric))
        rows = [
            [part, in_digits(len(members)), with_interval(value)]
            for (part, members), value in zip(groups.items(), scores, strict=True)
        ]
        table = Table(f"{metric_name(metric)} by {name}", [name, "rows", metric_name(metric)], rows)
        blocks += [Figures([plot]), table]
    title = " and ".join([f"Scores by {size.split()[0]}", *run.options.columns])
    return Section("parts", title, blocks)


def score_of(run: FinishedRun, rows: Array, metric: str) -> dict[str, float] | None:
    """Return a score of some rows of the split, or None where it is undefined on them."""
    if run.problem == "named_entities":
        answers = [run.answers[row] for row in rows]
        found = score_spans(
            run.tags_of(answers, "reference"),
            run.tags_of(answers, "output"),
            run.label_names,
            documents=[answer["document"] for answer in answers],
            resamples=RESAMPLES,
        )
    else:
        of = run.predictions
        found = score(
            run.problem,
            of.references[rows],
            of.outputs[rows],
            of.label_names,
            thresholds=run.results.get("thresholds"),
            resamples=RESAMPLES,
        )
    return found[metric].as_dict() if metric in found else None


def numeric_parts(values: Array) -> dict[str, Array]:
    """Divide rows by a number into parts of about equal size: the row numbers of each, by its range."""
    known = np.flatnonzero(np.isfinite(values))
    edges = np.unique(np.quantile(values[known], np.linspace(0, 1, LENGTH_PARTS + 1)))
    of_row = np.clip(np.searchsorted(edges, values[known], side="right") - 1, 0, max(0, len(edges) - 2))
    parts = {}
    for part in np.unique(of_row):
        rows = known[of_row == part]
        low, high = values[rows].min(), values[rows].max()
        parts[f"{low:g}" if low == high else f"{low:g} to {high:g}"] = rows
    return parts


def column_parts(values: Sequence[Any]) -> dict[str, Array]:
    """Divide rows by the values of a column: numbers by their ranges, others by value, rare ones together."""
    numbers = [float(value) if is_numeric(value) else np.nan for value in values]
    if len(set(values)) > MOST_PARTS and np.isfinite(numbers).mean() > 0.5:
        return numeric_parts(np.array(numbers))
    texts = ["(empty)" if value is None or value == "" else str(value) for value in values]
    common = [text for text, _ in Counter(texts).most_common(MOST_PARTS)]
    parts = {text: np.flatnonzero([value == text for value in texts]) for text in sorted(common)}
    others = np.flatnonzero([text not in parts for text in texts])
    return {**parts, "all others": others} if len(others) else parts


def is_numeric(value: Any) -> bool:
    """Return whether a value of a column is a finite number, or a text that is one."""
    try:
        return bool(np.isfinite(float(value)))
    except (TypeError, ValueError):
        return False
