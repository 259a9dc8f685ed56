from __future__ import annotations

import time
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from hf_selfattn.metrics import Score, predicted_labels, score

SINGLE, MULTI, VALUES, ORDINAL = "single_label_classification", "multi_label_classification", "regression", "ordinal"
NAMES = ["business", "sport", "arts", "science"]


def single_label_data(rows=300, seed=0, classes=4):
    rng = np.random.default_rng(seed)
    truth = rng.choice(classes, rows, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    logits = rng.normal(size=(rows, classes)).round(1)  # rounded: ties
    logits[np.arange(rows), truth] += 1
    probabilities = np.exp(logits)
    return truth, probabilities / probabilities.sum(axis=1, keepdims=True)


def multi_label_data(rows=300, seed=0):
    rng = np.random.default_rng(seed)
    probabilities = rng.random((rows, 4)).round(2) * [1, 0.9, 0.6, 0.3]
    return (rng.random((rows, 4)) < probabilities).astype(int), probabilities


@pytest.mark.parametrize("classes", [2, 4])
def test_single_label_equals_sklearn(classes):
    truth, probabilities = single_label_data(classes=classes)
    names = NAMES[:classes]
    scores = score(SINGLE, truth, probabilities, names, resamples=20)
    predicted = probabilities.argmax(axis=1)
    auc = reference.roc_auc_score(np.eye(classes)[truth], probabilities, average="macro")
    expected = {
        "accuracy": reference.accuracy_score(truth, predicted),
        "balanced_accuracy": reference.balanced_accuracy_score(truth, predicted),
        "macro_f1": reference.f1_score(truth, predicted, average="macro"),
        "micro_f1": reference.f1_score(truth, predicted, average="micro"),
        "weighted_f1": reference.f1_score(truth, predicted, average="weighted"),
        "mcc": reference.matthews_corrcoef(truth, predicted),
        "roc_auc": auc,
        "nll": reference.log_loss(truth, probabilities),
        "brier": np.mean(np.sum((probabilities - np.eye(classes)[truth]) ** 2, axis=1)),
    }
    per_class = zip(*reference.precision_recall_fscore_support(truth, predicted)[:3], names, strict=True)
    for precision, recall, f1, name in per_class:
        expected |= {f"precision/{name}": precision, f"recall/{name}": recall, f"f1/{name}": f1}
    assert scores.keys() == expected.keys() | {"ece"}
    for name, value in expected.items():
        assert scores[name].value == pytest.approx(value, abs=1e-12), name
        assert scores[name].low <= scores[name].value <= scores[name].high, name


def test_multi_label_equals_sklearn():
    truth, probabilities = multi_label_data()
    thresholds = [0.4, 0.5, 0.3, 0.2]
    scores = score(MULTI, truth, probabilities, NAMES, thresholds=thresholds, top_one_if_none=False, resamples=20)
    predicted = (probabilities >= thresholds).astype(int)
    expected = {
        "micro_f1": reference.f1_score(truth, predicted, average="micro"),
        "macro_f1": reference.f1_score(truth, predicted, average="macro"),
        "mean_average_precision": reference.average_precision_score(truth, probabilities, average="macro"),
        "subset_accuracy": reference.accuracy_score(truth, predicted),
        "brier": np.mean([reference.brier_score_loss(truth[:, c], probabilities[:, c]) for c in range(4)]),
        "nll": np.mean([reference.log_loss(truth[:, c], probabilities[:, c]) for c in range(4)]),
    }
    for name, f1 in zip(NAMES, reference.f1_score(truth, predicted, average=None), strict=True):
        expected[f"f1/{name}"] = f1
    for name, value in expected.items():
        assert scores[name].value == pytest.approx(value, abs=1e-9), name
    assert "accuracy" not in scores and "ece" in scores


def test_regression_equals_scipy():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=200).round(1)
    values = (truth + rng.normal(size=200)).round(1)
    scores = score(VALUES, truth, values[:, None], None, resamples=20)
    assert scores["pearson"].value == pytest.approx(stats.pearsonr(truth, values).statistic, abs=1e-12)
    assert scores["spearman"].value == pytest.approx(stats.spearmanr(truth, values).statistic, abs=1e-12)
    assert scores["mae"].value == pytest.approx(reference.mean_absolute_error(truth, values))
    assert scores["rmse"].value == pytest.approx(reference.root_mean_squared_error(truth, values))
    assert len(scores) == 4


def test_ordinal_adds_distance_and_kappa():
    truth, probabilities = single_label_data()
    scores = score(ORDINAL, truth, probabilities, NAMES, resamples=20)
    predicted = probabilities.argmax(axis=1)
    kappa = reference.cohen_kappa_score(truth, predicted, weights="quadratic")
    assert scores["quadratic_kappa"].value == pytest.approx(kappa, abs=1e-12)
    assert scores["mae"].value == pytest.approx(np.abs(truth - predicted).mean())
    single = score(SINGLE, truth, probabilities, NAMES, resamples=20)
    assert scores.keys() - single.keys() == {"mae", "quadratic_kappa"}
    assert {name: scores[name] for name in single} == single


def test_undefined_metrics_are_absent_and_never_nan():
    truth, predicted = np.array([0, 0, 0, 0]), np.eye(3)[[0, 0, 0, 1]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score(SINGLE, truth, predicted, ["a", "b", "c"], resamples=50)
    assert "roc_auc" not in scores  # one class only
    assert not any(name.endswith("/c") for name in scores)  # neither a reference nor a prediction
    assert "recall/b" not in scores and scores["precision/b"].value == 0
    assert scores["macro_f1"].value == pytest.approx(reference.f1_score(truth, [0, 0, 0, 1], average="macro"))
    assert all(np.isfinite(list(entry.as_dict().values())).all() for entry in scores.values())
    assert score(VALUES, [1.0, 2.0], [0.1, 0.1], None, resamples=50).keys() == {"mae", "rmse"}


def test_one_row_and_perfect_answers_have_an_honest_width():
    alone = score(SINGLE, [1], [[0.2, 0.8]], ["a", "b"], resamples=50)
    assert alone["accuracy"].value == 1 and alone["accuracy"].low < 0.3
    truth = np.arange(60) % 3
    perfect = score(SINGLE, truth, np.eye(3)[truth], NAMES[:3], resamples=50)
    for name in ("accuracy", "macro_f1", "roc_auc", "f1/sport"):
        assert perfect[name].value == 1 and 0.8 < perfect[name].low < 0.96 and perfect[name].high == 1
    assert perfect["nll"].value == pytest.approx(0, abs=1e-12)


def test_seed_and_resamples():
    truth, probabilities = single_label_data()
    first = score(SINGLE, truth, probabilities, NAMES, seed=1)
    assert first == score(SINGLE, truth, probabilities, NAMES, seed=1)
    other = score(SINGLE, truth, probabilities, NAMES, seed=2)
    assert first["macro_f1"] != other["macro_f1"]
    assert first["macro_f1"].low == pytest.approx(other["macro_f1"].low, abs=0.01)
    narrow = score(SINGLE, truth, probabilities, NAMES, confidence=0.5)
    for name in ("accuracy", "macro_f1", "roc_auc", "nll", "ece"):
        assert first[name].high - first[name].low > 1.5 * (narrow[name].high - narrow[name].low)


def test_predicted_labels():
    probabilities = [[0.6, 0.55, 0.1], [0.1, 0.3, 0.2]]
    assert predicted_labels(SINGLE, probabilities).tolist() == [0, 1]
    assert predicted_labels(ORDINAL, probabilities).tolist() == [0, 1]
    assert predicted_labels(MULTI, probabilities).tolist() == [[1, 1, 0], [0, 1, 0]]
    assert predicted_labels(MULTI, probabilities, top_one_if_none=False).tolist() == [[1, 1, 0], [0, 0, 0]]
    assert predicted_labels(MULTI, probabilities, [0.7, 0.5, 0.1]).tolist() == [[0, 1, 1], [0, 0, 1]]
    assert predicted_labels(VALUES, [0.5, -2]).tolist() == [0.5, -2]


@pytest.mark.parametrize(
    ("problem", "references", "outputs", "options", "message"),
    [
        ("binary", [0], [[1.0]], {}, "problem is 'binary'"),
        (SINGLE, [0, 1], [[0.5, 0.5]], {}, r"references has shape \(2,\).*needs \(1,\)"),
        (SINGLE, [0, 2], [[0.5, 0.5]] * 2, {}, "from 0 to 1, but row 1 is 2"),
        (SINGLE, [0, 0.5], [[0.5, 0.5]] * 2, {}, "from 0 to 1, but row 1 is 0.5"),
        (SINGLE, ["a", "b"], [[0.5, 0.5]] * 2, {}, "map label names to ids"),
        (SINGLE, [0, 1], [[0.5, 0.5], [3.0, -2.0]], {}, r"row 1 is \[3.0, -2.0\].*softmax"),
        (SINGLE, [0, 1], [[0.5, 0.5], [np.nan, 1]], {}, "outputs is not finite in row 1"),
        (SINGLE, [0, 1], [0.5, 0.5], {}, r"needs \(N, C\)"),
        (SINGLE, [], np.zeros((0, 2)), {}, "at least one row"),
        (SINGLE, [0], [[0.5, 0.5]], {"label_names": ["a", "a"]}, "2 different names"),
        (SINGLE, [0], [[0.5, 0.5]], {"confidence": 95}, "confidence is 95"),
        (SINGLE, [0], [[0.5, 0.5]], {"resamples": 0}, "resamples is 0"),
        (MULTI, [[0, 2]], [[0.5, 0.5]], {}, "from 0 to 1, but row 0"),
        (MULTI, [[0, 1]], [[0.5, 0.5]], {"thresholds": [0.5]}, r"thresholds has shape \(1,\)"),
        (VALUES, [0.0, np.inf], [0.5, 0.5], {}, "references is not finite in row 1"),
        (VALUES, [0.0], [0.5, 0.5], {}, "one of each per row"),
    ],
)
def test_bad_input_is_refused(problem, references, outputs, options, message):
    with pytest.raises(ValueError, match=message):
        score(problem, references, outputs, **({"label_names": None} | options))


def test_score_prints_and_converts():
    assert str(Score(0.9123, 0.9011, 0.9222)) == "0.912 [0.901, 0.922]"
    assert Score(0.5, 0.25, 0.75).as_dict() == {"value": 0.5, "low": 0.25, "high": 0.75}


def test_speed():
    truth, probabilities = single_label_data(rows=2000, classes=8)
    start = time.perf_counter()
    score(SINGLE, truth, probabilities, [str(index) for index in range(8)])
    assert time.perf_counter() - start < 3


def test_intervals_over_groups_are_those_of_whole_groups() -> None:
    random = np.random.default_rng(0)
    speakers = np.repeat(np.arange(8), 25)
    right = random.random(8)[speakers] > random.random(200)  # some speakers are read well, some badly
    references = random.integers(0, 2, 200)
    outputs = np.eye(2)[np.where(right, references, 1 - references)]
    problem = "single_label_classification"
    rows, groups = (score(problem, references, outputs, "ab", groups=given)["accuracy"] for given in (None, speakers))
    assert rows.value == groups.value and groups.high - groups.low > 2 * (rows.high - rows.low)
    own = score(problem, references, outputs, "ab", groups=range(200))["macro_f1"]
    assert own == score(problem, references, outputs, "ab")["macro_f1"]
    numbers = {"references": random.normal(size=200), "outputs": random.normal(size=200), "label_names": None}
    assert score("regression", **numbers, groups=speakers)["mae"].low > 0
    with pytest.raises(ValueError, match="there are 3 groups, but 200 rows"):
        score(problem, references, outputs, "ab", groups=[1, 2, 3])
