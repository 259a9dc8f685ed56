"""Answers given only where a model is sure: how many, and how many of them are wrong."""

from __future__ import annotations

import numpy as np
import pytest

from hf_selfattn.metrics import Abstention, abstention, abstention_curve
from hf_selfattn.metrics.abstention import abstention_of, abstention_table, confidences, wrong_answers
from hf_selfattn.metrics.intervals import wilson_interval

SURE = np.array([0.95, 0.9, 0.8, 0.6, 0.5])
WRONG = np.array([False, False, True, False, True])


def test_shares_at_a_threshold() -> None:
    found = abstention(SURE, WRONG, 0.8)
    assert found.answered.value == 3 / 5 and found.error is not None and found.error.value == 1 / 3
    assert (found.error.low, found.error.high) == wilson_interval(1, 3, 0.95)
    assert (found.answered.low, found.answered.high) == wilson_interval(3, 5, 0.95)


def test_where_nothing_is_answered_nothing_is_wrong() -> None:
    assert abstention(SURE, WRONG, 0.99).error is None
    assert abstention(SURE, WRONG, 0.99).answered.value == 0


def test_a_table_says_the_same_as_the_rows() -> None:
    random = np.random.default_rng(0)
    sure = random.uniform(size=400).round(2)
    wrong = random.uniform(size=400) > sure
    table = abstention_table(sure, wrong)
    for step, found in enumerate(abstention_curve(sure, wrong)):
        assert abstention_of(table, step / 100) == found == Abstention(step / 100, found.answered, found.error)
    assert abstention_of(table, 0.839).threshold == 0.83
    assert abstention_of(table, 0.29).threshold == 0.29  # no rounding below


def test_the_probability_of_an_answer() -> None:
    outputs = np.array([[0.2, 0.8], [0.7, 0.3]])
    assert confidences([1, 0], outputs).tolist() == [0.8, 0.7]
    assert confidences([0, 0], outputs).tolist() == [0.2, 0.7]
    several = confidences([[1, 1], [0, 0]], outputs)
    assert several == pytest.approx([0.2, 0.3])


def test_a_set_of_labels_is_wrong_where_one_is() -> None:
    assert wrong_answers([1, 0, 2], [1, 1, 2]).tolist() == [False, True, False]
    assert wrong_answers([[1, 0], [1, 1]], [[1, 0], [1, 0]]).tolist() == [False, True]


@pytest.mark.parametrize(("sure", "wrong"), [([], []), ([0.5], [True, False]), ([[0.5]], [[True]])])
def test_shapes_that_do_not_fit(sure: list[float], wrong: list[bool]) -> None:
    with pytest.raises(ValueError, match="confidences and wrong have the shapes"):
        abstention(sure, wrong, 0.5)
