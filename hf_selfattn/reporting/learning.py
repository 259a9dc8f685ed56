"""Learning curves: loss and scores of the validation split by step."""

from __future__ import annotations

from typing import Any

from .blocks import Block, Figure, Figures, Section, Text, in_digits
from .plots import MUTED, lines, plot
from .runs import FinishedRun
from .scores import HEADLINES, metric_name

Curve = tuple[list[float], list[float]]


def learning_curves(run: FinishedRun) -> Section | None:
    """Return the curves of the training, of each of its phases where it has two."""
    training = run.results.get("training", {})
    phases = {name: record for name, record in training.get("phases", {}).items() if "history" in record}
    records = {**{f"first phase, {name}": record for name, record in phases.items()}, "": training}
    figures = [figure for name, record in records.items() for figure in curves(run, name, record)]
    if not figures:
        return None
    said = f"Steps: {training['steps']:,}; epochs: {training['epochs']:g}; seconds: {training['seconds']:,.0f}."
    if training.get("best_step"):
        said += f" The model is that of step {training['best_step']:,}, which scored best on the validation split."
    blocks: list[Block] = [Text(said), Figures(figures)]
    return Section("learning", "Learning curves", blocks)


def curves(run: FinishedRun, phase: str, record: dict[str, Any]) -> list[Figure]:
    """Return the plots of one phase: loss, and the main score of the validation split."""
    history = record.get("history") or []
    titled = {"loss": {"training": curve(history, "loss"), "validation": curve(history, "eval_loss")}}
    for name in HEADLINES.get(run.problem, ())[:1]:
        titled[f"{metric_name(name)}, validation"] = {metric_name(name): curve(history, f"eval_{name}")}
    best = record.get("best_step") or None
    figures = []
    for title, series in titled.items():
        known = {name: points for name, points in series.items() if points[0]}
        if any(len(steps) > 1 for steps, _ in known.values()):  # one point is no curve
            figures.append(learning_plot(f"{phase}: {title}" if phase else title, known, best))
    return figures


def learning_plot(title: str, series: dict[str, Curve], best: int | None) -> Figure:
    """Return a plot of curves by step, the best step marked."""
    told = "; ".join(f"{name} from {in_digits(up[0])} to {in_digits(up[-1])}" for name, (_, up) in series.items())

    def draw(axes: Any) -> None:
        lines(axes, series)
        if best:
            axes.axvline(best, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))

    first = title[0] if title[1:2].isupper() else title[0].upper()  # mAP stays as it is
    caption = f"{first}{title[1:]} by step" + (f"; the dotted line is step {best:,}." if best else ".")
    return plot(draw, f"{caption} {told}.", caption, title=title, x="step")


def curve(history: list[dict[str, Any]], name: str) -> Curve:
    """Return steps and values of a quantity of the log."""
    points = [(float(entry["step"]), float(entry[name])) for entry in history if name in entry and "step" in entry]
    return [step for step, _ in points], [value for _, value in points]
