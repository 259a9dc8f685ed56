"""Words of several tokens, and answers of the token classifier that are legal whatever the scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import BACKBONES, aligned, tiny_batch, tiny_model, tiny_wordpiece
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForTokenClassification, pipeline

from hf_selfattn import SelfAttnForTokenClassification
from hf_selfattn.modeling.decoding_selfattn import crf_nll, transition_mask
from hf_selfattn.modeling.words_selfattn import continuing_labels, find_words, pool_words, token_marks

NAMES = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
LABELS = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
POOLINGS = ["first", "mean"]
PIECES = list(range(85, 97))
TEXT = "w5ab w6 w7c-w8 w9. w10 w11k w12abc " * 9  # 117 tokens, four windows


def tagger(decoding: str = "viterbi", **options: Any) -> Any:
    """A tagger whose scores are large and random, so that its best tags are often illegal."""
    options = {"num_labels": 5, **LABELS, "decoding": decoding, **options}
    model = tiny_model("token", **options)
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    model.continues_word[PIECES] = True
    if model.crf is not None:
        for parameter in model.crf.parameters():
            torch.nn.init.normal_(parameter)
    return model


def legal(names: list[str]) -> bool:
    pairs = zip(["O", *names], names, strict=False)
    return all(name[0] != "I" or before in (f"B{name[1:]}", f"I{name[1:]}") for before, name in pairs)


def word_starts_by_loop(ids: list[int]) -> list[bool]:
    starts = []
    for i, token in enumerate(ids):
        special = token in (0, 3, 4)
        starts.append(not special and (token not in PIECES or i == 0 or ids[i - 1] in (0, 3, 4)))
    return starts


def pool_by_loop(features: Tensor, pooling: str) -> Tensor:
    """The feature of one word, of its tokens' features (n, D)."""
    return features[0] if pooling == "first" else features.mean(dim=0)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_words_are_pooled_as_in_a_loop(side: str, pooling: str) -> None:
    torch.manual_seed(0)
    batch = tiny_batch([23, 9, 1], padding_side=side)
    table = torch.zeros(99, dtype=torch.bool)
    table[40:] = True
    features = torch.randn(*batch["input_ids"].shape, 32, requires_grad=True)
    words = find_words(batch["input_ids"], batch["attention_mask"], [3, 4], table, None)
    expected = [list(row) for row in features]
    for row, ids in enumerate(batch["input_ids"].tolist()):
        groups: list[list[int]] = []
        for i, token in enumerate(ids):
            if token in (3, 4) or not batch["attention_mask"][row, i]:
                groups.append([])
            elif token >= 40 and groups and groups[-1]:
                groups[-1].append(i)
            else:
                groups.append([i])
        for group in filter(None, groups):
            assert words.starts_BT[row, group].tolist() == [True] + [False] * (len(group) - 1)
            for i in group:
                expected[row][i] = pool_by_loop(features[row, group], pooling)
    pooled, naive = pool_words(features, words, pooling), torch.stack([torch.stack(row) for row in expected])
    torch.testing.assert_close(pooled, naive)
    towards = torch.randn_like(pooled)
    for fast, slow in zip(
        torch.autograd.grad(pooled, features, towards), torch.autograd.grad(naive, features, towards), strict=True
    ):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)


def test_given_words_win_and_wrong_shapes_are_named() -> None:
    model, batch = tagger("argmax"), tiny_batch([12, 7])
    starts = torch.zeros_like(batch["input_ids"])
    starts[:, [1, 4]] = 1
    with torch.no_grad():
        best = model(**batch, word_starts=starts).logits.argmax(dim=-1)[0].tolist()
    assert [NAMES[n] for n in best[2:4]] == [NAMES[continuing_labels(NAMES)[best[1]]]] * 2
    with pytest.raises(ValueError, match=r"word_starts has shape \(2, 3\)"):
        model(**batch, word_starts=starts[:, :3])


@pytest.mark.parametrize("decoding", ["argmax", "viterbi", "crf"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_loss_is_that_of_the_words(decoding: str, pooling: str) -> None:
    model, batch = tagger(decoding, word_pooling=pooling), tiny_batch([40, 9])
    starts = torch.tensor([word_starts_by_loop(ids) for ids in batch["input_ids"].tolist()])
    labels = torch.where(starts, 1, -100)
    with torch.no_grad():
        features = model.model(**batch).last_hidden_state
        total, count = torch.zeros(()), 0
        for row in range(2):
            begins = starts[row].nonzero()[:, 0].tolist()
            scores = []
            for begin in begins:
                stop = begin + 1
                while stop < 40 and int(batch["input_ids"][row, stop]) in PIECES:
                    stop += 1
                vector = pool_by_loop(features[row, begin:stop], pooling)
                scores.append(model.classifier(vector))
            answers = torch.ones(len(begins), dtype=torch.long)
            if decoding == "crf":
                mask = torch.ones(1, len(begins), dtype=torch.bool)
                tables = model.crf.tables()
                total += crf_nll(torch.stack(scores)[None], answers[None], mask, *tables).sum()
            else:
                total += F.cross_entropy(torch.stack(scores), answers, reduction="sum")
            count += len(begins)
        actual = model(**batch, labels=labels).loss
        torch.testing.assert_close(actual, total / count, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            model(**batch, labels=labels, num_items_in_batch=7).loss, total / 7, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("decoding", ["viterbi", "crf"])
def test_answers_are_legal_under_any_padding_and_length(decoding: str) -> None:
    model = tagger(decoding)
    raw = tagger("argmax")
    broken = 0
    for side in ("right", "left"):
        batch = tiny_batch([200, 33, 12, 1], padding_side=side)
        with torch.no_grad():
            best = model(**batch).logits.argmax(dim=-1)
            plain = raw(**batch).logits.argmax(dim=-1)
        for row, ids in enumerate(batch["input_ids"].tolist()):
            text = [i for i, token in enumerate(ids) if token not in (0, 3, 4)]
            assert legal([NAMES[n] for n in best[row, text].tolist()])
            broken += not legal([NAMES[n] for n in plain[row, text].tolist()])
        if side == "right":
            first = [best[row, : int(m.sum())].tolist() for row, m in enumerate(batch["attention_mask"])]
        else:
            second = [best[row, -int(m.sum()) :].tolist() for row, m in enumerate(batch["attention_mask"])]
    assert first == second and broken


def test_scores_are_marginals_of_the_best_legal_path() -> None:
    model, batch = tagger("viterbi"), tiny_batch([6])
    with torch.no_grad():
        words = find_words(batch["input_ids"], None, [3, 4], model.continues_word, None)
        scores = model.classifier(pool_words(model.model(**batch).last_hidden_state, words, "mean"))
        answer = model.eval()(**batch).logits[0]
    starts = [i for i, first in enumerate(word_starts_by_loop(batch["input_ids"][0].tolist())) if first]
    start, transitions, end = transition_mask(NAMES)
    paths = torch.cartesian_prod(*[torch.arange(5)] * len(starts)).view(-1, len(starts))
    fine = start[paths[:, 0]] & end[paths[:, -1]]
    for i in range(len(starts) - 1):
        fine &= transitions[paths[:, i], paths[:, i + 1]]
    totals = sum(scores[0, begin, paths[:, i]] for i, begin in enumerate(starts))
    totals = torch.where(fine, totals, -torch.inf)
    best, probs = paths[totals.argmax()], totals.softmax(dim=0)
    for i, begin in enumerate(starts):
        marginal = torch.stack([probs[paths[:, i] == label].sum() for label in range(5)])
        assert answer[begin].argmax() == best[i]
        actual, expected = answer[begin].exp().sort().values, marginal.sort().values
        torch.testing.assert_close(actual, expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("decoding", ["argmax", "viterbi", "crf"])
def test_saved_tagger_answers_alike(decoding: str, tmp_path: Path) -> None:
    model, batch = tagger(decoding), tiny_batch([50, 9])
    model.save_pretrained(tmp_path)
    reopened = aligned(AutoModelForTokenClassification.from_pretrained(tmp_path))
    with torch.no_grad():
        assert torch.equal(reopened(**batch).logits, model(**batch).logits)
    if decoding == "crf":
        assert torch.equal(reopened.crf.legal_transitions, transition_mask(NAMES)[1])


def test_crf_begins_at_zero_and_trains_beside_adapters(tmp_path: Path) -> None:
    folder = tmp_path / "backbone"
    AutoModel.from_config(BACKBONES["bert"]).save_pretrained(folder)
    tiny_wordpiece().save_pretrained(folder)
    model = SelfAttnForTokenClassification.from_backbone(str(folder), decoding="crf", head_dim=8, **LABELS)
    assert all(not parameter.any() for parameter in model.crf.parameters())
    assert model.continues_word.nonzero()[:, 0].tolist() == PIECES
    config = LoraConfig(r=4, target_modules=["query"], modules_to_save=["heads", "classifier", "crf"])
    adapted = get_peft_model(model, config).train()
    batch = tiny_batch([30, 9])
    labels = torch.where(batch["attention_mask"].bool(), 1, -100)
    adapted(**batch, labels=labels).loss.backward()
    trained = [name for name, p in adapted.named_parameters() if "crf" in name and p.requires_grad]
    assert len(trained) == 3 and all(adapted.get_parameter(name).grad.any() for name in trained)
    with torch.no_grad():
        adapted.eval()(**batch)
        for name in trained:
            adapted.get_parameter(name).normal_()
        expected: Tensor = adapted(**batch).logits
        torch.testing.assert_close(adapted.merge_and_unload().eval()(**batch).logits, expected)


def test_new_tokens_begin_words() -> None:
    model = tagger()
    model.resize_token_embeddings(105)
    assert len(model.continues_word) == 105 and model.continues_word.nonzero()[:, 0].tolist() == PIECES


@pytest.mark.parametrize("decoding", ["argmax", "viterbi", "crf"])
@pytest.mark.parametrize("strategy", ["none", "simple", "first", "max"])
def test_pipeline_finds_whole_legal_entities(decoding: str, strategy: str) -> None:
    model, tokenizer = tagger(decoding), tiny_wordpiece()
    assert [i for i, mark in enumerate(token_marks(tokenizer)) if mark] == PIECES
    tag = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy=strategy)
    entities = tag(TEXT)
    encoded = tokenizer(TEXT, return_offsets_mapping=True)
    with torch.no_grad():
        best = model(torch.tensor([encoded["input_ids"]])).logits[0].argmax(dim=-1).tolist()
    names = [NAMES[n] for n in best[1:-1]]
    spans, offsets = [], encoded["offset_mapping"][1:-1]
    if strategy == "none":
        expected = [(s, e, name) for (s, e), name in zip(offsets, names, strict=True) if name != "O"]
        assert [(x["start"], x["end"], x["entity"]) for x in entities] == expected
        return
    assert decoding == "argmax" or legal(names)
    for (start, end), name in zip(offsets, names, strict=True):
        if name[0] == "B" or (name[0] == "I" and not (spans and spans[-1][3] and spans[-1][2] == name[2:])):
            spans.append([start, end, name[2:], True])
        elif name[0] == "I":
            spans[-1][1] = end
        elif spans:
            spans[-1][3] = False
    assert [(x["start"], x["end"], x["entity_group"]) for x in entities] == [tuple(span[:3]) for span in spans]
    assert len(spans) > 10 and entities[-1]["end"] > len(TEXT) - 20


def test_embeddings_need_word_starts() -> None:
    model, batch = tagger(), tiny_batch([12, 7])
    batch["input_ids"][:, 3] = PIECES[0]
    starts = torch.tensor([word_starts_by_loop(ids) for ids in batch["input_ids"].tolist()]).long()
    embeddings = model.get_input_embeddings()(batch["input_ids"])
    with pytest.raises(ValueError, match="inputs_embeds do not tell which tokens go on.*Give word_starts"):
        model(inputs_embeds=embeddings, attention_mask=batch["attention_mask"])
    expected = model(**batch).logits
    actual = model(inputs_embeds=embeddings, attention_mask=batch["attention_mask"], word_starts=starts).logits
    words = torch.stack(
        [torch.tensor([token not in (0, 3, 4) for token in ids]) for ids in batch["input_ids"].tolist()]
    )
    torch.testing.assert_close(actual[words], expected[words])
