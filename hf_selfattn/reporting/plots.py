"""Plots as SVG that takes its colours and its font from the page around it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import Any

from .blocks import Figure

# Stand-ins of matplotlib's colours for those of the page, which differ by day, by night and in print.
INK, MUTED, GRID, ACCENT, OTHER, THIRD = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
COLOURS = dict(zip((INK, MUTED, GRID, ACCENT, OTHER, THIRD), "ink muted grid accent other third".split(), strict=True))
SERIES = (ACCENT, OTHER, THIRD, MUTED)
DASHES = ("-", (0, (5, 2)), (0, (2, 1.5)), "-.")  # lines differ in more than their colour
MARKERS = "osD^"
WIDTH, HEIGHT = 4.0, 2.7  # inches

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hf-selfattn",  # the same plot has the same bytes
    "text.parse_math": False,  # a label such as $x$ is a label
    "font.family": "sans-serif",
    "font.size": 9.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
}


def plot(
    draw: Callable[[Any], None],
    alt: str,
    caption: str,
    *,
    title: str = "",
    x: str = "",
    y: str = "",
    size: tuple[float, float] = (WIDTH, HEIGHT),
) -> Figure:
    """Return what a function draws on axes, with a title, the names of the axes and a text that tells it in words.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise ValueError("A report draws with matplotlib: pip install matplotlib.") from error
    with rc_context(STYLE), warnings.catch_warnings():
        canvas = Canvas(figsize=size, layout="constrained")
        axes = canvas.add_subplot()
        draw(axes)
        axes.set(title=title, xlabel=x, ylabel=y)
        axes.locator_params(axis="x", nbins=6)
        if handles := axes.get_legend_handles_labels()[0]:
            canvas.legend(loc="outside lower left", ncols=min(4, len(handles)), fontsize=9)
        written = StringIO()
        # The browser draws the text: that matplotlib's own font lacks a letter is nothing to warn of.
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        canvas.savefig(written, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return Figure(of_page(written.getvalue()), alt, caption)


def of_page(svg: str) -> str:
    """Return an SVG file as a part of a page: colours by name, and neither its header nor addresses."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true" focusable="false">', svg, count=1)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    for stand_in, name in COLOURS.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    return re.sub(r"\n\s*", "\n", svg).strip()


def with_own_ids(svg: str, prefix: str) -> str:
    """Return an SVG whose ids no other one of the page has."""
    return re.sub(r'(\bid="|url\(#|href="#)', lambda found: f"{found[0]}{prefix}-", svg)


def interval_plot(names: Sequence[str], series: dict[str, list[Any]], caption: str, **options: Any) -> Figure:
    """Return a plot of scores (value, low, high) with intervals: a line for each name, from the top down."""
    step = 0.6 / max(1, len(series))
    known = {label: [(row, of) for row, of in enumerate(values) if of] for label, values in series.items()}

    def draw(axes: Any) -> None:
        for place, (label, scores) in enumerate(known.items()):
            at = [row + step * (place - (len(series) - 1) / 2) for row, _ in scores]
            sides = [[of["value"] - of["low"] for _, of in scores], [of["high"] - of["value"] for _, of in scores]]
            style = {
                "fmt": MARKERS[place % 4],
                "color": SERIES[place % 4],
                "label": label if len(series) > 1 else None,
            }
            axes.errorbar([of["value"] for _, of in scores], at, xerr=sides, **style)
        axes.set_yticks(range(len(names)), [shortened(name) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(False, axis="y")

    told = "; ".join(f"{label} {names[row]} {of['value']:.3f}" for label in known for row, of in known[label])
    height = 0.75 + len(names) * max(0.26, 0.17 * len(series)) + 0.3 * (len(series) > 1)
    return plot(draw, f"{caption} {told}.", caption, size=(WIDTH, max(1.6, height)), **options)


def lines(axes: Any, series: Mapping[str, tuple[Sequence[float], Sequence[float]]], markers: bool = True) -> None:
    """Draw lines, each of other colour and dashes; one alone needs no legend."""
    for place, (label, (across, up)) in enumerate(series.items()):
        marker = MARKERS[place % 4] if markers and len(across) <= 25 else None
        style = {"color": SERIES[place % 4], "linestyle": DASHES[place % 4], "marker": marker}
        axes.plot(across, up, label=label if len(series) > 1 else None, **style)


def shortened(text: str, width: int = 24) -> str:
    """Return a text that fits beside a plot."""
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 1]}…"
