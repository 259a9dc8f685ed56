"""A predictor gives the answers of `transformers.pipeline`, for every kind of model, in batches by length."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from saved_models import TAGS, TEXTS, saved
from tiny_models import tiny_model, tiny_tokenizer, tiny_wordpiece
from transformers import AutoConfig, pipeline

from hf_selfattn import Predictor, add_lora, open_predictor, save_adapter
from hf_selfattn.inference.predictor import batches
from hf_selfattn.machine import has_bf16
from hf_selfattn.tasks.answers import padded_width

ROWS = [{"text": text} for text in TEXTS]


def opened(folder: Path) -> Predictor:
    predictor = open_predictor(folder, dtype="float32")
    predictor.batch_tokens = 64
    return predictor


def all_scores(folder: Path, rows: list[Any]) -> list[dict[str, float]]:
    classify = pipeline("text-classification", model=str(folder), top_k=None)
    return [{answer["label"]: answer["score"] for answer in answers} for answers in classify(rows)]


@pytest.mark.parametrize("pairs", [False, True])
def test_one_label(pairs: bool, tmp_path: Path) -> None:
    folder = saved(tmp_path, "single_label", temperature=1.7)
    rows = [{**row, "text_pair": pair} for row, pair in zip(ROWS, TEXTS[::-1], strict=True)] if pairs else ROWS
    answers = opened(folder).answers(rows)
    assert len({answer["label"] for answer in answers}) > 1
    for answer, scores in zip(answers, all_scores(folder, rows), strict=True):
        assert answer["probabilities"] == pytest.approx(scores, abs=1e-5)
        assert answer["label"] == max(scores, key=scores.__getitem__)
        assert answer["probability"] == answer["probabilities"][answer["label"]]


def test_texts_and_pairs_together(tmp_path: Path) -> None:
    predictor = opened(saved(tmp_path, "single_label"))
    rows = [ROWS[0], {"text": TEXTS[1], "text_pair": TEXTS[2]}, ROWS[3]]
    alone = [predictor.answers([row])[0]["probabilities"] for row in rows]
    assert [answer["probabilities"] for answer in predictor.answers(rows)] == [
        pytest.approx(a, abs=1e-5) for a in alone
    ]


@pytest.mark.parametrize(
    ("pairs", "row", "message"),
    [
        (True, {"text": "w5"}, "'text_pair': it is missing, and this model was trained on pairs of texts."),
        (False, {"text": "w5", "text_pair": "w6"}, "'text_pair': this model was trained on single texts."),
    ],
)
def test_a_model_of_pairs_reads_pairs_only(pairs: bool, row: dict[str, Any], message: str, tmp_path: Path) -> None:
    predictor = opened(saved(tmp_path, "single_label", text_pairs=pairs))
    with pytest.raises(ValueError, match=message):
        predictor.answers([row])
    assert predictor.answers([predictor.kind.example])[0]["label"]


@pytest.mark.parametrize("top_one", [True, False])
def test_several_labels_by_thresholds(top_one: bool, tmp_path: Path) -> None:
    before = all_scores(saved(tmp_path, "multi_label"), ROWS)
    thresholds = [median(scores[f"LABEL_{number}"] for scores in before) for number in range(3)]
    folder = saved(tmp_path, "multi_label", thresholds=thresholds, top_one_if_none=top_one)
    sizes = set()
    for answer, scores in zip(opened(folder).answers(ROWS), all_scores(folder, ROWS), strict=True):
        passed = [f"LABEL_{n}" for n, least in enumerate(thresholds) if scores[f"LABEL_{n}"] >= least]
        if not passed and top_one:
            passed = [max(scores, key=scores.__getitem__)]
        assert answer["label"] == passed and answer["probabilities"] == pytest.approx(scores, abs=1e-5)
        least_sure = min((scores[name] for name in passed), default=1 - max(scores.values()))
        assert answer["probability"] == pytest.approx(least_sure, abs=1e-5)
        sizes.add(len(passed))
    assert len(sizes) > 1


def test_a_number(tmp_path: Path) -> None:
    folder = saved(tmp_path, "regression")
    for answer, scores in zip(opened(folder).answers(ROWS), all_scores(folder, ROWS), strict=True):
        assert answer == {
            "label": pytest.approx(scores["LABEL_0"], abs=1e-5),
            "probability": None,
            "probabilities": {},
        }


@pytest.mark.parametrize("decoding", ["viterbi", "argmax"])
def test_entities(decoding: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, "token", tiny_wordpiece(), decoding=decoding, **TAGS)
    texts = [*TEXTS, "w5ab - w6cd.w7", " w8  w9\tw10a "]
    tag = pipeline("token-classification", model=str(folder), aggregation_strategy="simple")
    number = 0
    for text, answer in zip(texts, opened(folder).answers([{"text": text} for text in texts]), strict=True):
        assert [*answer] == ["entities"]
        for entity, expected in zip(answer["entities"], tag(text), strict=True):
            assert (entity["type"], entity["start"], entity["end"]) == (
                expected["entity_group"],
                expected["start"],
                expected["end"],
            )
            assert entity["text"] == text[entity["start"] : entity["end"]]
            assert entity["score"] == pytest.approx(expected["score"], abs=1e-5)
            number += 1
    assert number > 20


def test_words_and_their_tags(tmp_path: Path) -> None:
    predictor = opened(saved(tmp_path, "token", tiny_wordpiece(), **TAGS))
    rows = [{"tokens": text.split()} for text in TEXTS] + [{"tokens": ["w5ab", "\u200b", "w6-w7", "w8"]}]
    for row, answer in zip(rows, predictor.answers(rows), strict=True):
        assert len(answer["tags"]) == len(row["tokens"])
        text = " ".join(row["tokens"])
        for entity in answer["entities"]:
            first = text[: entity["start"]].count(" ")
            last = text[: entity["end"]].count(" ")
            assert answer["tags"][first] == f"B-{entity['type']}" or "-" in row["tokens"][first]
            assert all(tag == f"I-{entity['type']}" for tag in answer["tags"][first + 1 : last + 1])
        for before, tag in zip(["O", *answer["tags"]], answer["tags"], strict=False):
            assert not tag.startswith("I-") or before[2:] == tag[2:]


def test_an_adapter_with_its_backbone(tmp_path: Path) -> None:
    model = tiny_model("single_label")
    model.base_model.backbone.save_pretrained(tmp_path / "backbone")
    tiny_tokenizer().save_pretrained(tmp_path / "backbone")
    model = type(model).from_backbone(str(tmp_path / "backbone"), num_labels=3, problem_type=model.config.problem_type)
    save_adapter(
        add_lora(model), tiny_tokenizer(), tmp_path / "adapter", backbone_name_or_path=str(tmp_path / "backbone")
    )
    predictor = open_predictor(tmp_path / "adapter", backbone_name_or_path=str(tmp_path / "backbone"))
    assert predictor.name == "text-classification" and len(predictor.answers(ROWS)) == len(ROWS)


def test_batches_hold_rows_of_like_length() -> None:
    assert [*batches([5, 1, 9, 1, 30, 2], 16)] == [[4], [2], [0, 5], [1, 3]]
    assert [*batches([5] * 7, 16 * 8)] == [[0, 1, 2, 3], [4, 5], [6]]
    assert [*batches([], 10)] == []


def test_batches_have_few_shapes() -> None:
    lengths = np.random.default_rng(0).integers(1, 500, 20_000).tolist()
    shapes = {(len(batch), padded_width(max(lengths[n] for n in batch))) for batch in batches(lengths, 4096)}
    assert len(shapes) < 60
    for length in range(1, 5000):
        assert length <= padded_width(length) <= max(length + 7, length * 17 / 16)


def test_bfloat16_is_near(tmp_path: Path) -> None:
    folder = saved(tmp_path, "single_label")
    exact, near = opened(folder).answers(ROWS), open_predictor(folder, dtype="bfloat16").answers(ROWS)
    assert exact != near
    for one, other in zip(exact, near, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=0.02)
    assert open_predictor(folder).in_bfloat16 == has_bf16("cpu")


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("single_label", {"text": " "}, "'text': the text is empty or only whitespace."),
        ("single_label", {"text": None}, "'text': no text"),
        ("single_label", {"text": "w5", "text_pair": 3}, "'text_pair': the text is not a string but int"),
        ("single_label", {"body": "w5"}, "'text': no text"),
        ("single_label", {"text": "w5", "tokens": ["w5"]}, "reads text or text_pair, and not 'tokens'"),
        ("token", {"tokens": []}, "'tokens': they are no list of words, or an empty one"),
        ("token", {"tokens": "w5 w6"}, "no list of words"),
        ("token", {"tokens": ["", " "]}, "all words are empty"),
        ("token", {"text": "w5", "text_pair": "w6"}, "reads text or tokens, and not 'text_pair'"),
        ("token", {"text": "w5", "tokens": ["w6"]}, "and not both"),
        ("token", {}, "'text': no text"),
    ],
)
def test_a_bad_row_is_told(kind: str, row: dict[str, Any], message: str, tmp_path: Path) -> None:
    predictor = open_predictor(saved(tmp_path, kind))
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        predictor.checked(row)


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="Is the run of this folder done"):
        open_predictor(tmp_path / "empty")
    saved(tmp_path / "seed-1", "single_label")
    with pytest.raises(ValueError, match="It holds seed-1: give one of them"):
        open_predictor(tmp_path)
    (tmp_path / "seed-1/results.json").write_text("{}")
    with pytest.raises(ValueError, match="There is no folder .*/seed-2. .* holds seed-1: give one of them"):
        open_predictor(tmp_path / "seed-2")  # asked of no hub
    (tmp_path / "seed-1/results.json").unlink()
    tiny_model().base_model.backbone.save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match="type 'bert', and none of this package"):
        open_predictor(tmp_path / "plain")
    config = AutoConfig.from_pretrained(tmp_path / "seed-1")
    config.architectures = ["Unknown"]
    config.save_pretrained(tmp_path / "seed-1")
    with pytest.raises(ValueError, match="was saved as Unknown"):
        open_predictor(tmp_path / "seed-1")
    with pytest.raises(ValueError, match="device='foo' cannot be used: Expected one of"):
        open_predictor(saved(tmp_path / "fine", "regression"), device="foo")
    with pytest.raises(ValueError, match="dtype='half' is unknown"):
        open_predictor(saved(tmp_path / "ok", "regression"), dtype="half")  # type: ignore[arg-type]
