"""The standard pipeline finds the entities that the recipe predicts, for every family of tokenizers and strategy."""

from __future__ import annotations

import warnings
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny_models import BACKBONES, family_tokenizer, tiny_model
from transformers import pipeline

from hf_selfattn.modeling.words_selfattn import BLANK, CLOSES, CONTINUES, token_marks
from hf_selfattn.tasks.tag_encoding import encode_split, tags_of_words

FAMILIES = ["bert", "roberta", "xlm-roberta", "deberta-v2", "modernbert"]
NAMES = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
LABELS = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
TEXTS = ["the kettle boils fast and looks neat", "Lisbon and Ghent signed a deal .", "Jonas met Bo in Ghent , later"]
# Known and unknown, of one piece and of many, with letters, digits and signs that the tokenizers have never seen.
WORDS = ["Jonas", "Ghent", "Tefal", "Qqx", "met", "in", ",", ".", "(", "12", "7", "中", "é", "Ødegård", "x", "kettle"]
ROWS = 30


def sentences(seed: int = 0) -> Dataset:
    random = np.random.default_rng(seed)
    tokens = [random.choice(WORDS, size=random.integers(1, 12)).tolist() for _ in range(ROWS)]
    return Dataset.from_dict({"tokens": tokens, "tags": [[0] * len(words) for words in tokens]})


def tagger(family: str, decoding: str, tokenizer: Any) -> Any:
    """A tagger of large random scores, whose entities are many, short, and often touch."""
    before = deepcopy(BACKBONES[family])
    try:
        BACKBONES[family].vocab_size = len(tokenizer)
        BACKBONES[family].pad_token_id = 1
        model = tiny_model("token", family, decoding=decoding, prefix_token_ids=[0], suffix_token_ids=[2], **LABELS)
    finally:
        BACKBONES[family] = before
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    for parameter in [] if model.crf is None else model.crf.parameters():
        torch.nn.init.normal_(parameter)
    model.read_marks(tokenizer)
    return model


def entities_of_tags(words: list[str], tags: list[int]) -> list[tuple[int, int, str]]:
    """Start, end and type of each entity in the words joined by spaces."""
    found: list[list[Any]] = []
    place = 0
    for word, tag in zip(words, (NAMES[tag] for tag in tags), strict=True):
        if tag[0] == "B":
            found.append([place, place + len(word), tag[2:]])
        elif tag[0] == "I":
            found[-1][1] = place + len(word)
        place += len(word) + 1
    return [(start, end, kind) for start, end, kind in found]


def without_spaces(text: str, start: int, end: int) -> tuple[int, int]:
    """Tokens of some families begin with the space before their word."""
    return start + len(text[start:end]) - len(text[start:end].lstrip()), end


def entities_of_pipeline(answer: list[dict[str, Any]], text: str, strategy: str) -> list[tuple[int, int, str]]:
    if strategy != "none":
        for entity in answer:
            assert text[entity["start"] : entity["end"]].strip()
        return [(*without_spaces(text, e["start"], e["end"]), e["entity_group"]) for e in answer]
    found: list[list[Any]] = []
    for token in answer:
        start, end = without_spaces(text, token["start"], token["end"])
        last = found[-1] if found else None
        if token["entity"][0] == "I" and last and last[2] == token["entity"][2:] and last[3] == token["index"] - 1:
            last[1], last[3] = max(last[1], end), token["index"]
        else:
            assert start < end, "no entity begins with a token that shows nothing"
            found.append([start, end, token["entity"][2:], token["index"]])
    return [(start, end, kind) for start, end, kind, _ in found]


@pytest.mark.parametrize("decoding", ["viterbi", "crf", "argmax"])
@pytest.mark.parametrize("family", FAMILIES)
def test_pipeline_finds_the_entities_of_the_recipe(family: str, decoding: str) -> None:
    tokenizer = family_tokenizer(family, TEXTS * 40)
    model, split = tagger(family, decoding, tokenizer), sentences()
    encoded = encode_split(split, tokenizer, NAMES, whole_documents=False)
    answers = []
    for ids in encoded["input_ids"]:
        with torch.no_grad():
            answers.append(model(torch.tensor([ids])).logits[0].argmax(dim=-1).numpy())
    expected = tags_of_words(answers, list(range(len(split))), encoded, split, NAMES)
    touching = 0
    for strategy in ("none", "simple", "first", "max"):
        tag = pipeline("ner", model=model, tokenizer=tokenizer, aggregation_strategy=strategy)
        for words, tags in zip(split["tokens"], expected, strict=True):
            text = " ".join(words)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Tokenizer does not support real words")
                found = entities_of_pipeline(tag(text), text, strategy)
            entities = entities_of_tags(words, tags)
            assert found == entities, (strategy, text)
            touching += sum(
                a[1] + 1 == b[0] and a[2] == b[2] for a, b in zip(entities[:-1], entities[1:], strict=True)
            )
    assert touching > 4


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_known_of_a_token(family: str) -> None:
    tokenizer = family_tokenizer(family, TEXTS * 40)
    marks = token_marks(tokenizer)
    known = {token: marks[number] for token, number in tokenizer.get_vocab().items()}
    if family == "bert":
        assert known["##t"] == CONTINUES and known["t"] == known["."] == known["<unk>"] == 0
        assert set(marks) == {0, CONTINUES}
        return
    space = "▁" if family in ("xlm-roberta", "deberta-v2") else "Ġ"
    assert known[space] == BLANK and known["t"] == CONTINUES and known["."] == CLOSES
    assert any(token[0] == space and len(token) > 1 and mark == 0 for token, mark in known.items())
