"""Statistics (see `intervals`) of regression, and the two ordinal ones that read class numbers as values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .inputs import Array, Predictions
from .intervals import Statistic, cumulative, ratio

# A variance below this share of the whole data's is a rounding error: the resample holds one distinct value only.
NO_VARIANCE = 1e-12


def regression_statistic(predictions: Predictions) -> Statistic:
    """Build pearson, spearman (Pearson's correlation of the mid-ranks), mae and rmse."""
    truth, values = predictions.references, predictions.outputs
    error = (values - truth)[:, None]
    # Less a number from their midst: no cancellation, and a constant becomes exactly 0.
    centred_truth, centred_values = (truth - np.median(truth))[:, None], (values - np.median(values))[:, None]
    truth_ranks, value_ranks = _mid_ranks(truth), _mid_ranks(values)

    def statistic(weights: Array) -> dict[str, Array]:
        rows = weights.sum(axis=0)
        return {
            "pearson": _correlation(centred_truth, centred_values, weights),
            "spearman": _correlation(truth_ranks(weights), value_ranks(weights), weights),
            "mae": (np.abs(error) * weights).sum(axis=0) / rows,
            "rmse": np.sqrt((error**2 * weights).sum(axis=0) / rows),
        }

    return statistic


def ordinal_statistic(predictions: Predictions) -> Statistic:
    """Build mae in classes, and quadratic_kappa (Cohen 1968: 1 - squared distance / that expected by chance)."""
    truth, predicted = predictions.references.astype(np.float64), predictions.predicted.astype(np.float64)
    distance = np.abs(truth - predicted)

    def statistic(weights: Array) -> dict[str, Array]:
        rows = weights.sum(axis=0)
        expected = (truth**2 + predicted**2) @ weights * rows - 2 * (truth @ weights) * (predicted @ weights)
        observed = distance**2 @ weights * rows
        return {"mae": distance @ weights / rows, "quadratic_kappa": 1 - ratio(observed, expected)}

    return statistic


def _correlation(first: Array, second: Array, weights: Array) -> Array:
    """Return Pearson's correlation of (N, R) or (N, 1) arrays under weights (N, R)."""
    rows = weights.sum(axis=0)
    first, second = (values - (values * weights).sum(axis=0) / rows for values in (first, second))
    covariance = (first * second * weights).sum(axis=0)
    variance, other_variance = ((values**2 * weights).sum(axis=0) for values in (first, second))
    constant = (variance <= NO_VARIANCE * (first**2).sum(axis=0)) | (
        other_variance <= NO_VARIANCE * (second**2).sum(axis=0)
    )
    return np.where(constant, np.nan, np.clip(ratio(covariance, np.sqrt(variance * other_variance)), -1, 1))


def _mid_ranks(values: Array) -> Callable[[Array], Array]:
    """Build the map from weights (N, R) to the rank of each row in each resample, ties sharing their mean rank."""
    order = np.argsort(values, kind="stable")
    below = np.searchsorted(values[order], values, side="left")
    up_to = np.searchsorted(values[order], values, side="right")

    def ranks(weights: Array) -> Array:
        sums = cumulative(weights[order])
        return (sums[below] + sums[up_to] + 1) / 2

    return ranks
