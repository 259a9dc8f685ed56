"""Word and character error rates of transcripts, with intervals over recordings or speakers, and their paired test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import jiwer
import numpy as np

from .comparison import PairedTest, compare_statistics
from .inputs import Array, group_numbers
from .intervals import Score, Statistic, bca_interval, check_confidence, ratio, replicate, wilson_interval

KINDS = {"substitute": "substitution", "delete": "deletion", "insert": "insertion", "equal": "equal"}
COUNTS = ("substitutions", "deletions", "insertions")


@dataclass(frozen=True)
class AlignedWord:
    """A word of the reference and what was recognised for it ("" where there is none).

    Args:
        kind: "equal", "substitution", "deletion" or "insertion".
    """

    kind: str
    reference: str
    prediction: str


def score_recognition(
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Score]:
    """Score transcripts, each metric with its interval.

    - wer, cer: edits of words and of characters (spaces among them) for each of the references, over all rows;
    - substitutions, deletions, insertions: the three parts of wer;
    - exact: share of the rows without an error.

    Only whitespace is folded; case and punctuation count. A metric that is undefined, as wer where no reference has a
    word, is absent. The intervals are BCa over groups of rows. Where no group shows an error, the upper bound is
    Wilson's for the share of groups with one.

    Args:
        groups: what each row belongs to, such as its speaker; every row is its own where they are not given.

    Raises:
        ValueError: lengths differ, there are no rows, or a transcript is no text.
    """
    check_confidence(confidence)
    counts = _group_counts(references, predictions, groups)
    size = len(counts["rows"])
    replicates = replicate(_error_statistic(counts), size, resamples, seed)
    scores = {}
    for name, value in replicates.values.items():
        if value == (1.0 if name == "exact" else 0.0):
            low, high = wilson_interval(value * size, size, confidence)
        else:
            low, high = bca_interval(value, replicates.resampled[name], replicates.jackknife[name], confidence)
        scores[name] = Score(value, low, high)
    return scores


def error_rates(references: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Return the metrics of `score_recognition` without intervals, those that are defined."""
    counts = _group_counts(references, predictions, None)
    values = _error_statistic(counts)(np.ones((len(counts["rows"]), 1)))
    return {name: float(value[0]) for name, value in values.items() if np.isfinite(value[0])}


def paired_bootstrap_recognition(
    references: Sequence[str],
    predictions_a: Sequence[str],
    predictions_b: Sequence[str],
    metric: str = "wer",
    *,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedTest:
    """Test whether two systems differ, by drawing the same groups of rows for both (see `paired_bootstrap`)."""
    check_confidence(confidence)
    counts = [_group_counts(references, predictions, groups) for predictions in (predictions_a, predictions_b)]
    first, second = map(_error_statistic, counts)
    rows = len(counts[0]["rows"])
    values = first(np.ones((rows, 1)))
    if metric not in values:
        raise ValueError(f"metric is {metric!r}, but must be one of {', '.join(values)}.")
    if np.isnan(values[metric][0]):
        raise ValueError(f"metric {metric!r} is undefined: no reference has a word.")
    return compare_statistics(first, second, metric, rows, confidence=confidence, resamples=resamples, seed=seed)


def align_words(reference: str, prediction: str) -> list[AlignedWord]:
    """Pair the words of a reference with those recognised, by the fewest edits."""
    return _aligned([reference], [prediction])[0]


def word_errors(
    references: Sequence[str], predictions: Sequence[str], most: int = 20
) -> list[tuple[AlignedWord, int]]:
    """List the most frequent errors, and how often each was made."""
    _check_texts(references, predictions)
    errors = Counter(word for row in _aligned(references, predictions) for word in row if word.kind != "equal")
    return errors.most_common(most)


def _aligned(references: Sequence[str], predictions: Sequence[str]) -> list[list[AlignedWord]]:
    output = jiwer.process_words(_folded(references), _folded(predictions))
    rows = []
    for truth, guess, chunks in zip(output.references, output.hypotheses, output.alignments, strict=True):
        row = []
        for chunk in chunks:
            one = truth[chunk.ref_start_idx : chunk.ref_end_idx]
            other = guess[chunk.hyp_start_idx : chunk.hyp_end_idx]
            blanks = [""] * max(len(one), len(other))
            row += [AlignedWord(KINDS[chunk.type], *pair) for pair in zip(one or blanks, other or blanks, strict=True)]
        rows.append(row)
    return rows


def _group_counts(
    references: Sequence[str], predictions: Sequence[str], groups: Sequence[Hashable] | None
) -> dict[str, Array]:
    """Count per group (G,): the edits and units of words and of characters, rows and rows without an error."""
    _check_texts(references, predictions)
    truth, guess = _folded(references), _folded(predictions)
    numbers = group_numbers(groups, len(truth), "groups", "rows")
    rows = {
        **_edits(jiwer.process_words(truth, guess), ""),
        **_edits(jiwer.process_characters(truth, guess), "character "),
        "rows": np.ones(len(truth)),
        "exact": np.array([one == other for one, other in zip(truth, guess, strict=True)], dtype=np.float64),
    }
    size = int(numbers.max()) + 1
    return {name: np.bincount(numbers, weights=count, minlength=size) for name, count in rows.items()}


def _edits(output: Any, prefix: str) -> dict[str, Array]:
    """Count the edits of each row, and the units of its reference: (N,) each."""
    counts = {f"{prefix}{name}": np.zeros(len(output.references)) for name in COUNTS}
    for row, chunks in enumerate(output.alignments):
        for chunk in chunks:
            if chunk.type != "equal":
                length = max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
                counts[f"{prefix}{KINDS[chunk.type]}s"][row] += length
    return {**counts, f"{prefix}units": np.array([len(row) for row in output.references], dtype=np.float64)}


def _error_statistic(counts: dict[str, Array]) -> Statistic:
    """Build the statistic over groups: weights (G, R) to values (R,) per metric."""

    def statistic(weights: Array) -> dict[str, Array]:
        sums = {name: count @ weights for name, count in counts.items()}
        edits, characters = (sum(sums[prefix + name] for name in COUNTS) for prefix in ("", "character "))
        return {
            "wer": ratio(np.asarray(edits), sums["units"]),
            "cer": ratio(np.asarray(characters), sums["character units"]),
            **{name: ratio(sums[name], sums["units"]) for name in COUNTS},
            "exact": ratio(sums["exact"], sums["rows"]),
        }

    return statistic


def _folded(texts: Sequence[str]) -> list[str]:
    return [" ".join(text.split()) for text in texts]


def _check_texts(references: Sequence[str], predictions: Sequence[str]) -> None:
    if len(references) != len(predictions) or not len(references):
        raise ValueError(
            f"there are {len(references)} references and {len(predictions)} predictions: give one of each for every "
            "row, and at least one row."
        )
    for kind, texts in (("reference", references), ("prediction", predictions)):
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"the {kind} of row {row} is a {type(text).__name__}, but must be a text.")
