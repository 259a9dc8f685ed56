"""The optional outputs, the choice of attention kernels, and what becomes of special tokens, segments and fusion."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
import torch
from tiny_models import CLS, SEP, WINDOW, main_output, tiny_batch, tiny_model
from torch import nn

LONG = [3 * WINDOW + 5, 9, WINDOW + 7]


def eager_model(task: str = "single_label", **options: Any) -> nn.Module:
    model = tiny_model(task, **options)
    model.set_attn_implementation("eager")
    return model


@pytest.mark.parametrize("rows", [LONG, [7, 5]])  # several blocks, and one
@pytest.mark.parametrize("side", ["right", "left"])
def test_output_attentions(rows: list[int], side: str) -> None:
    model = eager_model(num_head_layers=2)
    batch = tiny_batch(rows, padding_side=side)
    outputs = model(**batch, output_attentions=True)
    B, N = batch["input_ids"].shape
    H, G, K = 3, 4, -(-N // model.config.block_size)
    assert [ids.shape for ids in outputs.group_ids] == [(B, H, N)] * 2
    assert [probs.shape for probs in outputs.group_probs] == [(B, H, N, G)] * 2
    assert [summary.shape for summary in outputs.summary_attentions] == [(B, H, N, K)] * 2
    assert [weights.shape for weights in outputs.fusion_weights] == [(2,)] * 2
    assert len(outputs.attentions) == model.config.num_hidden_layers
    torch.testing.assert_close(outputs.logits, model(**batch).logits, atol=1e-6, rtol=0)
    for row, length in enumerate(rows):
        alone = model(batch["input_ids"][row, batch["attention_mask"][row].bool()][None], output_attentions=True)
        place = slice(0, length) if side == "right" else slice(N - length, N)
        for layer in range(2):
            assert torch.equal(outputs.group_ids[layer][row, :, place], alone.group_ids[layer][0])
            ours = outputs.summary_attentions[layer][row, :, place, : alone.summary_attentions[layer].shape[-1]]
            torch.testing.assert_close(ours, alone.summary_attentions[layer][0], atol=1e-5, rtol=0)
            ours = outputs.group_probs[layer][row, :, place]
            torch.testing.assert_close(ours, alone.group_probs[layer][0], atol=1e-4, rtol=0)


def test_backbone_attentions_of_a_split_input_are_one_per_window() -> None:
    outputs = eager_model()(**tiny_batch(LONG), output_attentions=True)
    heads, windows = 4, 4 + 1 + 2
    assert all(layer.shape == (windows, heads, layer.shape[2], layer.shape[2]) for layer in outputs.attentions)


def test_output_attentions_of_other_kernels_are_empty() -> None:
    model, batch = tiny_model(), tiny_batch([40, 5])
    outputs = model(**batch, output_attentions=True)
    assert not outputs.attentions and outputs.group_ids is None
    assert torch.equal(outputs.logits, model(**batch).logits)


@pytest.mark.parametrize("task", ["model", "single_label", "token"])
@pytest.mark.parametrize("rows", [LONG, [7, 5]])
def test_hidden_states_of_some_layers(task: str, rows: list[int]) -> None:
    model, batch = tiny_model(task, num_mixed_layers=2), tiny_batch(rows, padding_side="left")
    every = model(**batch, output_hidden_states=True).hidden_states
    some = model(**batch, output_hidden_states=[0, -1]).hidden_states
    assert [layer is None for layer in some] == [False, True, False]
    assert torch.equal(some[0], every[0]) and torch.equal(some[2], every[2])
    with pytest.raises(IndexError):
        model(**batch, output_hidden_states=[3])


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("rows", [LONG, [7, 5]])
def test_hidden_states_get_their_gradient(rows: list[int], side: str) -> None:
    model, batch = tiny_model(), tiny_batch(rows, padding_side=side)
    outputs = model(**batch, output_hidden_states=True)
    torch.save(outputs.hidden_states, BytesIO())  # plain tensors
    for layer in outputs.hidden_states:
        layer.retain_grad()
    outputs.logits.sum().backward()
    real = batch["attention_mask"].bool()
    for layer in outputs.hidden_states:
        assert layer.grad.shape == layer.shape
        assert layer.grad[real].abs().sum(dim=-1).gt(0).all()
    alone = model(batch["input_ids"][1, real[1]][None], output_hidden_states=True)
    alone.hidden_states[-1].retain_grad()
    alone.logits.sum().backward()
    expected = outputs.hidden_states[-1].grad[1, real[1]]
    torch.testing.assert_close(alone.hidden_states[-1].grad[0], expected, atol=1e-5, rtol=1e-4)


def test_without_grouped_heads_there_are_no_groups() -> None:
    outputs = eager_model(num_grouped_attention_heads=0)(**tiny_batch([5]), output_attentions=True)
    assert outputs.group_ids == outputs.summary_attentions == () and len(outputs.fusion_weights) == 1


@pytest.mark.parametrize("task", ["single_label", "token"])
@pytest.mark.parametrize("rows", [LONG, [7, 5]])
def test_attention_implementations_agree(task: str, rows: list[int]) -> None:
    batch = tiny_batch(rows)
    choices = ["sdpa", "eager", {"": "eager", "backbone_config": "sdpa"}, {"": "sdpa", "backbone_config": "eager"}]
    outputs = []
    for choice in choices:
        model = tiny_model(task, attn_implementation=choice)
        chosen = choice if isinstance(choice, dict) else {"": choice, "backbone_config": choice}
        assert model.config._attn_implementation == chosen[""]
        assert model.base_model.backbone.config._attn_implementation == chosen["backbone_config"]
        outputs.append(main_output(model(**batch)))
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0], atol=1e-5, rtol=0)


def test_set_attn_implementation() -> None:
    model = tiny_model()
    model.set_attn_implementation({"": "eager", "backbone_config": "sdpa"})
    assert model.config._attn_implementation == "eager"
    assert model.model.backbone.config._attn_implementation == "sdpa"
    model.set_attn_implementation("sdpa")
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("rows", [LONG, [7, 5]])
@pytest.mark.parametrize("pooling", ["mean", "cls", "class_query"])
def test_fusion_weights_of_0_make_a_linear_head_on_the_backbone(pooling: str, rows: list[int]) -> None:
    model = tiny_model("single_label", pooling=pooling, fusion_init=0.0)
    batch = tiny_batch(rows)
    mask = batch["attention_mask"][..., None]
    features = model(**batch, output_hidden_states=True).hidden_states[-1]
    if max(rows) <= WINDOW:
        features = model.model.backbone(**batch).last_hidden_state
    pooled = features[:, 0] if pooling == "cls" else (features * mask).sum(dim=1) / mask.sum(dim=1)
    if pooling == "class_query":
        expected = model.classifier.vote(pooled) + model.classifier.generic_vote(pooled)
    else:
        expected = model.classifier.linear(pooled)
    torch.testing.assert_close(model(**batch).logits, expected, atol=1e-6, rtol=0)


def test_fusion_weights_of_0_make_a_linear_tagger_on_the_backbone() -> None:
    model = tiny_model("token", fusion_init=0.0)
    batch = tiny_batch([20, 7])
    expected = model.classifier(model.model.backbone(**batch).last_hidden_state)
    is_real = batch["attention_mask"].bool()
    torch.testing.assert_close(model(**batch).logits[is_real], expected[is_real], atol=1e-6, rtol=0)


def test_training_starts_near_the_linear_head() -> None:
    near = tiny_model("token", fusion_init=0.1)
    linear = tiny_model("token", fusion_init=0.0)
    linear.load_state_dict({k: v for k, v in near.state_dict().items() if "fusion" not in k}, strict=False)
    batch = tiny_batch([20, 18])
    difference = (near(**batch).logits - linear(**batch).logits).norm() / linear(**batch).logits.norm()
    assert 0 < difference < 0.1


def test_layer_mix_starts_at_the_mean_and_is_a_weighted_sum() -> None:
    model = tiny_model("model", num_mixed_layers=3, num_self_attention_heads=0, num_grouped_attention_heads=0)
    batch = tiny_batch([20, 20])
    outputs = model(**batch, output_hidden_states=True)
    torch.testing.assert_close(outputs.last_hidden_state, torch.stack(outputs.hidden_states).mean(0))
    weights = torch.tensor([0.2, -0.5, 3.0])
    model.heads.layer_weight.data.copy_(weights)
    expected = sum(weight * layer for weight, layer in zip(weights, outputs.hidden_states, strict=True))
    torch.testing.assert_close(model(**batch).last_hidden_state, expected)


def test_segments_reach_the_backbone() -> None:
    model = tiny_model()
    short, long = tiny_batch([20]), tiny_batch([90])
    for batch in (short, long):
        half = batch["input_ids"].shape[1] // 2
        segments = (torch.arange(batch["input_ids"].shape[1]) >= half).long()[None]
        with_pair = model(**batch, token_type_ids=segments).logits
        assert not torch.allclose(with_pair, model(**batch).logits, atol=1e-4)
        all_first = model(**batch, token_type_ids=torch.zeros_like(segments)).logits
        assert torch.equal(all_first, model(**batch).logits)


def test_segments_of_a_split_pair_are_those_of_its_windows() -> None:
    """The features of a window inside the second text are those of that window read by itself."""
    model = tiny_model("model", subsequence_stride=0, num_self_attention_heads=0, num_grouped_attention_heads=0)
    batch = tiny_batch([2 + 60])  # two windows of 30 words
    segments = torch.tensor([[0] * 31 + [1] * 31])
    features = model(**batch, token_type_ids=segments).last_hidden_state
    window = torch.cat([torch.tensor([[CLS]]), batch["input_ids"][:, 31:61], torch.tensor([[SEP]])], dim=1)
    types = torch.tensor([[0] + [1] * 31])
    expected = model.backbone(window, token_type_ids=types).last_hidden_state
    torch.testing.assert_close(features[:, 31:], expected[:, 1:], atol=1e-5, rtol=0)


def test_backbone_without_segments_reads_none() -> None:
    model = tiny_model(family="distilbert")
    batch = tiny_batch([9])
    segments = torch.ones_like(batch["input_ids"])
    assert torch.equal(model(**batch, token_type_ids=segments).logits, model(**batch).logits)


def test_rows_shorter_than_their_special_tokens() -> None:
    """A row of one token beside a long row is that token, though it is the opening and the closing token alike."""
    model = tiny_model(prefix_token_ids=[CLS], suffix_token_ids=[CLS])
    batch = tiny_batch([80, 1])
    batch["input_ids"][1, 0] = CLS
    alone = model(torch.tensor([[CLS]])).logits[0]
    torch.testing.assert_close(model(**batch).logits[1], alone, atol=1e-5, rtol=0)
    embeddings = model.get_input_embeddings()(batch["input_ids"])
    from_embeddings = model(inputs_embeds=embeddings, attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(from_embeddings[1], alone, atol=1e-5, rtol=0)


def test_padding_ids_have_no_part() -> None:
    model = tiny_model("token")
    batch = tiny_batch(LONG)
    is_real = batch["attention_mask"].bool()
    expected = model(**batch).logits[is_real]
    batch["input_ids"] = batch["input_ids"].masked_fill(~is_real, SEP)
    torch.testing.assert_close(model(**batch).logits[is_real], expected, atol=1e-5, rtol=0)


def test_return_dict_false() -> None:
    model = tiny_model()
    batch = tiny_batch([9])
    outputs = model(**batch, return_dict=False)
    assert isinstance(outputs, tuple) and torch.equal(outputs[0], model(**batch).logits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": None}, "Give exactly one of input_ids and inputs_embeds"),
        ({"attention_mask": torch.ones(1, 4)}, r"attention_mask has shape \(1, 4\), but the input has \(1, 9\)"),
        ({"position_ids": torch.zeros(1, 9)}, r"SelfAttnModel does not read \['position_ids'\]"),
        ({"input_ids": torch.zeros(1, 0, dtype=torch.long)}, "The input has no tokens"),
    ],
)
def test_bad_inputs(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_model()(**{**tiny_batch([9]), **change})
