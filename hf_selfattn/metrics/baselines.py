"""Cheap models beside which a score shows what the large one is worth.

For texts TF-IDF with a linear model, and VADER; for images and sound the most frequent class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike
from scipy.special import softmax

from .inputs import Array, check_problem

# Texts with a smaller share of whitespace are not written in words with gaps (Chinese, Thai, rows of one word).
_LEAST_WHITESPACE = 0.05
# From this many training texts on, a term must stand in two of them.
_ROWS_FOR_MIN_DF_2 = 1000
_MAX_TERMS = 200_000
_INVERSE_REGULARISATION = 10.0

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
    predict = _fit(problem, vectorizer.fit_transform(train_texts), references, seed, num_labels)
    answers = {}
    for name, texts in test_texts.items():
        if len(texts) == 0:
            raise ValueError(f"test set {name!r} has no texts.")
        answers[name] = predict(vectorizer.transform(texts))
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


def _fit(
    problem: str,
    features: Any,
    references: Array,
    seed: int,
    num_labels: int | None,
) -> Callable[[Any], Array]:
    if problem == "regression":
        from sklearn.linear_model import Ridge

        ridge = Ridge(random_state=seed).fit(features, references)
        return lambda rows: np.asarray(ridge.predict(rows))
    if problem == "multi_label_classification":
        per_class = [_fit_classifier(features, column, 2, seed) for column in references.T.astype(int)]
        return lambda rows: np.stack([predict(rows)[:, 1] for predict in per_class], axis=1)
    classes = int(references.max()) + 1 if num_labels is None else num_labels
    if references.min() < 0 or references.max() >= classes:
        raise ValueError(
            f"train_references must be from 0 to {classes - 1}, "
            f"but range from {references.min()} to {references.max()}."
        )
    return _fit_classifier(features, references, classes, seed)


def _fit_classifier(features: Any, labels: Array, num_labels: int, seed: int) -> Callable[[Any], Array]:
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(labels)) == 1:
        model = DummyClassifier(strategy="prior")
    else:
        model = LogisticRegression(C=_INVERSE_REGULARISATION, max_iter=1000, random_state=seed)
    model.fit(features, labels)

    def predict(rows: Any) -> Array:
        probabilities = np.zeros((rows.shape[0], num_labels))
        probabilities[:, model.classes_] = model.predict_proba(rows)
        return probabilities

    return predict


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
