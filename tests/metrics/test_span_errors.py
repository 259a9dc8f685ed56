"""The error analysis: each kind once by hand, sums on random tags, known and unseen strings."""

from __future__ import annotations

import json
import random

import pytest

from hf_selfattn.metrics import entity_strings, error_analysis, score_spans

NAMES = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
TOKENS = [
    "Ann met Bo Lee in New York City yesterday".split(),
    "Rome and Paris like Kim".split(),
]
TRUTH = [[3, 0, 3, 4, 0, 1, 2, 2, 0], [1, 0, 1, 0, 3]]
#         Ann right; Bo Lee type; York City border | Rome missed; "and" spurious; Paris like: both; Kim missed
GUESS = [[3, 0, 1, 2, 0, 0, 1, 2, 0], [0, 3, 3, 4, 0]]


def test_each_kind_by_hand() -> None:
    result = error_analysis(TRUTH, GUESS, NAMES, TOKENS, places=["a:1", "a:11"])
    assert {kind: (n["references"], n["predictions"]) for kind, n in result["kinds"].items()} == {
        "correct": (1, 1),
        "wrong_type": (1, 1),
        "wrong_border": (1, 1),
        "wrong_both": (1, 1),
        "missed": (2, 0),
        "spurious": (0, 1),
    }
    assert result["confusion"] == {
        "LOC": {"LOC": 1, "PER": 1, "none": 1},
        "PER": {"LOC": 1, "PER": 1, "none": 1},
        "none": {"LOC": 0, "PER": 1, "none": 0},
    }
    (border,), (spurious,) = result["examples"]["wrong_border"], result["examples"]["spurious"]
    assert border == {
        "sentence": 0,
        "place": "a:1",
        "reference": {"text": "New York City", "type": "LOC", "start": 5, "end": 8},
        "prediction": {"text": "York City", "type": "LOC", "start": 6, "end": 8},
        "context": "Ann met Bo Lee in New York City yesterday",
    }
    assert spurious["reference"] is None and spurious["prediction"]["text"] == "and"
    assert spurious["place"] == "a:11" and spurious["context"] == "Rome and Paris like Kim"
    assert [item["reference"]["text"] for item in result["examples"]["missed"]] == ["Rome", "Kim"]
    json.dumps(result)


def test_one_reference_against_several_predictions() -> None:
    truth, guess = [[3, 4, 4, 4]], [[1, 2, 3, 4]]  # the one of the same type is taken
    kinds = error_analysis(truth, guess, NAMES, [["a", "b", "c", "d"]])["kinds"]
    assert kinds["wrong_border"] == {"references": 1, "predictions": 1}
    assert kinds["wrong_both"] == {"references": 0, "predictions": 1}


def test_sums_agree_with_the_scores() -> None:
    rng = random.Random(0)
    truth = [[rng.choice(range(5)) for _ in range(rng.randrange(1, 9))] for _ in range(200)]
    guess = [[tag if rng.random() < 0.7 else rng.choice(range(5)) for tag in row] for row in truth]
    tokens = [[rng.choice("abcdef") for _ in row] for row in truth]
    result = error_analysis(truth, guess, NAMES, tokens, known=entity_strings(truth[:20], tokens[:20], NAMES))
    scores = score_spans(truth, guess, NAMES, resamples=2)
    kinds = result["kinds"]
    references, predictions = (sum(n[side] for n in kinds.values()) for side in ("references", "predictions"))
    correct = kinds["correct"]["references"]
    assert correct == kinds["correct"]["predictions"] > 0
    assert scores["recall"].value == pytest.approx(correct / references)
    assert scores["precision"].value == pytest.approx(correct / predictions)
    assert (
        sum(sum(row.values()) for row in result["confusion"].values()) == references + kinds["spurious"]["predictions"]
    )
    known, unseen = result["strings"]["known"], result["strings"]["unseen"]
    for key, total in (("references", references), ("predictions", predictions), ("correct", correct)):
        assert known[key] + unseen[key] == total and known[key] and unseen[key]
    assert all(len(examples) == 5 for examples in result["examples"].values())


def test_known_strings() -> None:
    known = entity_strings([[1, 2], [0, 3]], [["New", "York"], ["x", "Ann"]], NAMES)
    assert known == {"New York", "Ann"}
    strings = error_analysis(TRUTH, GUESS, NAMES, TOKENS, known=known)["strings"]
    assert strings["known"] == {
        "references": 1,
        "predictions": 1,
        "correct": 1,
        "precision": 1.0,
        "recall": 1.0,
        "f1": 1.0,
    }
    assert strings["unseen"]["references"] == 5 and strings["unseen"]["recall"] == 0
    nothing = error_analysis([[0]], [[0]], NAMES, [["a"]], known=set())["strings"]["known"]
    assert nothing["f1"] is None and nothing["references"] == 0


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="tokens differ from the tags at sentence 1"):
        error_analysis(TRUTH, GUESS, NAMES, [TOKENS[0], ["a"]])
    with pytest.raises(ValueError, match="1 places, but 2 sentences"):
        error_analysis(TRUTH, GUESS, NAMES, TOKENS, places=["a"])
