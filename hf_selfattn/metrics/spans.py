"""Scores of named entities by exact spans, with intervals over documents, and the paired test of two taggers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from .comparison import PairedTest, compare_statistics
from .entities import TaggedWords, check_tags
from .inputs import Array, group_numbers
from .intervals import (
    Score,
    Statistic,
    bca_interval,
    check_confidence,
    mean_of_defined,
    precision_recall_f1,
    ratio,
    replicate,
    wilson_interval,
)

COUNTS = ("hits", "actual", "claimed")


def score_spans(
    references: Sequence[Sequence[int]],
    predictions: Sequence[Sequence[int]],
    label_names: Sequence[str],
    *,
    documents: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Score]:
    """Score entities, right where span and type are exact (Tjong Kim Sang & De Meulder 2003), each with its interval.

    - precision, recall, f1 (over all entities), macro_f1 (mean over the types that occur) and "precision/TYPE",
      "recall/TYPE", "f1/TYPE": of strict IOB2, where a tag I- that continues no entity counts for nothing;
    - lenient_precision, lenient_recall, lenient_f1: as conlleval reads broken tags, where such an I- opens an entity;
    - token_accuracy: share of the words whose tag is right.

    A metric that is undefined on the data (such as the precision of a type that is never predicted) is absent. The
    intervals are BCa over documents, since the entities of a document are not independent; where all resamples agree
    on 0 or 1, Wilson's over the documents that show the metric.

    Args:
        label_names: C tags in IOB2.

    Raises:
        ValueError: lengths differ, an id is no label, or the names are no tags of IOB2.
    """
    check_confidence(confidence)
    words = check_tags(references, predictions, label_names)
    groups = group_numbers(documents, len(references), "documents' ids", "sentences")
    counts = _counts(words, groups)
    replicates = replicate(_statistic(counts, words.names.entity_types), len(counts["right"]), resamples, seed)
    scores = {}
    for name, value in replicates.values.items():
        resampled = replicates.resampled[name]
        defined = resampled[np.isfinite(resampled)]
        if value in (0.0, 1.0) and (defined == value).all():
            shown = _documents_with(name, counts, words.names.entity_types)
            low, high = wilson_interval(value * shown, shown, confidence)
        else:
            low, high = bca_interval(value, resampled, replicates.jackknife[name], confidence)
        scores[name] = Score(value, low, high)
    return scores


def paired_bootstrap_spans(
    references: Sequence[Sequence[int]],
    predictions_a: Sequence[Sequence[int]],
    predictions_b: Sequence[Sequence[int]],
    label_names: Sequence[str],
    metric: str = "f1",
    *,
    documents: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedTest:
    """Test whether two systems differ, by drawing the same documents for both (see `paired_bootstrap`)."""
    check_confidence(confidence)
    groups = group_numbers(documents, len(references), "documents' ids", "sentences")
    statistics = []
    for system, predictions in (("A", predictions_a), ("B", predictions_b)):
        words = check_tags(references, predictions, label_names)
        statistic = _statistic(_counts(words, groups), words.names.entity_types)
        values = statistic(np.ones((groups.max() + 1, 1)))
        if metric not in values:
            raise ValueError(f"metric is {metric!r}, but must be one of {', '.join(values)}.")
        if np.isnan(values[metric][0]):
            raise ValueError(f"metric {metric!r} is undefined for system {system}, for instance for lack of entities.")
        statistics.append(statistic)
    first, second = statistics
    rows = int(groups.max()) + 1
    return compare_statistics(first, second, metric, rows, confidence=confidence, resamples=resamples, seed=seed)


def _counts(words: TaggedWords, groups: Array) -> dict[str, Array]:
    """Count per document hits, actual and claimed entities (D, T), strict and lenient; right words and words (D,)."""
    documents = groups[words.sentences]  # (W,)
    size = (int(groups.max()) + 1, len(words.names.entity_types))
    truth, guess = words.entities(words.references), words.entities(words.predictions)
    counts: dict[str, Array] = {}
    for prefix, actual, claimed in (("", truth.strict(), guess.strict()), ("lenient_", truth, guess)):
        known = set(actual.keys())
        hits = claimed.select(np.array([key in known for key in claimed.keys()], dtype=np.bool_))
        for kind, entities in zip(COUNTS, (hits, actual, claimed), strict=True):
            cells = documents[entities.starts] * size[1] + entities.types
            counts[prefix + kind] = np.bincount(cells, minlength=size[0] * size[1]).reshape(size).astype(np.float64)
    right = (words.references == words.predictions).astype(np.float64)
    counts["right"] = np.bincount(documents, weights=right, minlength=size[0])
    counts["words"] = np.bincount(documents, minlength=size[0]).astype(np.float64)
    return counts


def _statistic(counts: dict[str, Array], entity_types: Sequence[str]) -> Statistic:
    """Build the statistic over documents: weights (D, R) to values (R,) per metric."""

    def statistic(weights: Array) -> dict[str, Array]:
        sums = {name: count.T @ weights for name, count in counts.items()}  # (T, R), or (R,) of words
        values: dict[str, Array] = {}
        for prefix in ("", "lenient_"):
            precision, recall, f1 = precision_recall_f1(*(sums[prefix + kind].sum(axis=0) for kind in COUNTS))
            values |= {f"{prefix}precision": precision, f"{prefix}recall": recall, f"{prefix}f1": f1}
        precision, recall, f1 = precision_recall_f1(*(sums[kind] for kind in COUNTS))
        values["macro_f1"] = mean_of_defined(f1)
        values["token_accuracy"] = ratio(sums["right"], sums["words"])
        for index, name in enumerate(entity_types):
            values |= {f"f1/{name}": f1[index], f"precision/{name}": precision[index], f"recall/{name}": recall[index]}
        return values

    return statistic


def _documents_with(metric: str, counts: dict[str, Array], entity_types: Sequence[str]) -> int:
    """Count the documents in which the denominator of a metric is not 0."""
    if metric == "token_accuracy":
        return int(np.count_nonzero(counts["words"]))
    prefix = "lenient_" if metric.startswith("lenient_") else ""
    name, _, kind = metric.removeprefix("lenient_").partition("/")
    actual, claimed = counts[prefix + "actual"], counts[prefix + "claimed"]
    shown = {"precision": claimed, "recall": actual}.get(name, actual + claimed)  # (D, T)
    if kind:
        shown = shown[:, [entity_types.index(kind)]]
    return int(np.count_nonzero(shown.any(axis=1)))
