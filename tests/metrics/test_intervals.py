from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from hf_selfattn.metrics import score
from hf_selfattn.metrics.inputs import check_predictions
from hf_selfattn.metrics.intervals import bca_interval, replicate, values_of, wilson_interval
from hf_selfattn.metrics.scores import statistic_of

CLASSES = ("single_label_classification", "multi_label_classification", "ordinal")


def random_predictions(problem, rows=40, seed=0):
    rng = np.random.default_rng(seed)
    if problem == "regression":
        truth = rng.integers(6, size=rows).astype(float)
        return truth, (truth + rng.normal(size=rows)).round()
    if problem == "multi_label_classification":
        outputs = rng.random((rows, 3)).round(1)
        return (rng.random((rows, 3)) < outputs).astype(int), outputs
    outputs = rng.dirichlet([1, 1, 1], rows)
    return (outputs.cumsum(axis=1) > rng.random((rows, 1))).argmax(axis=1), outputs


@pytest.mark.parametrize("problem", [*CLASSES, "regression"])
def test_weighted_statistic_equals_the_metric_of_the_drawn_rows(problem):
    """The naive reference: draw the rows, and compute on them as on any data."""
    truth, outputs = random_predictions(problem)
    rng = np.random.default_rng(1)
    drawn = rng.integers(len(truth), size=(8, len(truth)))
    drawn[0] = 5  # one row only: much is undefined
    weights = np.stack([np.bincount(rows, minlength=len(truth)) for rows in drawn], axis=1).astype(float)
    fast = statistic_of(check_predictions(problem, truth, outputs))(weights)
    for column, rows in enumerate(drawn):
        naive = values_of(statistic_of(check_predictions(problem, truth[rows], outputs[rows])), len(rows))
        defined = {name: value[column] for name, value in fast.items() if np.isfinite(value[column])}
        naive.pop("ece", None), defined.pop("ece", None)  # its bins are cut once, on the whole data
        assert defined == pytest.approx(naive, abs=1e-9)


def test_chunks_change_nothing_and_each_row_is_left_out_once(monkeypatch):
    predictions = check_predictions("ordinal", *random_predictions("ordinal"))
    whole = replicate(statistic_of(predictions), 40, 100, seed=3)
    assert len(whole.jackknife["accuracy"]) == 40 and len(whole.resampled["accuracy"]) == 100
    kept = replicate(lambda weights: {"rows": weights.sum(axis=0)}, 450, 10, seed=3)
    assert set(kept.resampled["rows"]) == {450}
    assert len(kept.jackknife["rows"]) == 200 and np.sum(450 - kept.jackknife["rows"]) == 450
    monkeypatch.setattr("hf_selfattn.metrics.intervals.CHUNK_SIZE", 7 * 40)
    in_parts = replicate(lambda weights: {"rows": weights.sum(axis=0)}, 40, 100, seed=3)
    assert set(in_parts.resampled["rows"]) == {40} and set(in_parts.jackknife["rows"]) == {39}


def test_bca_interval_equals_scipy():
    values = np.random.default_rng(0).exponential(size=60)
    found = replicate(lambda weights: {"mean": values @ weights / weights.sum(axis=0)}, 60, 20_000, seed=0)
    low, high = bca_interval(found.values["mean"], found.resampled["mean"], found.jackknife["mean"], 0.95)
    expected = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1))
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval), abs=0.01)


@pytest.mark.parametrize(("right", "rows"), [(0, 10), (3, 10), (10, 10), (287, 300)])
def test_wilson_interval_equals_scipy(right, rows):
    expected = stats.binomtest(right, rows).proportion_ci(method="wilson")
    assert wilson_interval(right, rows, 0.95) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_intervals_contain_the_truth():
    """In 1,000 simulated data sets the 95 % interval holds the truth in 93-97 % of them."""
    rng = np.random.default_rng(0)
    shares = np.array([0.6, 0.3, 0.1])
    population = shares[:, None] * np.array([[0.88, 0.08, 0.04], [0.15, 0.8, 0.05], [0.2, 0.1, 0.7]])
    by_class = 2 * np.diag(population) / (population.sum(axis=0) + population.sum(axis=1))
    truth = {"accuracy": np.trace(population), "macro_f1": by_class.mean(), "f1/2": by_class[2]}
    contained = dict.fromkeys(truth, 0)
    for seed in range(1000):
        references, predicted = np.divmod(rng.choice(9, size=300, p=population.ravel()), 3)
        scores = score("single_label_classification", references, np.eye(3)[predicted], None, resamples=300, seed=seed)
        for metric, value in truth.items():
            contained[metric] += scores[metric].low <= value <= scores[metric].high
    assert all(930 <= count <= 970 for count in contained.values()), contained


def test_macro_f1_of_the_population_is_what_sklearn_tends_to():
    """Guards the truth that the coverage test aims at."""
    population = np.array([[0.5, 0.1], [0.1, 0.3]])
    references, predicted = np.divmod(np.repeat(np.arange(4), (population.ravel() * 1000).round().astype(int)), 2)
    by_class = 2 * np.diag(population) / (population.sum(axis=0) + population.sum(axis=1))
    assert f1_score(references, predicted, average="macro") == pytest.approx(by_class.mean())
