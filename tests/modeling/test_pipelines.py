"""`pipeline` answers for texts far beyond the window of the backbone, and nothing is cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import WINDOW, tiny_model, tiny_text, tiny_tokenizer
from transformers import AutoTokenizer, pipeline

NUM_WORDS = 10_000
TEXT = tiny_text(NUM_WORDS)
TEXTS = [tiny_text(300, seed=1), tiny_text(4, seed=2), tiny_text(90, seed=3)]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipelines")
    for task in ("single_label", "multi_label", "token"):
        tiny_model(task, block_size=64).save_pretrained(folder / task)
        tiny_tokenizer().save_pretrained(folder / task)
    return folder


def test_tokenizer_cuts_nothing(checkpoints: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "token")
    assert tokenizer.model_max_length > 10**9
    assert len(tokenizer(TEXT)["input_ids"]) == NUM_WORDS + 2 > WINDOW


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_long_text_is_classified_whole(task: str, checkpoints: Path) -> None:
    classify = pipeline("text-classification", model=str(checkpoints / task), top_k=None)
    scores = {answer["label"]: answer["score"] for answer in classify([TEXT])[0]}
    ids = torch.tensor([tiny_tokenizer()(TEXT)["input_ids"]])
    with torch.no_grad():
        logits = classify.model(ids).logits[0]
        without_end = classify.model(ids[:, : NUM_WORDS - 200]).logits[0]
    expected = logits.softmax(dim=-1) if task == "single_label" else logits.sigmoid()
    actual = torch.tensor([scores[f"LABEL_{number}"] for number in range(3)])
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    assert not torch.equal(logits, without_end), "the end of the text has a part in the answer"


def test_long_text_is_tagged_to_its_end(checkpoints: Path) -> None:
    tag = pipeline("token-classification", model=str(checkpoints / "token"), ignore_labels=[])
    entities = tag(TEXT)
    assert len(entities) == NUM_WORDS
    assert [(entity["start"], entity["end"]) for entity in entities] == word_offsets(TEXT)
    with torch.no_grad():
        best = tag.model(torch.tensor([tiny_tokenizer()(TEXT)["input_ids"]])).logits[0, 1:-1].argmax(dim=-1)
    assert [entity["entity"] for entity in entities] == [f"LABEL_{number}" for number in best.tolist()]


def word_offsets(text: str) -> list[tuple[int, int]]:
    offsets, start = [], 0
    for word in text.split(" "):
        offsets.append((start, start + len(word)))
        start += len(word) + 1
    assert offsets[-1][1] == len(text)
    return offsets


def test_text_classification_in_batches_is_equal(checkpoints: Path) -> None:
    classify = pipeline("text-classification", model=str(checkpoints / "single_label"), top_k=None)
    for one, other in zip(classify(TEXTS), classify(TEXTS, batch_size=3), strict=True):
        assert [answer["label"] for answer in one] == [answer["label"] for answer in other]
        assert [answer["score"] for answer in one] == pytest.approx([answer["score"] for answer in other], abs=1e-5)


def test_token_classification_in_batches_is_equal(checkpoints: Path) -> None:
    tag = pipeline("token-classification", model=str(checkpoints / "token"), aggregation_strategy="simple")
    for one, other in zip(tag(TEXTS), tag(TEXTS, batch_size=3), strict=True):
        assert one and [{**entity, "score": 0} for entity in one] == [{**entity, "score": 0} for entity in other]
        assert [entity["score"] for entity in one] == pytest.approx([e["score"] for e in other], abs=1e-5)
    assert max(entity["end"] for entity in tag(TEXTS[0])) == len(TEXTS[0])


def test_pair_of_texts(checkpoints: Path) -> None:
    classify = pipeline("text-classification", model=str(checkpoints / "single_label"), top_k=None)
    answer = classify([{"text": TEXTS[0], "text_pair": TEXTS[2]}])[0]
    encoded = tiny_tokenizer()(TEXTS[0], TEXTS[2], return_tensors="pt").to(classify.device)
    assert set(encoded["token_type_ids"].flatten().tolist()) == {0, 1}
    with torch.no_grad():
        expected = classify.model(**encoded).logits[0].softmax(dim=-1)
    scores = {label["label"]: label["score"] for label in answer}
    assert [scores[f"LABEL_{n}"] for n in range(3)] == pytest.approx(expected.tolist(), abs=1e-5)
