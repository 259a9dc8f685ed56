"""The plot of the study as SVG: score against seconds of tuning, one dot per row, one pane per task.

It is written by hand, so that the same results give the same bytes on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .study import FEW, FULL, SYSTEMS, Column, is_left_out, mean_score, runs_of, tuning_seconds

# Ours in warm colours, the stock head in blue, small and cheap peers in grey and green.
COLOURS = {
    "tfidf": "#999999",
    "embedding-lr": "#444444",
    "setfit": "#7b3294",
    "stock-frozen": "#a6cee3",
    "stock-lora": "#5599dd",
    "stock-lora-all": "#3377bb",
    "stock-full": "#1f3f99",
    "max-pool": "#33a02c",
    "probe": "#ffbb33",
    "probe-sweep": "#e6c200",
    "lora": "#ff7f00",
    "lora-class-queries": "#c49c94",
    "lora-mean": "#e377c2",
    "lora-query-value": "#fb9a99",
    "lora-no-heads": "#fdd0a2",
    "lora-document": "#d95f0e",
    "lora-crf": "#fdae61",
    "probe+lora": "#e31a1c",
    "contrastive": "#f0027f",
    "full": "#8b1a00",
}
PANES_IN_ROW, WIDTH, HEIGHT = 3, 280, 210
LEFT, TOP, RIGHT, BOTTOM = 46, 24, 12, 34
LEGEND_ROW, LEGEND_COLUMN = 16, 280


@dataclass(frozen=True)
class Dot:
    """A row of a pane."""

    system: str
    seconds: float
    score: float


def dots_of(column: Column) -> list[Dot]:
    """Return the dots of a pane."""
    rows = [row for row in COLOURS if runs_of(column, row) and not is_left_out(column, row)]
    found = [(row, tuning_seconds(column, row), mean_score(column, row)) for row in rows]
    return [Dot(row, cost, score[0]) for row, cost, score in found if cost is not None and score is not None]


def ticks(low: float, high: float) -> list[float]:
    """Return about four round numbers from low to high."""
    step = 10.0 ** math.floor(math.log10((high - low) / 2))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 5)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def text(x: float, y: float, words: str, anchor: str = "start", size: int = 10) -> str:
    """Return a line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{words}</text>'


def pane(column: Column, dots: Sequence[Dot], left: float, top: float) -> list[str]:
    """Return the elements of one task."""
    decades = [math.log10(max(dot.seconds, 0.1)) for dot in dots]
    x_low, x_high = math.floor(min(decades)), max(math.ceil(max(decades)), math.floor(min(decades)) + 1)
    scores = [dot.score for dot in dots]
    margin = max(0.08 * (max(scores) - min(scores)), 0.005)
    y_low, y_high = min(scores) - margin, max(scores) + margin
    x0, y0 = left + LEFT, top + HEIGHT - BOTTOM
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x_of(decade: float) -> float:
        return x0 + width * (decade - x_low) / (x_high - x_low)

    def y_of(score: float) -> float:
        return y0 - height * (score - y_low) / (y_high - y_low)

    lines = [text(x0, top + TOP - 8, f"{column.title} ({column.metric})", size=12)]
    lines.append(f'<rect x="{x0}" y="{y0 - height}" width="{width}" height="{height}" fill="none" stroke="#888888"/>')
    for decade in range(x_low, x_high + 1):
        lines.append(text(x_of(decade), y0 + 14, f"{10.0**decade:g}", "middle"))
    lines.append(text(x0 + width / 2, y0 + 28, "processor seconds of tuning", "middle"))
    for score in ticks(y_low, y_high):
        lines.append(f'<path d="M{x0} {y_of(score):.1f}h{width}" stroke="#dddddd"/>')
        lines.append(text(x0 - 5, y_of(score) + 3, f"{score:.3g}", "end"))
    for dot, decade in zip(dots, decades, strict=True):
        place = f'cx="{x_of(decade):.1f}" cy="{y_of(dot.score):.1f}"'
        title = f"{SYSTEMS[dot.system]}: {dot.score:.3f}, {dot.seconds:.0f} s"
        lines.append(f'<circle {place} r="5" fill="{COLOURS[dot.system]}"><title>{title}</title></circle>')
    return lines


def legend(systems: Sequence[str], top: float) -> list[str]:
    """Return the names of the colours."""
    lines = []
    for number, system in enumerate(systems):
        x, y = 20 + LEGEND_COLUMN * (number % PANES_IN_ROW), top + LEGEND_ROW * (1 + number // PANES_IN_ROW)
        lines.append(f'<circle cx="{x}" cy="{y - 4}" r="5" fill="{COLOURS[system]}"/>')
        lines.append(text(x + 10, y, SYSTEMS[system]))
    return lines


def svg() -> str:
    """Return the plot of all tasks that have results: the bytes depend on the results files alone."""
    found = [(column, dots_of(column)) for column in (*FULL, *FEW) if column.split == "test"]
    panes = [(column, dots) for column, dots in found if dots]
    lines: list[str] = []
    for number, (column, dots) in enumerate(panes):
        lines += pane(column, dots, WIDTH * (number % PANES_IN_ROW), HEIGHT * (number // PANES_IN_ROW))
    bottom = HEIGHT * math.ceil(len(panes) / PANES_IN_ROW)
    drawn = {dot.system for _, dots in panes for dot in dots}
    systems = [system for system in COLOURS if system in drawn]
    lines += legend(systems, bottom)
    width = WIDTH * PANES_IN_ROW
    height = bottom + LEGEND_ROW * (1 + math.ceil(len(systems) / PANES_IN_ROW))
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" fill="#222222">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="#ffffff"/>', *lines, "</svg>\n"])
