"""Span scores: equal to seqeval's and to a naive decoder, with intervals over documents and a paired test."""

from __future__ import annotations

import random

import numpy as np
import pytest

from hf_selfattn.metrics import Score, paired_bootstrap_spans, score_spans

NAMES = ["O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER"]

# seqeval 1.2.2 on sample(seed): mode="strict" with scheme=IOB2, and its default mode for the lenient scores.
EXPECTED = {
    0: {
        "precision": 0.734513274,
        "recall": 0.768518519,
        "f1": 0.751131222,
        "macro_f1": 0.736635431,
        "lenient_precision": 0.781094527,
        "lenient_recall": 0.785,
        "lenient_f1": 0.783042394,
        "token_accuracy": 0.813186813,
        "precision/LOC": 0.666666667,
        "recall/LOC": 0.666666667,
        "f1/LOC": 0.666666667,
        "precision/ORG": 0.674418605,
        "recall/ORG": 0.725,
        "f1/ORG": 0.698795181,
        "precision/PER": 0.826086957,
        "recall/PER": 0.863636364,
        "f1/PER": 0.844444444,
    },
    1: {
        "precision": 0.806122449,
        "recall": 0.766990291,
        "f1": 0.786069652,
        "macro_f1": 0.787107939,
        "lenient_precision": 0.795454545,
        "lenient_recall": 0.777777778,
        "lenient_f1": 0.786516854,
        "token_accuracy": 0.803418803,
        "precision/LOC": 0.774193548,
        "recall/LOC": 0.631578947,
        "f1/LOC": 0.695652174,
        "precision/ORG": 0.8125,
        "recall/ORG": 0.787878788,
        "f1/ORG": 0.8,
        "precision/PER": 0.828571429,
        "recall/PER": 0.90625,
        "f1/PER": 0.865671642,
    },
}


def sample(seed: int, sentences: int = 40, right: float = 0.8) -> tuple[list[list[int]], list[list[int]]]:
    """Tags at random (many of them broken), and predictions that repeat most of them."""
    rng = random.Random(seed)
    truth, guess = [], []
    for _ in range(sentences):
        tags = [rng.choice(range(7)) for _ in range(rng.randrange(1, 12))]
        truth.append(tags)
        guess.append([tag if rng.random() < right else rng.choice(range(7)) for tag in tags])
    return truth, guess


def naive_entities(rows: list[list[int]], strict: bool) -> set[tuple[int, int, int, str]]:
    found = set()
    for row, ids in enumerate(rows):
        tags = [NAMES[i] for i in ids]
        for start, tag in enumerate(tags):
            before = tags[start - 1][2:] if start else ""
            opens = tag[0] == "B" or (not strict and tag[0] == "I" and before != tag[2:])
            if opens:
                end = start + 1
                while end < len(tags) and tags[end] == f"I-{tag[2:]}":
                    end += 1
                found.add((row, start, end, tag[2:]))
    return found


def naive_f1(truth: list[list[int]], guess: list[list[int]], strict: bool = True) -> float:
    actual, claimed = naive_entities(truth, strict), naive_entities(guess, strict)
    return 2 * len(actual & claimed) / (len(actual) + len(claimed))


@pytest.mark.parametrize("seed", EXPECTED)
def test_values_equal_seqeval(seed: int) -> None:
    scores = score_spans(*sample(seed), NAMES, resamples=20)
    assert {name: score.value for name, score in scores.items()} == pytest.approx(EXPECTED[seed], abs=1e-8)


def test_values_equal_a_naive_decoder() -> None:
    for seed in range(20, 60):
        truth, guess = sample(seed, sentences=6, right=0.5)
        scores = score_spans(truth, guess, NAMES, resamples=2)
        assert scores["f1"].value == pytest.approx(naive_f1(truth, guess))
        assert scores["lenient_f1"].value == pytest.approx(naive_f1(truth, guess, strict=False))


def test_strict_and_lenient_are_equal_where_tags_are_legal() -> None:
    truth, guess = [[1, 2, 0, 3]], [[1, 0, 3, 4]]
    scores = score_spans(truth, guess, NAMES)
    assert scores["f1"] == scores["lenient_f1"] and scores["f1"].value == 0
    broken = score_spans(
        [[0, 1, 2]], [[0, 2, 2]], NAMES
    )  # I-LOC opens: an entity for conlleval only, and not the same
    assert (broken["f1"].value, broken["lenient_f1"].value) == (0, 1)
    assert "precision" not in broken  # strict: nothing is predicted


def test_sentences_do_not_touch() -> None:
    scores = score_spans([[1], [2]], [[1], [2]], NAMES)
    assert scores["f1"].value == 1 and "f1/ORG" not in scores
    assert score_spans([[1], [2]], [[1], [1]], NAMES)["precision"].value == 0.5


def test_intervals_are_over_documents() -> None:
    truth, guess = sample(3, sentences=30)
    documents = [f"d{i % 30}" for i in range(300)]
    tenfold = score_spans(truth * 10, guess * 10, NAMES, documents=documents, seed=1)
    once = score_spans(truth, guess, NAMES, seed=1)
    for name, score in once.items():  # ten copies inside each document tell nothing new
        ours = tenfold[name]
        assert (ours.value, ours.low, ours.high) == pytest.approx((score.value, score.low, score.high), abs=1e-9)
    apart = score_spans(truth * 10, guess * 10, NAMES, seed=1)["f1"]
    assert apart.high - apart.low < 0.5 * (once["f1"].high - once["f1"].low)


def test_interval_equals_a_naive_bootstrap() -> None:
    truth, guess = sample(4, sentences=80)
    score = score_spans(truth, guess, NAMES, resamples=2000)["f1"]
    rng, values = np.random.default_rng(0), []
    for _ in range(400):
        rows = rng.integers(80, size=80)
        values.append(naive_f1([truth[i] for i in rows], [guess[i] for i in rows]))
    low, high = np.quantile(values, [0.025, 0.975])
    assert (score.low, score.high) == pytest.approx((low, high), abs=0.02)


def test_perfect_and_hopeless_answers_keep_an_interval() -> None:
    truth = [[1, 0]] * 20 + [[5, 0]]
    perfect = score_spans(truth, truth, NAMES)
    assert perfect["f1"].value == perfect["f1"].high == 1 and 0.8 < perfect["f1"].low < 1
    assert perfect["f1/PER"].low < 0.5  # one document shows the type
    hopeless = score_spans(truth, [[0, 1]] * 21, NAMES)
    assert hopeless["f1"] == Score(0.0, 0.0, pytest.approx(0.155, abs=0.01))


def test_paired_bootstrap() -> None:
    truth, good = sample(5, sentences=200, right=0.9)
    _, poor = sample(5, sentences=200, right=0.9)
    rng = random.Random(1)
    poor = [[tag if rng.random() < 0.9 else 0 for tag in row] for row in good]
    documents = [i // 4 for i in range(200)]
    test = paired_bootstrap_spans(truth, good, poor, NAMES, documents=documents)
    assert test.value_a == score_spans(truth, good, NAMES, resamples=2)["f1"].value
    assert test.value_b == pytest.approx(naive_f1(truth, poor))
    assert 0 < test.low < test.difference < test.high and test.p_value < 0.01
    same = paired_bootstrap_spans(truth, good, good, NAMES, "f1/PER")
    assert (same.difference, same.p_value) == (0, 1)
    other = paired_bootstrap_spans(truth, poor, good, NAMES, documents=documents)
    assert other.p_value == test.p_value and other.difference == -test.difference


@pytest.mark.parametrize(
    ("truth", "guess", "names", "message"),
    [
        ([[0, 1]], [[0]], NAMES, "sentence 0 has 2 references, but 1 predictions"),
        ([[0]], [[0], [0]], NAMES, "1 sentences of references and 2 of predictions"),
        ([], [], NAMES, "at least one"),
        ([[0], [0, 0]], [[0], [0, 7]], NAMES, "prediction of word 1 of sentence 1 is 7, .* from 0 to 6"),
        ([[0, -100]], [[0, 0]], NAMES, "reference of word 1 of sentence 0 is -100.*without -100"),
        ([[0]], [[0]], ["O", "PER"], "different tags of IOB2"),
        ([[0]], [[0]], ["O", "B-X", "B-X"], "different tags of IOB2"),
    ],
)
def test_bad_input(truth: list, guess: list, names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_spans(truth, guess, names)


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="2 documents' ids, but 1 sentences"):
        score_spans([[0]], [[0]], NAMES, documents=["a", "b"])
    with pytest.raises(ValueError, match="confidence is 95"):
        score_spans([[1]], [[1]], NAMES, confidence=95)
    with pytest.raises(ValueError, match="metric is 'micro', but must be one of precision, recall, f1"):
        paired_bootstrap_spans([[1]], [[1]], [[1]], NAMES, "micro")
    with pytest.raises(ValueError, match="'precision' is undefined for system B"):
        paired_bootstrap_spans([[1]], [[1]], [[0]], NAMES, "precision")
