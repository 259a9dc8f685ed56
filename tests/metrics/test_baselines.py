from __future__ import annotations

import sys
import types
import warnings

import numpy as np
import pytest

from hf_selfattn.metrics.baselines import tfidf_baseline, vader_baseline

SINGLE, MULTI = "single_label_classification", "multi_label_classification"
SPORT = ["the match ended in a draw", "a goal in the last minute", "the team won the cup", "he scored a goal"]
MONEY = ["the bank raised its rates", "shares fell on the exchange", "the bank cut its profit", "rates and shares"]


@pytest.fixture(autouse=True)
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("problem", [SINGLE, "ordinal"])
def test_single_label(problem):
    tests = {"news": ["a late goal won the match", "the bank lost shares"], "empty": ["", "zzz qqq"]}
    outputs = tfidf_baseline(problem, SPORT + MONEY, [0] * 4 + [1] * 4, tests)
    assert outputs.keys() == tests.keys()
    assert outputs["news"].argmax(axis=1).tolist() == [0, 1]
    for probabilities in outputs.values():
        assert probabilities.shape == (2, 2) and np.allclose(probabilities.sum(axis=1), 1)


def test_a_class_that_training_lacks_keeps_its_column():
    outputs = tfidf_baseline(SINGLE, SPORT + MONEY, [0] * 4 + [2] * 4, {"test": ["a goal"]}, num_labels=4)["test"]
    assert outputs.shape == (1, 4) and outputs[0, 1] == outputs[0, 3] == 0 and outputs.argmax() == 0
    alone = tfidf_baseline(SINGLE, ["good", "fine"], [1, 1], {"test": ["bad"]})["test"]
    assert alone.tolist() == [[0, 1]]


@pytest.mark.parametrize("kind", [int, float])
def test_multi_label_with_a_class_without_positives(kind):
    references = np.array([[1, 0, 0, 1]] * 4 + [[0, 1, 0, 1]] * 4, dtype=kind)
    outputs = tfidf_baseline(MULTI, SPORT + MONEY, references, {"test": ["a goal and a match", "the bank"]})["test"]
    assert outputs.shape == (2, 4)
    assert outputs[0, 0] > 0.5 > outputs[0, 1] and outputs[1, 1] > 0.5 > outputs[1, 0]
    assert np.all(outputs[:, 2] == 0) and np.all(outputs[:, 3] == 1)


def test_regression():
    texts = ["very good film", "good film", "bad film", "very bad film"]
    values = tfidf_baseline("regression", texts, [3.0, 2.0, -2.0, -3.0], {"test": ["good", "bad"]})["test"]
    assert values.shape == (2,) and values[0] > 0.3 and values[1] < -0.3


@pytest.mark.parametrize(
    ("texts", "test"),
    [
        (
            ["这部电影非常好看", "我很喜欢这部电影", "这部电影太糟糕了", "我讨厌这部糟糕的片子"],
            ["好看喜欢", "太糟糕讨厌"],
        ),
        (["หนังดีมาก", "ชอบมาก ดี", "แย่มาก", "หนังแย่"], ["ดี", "แย่"]),
        (["good", "fine", "bad", "awful"], ["good", "bad"]),
        (["😀", "😀 😀", "😡", "😡 😡"], ["😀", "😡"]),
        (["I a", "I I", "U b", "U U"], ["I", "U"]),
    ],
)
def test_every_script(texts, test):
    outputs = tfidf_baseline(SINGLE, texts, [0, 0, 1, 1], {"test": test})["test"]
    assert outputs.argmax(axis=1).tolist() == [0, 1]


def test_two_rows_are_enough_and_the_seed_repeats():
    outputs = [tfidf_baseline(SINGLE, ["yes it is", "no it is not"], [0, 1], {"t": ["yes"]}, seed=3) for _ in range(2)]
    assert outputs[0]["t"].argmax() == 0 and np.array_equal(outputs[0]["t"], outputs[1]["t"])


@pytest.mark.parametrize(
    ("texts", "references", "tests", "options", "message"),
    [
        (["a"], [0, 1], {}, {}, "1 training texts and 2 references"),
        ([], [], {}, {}, "0 training texts"),
        (["", " "], [0, 1], {}, {}, "Every training text is empty"),
        (["a b", "c d"], [0, 3], {}, {"num_labels": 2}, "from 0 to 1, but range from 0 to 3"),
        (["a b", "c d"], [0, 1], {"news": []}, {}, "test set 'news' has no texts"),
    ],
)
def test_bad_input_is_refused(texts, references, tests, options, message):
    with pytest.raises(ValueError, match=message):
        tfidf_baseline(SINGLE, texts, references, tests, **options)


@pytest.fixture
def vader(monkeypatch):
    """A stand-in for the optional package: the text is its own compound score."""

    class SentimentIntensityAnalyzer:
        def polarity_scores(self, text):
            return {"compound": float(text)}

    inner = types.ModuleType("vaderSentiment.vaderSentiment")
    inner.SentimentIntensityAnalyzer = SentimentIntensityAnalyzer
    monkeypatch.setitem(sys.modules, "vaderSentiment", types.ModuleType("vaderSentiment"))
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", inner)


def test_vader_follows_the_usual_rule(vader):
    texts = ["-1", "-0.05", "-0.0499", "0", "0.0499", "0.05", "1"]
    names = ["Negative", "Neutral", "Positive"]
    outputs = vader_baseline(texts, SINGLE, names)
    assert outputs.argmax(axis=1).tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert np.allclose(outputs.sum(axis=1), 1) and outputs[6, 2] > 0.95
    shuffled = vader_baseline(texts, "ordinal", ["positive", "negative", "neutral"])
    assert np.array_equal(shuffled, outputs[:, [2, 0, 1]])
    assert vader_baseline(texts, SINGLE, ["negative", "positive"]).argmax(axis=1).tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert vader_baseline(["0.5", "-1"], "regression").tolist() == [2, -4]


def test_vader_refuses_what_it_cannot_answer(vader):
    with pytest.raises(ValueError, match="not multi_label_classification"):
        vader_baseline(["0"], MULTI, ["negative", "positive"])
    for names in (["1 star", "2 stars"], ["positive", "neutral"], None):
        with pytest.raises(ValueError, match="needs the label names negative and positive"):
            vader_baseline(["0"], SINGLE, names)


def test_vader_says_how_to_install_it(monkeypatch):
    for name in ("vaderSentiment", "vaderSentiment.vaderSentiment"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match="pip install vaderSentiment"):
        vader_baseline(["good"], "regression")


def test_vader_itself():
    pytest.importorskip("vaderSentiment")
    texts = ["I love this wonderful film!", "I hate this awful film.", "The film lasts two hours."]
    names = ["negative", "neutral", "positive"]
    assert vader_baseline(texts, SINGLE, names).argmax(axis=1).tolist() == [2, 0, 1]
