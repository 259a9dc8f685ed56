"""Error rates of transcripts against jiwer and a naive edit distance, their intervals, and the paired test."""

from __future__ import annotations

import random

import jiwer
import numpy as np
import pytest

from hf_selfattn.metrics import Score
from hf_selfattn.metrics.recognition import (
    AlignedWord,
    align_words,
    paired_bootstrap_recognition,
    score_recognition,
    word_errors,
)

WORDS = "a the cat sat on mat and ran far off".split()


def sample(seed: int, rows: int = 40, right: float = 0.8) -> tuple[list[str], list[str]]:
    """Sentences at random, and what was heard of them."""
    rng = random.Random(seed)
    truth, guess = [], []
    for _ in range(rows):
        words = [rng.choice(WORDS) for _ in range(rng.randrange(1, 9))]
        heard = [word if rng.random() < right else rng.choice(WORDS) for word in words]
        heard = [word for word in heard if rng.random() < 0.95] + [rng.choice(WORDS)] * (rng.random() < 0.1)
        truth.append(" ".join(words))
        guess.append(" ".join(heard))
    return truth, guess


def edits(truth: list[str], guess: list[str]) -> int:
    """The edit distance, as in the textbook."""
    row = list(range(len(guess) + 1))
    for i, one in enumerate(truth, 1):
        before, row = row, [i]
        for j, other in enumerate(guess, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (one != other)))
    return row[-1]


def naive_rate(truth: list[str], guess: list[str], words: bool = True) -> float:
    units = str.split if words else list
    pairs = [(units(one), units(other)) for one, other in zip(truth, guess, strict=True)]
    return sum(edits(one, other) for one, other in pairs) / sum(len(one) for one, _ in pairs)


@pytest.mark.parametrize("seed", range(10))
def test_values_equal_jiwer_and_a_naive_edit_distance(seed: int) -> None:
    truth, guess = sample(seed)
    scores = {name: score.value for name, score in score_recognition(truth, guess, resamples=2).items()}
    output = jiwer.process_words(truth, guess)
    words = sum(len(row.split()) for row in truth)
    assert scores["wer"] == pytest.approx(naive_rate(truth, guess)) == pytest.approx(output.wer)
    assert (
        scores["cer"] == pytest.approx(naive_rate(truth, guess, words=False)) == pytest.approx(jiwer.cer(truth, guess))
    )
    assert scores["substitutions"] == pytest.approx(output.substitutions / words)
    assert scores["deletions"] == pytest.approx(output.deletions / words)
    assert scores["insertions"] == pytest.approx(output.insertions / words)
    assert scores["wer"] == pytest.approx(sum(scores[name] for name in ("substitutions", "deletions", "insertions")))
    assert scores["exact"] == np.mean([one == other for one, other in zip(truth, guess, strict=True)])


def test_a_weighted_row_is_a_row_that_is_drawn_so_often() -> None:
    truth, guess = sample(1, rows=12)
    rng, values = np.random.default_rng(0), []
    for _ in range(1000):
        drawn = rng.integers(12, size=12)
        values.append(naive_rate([truth[i] for i in drawn], [guess[i] for i in drawn]))
    score = score_recognition(truth, guess, resamples=4000)["wer"]
    low, high = np.quantile(values, [0.025, 0.975])
    assert (score.low, score.high) == pytest.approx((low, high), abs=0.05)


def test_intervals_are_over_speakers() -> None:
    truth, guess = sample(3, rows=30)
    speakers = [f"s{i % 30}" for i in range(300)]
    tenfold = score_recognition(truth * 10, guess * 10, groups=speakers, seed=1)
    once = score_recognition(truth, guess, seed=1)
    for name, score in once.items():  # ten copies of a speaker tell nothing new
        ours = tenfold[name]
        assert (ours.value, ours.low, ours.high) == pytest.approx((score.value, score.low, score.high), abs=1e-9)
    apart = score_recognition(truth * 10, guess * 10, seed=1)["wer"]
    assert apart.high - apart.low < 0.5 * (once["wer"].high - once["wer"].low)


def test_perfect_and_hopeless_answers() -> None:
    truth = sample(0)[0]
    perfect = score_recognition(truth, truth)
    assert perfect["wer"].value == 0 and 0 < perfect["wer"].high < 0.1 and perfect["exact"].low > 0.9
    silent = score_recognition(truth, [""] * len(truth))
    assert silent["wer"] == silent["deletions"] == Score(1.0, 1.0, 1.0) and silent["insertions"].value == 0
    assert score_recognition(["a"], ["b c d"])["wer"].value == 3
    nothing = score_recognition([""], ["a b"])
    assert "wer" not in nothing and "cer" not in nothing and nothing["exact"].value == 0
    half = score_recognition(["", "a b"], ["x", "a b"])
    assert half["wer"].value == 0.5 and half["insertions"].value == 0.5


def test_whitespace_is_folded_and_case_is_not() -> None:
    assert score_recognition([" a  b\n"], ["a b"])["exact"].value == 1
    assert score_recognition(["A b"], ["a b"])["wer"].value == 0.5


def test_paired_bootstrap() -> None:
    truth, good = sample(5, rows=200, right=0.9)
    rng = random.Random(1)
    poor = [" ".join(word for word in row.split() if rng.random() < 0.85) for row in good]
    speakers = [i // 4 for i in range(200)]
    test = paired_bootstrap_recognition(truth, good, poor, groups=speakers)
    assert test.value_a == pytest.approx(naive_rate(truth, good)) and test.value_b == pytest.approx(
        naive_rate(truth, poor)
    )
    assert test.low < test.difference < test.high < 0 and test.p_value < 0.01
    same = paired_bootstrap_recognition(truth, good, good, "cer")
    assert (same.difference, same.p_value) == (0, 1)
    other = paired_bootstrap_recognition(truth, poor, good, groups=speakers)
    assert other.p_value == test.p_value and other.difference == -test.difference


def test_words_are_aligned() -> None:
    assert align_words("the cat sat down now", "a cat down now there") == [
        AlignedWord("substitution", "the", "a"),
        AlignedWord("equal", "cat", "cat"),
        AlignedWord("deletion", "sat", ""),
        AlignedWord("equal", "down", "down"),
        AlignedWord("equal", "now", "now"),
        AlignedWord("insertion", "", "there"),
    ]
    assert align_words("", "") == [] and align_words("a", "") == [AlignedWord("deletion", "a", "")]
    for truth, guess in zip(*sample(8), strict=True):
        row = align_words(truth, guess)
        assert " ".join(word.reference for word in row if word.reference) == truth
        assert " ".join(word.prediction for word in row if word.prediction) == guess
        assert sum(word.kind != "equal" for word in row) == edits(truth.split(), guess.split())


def test_frequent_errors() -> None:
    errors = word_errors(["the cat", "the dog", "a b"], ["a cat", "a dog", "a b c"], most=2)
    assert errors == [(AlignedWord("substitution", "the", "a"), 2), (AlignedWord("insertion", "", "c"), 1)]


@pytest.mark.parametrize(
    ("truth", "guess", "options", "message"),
    [
        (["a"], ["a", "b"], {}, "1 references and 2 predictions"),
        ([], [], {}, "at least one row"),
        (["a", None], ["a", "b"], {}, "the reference of row 1 is a NoneType"),
        (["a"], [3], {}, "the prediction of row 0 is a int"),
        (["a"], ["a"], {"groups": ["x", "y"]}, "2 groups, but 1 rows"),
        (["a"], ["a"], {"confidence": 95}, "confidence is 95"),
    ],
)
def test_bad_input(truth: list, guess: list, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_recognition(truth, guess, **options)


def test_unknown_and_undefined_metrics() -> None:
    with pytest.raises(ValueError, match="metric is 'f1', but must be one of wer, cer, substitutions"):
        paired_bootstrap_recognition(["a"], ["a"], ["b"], "f1")
    with pytest.raises(ValueError, match="'wer' is undefined: no reference has a word"):
        paired_bootstrap_recognition([""], ["a"], ["b"])
