"""Valence and polarity: classes with a neutral band from rated texts, and the classes that a regression implies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from datasets import DatasetDict, Value
from numpy.typing import NDArray
from scipy.special import ndtr

from .columns import find_columns
from .formats import ORIGIN
from .load import with_origin

POLARITIES = ("negative", "neutral", "positive")


def polarity_of(valence: NDArray[Any], band: float) -> NDArray[Any]:
    """Return 0 for negative, 1 for neutral (nearer to 0 than the band) and 2 for positive: (N,)."""
    return np.where(np.abs(valence) < band, 1, np.where(valence < 0, 0, 2))


def polarity_probabilities(valence: NDArray[Any], band: float, error: float) -> NDArray[Any]:
    """Return the probability of each polarity (N, 3), the true valence being normal around the predicted one (N,)."""
    below, above = ndtr((-band - valence) / error), ndtr((valence - band) / error)
    return np.stack([below, 1 - below - above, above], axis=1)


def to_polarity(
    splits: DatasetDict,
    band: float,
    neutral: str,
    text_column: str | None = None,
    label_column: str | list[str] | None = None,
) -> tuple[DatasetDict, str]:
    """Replace rated valence by polarity classes; return the splits and a sentence that says what was done.

    Args:
        splits: raw splits whose label column holds numbers around 0.
        band: a text whose valence is nearer to 0 than this is neutral.
    """
    if band < 0:
        raise ValueError(f"neutral_band={band} must be at least 0.")
    if isinstance(label_column, list):
        raise ValueError(f"label_column={label_column}: a polarity is made of one column of numbers.")
    columns, _ = find_columns(splits, text_column=text_column, label_column=label_column)
    changed, dropped = {}, 0
    for name, split in splits.items():
        split = with_origin(split, name)
        valence = np.array([_valence(row, columns.label) for row in split.select_columns([columns.label, ORIGIN])])
        classes = polarity_of(valence, band)
        kept = np.flatnonzero(classes != 1) if neutral == "drop" else np.arange(len(classes))
        dropped += len(classes) - len(kept)
        names = [POLARITIES[number] for number in classes[kept]]
        rest = split.select(kept).remove_columns([columns.label])
        changed[name] = rest.add_column(columns.label, names, feature=Value("string"))
    what = f"{dropped} rows are left out" if neutral == "drop" else "they are a class of their own"
    note = f"Polarity from column '{columns.label}': nearer to 0 than {band:g} is neutral; {what}."
    return DatasetDict(changed), note


def _valence(row: dict[str, Any], column: str) -> float:
    try:
        value = float(row[column])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(
            f"{row[ORIGIN]}: column '{column}' holds {row[column]!r}, but a polarity is made of numbers. Mend the "
            "row, or leave neutral_band out if the column holds classes already."
        )
    return value


def has_polarity(problem: str, label_names: list[str]) -> bool:
    """Return whether a problem is one of valence, or of negative, neutral and positive."""
    names = {name.lower() for name in label_names}
    classes = problem in ("single_label_classification", "ordinal")
    return problem == "regression" or (classes and {"negative", "positive"} <= names <= set(POLARITIES))
