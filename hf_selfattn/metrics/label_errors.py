"""Labels that are probably wrong, by confident learning (Northcutt et al. 2021, "Confident Learning")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .classification import class_indicators
from .inputs import Array, Predictions


@dataclass(frozen=True)
class LabelDoubt:
    """A label that the model confidently disagrees with."""

    row: int
    given: int  # the class of the label; of a multi-label problem the one that is doubted
    proposed: int  # the class that the model is confident of; of a multi-label problem equal to `given`
    probability: float  # of what is proposed: another class, or that a label is there or is not


def label_doubts(predictions: Predictions) -> list[LabelDoubt]:
    """Find the labels that are probably wrong, the surest first; for regression there are none.

    The model is confident of a class where its probability is at least the mean over the rows with that label. A row
    of which it is confident of another class, and not less than of its own, is doubted. Of a multi-label problem each
    class is one of its own, which a row has or has not. The probabilities must be of rows that were not trained on.
    """
    if predictions.problem == "regression":
        return []
    truth, _ = class_indicators(predictions)
    if predictions.problem == "multi_label_classification":
        doubts = [doubt for index in range(truth.shape[1]) for doubt in _doubts_of_class(predictions, truth, index)]
    else:
        doubts = _doubts(truth, predictions.outputs)
    return sorted(doubts, key=lambda doubt: (-doubt.probability, doubt.row, doubt.given))


def _doubts(truth: Array, outputs: Array) -> list[LabelDoubt]:
    """Doubt the labels (N, C) 0/1, one in each row, by probabilities (N, C)."""
    counts = truth.sum(axis=0)
    least = np.divide((truth * outputs).sum(axis=0), counts, out=np.full(len(counts), np.inf), where=counts > 0)
    confident = np.where(outputs >= least, outputs, -1.0)
    proposed, given = confident.argmax(axis=1), truth.argmax(axis=1)
    rows = np.arange(len(truth))
    doubted = (confident[rows, proposed] > 0) & (proposed != given) & (outputs[rows, proposed] > outputs[rows, given])
    return [
        LabelDoubt(int(row), int(given[row]), int(proposed[row]), float(outputs[row, proposed[row]]))
        for row in np.flatnonzero(doubted)
    ]


def _doubts_of_class(predictions: Predictions, truth: Array, index: int) -> list[LabelDoubt]:
    """Doubt whether rows have one class of a multi-label problem."""
    has, probability = truth[:, index], predictions.outputs[:, index]
    found = _doubts(np.stack([1 - has, has], axis=1), np.stack([1 - probability, probability], axis=1))
    return [LabelDoubt(doubt.row, index, index, doubt.probability) for doubt in found]
