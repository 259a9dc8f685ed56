from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from hf_selfattn.metrics.inputs import check_predictions
from hf_selfattn.metrics.label_errors import LabelDoubt, label_doubts

SINGLE, MULTI = "single_label_classification", "multi_label_classification"


def test_by_hand() -> None:
    # Of class 0 the mean probability is .6, of class 1 it is .7: row 2 is surely of class 1, row 3 is not sure.
    outputs = [[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.45, 0.55], [0.2, 0.8], [0.4, 0.6]]
    found = label_doubts(check_predictions(SINGLE, [0, 0, 0, 1, 1, 1], outputs))
    assert found == [LabelDoubt(row=2, given=0, proposed=1, probability=0.9)]


def test_each_label_of_several_is_doubted_alone() -> None:
    outputs = [[0.9, 0.1], [0.8, 0.9], [0.05, 0.2], [0.1, 0.1], [0.9, 0.1]]
    found = label_doubts(check_predictions(MULTI, [[1, 0], [1, 1], [1, 0], [0, 0], [0, 0]], outputs))
    assert [(doubt.row, doubt.given) for doubt in found] == [(2, 0), (4, 0)]
    assert [doubt.probability for doubt in found] == pytest.approx([0.95, 0.9])


def test_wrong_labels_are_found_and_right_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(4, size=3000)
    outputs = softmax(4 * np.eye(4)[truth] + rng.normal(size=(3000, 4)), axis=1)
    labels = truth.copy()
    changed = rng.choice(3000, 150, replace=False)
    labels[changed] = (labels[changed] + 1 + rng.integers(3, size=150)) % 4
    doubted = {doubt.row for doubt in label_doubts(check_predictions(SINGLE, labels, outputs))}
    assert len(doubted & {*changed.tolist()}) > 0.6 * 150
    assert len(doubted & {*changed.tolist()}) > 0.9 * len(doubted)
    assert len(label_doubts(check_predictions(SINGLE, truth, outputs))) < 15


def test_numbers_and_missing_classes() -> None:
    assert label_doubts(check_predictions("regression", [0.0, 1.0], [1.0, 0.0])) == []
    alone = check_predictions(SINGLE, [0, 0, 1], [[0.6, 0.2, 0.2], [0.1, 0.1, 0.8], [0.1, 0.8, 0.1]])
    assert label_doubts(alone) == []  # no row has the third label, so nothing says how sure of it is sure
