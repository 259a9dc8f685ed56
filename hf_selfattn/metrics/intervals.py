"""Scores with confidence intervals: the bootstrap over rows, and Wilson's interval for plain proportions.

A *statistic* maps row weights (N, R), one column per resample, to values (R,) under each metric's name. A weight says
how often the row stands in the resample; a column of ones is the data itself. NaN means undefined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from .inputs import Array

Statistic = Callable[[Array], dict[str, Array]]

# An array of weights holds about this many numbers: it then stays in the processor's cache.
CHUNK_SIZE = 2**18
MAX_JACKKNIFE_GROUPS = 200


@dataclass(frozen=True)
class Score:
    """The value of a metric on the data, with the lower and the upper bound of its confidence interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """Return value, low and high as a dictionary."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Replicates:
    """The metrics of a statistic on the data, on R bootstrap resamples and with each of G groups of rows left out."""

    values: dict[str, float]  # undefined metrics are absent
    resampled: dict[str, Array]  # (R,) of each metric, NaN where undefined
    jackknife: dict[str, Array]  # (G,) of each metric, NaN where undefined


def values_of(statistic: Statistic, rows: int) -> dict[str, float]:
    """Return the metrics of a statistic that are defined on the data of `rows` rows."""
    values = {name: float(value[0]) for name, value in statistic(np.ones((rows, 1))).items()}
    return {name: value for name, value in values.items() if np.isfinite(value)}


def replicate(statistic: Statistic, rows: int, resamples: int, seed: int) -> Replicates:
    """Evaluate a statistic on the data, on bootstrap resamples of the rows and on the grouped jackknife."""
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}, but must be at least 1.")
    rng = np.random.default_rng(seed)
    resampled = _evaluate(statistic, _bootstrap_weights(rows, resamples, rng))
    jackknife = _evaluate(statistic, _jackknife_weights(rows, rng))
    return Replicates(values_of(statistic, rows), resampled, jackknife)


def bca_interval(value: float, resampled: Array, jackknife: Array, confidence: float) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval (Efron 1987, "Better bootstrap confidence intervals").

    The acceleration comes from a jackknife over groups of rows, which costs the same for any number of rows. NaN among
    the values on the resamples (R,) and without a group (G,) is ignored.
    """
    resampled = np.sort(resampled[np.isfinite(resampled)])
    if len(resampled) == 0 or resampled[0] == resampled[-1]:
        return value, value
    below = (np.sum(resampled < value) + 0.5 * np.sum(resampled == value)) / len(resampled)
    bias = ndtri(np.clip(below, 0.5 / len(resampled), 1 - 0.5 / len(resampled)))
    shifted = bias + ndtri(_tails(confidence))
    levels = ndtr(bias + shifted / (1 - _acceleration(jackknife) * shifted))
    low, high = np.quantile(resampled, levels)
    # Only under a bias of more than half the interval's width does the value itself fall outside.
    return float(min(low, value)), float(max(high, value))


def basic_interval(value: float, resampled: Array, confidence: float) -> tuple[float, float]:
    """Basic bootstrap interval of a metric that is never negative (Davison & Hinkley 1997, section 5.2)."""
    # Resamples mirrored at the value: that undoes the upward bias of the resampled calibration error.
    low, high = 2 * value - np.quantile(resampled, _tails(confidence)[::-1])
    return float(np.clip(low, 0, value)), float(max(high, value))


def wilson_interval(successes: float, trials: float, confidence: float) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927), which has a width also when all or none of the trials succeed."""
    z2 = float(ndtri(0.5 + confidence / 2)) ** 2
    share = successes / trials
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = np.sqrt(z2 * (share * (1 - share) / trials + z2 / (4 * trials**2))) / (1 + z2 / trials)
    return float(np.clip(centre - half, 0, share)), float(np.clip(centre + half, share, 1))


def mean_of_defined(values: Array) -> Array:
    """Mean over the first axis without the NaN: (C, R) to (R,); NaN where no value is defined."""
    defined = np.isfinite(values)
    return ratio(np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0))


def ratio(numerator: Array, denominator: Array) -> Array:
    """Divide elementwise, with NaN where the denominator is 0."""
    shape = np.broadcast(numerator, denominator).shape
    quotient: Array = np.divide(numerator, denominator, out=np.full(shape, np.nan), where=denominator != 0)
    return quotient


def precision_recall_f1(hits: Array, actual: Array, claimed: Array) -> tuple[Array, Array, Array]:
    """Return the three of counts of the same shape."""
    return ratio(hits, claimed), ratio(hits, actual), ratio(2 * hits, actual + claimed)


def cumulative(weights: Array) -> Array:
    """Return the sums of the first 0, 1, ..., N rows: (N, R) to (N + 1, R)."""
    sums = np.zeros((len(weights) + 1, weights.shape[1]))
    np.cumsum(weights, axis=0, out=sums[1:])
    return sums


def check_confidence(confidence: float) -> None:
    """Raise a ValueError unless the confidence lies between 0 and 1."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, but must lie between 0 and 1, such as 0.95.")


def _tails(confidence: float) -> Array:
    return np.array([(1 - confidence) / 2, (1 + confidence) / 2])


def _acceleration(jackknife: Array) -> float:
    influence = jackknife[np.isfinite(jackknife)]
    influence = influence.mean() - influence
    spread = np.sum(influence**2)
    return float(np.sum(influence**3) / (6 * spread**1.5)) if spread > 0 else 0.0


def _evaluate(statistic: Statistic, chunks: Iterable[Array]) -> dict[str, Array]:
    parts = [statistic(weights) for weights in chunks]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _bootstrap_weights(rows: int, resamples: int, rng: np.random.Generator) -> Iterator[Array]:
    for width in _chunk_widths(rows, resamples):
        drawn = rng.integers(rows, size=(rows, width)) * width + np.arange(width)
        yield np.bincount(drawn.ravel(), minlength=rows * width).reshape(rows, width).astype(np.float64)


def _jackknife_weights(rows: int, rng: np.random.Generator) -> Iterator[Array]:
    if rows == 1:
        yield np.ones((1, 1))
        return
    groups = min(rows, MAX_JACKKNIFE_GROUPS)
    group = rng.permutation(rows) % groups  # random groups: the rows may be sorted
    start = 0
    for width in _chunk_widths(rows, groups):
        yield (group[:, None] != np.arange(start, start + width)).astype(np.float64)
        start += width


def _chunk_widths(rows: int, columns: int) -> Iterator[int]:
    width = max(1, CHUNK_SIZE // rows)
    for start in range(0, columns, width):
        yield min(width, columns - start)
