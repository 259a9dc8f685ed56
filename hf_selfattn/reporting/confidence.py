"""How far the probabilities can be believed, and what the answers are worth at other thresholds."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import expit, logit, softmax

from ..hub.sanitize import last_part
from ..metrics.abstention import abstention, abstention_curve, confidences, wrong_answers
from ..metrics.calibration import LEAST_PROBABILITY
from ..metrics.classification import class_indicators
from ..metrics.inputs import Array
from ..metrics.intervals import precision_recall_f1, wilson_interval
from .blocks import Figure, Figures, Section, Table, Text, in_digits, percent
from .plots import ACCENT, MUTED, lines, plot, shortened
from .runs import FinishedRun

BINS = 10
MOST_CLASSES = 12
ABSTENTIONS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
THRESHOLDS = np.linspace(0.01, 0.99, 99)


def reliability(run: FinishedRun) -> Section:
    """Return how often answers of each confidence are right, before and after calibration."""
    temperature = run.results.get("calibration", {}).get("temperature", 1.0)
    outputs, error = run.predictions.outputs, run.scored["scores"]["ece"]["value"]
    if temperature == 1.0:
        figures = [reliability_plot(run, "as the model answers", outputs, error)]
    else:
        raw = uncalibrated(run, temperature)
        figures = [
            reliability_plot(run, "before calibration", raw, run.scored["uncalibrated"]["ece"]),
            reliability_plot(run, "after calibration", outputs, error),
        ]
    said = (
        f"The temperature that was fitted on the validation split, {temperature:.3f}, divides the logits. Each point "
        "holds a tenth of the answers, with a 95 % interval; on the diagonal confidence is the share of right answers."
    )
    return Section("reliability", "Calibration", [Text(said), Figures(figures)])


def uncalibrated(run: FinishedRun, temperature: float) -> Array:
    """Return the probabilities before the temperature divided the logits."""
    outputs = np.clip(run.predictions.outputs, LEAST_PROBABILITY, 1 - 1e-12)
    if run.problem == "multi_label_classification":
        return np.asarray(expit(temperature * logit(outputs)))
    return np.asarray(softmax(temperature * np.log(outputs), axis=1))


def reliability_plot(run: FinishedRun, title: str, outputs: Array, error: float) -> Figure:
    """Return a reliability diagram of bins of equal mass: of the answers, or of all pairs of row and label."""
    multi, truth = run.problem == "multi_label_classification", run.predictions.references
    confidence = outputs.ravel() if multi else outputs.max(axis=1)
    right = truth.ravel() if multi else outputs.argmax(axis=1) == truth
    least = 0.0 if multi else 1 / outputs.shape[1]
    parts = np.array_split(np.argsort(confidence, kind="stable"), min(BINS, len(confidence)))
    at, share = ([float(values[part].mean()) for part in parts] for values in (confidence, right))
    bounds = np.array([wilson_interval(right[part].sum(), len(part), 0.95) for part in parts])  # (bins, 2)

    def draw(axes: Any) -> None:
        axes.plot([least, 1], [least, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
        axes.errorbar(at, share, yerr=np.abs(bounds.T - share), fmt="-o", color=ACCENT, elinewidth=1)
        axes.set(xlim=(least - 0.02, 1.02), ylim=(min(least, bounds.min()) - 0.02, 1.02))

    points = "; ".join(f"confidence {in_digits(x)}: {percent(y)} right" for x, y in zip(at, share, strict=True))
    caption = f"Reliability on {last_part(run.split)} {title}. Calibration error {in_digits(error)}."
    return plot(draw, f"{caption} {points}.", caption, title=title, x="confidence", y="share right")


def abstention_curves(run: FinishedRun) -> Section:
    """Return how the error falls where only answers of a least probability are given."""
    of, split = run.predictions, last_part(run.split)
    answers = confidences(of.predicted, of.outputs), wrong_answers(of.predicted, of.references)
    known = [(at.answered.value, at.error) for at in abstention_curve(*answers) if at.error is not None]
    shares, errors = zip(*known, strict=True)

    def draw(axes: Any) -> None:
        low, high = [error.low for error in errors], [error.high for error in errors]
        axes.fill_between(shares, low, high, color=ACCENT, alpha=0.2, linewidth=0)
        axes.plot(shares, [error.value for error in errors], color=ACCENT)
        axes.set(xlim=(0, 1.02), ylim=(0, None))

    rows = [
        [f"{at.threshold:g}", percent(at.answered.value), percent(at.error.value)]
        + [f"{percent(at.error.low)} to {percent(at.error.high)}"]
        for at in (abstention(*answers, threshold) for threshold in ABSTENTIONS)
        if at.error is not None
    ]
    caption = f"Share of wrong answers of {split} by the share of rows that are answered, the surest first."
    told = "; ".join(f"from probability {row[0]}: {row[1]} answered, {row[2]} of them wrong" for row in rows)
    figure = plot(draw, f"{caption} {told}.", caption, title="abstention", x="share answered", y="share wrong")
    head = ["least probability", "answered", "wrong among them", "95 % interval"]
    table = Table(f"Answers of {split} by least probability; below it the answer is “unsure”", head, rows)
    return Section("abstention", "Abstention", [Figures([figure]), table])


def thresholds(run: FinishedRun) -> Section:
    """Return precision, recall and F1 of each class by the least probability at which it is answered."""
    truth, _ = class_indicators(run.predictions)
    chosen = run.results.get("thresholds") or [None] * truth.shape[1]
    common = np.argsort(-truth.sum(axis=0), kind="stable")[:MOST_CLASSES]
    if run.problem == "single_label_classification" and len(common) == 2:
        common = common[1:]  # the other class mirrors it
    figures = [
        threshold_plot(run.label_names[index], truth[:, index], run.predictions.outputs[:, index], chosen[index])
        for index in common
    ]
    said = f"A class is answered where its probability is at least the threshold; rows of {last_part(run.split)}."
    if chosen[0] is not None:
        said += " The dotted lines are the thresholds that were tuned on the validation split."
    if truth.shape[1] > MOST_CLASSES:
        said += f" The {MOST_CLASSES} most frequent of {truth.shape[1]} classes are shown."
    return Section("thresholds", "Thresholds", [Text(said), Figures(figures)])


def threshold_plot(name: str, truth: Array, probability: Array, chosen: float | None) -> Figure:
    """Return a plot of precision, recall and F1 of a class by threshold."""
    passed = probability[:, None] >= THRESHOLDS  # (N, thresholds)
    found = precision_recall_f1((passed * truth[:, None]).sum(axis=0), truth.sum() * np.ones(99), passed.sum(axis=0))
    series = {
        kind: (THRESHOLDS[np.isfinite(values)].tolist(), values[np.isfinite(values)].tolist())
        for kind, values in zip(("precision", "recall", "F1"), found, strict=True)
    }

    def draw(axes: Any) -> None:
        lines(axes, series, markers=False)
        axes.set(xlim=(0, 1), ylim=(-0.02, 1.02))
        if chosen is not None:
            axes.axvline(chosen, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))

    middle = len(THRESHOLDS) // 2
    half = ", ".join(f"{kind} {values[middle]:.3f}" for kind, values in zip(series, found, strict=True))
    caption = f"“{name}” ({int(truth.sum()):,} rows)" + ("" if chosen is None else f": threshold {in_digits(chosen)}.")
    return plot(draw, f"{caption} At .5: {half}.", caption, title=shortened(name, 40), x="threshold")
