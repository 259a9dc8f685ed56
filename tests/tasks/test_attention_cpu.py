from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import main_output, tiny_batch, tiny_model
from torch import Tensor, nn
from torch.nn import functional as F

from hf_selfattn import cpu_attention
from hf_selfattn.cpu_attention import CPU_ATTENTION, attention_on_cpu, use_fast_attention, use_fused_attention

MASKS = {
    "none": None,
    "bool": torch.arange(7) < torch.tensor([[7], [4]])[:, None, None],
    "additive": torch.randn(2, 1, 1, 7, generator=torch.Generator().manual_seed(3)).bfloat16(),
}


class Encoder(nn.Module):
    is_causal = False


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("trains", [True, False])
def test_both_ways_attend_alike(mask: str, trains: bool) -> None:
    query, key, value = (torch.randn(2, 3, 7, 8).bfloat16().requires_grad_(trains) for _ in range(3))
    with torch.set_grad_enabled(trains):
        attended, weights = attention_on_cpu(Encoder(), query, key, value, MASKS[mask])
    assert weights is None and attended.dtype == torch.bfloat16
    wanted = F.scaled_dot_product_attention(
        query.double(), key.double(), value.double(), attn_mask=as_double(MASKS[mask])
    ).transpose(1, 2)
    torch.testing.assert_close(attended.double(), wanted, atol=0.03, rtol=0.03)
    if trains:
        tensors = (query, key, value)
        towards = torch.randn_like(wanted)
        mine = torch.autograd.grad((attended.double() * towards).sum(), tensors)
        theirs = torch.autograd.grad((wanted * towards).sum(), tensors)
        for gradient, reference in zip(mine, theirs, strict=True):
            torch.testing.assert_close(gradient, reference, atol=0.06, rtol=0.06)


@pytest.mark.parametrize(("level", "rows", "heads"), [(0, 3, 5), (0, 1, 5), (200, 2, 3), (-200, 2, 3)])
def test_slices_of_rows_and_heads_of_any_logits(level: int, rows: int, heads: int, monkeypatch: Any) -> None:
    """Rows and heads go in slices, and logits beyond the range of exponentials by a softmax of their own."""
    monkeypatch.setattr(cpu_attention, "WEIGHTS_AT_ONCE", {3: 5 * 7 * 7, 1: 2 * 7 * 7, 2: 7 * 7}[rows])
    query, key, value = (torch.randn(rows, heads, 7, 8).bfloat16() for _ in range(3))
    bias = torch.full((rows, 1, 1, 7), float(level)).masked_fill(torch.arange(7) > 4, torch.finfo(torch.bfloat16).min)
    logits = (query * 8**-0.5 @ key.transpose(-1, -2)) + bias.bfloat16()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        attended, _ = attention_on_cpu(Encoder(), query, key, value, bias.bfloat16())
    wanted = (logits.double().softmax(dim=-1) @ value.double()).transpose(1, 2)
    torch.testing.assert_close(attended.double(), wanted, atol=0.03, rtol=0.03)


def test_a_causal_layer_stays_causal() -> None:
    query, key, value = (torch.randn(2, 3, 7, 8).bfloat16().requires_grad_() for _ in range(3))
    attended, _ = attention_on_cpu(
        nn.Identity(), query, key, value, None
    )  # a layer is causal unless it says otherwise
    wanted = F.scaled_dot_product_attention(query.double(), key.double(), value.double(), is_causal=True)
    torch.testing.assert_close(attended.double(), wanted.transpose(1, 2), atol=0.03, rtol=0.03)


def as_double(mask: Tensor | None) -> Tensor | None:
    return mask if mask is None or mask.dtype == torch.bool else mask.double()


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "modernbert"])
def test_a_model_answers_the_same_with_it(family: str) -> None:
    batch = tiny_batch([40, 9], family)
    model = tiny_model(family=family)
    before = main_output(model(**batch))
    use_fast_attention(model)
    assert model.config._attn_implementation == model.config.backbone_config._attn_implementation == CPU_ATTENTION
    torch.testing.assert_close(main_output(model(**batch)), before, atol=1e-6, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(main_output(model(**batch)).float(), before, atol=0.05, rtol=0)
    use_fused_attention(model)
    assert model.config._attn_implementation == model.config.backbone_config._attn_implementation == "sdpa"


def test_a_model_that_attends_otherwise_is_left_alone() -> None:
    model = tiny_model(attn_implementation="eager")
    use_fast_attention(model)
    assert model.config._attn_implementation == "eager"
    use_fused_attention(model)
    assert model.config._attn_implementation == "eager"
