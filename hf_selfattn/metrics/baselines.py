"""Cheap models beside which a score shows what the large one is worth.

For texts TF-IDF with a linear model, and VADER; for images and sound the most frequent class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike
from scipy.special import expit, softmax

from .inputs import Array, check_problem

# Texts with a smaller share of whitespace are not written in words with gaps (Chinese, Thai, rows of one word).
_LEAST_WHITESPACE = 0.05
# From this many training texts on, a term must stand in two of them.
_ROWS_FOR_MIN_DF_2 = 1000
_MAX_TERMS = 200_000
_INVERSE_REGULARISATION = 10.0
_STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)  # inverse regularisations among which the best is taken
_RIDGE = 10.0  # regularisation of a ridge regression of strength 1
_NEVER = -1000.0  # logit of a class that no training row has: its probability is 0

# Hutto & Gilbert 2014: a compound score from 0.05 on is positive, to -0.05 negative. VADER rounds to 4 digits.
_VADER_NEUTRAL_BAND = 0.05
_VADER_ROUNDING = 5e-5
_VADER_SHARPNESS = 5.0
_VADER_VALENCE = 4.0


def tfidf_baseline(
    problem: str,
    train_texts: Sequence[str],
    train_references: ArrayLike,
    test_texts: Mapping[str, Sequence[str]],
    seed: int = 0,
    *,
    num_labels: int | None = None,
) -> dict[str, Array]:
    """Train a linear model on TF-IDF of word 1-2-grams and answer for every test set.

    Term counts enter as 1 + log(count). Texts without gaps between words are cut into character 1-3-grams. The model
    is a logistic regression (one per class for multi-label), or ridge regression.

    Args:
        problem: "single_label_classification", "ordinal", "multi_label_classification" or "regression".
        train_references: (N,) ints, (N, C) 0/1 for multi-label, or (N,) floats for regression.
        num_labels: C of a single-label or ordinal problem, if not every class is in the training data.

    Returns:
        Per test set (M, C) probabilities, or (M,) values for regression. A class never seen has probability 0.

    Raises:
        ValueError: If texts and references differ in number, there are none, or all training texts are empty.
    """
    check_problem(problem)
    references = np.asarray(train_references)
    if len(train_texts) != len(references) or len(references) == 0:
        raise ValueError(
            f"There are {len(train_texts)} training texts and {len(references)} references: one per text."
        )
    vectorizer = _vectorizer(train_texts)
    num_labels = _checked_labels(problem, references, num_labels)
    model = fit_linear(
        problem, vectorizer.fit_transform(train_texts), references, num_labels, _INVERSE_REGULARISATION, seed
    )
    answers = {}
    for name, texts in test_texts.items():
        if len(texts) == 0:
            raise ValueError(f"test set {name!r} has no texts.")
        answers[name] = model.answers(vectorizer.transform(texts), problem)
    return answers


def vader_baseline(texts: Sequence[str], problem: str, label_names: Sequence[str] | None = None) -> Array:
    """Answer with the VADER sentiment lexicon (Hutto & Gilbert 2014), which is English and is not trained.

    Args:
        problem: "regression" for the valence, or "single_label_classification" or "ordinal" for polarity classes.
        label_names: For classes: negative and positive, or negative, neutral and positive, in any order and case.

    Returns:
        (N,) valence in [-4, 4], four times the compound score; or (N, C) probabilities whose largest follows the usual
        rule, neutral for a compound score between -0.05 and 0.05 (with two classes: positive from 0 on). They rise
        with the compound score but are not calibrated.

    Raises:
        ValueError: If the package vaderSentiment is missing, or the problem or label names are not of polarity.
    """
    check_problem(problem)
    if problem == "multi_label_classification":
        raise ValueError(
            "VADER answers polarity and valence, not multi_label_classification: leave this baseline out."
        )
    columns = [] if problem == "regression" else _polarity_columns(label_names)
    compound = _vader_compound(texts)
    if problem == "regression":
        return _VADER_VALENCE * compound
    if len(columns) == 2:
        logits = np.stack([-compound, compound + _VADER_ROUNDING], axis=1)
    else:
        neutral = np.full_like(compound, _VADER_NEUTRAL_BAND - _VADER_ROUNDING)
        logits = np.stack([-compound, compound, neutral], axis=1)
    probabilities: Array = softmax(_VADER_SHARPNESS * logits, axis=1)
    return probabilities[:, columns]


def majority_baseline(
    problem: str, train_references: Array, rows: Mapping[str, int], num_labels: int
) -> dict[str, Array]:
    """Answer every row of every test set alike: with the shares of the classes in train, or the mean of a number.

    Args:
        train_references: as of `tfidf_baseline`.
        rows: how many each test set has.
    """
    check_problem(problem)
    if problem in ("single_label_classification", "ordinal"):
        train_references = np.eye(num_labels)[train_references]
    answer = train_references.mean(axis=0)
    return {name: np.repeat(answer[None], count, axis=0) for name, count in rows.items()}


def _checked_labels(problem: str, references: Array, num_labels: int | None) -> int:
    """Return how many labels there are, of classes after a look at their numbers."""
    if problem == "regression":
        return 1
    if problem == "multi_label_classification":
        return int(references.shape[1])
    classes = int(references.max()) + 1 if num_labels is None else num_labels
    if references.min() < 0 or references.max() >= classes:
        raise ValueError(
            f"train_references must be from 0 to {classes - 1}, "
            f"but range from {references.min()} to {references.max()}."
        )
    return classes


def _vectorizer(texts: Sequence[str]) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer  # here, because few of the commands need it

    joined = "".join(texts)
    if not joined.strip():
        raise ValueError("Every training text is empty: the TF-IDF baseline has nothing to learn from.")
    options: dict[str, Any] = {
        "sublinear_tf": True,
        "min_df": 2 if len(texts) >= _ROWS_FOR_MIN_DF_2 else 1,
        "max_features": _MAX_TERMS,
    }
    whitespace = sum(map(str.isspace, joined)) / len(joined)
    if whitespace < _LEAST_WHITESPACE or not any(map(str.isalnum, joined)):
        return TfidfVectorizer(analyzer="char", ngram_range=(1, 3), **options)
    return TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", ngram_range=(1, 2), **options)


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
    score: Callable[[Array], Any],
    seed: int = 0,
) -> LinearModel:
    """Return the linear model whose regularisation answers the validation split best; it standardises features.

    Args:
        features: (N, D) of the splits train and validation.
        train_references: (N,) ints, (N, C) 0/1 for multi-label, or (N,) floats for regression.
        score: of the answers to the validation split; the greatest is best.
    """
    from sklearn.preprocessing import StandardScaler  # here, because few of the commands need it

    check_problem(problem)
    scaler = StandardScaler().fit(features["train"])
    scaled = {name: scaler.transform(features[name]) for name in ("train", "validation")}
    fitted = [fit_linear(problem, scaled["train"], train_references, num_labels, C, seed) for C in _STRENGTHS]
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
        ridge = Ridge(alpha=_RIDGE / strength, random_state=seed).fit(features, references)
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

    weight, bias = np.zeros((num_labels, features.shape[1])), np.full(num_labels, _NEVER)
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


def _polarity_columns(label_names: Sequence[str] | None) -> list[int]:
    order = ("negative", "positive", "neutral")
    names = [name.strip().lower() for name in label_names or ()]
    if sorted(names) not in (sorted(order), sorted(order[:2])):
        raise ValueError(
            f"VADER needs the label names negative and positive, or negative, neutral and positive, "
            f"but label_names is {label_names}: rename the labels or leave this baseline out."
        )
    return [order.index(name) for name in names]


def _vader_compound(texts: Sequence[str]) -> Array:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise ValueError("The VADER baseline needs the package vaderSentiment: pip install vaderSentiment") from error
    analyzer = SentimentIntensityAnalyzer()
    return np.array([analyzer.polarity_scores(text)["compound"] for text in texts], dtype=np.float64)


def joined_texts(split: Dataset) -> list[str]:
    """Return the text of each row, a pair joined by a line break."""
    texts = list(split["text"])
    if "text_pair" not in split.column_names:
        return texts
    return [f"{text}\n{pair}" for text, pair in zip(texts, split["text_pair"], strict=True)]
