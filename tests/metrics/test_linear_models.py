"""Linear models of features, from which a classifier may start."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

from hf_selfattn.metrics.baselines import best_linear, fit_linear

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(60, 5)) * [1, 10, 0.1, 1, 1] + 3
CLASSES = RNG.integers(3, size=60)


@pytest.mark.parametrize("num_labels", [2, 3])
def test_classes_are_answered_as_logistic_regression_does(num_labels: int) -> None:
    labels = CLASSES % num_labels
    found = fit_linear("single_label_classification", FEATURES, labels, num_labels, 0.5)
    expected = LogisticRegression(C=0.5, max_iter=1000).fit(FEATURES, labels).predict_proba(FEATURES)
    np.testing.assert_allclose(found.answers(FEATURES, "single_label_classification"), expected, atol=1e-6)


def test_labels_and_numbers_are_answered_as_their_models_do() -> None:
    labels = (FEATURES[:, :3] > 3).astype(int)
    found = fit_linear("multi_label_classification", FEATURES, labels, 3, 0.5)
    expected = OneVsRestClassifier(LogisticRegression(C=0.5, max_iter=1000)).fit(FEATURES, labels)
    answers = found.answers(FEATURES, "multi_label_classification")
    np.testing.assert_allclose(answers, expected.predict_proba(FEATURES), atol=1e-6)
    numbers = FEATURES @ np.arange(5)
    found = fit_linear("regression", FEATURES, numbers, 1, 0.5)
    np.testing.assert_allclose(
        found.answers(FEATURES, "regression"), Ridge(alpha=20).fit(FEATURES, numbers).predict(FEATURES)
    )


def test_a_class_without_rows_is_never_answered() -> None:
    for labels in (np.array([0, 2] * 30), np.full(60, 2)):
        found = fit_linear("single_label_classification", FEATURES, labels, 4, 1.0)
        answers = found.answers(FEATURES, "single_label_classification")
        assert answers[:, [1, 3]].max() == 0 and answers[:, 2].max() > 0.5


def test_the_best_regularisation_of_standardised_features_is_taken() -> None:
    splits = {"train": FEATURES[:40], "validation": FEATURES[40:]}
    asked = []

    def score(answers: np.ndarray) -> float:
        asked.append(answers)
        return -abs(len(asked) - 2)  # the second is wanted

    found = best_linear("single_label_classification", splits, CLASSES[:40], 3, score)
    assert len(asked) == 5
    scaler = StandardScaler().fit(splits["train"])
    expected = LogisticRegression(C=0.01, max_iter=1000).fit(scaler.transform(splits["train"]), CLASSES[:40])
    answers = found.answers(splits["validation"], "single_label_classification")
    np.testing.assert_allclose(answers, expected.predict_proba(scaler.transform(splits["validation"])), atol=1e-6)
