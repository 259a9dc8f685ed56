"""Linear models of features: what a frozen backbone says without attention, and where a classifier may start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, softmax

from .inputs import Array, check_problem

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)  # inverse regularisations among which the best is taken
RIDGE = 10.0  # regularisation of a ridge regression of strength 1
NEVER = -30.0  # logit of a class that no row has


@dataclass(frozen=True)
class LinearModel:
    """Logits (N, C) of features (N, D): `features @ weight.T + bias`."""

    weight: Array
    bias: Array

    def logits(self, features: Array) -> Array:
        """Return the logits (N, C)."""
        found: Array = features @ self.weight.T + self.bias
        return found

    def answers(self, features: Array, problem: str) -> Array:
        """Return probabilities (N, C), or (N,) numbers of a regression."""
        logits = self.logits(features)
        if problem == "regression":
            return logits[:, 0]
        found: Array = expit(logits) if problem == "multi_label_classification" else softmax(logits, axis=1)
        return found


def best_linear(
    problem: str,
    features: Mapping[str, Array],
    train_references: Array,
    num_labels: int,
    score: Callable[[Array], float],
    seed: int = 0,
) -> LinearModel:
    """Return the linear model whose regularisation answers the validation split best; it standardises features.

    Args:
        features: (N, D) of the splits train and validation.
        train_references: (N,) ints, (N, C) 0/1 for multi-label, or (N,) floats for regression.
        score: of the answers to the validation split; more is better.
    """
    from sklearn.preprocessing import StandardScaler  # here, because few of the commands need it

    check_problem(problem)
    scaler = StandardScaler().fit(features["train"])
    scaled = {name: scaler.transform(features[name]) for name in ("train", "validation")}
    fitted = [fit_linear(problem, scaled["train"], train_references, num_labels, C, seed) for C in STRENGTHS]
    best = max(fitted, key=lambda model: score(model.answers(scaled["validation"], problem)))
    weight = best.weight / scaler.scale_
    return LinearModel(weight, best.bias - weight @ scaler.mean_)


def fit_linear(
    problem: str, features: Array, references: Array, num_labels: int, strength: float, seed: int = 0
) -> LinearModel:
    """Return ridge regression, or logistic regression: of classes, or of each label by itself.

    Args:
        strength: inverse regularisation.
    """
    from sklearn.linear_model import Ridge

    if problem == "regression":
        ridge = Ridge(alpha=RIDGE / strength, random_state=seed).fit(features, references)
        return LinearModel(ridge.coef_[None], np.array([ridge.intercept_]))
    if problem == "multi_label_classification":
        columns = [fit_classes(features, column, 2, strength, seed) for column in references.T.astype(int)]
        pairs = [(one.weight[1] - one.weight[0], one.bias[1] - one.bias[0]) for one in columns]
        weights, biases = zip(*pairs, strict=True)
        return LinearModel(np.stack(weights), np.array(biases))
    return fit_classes(features, references, num_labels, strength, seed)


def fit_classes(features: Array, labels: Array, num_labels: int, strength: float, seed: int) -> LinearModel:
    """Return a logistic regression of classes, of which train may lack some."""
    from sklearn.linear_model import LogisticRegression

    weight, bias = np.zeros((num_labels, features.shape[1])), np.full(num_labels, NEVER)
    present = np.unique(labels)
    if len(present) == 1:
        bias[present] = 0.0
        return LinearModel(weight, bias)
    model: Any = LogisticRegression(C=strength, max_iter=1000, random_state=seed).fit(features, labels)
    halves = np.array([-0.5, 0.5])  # of the one direction that tells two classes apart
    is_pair = len(present) == 2
    weight[present] = np.outer(halves, model.coef_[0]) if is_pair else model.coef_
    bias[present] = halves * model.intercept_[0] if is_pair else model.intercept_
    return LinearModel(weight, bias)
