"""Attention in bfloat16 on a CPU, by whichever way is the faster one.

On a CPU the backward pass of the fused kernel is slow on short inputs in bfloat16: on 128 tokens it takes almost four
times as long as plain matrix products, forward and backward together; on 512 tokens it is the faster one
(`benchmarks/speed/attention_cpu.py`). Without a backward pass plain products win on 512
tokens, too: the fused kernel multiplies in float32, and the processor is four times as fast in bfloat16.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from .modeling.attention_selfattn import eager_attention_forward

# The attention in bfloat16 on a CPU, and the longest input that a training reads by plain products.
CPU_ATTENTION, LONGEST_EAGER = "sdpa_or_eager_on_cpu", 256
# Attention weights that are computed at once without a backward pass: 2 MiB stay in the cache of a core.
WEIGHTS_AT_ONCE = 1 << 20
# A sum of exponentials between it and its reciprocal has lost none of them that counts.
LEAST_SUM = 1e-30


def attention_on_cpu(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend with plain matrix products where these are faster, otherwise with the fused kernel.

    Args:
        query: (B, H, Q, E).
        key: (B, H, K, E).
        value: (B, H, K, E).
        attention_mask: True where attention is allowed, or additive; broadcasts to (B, H, Q, K). None for no mask.
        scaling: factor of the logits, 1 / sqrt(E) where it is not given.
        dropout: share of the attention weights set to 0 in training.
    """
    is_causal = kwargs.get("is_causal")
    looks_back_only = getattr(module, "is_causal", True) if is_causal is None else is_causal
    plain = not looks_back_only and kwargs.get("position_bias") is None and key.shape[:2] == query.shape[:2]
    plain = plain and query.dtype == torch.bfloat16
    trains = torch.is_grad_enabled()
    if not plain or (trains and key.shape[2] > LONGEST_EAGER) or query.shape[2] * key.shape[2] > WEIGHTS_AT_ONCE:
        fused = AttentionInterface()["sdpa"]
        options = {"scaling": scaling, "dropout": dropout, **kwargs}
        attended, weights = fused(module, query, key, value, attention_mask, **options)
        return attended, weights
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        lowest = torch.finfo(query.dtype).min
        attention_mask = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill(~attention_mask, lowest)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if not trains:
        return attend_in_slices(query * scaling, key, value, attention_mask), None
    attended, _ = eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout)
    return attended, None


def attend_in_slices(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Return (B, Q, H, E) attention, so many rows or heads at once that their weights stay in the cache.

    The softmax is the same whatever is taken off its logits. Nothing is, unless a sum of exponentials is out of range;
    that sum comes out of a column of ones beside the values. A bias that all queries share multiplies both.
    """
    B, H, Q, _ = query.shape
    matrices = max(1, WEIGHTS_AT_ONCE // (Q * key.shape[2]))
    num_rows, num_heads = max(1, matrices // H), min(H, matrices)
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    weighted, added = F.pad(value, (0, 1), value=1.0), bias
    if bias is not None and bool((bias[:, :, :1] == bias).all()):
        weighted, added = weighted * bias[:, :, 0, :, None].exp(), None
    bias, added = (None if x is None else x.expand(B, H, -1, -1) for x in (bias, added))
    attended = query.new_empty(B, Q, H, value.shape[-1])
    with torch.autocast(query.device.type, enabled=False):  # it would take a softmax in float32
        for row, head in product(range(0, B, num_rows), range(0, H, num_heads)):
            here = slice(row, row + num_rows), slice(head, head + num_heads)
            weights = biased_logits(query[here], key[here], None if added is None else added[here]).exp_()
            part, total = (weights @ weighted[here]).split([value.shape[-1], 1], dim=-1)
            if bool(((total > LEAST_SUM) & (total < 1 / LEAST_SUM)).all()):
                part = part / total
            else:
                logits = biased_logits(query[here], key[here], None if bias is None else bias[here])
                part = logits.softmax(dim=-1) @ value[here]
            attended[here[0], :, here[1]] = part.transpose(1, 2)
    return attended


def biased_logits(query: Tensor, key: Tensor, bias: Tensor | None) -> Tensor:
    """Return (B, H, Q, K) the logits of attention."""
    logits = query @ key.transpose(-1, -2)
    return logits if bias is None else logits.add_(bias)


AttentionInterface.register(CPU_ATTENTION, attention_on_cpu)
AttentionMaskInterface.register(CPU_ATTENTION, AttentionMaskInterface()["sdpa"])


def use_fast_attention(model: PreTrainedModel) -> None:
    """Let a model that attends with the fused kernel choose by length instead."""
    backbone_config = getattr(model.config, "backbone_config", model.config)
    implementations = {model.config._attn_implementation, backbone_config._attn_implementation}
    if implementations == {"sdpa"}:
        model.set_attn_implementation(CPU_ATTENTION)


def use_fused_attention(model: PreTrainedModel) -> None:
    """Undo `use_fast_attention`."""
    if model.config._attn_implementation == CPU_ATTENTION:
        model.set_attn_implementation("sdpa")
