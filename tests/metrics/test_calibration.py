from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, softmax

from hf_selfattn.metrics import fit_temperature, fit_thresholds, score

SINGLE, MULTI = "single_label_classification", "multi_label_classification"


def sharpened_logits(factor, rows=4000, multi=False, seed=0):
    """Logits whose probabilities are right only after division by `factor`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, 4)) * 1.5
    if multi:
        return (rng.random(logits.shape) < expit(logits)).astype(int), logits * factor
    return (softmax(logits, axis=1).cumsum(axis=1) > rng.random((rows, 1))).argmax(axis=1), logits * factor


def naive_ece(references, probabilities, bins=15):
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == references
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, bins)
    return sum(len(part) * abs(confidence[part].mean() - right[part].mean()) for part in parts) / len(order)


def test_ece_equals_naive_equal_mass_bins():
    references, logits = sharpened_logits(2.0, rows=1500)
    probabilities = softmax(logits, axis=1)
    ece = score(SINGLE, references, probabilities, None, resamples=20)["ece"]
    assert ece.value == pytest.approx(naive_ece(references, probabilities), abs=1e-9)
    assert ece.low <= ece.value <= ece.high


def test_ece_by_hand():
    sure_and_half_right = score(SINGLE, [0, 1, 0, 1], [[0.9, 0.1]] * 4, None, resamples=20)
    assert sure_and_half_right["ece"].value == pytest.approx(0.4)
    multi = score(MULTI, [[1, 0], [0, 0]], [[0.8, 0.8], [0.8, 0.8]], None, resamples=20)
    assert multi["ece"].value == pytest.approx(0.55)


@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("factor", [0.3, 1.0, 5.0])
def test_temperature_finds_the_factor_and_mends_the_calibration(factor, multi):
    problem = MULTI if multi else SINGLE
    references, logits = sharpened_logits(factor, multi=multi)
    temperature = fit_temperature(problem, references, logits)
    assert temperature == pytest.approx(factor, rel=0.1)
    probabilities = expit if multi else lambda values: softmax(values, axis=1)
    before = score(problem, references, probabilities(logits), None, resamples=20)
    after = score(problem, references, probabilities(logits / temperature), None, resamples=20)
    assert after["nll"].value <= before["nll"].value + 1e-9
    if factor != 1:
        assert after["ece"].value < before["ece"].value / 2
    right = "subset_accuracy" if multi else "accuracy"
    assert multi or after[right].value == before[right].value


def test_temperature_is_the_minimum_of_the_loss_on_a_grid():
    references, logits = sharpened_logits(3.0, rows=200, seed=1)
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 2000))
    chosen = np.arange(len(references)), references
    losses = [-np.log(softmax(logits / temperature, axis=1)[chosen]).mean() for temperature in grid]
    assert fit_temperature(SINGLE, references, logits) == pytest.approx(grid[np.argmin(losses)], rel=0.005)
    assert fit_temperature("ordinal", references, logits) == fit_temperature(SINGLE, references, logits)


def test_temperature_without_an_error_to_learn_from_is_one():
    references = np.arange(30) % 3
    assert fit_temperature(SINGLE, references, 0.1 * np.eye(3)[references]) == 1
    assert fit_temperature(SINGLE, references, 100 * np.eye(3)[references]) == 1
    assert fit_temperature(MULTI, np.eye(3)[references], 8 * np.eye(3)[references] - 4) == 1


def test_temperature_of_huge_float32_logits_is_finite():
    references, logits = sharpened_logits(30.0, rows=500)
    assert fit_temperature(SINGLE, references, logits.astype(np.float32)) == pytest.approx(30, rel=0.2)
    assert np.isfinite(fit_temperature(SINGLE, references, logits * 1e6))


@pytest.mark.parametrize(
    ("problem", "references", "logits", "message"),
    [
        ("regression", [0.5], [[0.5]], "no temperature"),
        (SINGLE, [0, 1], [[0.0, 1.0]], r"references has shape \(2,\)"),
        (SINGLE, [0], [[np.inf, 1.0]], "logits is not finite in row 0"),
        (SINGLE, [2], [[0.0, 1.0]], "row 0 is 2"),
        (MULTI, [[0, 3]], [[0.0, 1.0]], "row 0 is"),
    ],
)
def test_temperature_refuses_bad_input(problem, references, logits, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(problem, references, logits)


def naive_best_f1(positive, scores):
    best = 0.0
    for threshold in scores:
        predicted = scores >= threshold
        best = max(best, 2 * np.sum(predicted & positive) / (predicted.sum() + positive.sum()))
    return best


def test_thresholds_reach_the_best_f1():
    rng = np.random.default_rng(0)
    probabilities = rng.random((200, 5)).round(2) * [1, 0.8, 0.5, 0.2, 0.05]
    references = (rng.random((200, 5)) < probabilities).astype(int)
    thresholds = fit_thresholds(references, probabilities)
    for index, threshold in enumerate(thresholds):
        positive, scores = references[:, index] == 1, probabilities[:, index]
        predicted = scores >= threshold
        f1 = 2 * np.sum(predicted & positive) / (predicted.sum() + positive.sum())
        assert f1 == pytest.approx(naive_best_f1(positive, scores))


def test_thresholds_prefer_one_half():
    references = [[1, 0, 1, 1], [0, 0, 0, 1], [1, 0, 0, 1]]
    probabilities = [[0.9, 0.1, 0.3, 0.2], [0.2, 0.2, 0.1, 0.1], [0.8, 0.9, 0.2, 0.3]]
    thresholds = fit_thresholds(references, probabilities)
    assert thresholds[0] == 0.5  # any number above .2 and up to .8 is as good
    assert thresholds[1] == 0.5  # no positives
    assert thresholds[2] == pytest.approx(0.25)
    assert thresholds[3] == pytest.approx(0.1)  # all are positive
    with pytest.raises(ValueError, match=r"references has shape \(2,\)"):
        fit_thresholds([0, 1], [[0.1], [0.2]])
