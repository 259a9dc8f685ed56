from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from tiny_models import tiny_text

from hf_selfattn import SentimentArguments, build_arguments, run
from hf_selfattn.data.polarity import has_polarity, polarity_of, polarity_probabilities, to_polarity
from hf_selfattn.tasks.sentiment import SentimentAnalysis

RECIPE = Path(__file__).parents[2] / "recipes" / "sentiment.py"
RATED = {"text": ["a", "b", "c", "d", "e"], "score": [-2.0, -0.4, 0.0, 0.5, 3.0]}


def splits(**changes: Any) -> DatasetDict:
    return DatasetDict({"train": Dataset.from_dict({**RATED, **changes})})


def test_the_band_divides_valence() -> None:
    assert polarity_of(np.array(RATED["score"]), 0.5).tolist() == [0, 1, 1, 2, 2]
    assert polarity_of(np.array([-0.1, 0.0, 0.1]), 0.0).tolist() == [0, 2, 2]


def test_neutral_texts_are_dropped_or_a_class() -> None:
    kept, note = to_polarity(splits(), 0.5, "drop")
    assert kept["train"]["score"][:] == ["negative", "positive", "positive"] and kept["train"]["text"][:] == [
        "a",
        "d",
        "e",
    ]
    assert "2 rows are left out" in note
    three, note = to_polarity(splits(), 0.5, "class")
    assert three["train"]["score"][:] == ["negative", "neutral", "neutral", "positive", "positive"]
    assert "class of their own" in note


def test_a_rating_that_is_no_number_is_named() -> None:
    with pytest.raises(ValueError, match=r"train\[2\].*'score' holds 'good'"):
        to_polarity(splits(score=["1", "2", "good", "1", "1"]), 0.5, "drop")
    with pytest.raises(ValueError, match="neutral_band=-1"):
        to_polarity(splits(), -1, "drop")


def test_probabilities_of_the_classes_that_a_valence_implies() -> None:
    generator = np.random.default_rng(0)
    valence = np.array([-1.2, 0.1, 2.0])
    drawn = polarity_of(valence[:, None] + 0.8 * generator.standard_normal((3, 200_000)), 0.5)
    expected = np.stack([(drawn == number).mean(axis=1) for number in range(3)], axis=1)
    assert polarity_probabilities(valence, 0.5, 0.8) == pytest.approx(expected, abs=0.005)


def test_the_lexicon_answers_polarity_alone() -> None:
    assert has_polarity("regression", ["valence"])
    assert has_polarity("single_label_classification", ["Negative", "Positive"])
    assert has_polarity("ordinal", ["negative", "neutral", "positive"])
    assert not has_polarity("single_label_classification", ["negative", "sport"])
    assert not has_polarity("multi_label_classification", ["negative", "positive"])


@pytest.mark.parametrize("problem", [None, "regression"])
def test_a_sentiment_run(tiny_backbone: str, tmp_path: Path, problem: str | None) -> None:
    rows = [
        {"text": f"w{10 + i % 3} {tiny_text(5, seed=i)}", "valence": (i % 3 - 1) * 2 + 0.1 * (i % 4)}
        for i in range(48)
    ]
    (tmp_path / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given: dict[str, Any] = {
        "model": tiny_backbone,
        "train": str(tmp_path / "rated.jsonl"),
        "test": str(tmp_path / "rated.jsonl"),
        "label_column": "valence",
        "neutral_band": 0.5,
        "problem": problem,
        "lexicon": True,
        "output_dir": str(tmp_path / "run"),
        "num_train_epochs": 1,
        "bf16": False,
        "disable_tqdm": True,
        "heads": {"head_dim": 8},
    }
    results = run(build_arguments(given, SentimentArguments))
    assert set(results["baseline"]) == {"tfidf", "vader"}
    if problem is None:
        assert results["label_names"] == ["negative", "positive"] and results["splits"]["test"]["rows"] == 32
    else:
        assert results["splits"]["test"]["rows"] == 48
        assert 0 <= results["polarity"]["test"]["accuracy"]["value"] <= 1


def test_a_lexicon_that_cannot_answer_stops_before_training_or_is_left_out(tmp_path: Path) -> None:
    rows = [{"text": f"w{5 + number}", "label": number % 5 + 1} for number in range(20)]
    (tmp_path / "stars.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"model": "m", "output_dir": "o", "train": str(tmp_path / "stars.jsonl")}
    with pytest.raises(ValueError, match=r"lexicon=true, but the labels are 1, 2, 3, 4, 5, .* Set lexicon=false"):
        SentimentAnalysis(build_arguments({**given, "lexicon": True}, SentimentArguments)).load()
    notes = SentimentAnalysis(build_arguments(given, SentimentArguments)).load().notes
    assert notes[-1].startswith("The VADER lexicon is not scored: the labels are 1, 2, ")
    silent = build_arguments({**given, "lexicon": False}, SentimentArguments)
    assert not any("VADER" in note for note in SentimentAnalysis(silent).load().notes)


@pytest.mark.parametrize(
    ("words", "heads", "standardise"),
    [
        ([], {"pooling": "mean"}, False),
        (["heads.num_groups=8"], {"num_groups": 8, "pooling": "mean"}, False),
        (["heads.pooling=cls", "standardise=true"], {"pooling": "cls"}, True),
    ],
)
def test_what_the_sentiment_recipe_starts_with(
    words: list[str], heads: dict[str, Any], standardise: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.yaml").write_text("heads: {head_dim: 8}\nlexicon: false\n")
    told: list[SentimentArguments] = []
    monkeypatch.setattr("hf_selfattn.training.run.run", told.append)
    monkeypatch.setattr("sys.argv", ["sentiment.py", "model=m", "output_dir=o", str(tmp_path / "own.yaml"), *words])
    runpy.run_path(str(RECIPE), run_name="__main__")
    assert told[0].heads == {"head_dim": 8, **heads}
    assert (told[0].standardise, told[0].lexicon) == (standardise, False)
