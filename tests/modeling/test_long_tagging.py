"""A text of 5,000 words through the standard pipeline: every entity found to its end, with exact offsets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_model, tiny_wordpiece
from transformers import pipeline

from hf_selfattn.modeling.words_selfattn import token_marks

NAMES = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
LABELS = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
Entity = tuple[int, int, str]

pytestmark = pytest.mark.slow


def make_text(words: int, random: np.random.Generator) -> tuple[str, list[Entity]]:
    """A text that ends in a person, and its entities: w5 … w24 are places, w25 … w44 w45 … w54 a person."""
    text, entities, count = "", [], 0
    while count < words:
        kind = "PER" if count >= words - 2 else random.choice(["LOC", "PER", "", ""])
        ranges = {"LOC": [(5, 25)], "PER": [(25, 45), (45, 55)], "": [(55, 85)]}[kind]
        pieces = ["".join(random.choice(list("abc"), random.integers(0, 4))) for _ in ranges]
        name = " ".join(f"w{random.integers(*r)}{end}" for r, end in zip(ranges, pieces, strict=True))
        if kind:
            entities.append((len(text), len(text) + len(name), str(kind)))
        text, count = f"{text}{name} ", count + len(ranges)
    return text.rstrip(), entities


def batch_of(tokenizer: Any, random: np.random.Generator, rows: int) -> dict[str, torch.Tensor]:
    """Short texts with the labels of their words."""
    texts = [make_text(12, random) for _ in range(rows)]
    encoded = tokenizer([text for text, _ in texts], padding=True, return_offsets_mapping=True, return_tensors="pt")
    offsets, labels = encoded.pop("offset_mapping").tolist(), torch.full_like(encoded["input_ids"], -100)
    for row, (_, entities) in enumerate(texts):
        begins = {start: f"B-{kind}" for start, _, kind in entities}
        inside = {i: f"I-{kind}" for start, end, kind in entities for i in range(start + 1, end)}
        for i, (start, end) in enumerate(offsets[row]):
            if start < end:
                labels[row, i] = NAMES.index({**inside, **begins}.get(start, "O"))
    labels[torch.tensor(token_marks(tokenizer))[encoded["input_ids"]].bool()] = -100
    return {**encoded, "labels": labels}


@pytest.fixture(scope="module")
def tagger() -> Any:
    model, tokenizer, random = tiny_model("token", **LABELS), tiny_wordpiece(), np.random.default_rng(0)
    model.read_marks(tokenizer)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=5e-3)
    for _ in range(100):
        optimizer.zero_grad()
        loss = model(**batch_of(tokenizer, random, 16)).loss
        loss.backward()
        optimizer.step()
    assert loss < 0.05, "the words show their tags"
    return model.eval()


@pytest.mark.parametrize("strategy", ["simple", "first", "max"])
def test_entities_of_5000_words_are_found_to_the_end(tagger: Any, strategy: str) -> None:
    text, expected = make_text(5000, np.random.default_rng(1))
    tag = pipeline("token-classification", model=tagger, tokenizer=tiny_wordpiece(), aggregation_strategy=strategy)
    found = tag(text)
    entities = [(entity["start"], entity["end"], entity["entity_group"]) for entity in found]
    assert len(text.split()) >= 5000 and len(expected) > 1500
    assert len(set(entities) & set(expected)) > 0.99 * max(len(expected), len(entities))
    assert entities[-3:] == expected[-3:] and entities[-1][1] == len(text)
