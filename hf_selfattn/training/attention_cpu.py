"""Attention for bfloat16 training on a CPU, where the fused kernel's backward pass is slow on short inputs.

`benchmarks/attention_cpu.py` measures it: on 128 tokens the fused kernel takes almost four times as long as plain
matrix products, forward and backward together; on 512 tokens it is the faster one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from ..modeling.attention_selfattn import eager_attention_forward

NAME = "sdpa_or_eager_on_cpu"
LONGEST_EAGER = 256


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
    """Attend with plain matrix products where these are faster in training, otherwise with the fused kernel.

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
    trains = torch.is_grad_enabled() and query.dtype == torch.bfloat16
    if not (plain and trains and key.shape[2] <= LONGEST_EAGER):
        fused = AttentionInterface()["sdpa"]
        options = {"scaling": scaling, "dropout": dropout, **kwargs}
        attended, weights = fused(module, query, key, value, attention_mask, **options)
        return attended, weights
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        lowest = torch.finfo(query.dtype).min
        attention_mask = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill(~attention_mask, lowest)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    attended, _ = eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout)
    return attended, None


AttentionInterface.register(NAME, attention_on_cpu)
AttentionMaskInterface.register(NAME, AttentionMaskInterface()["sdpa"])


def use_fast_attention(model: PreTrainedModel) -> None:
    """Let a model that attends with the fused kernel choose by length instead."""
    backbone_config = getattr(model.config, "backbone_config", model.config)
    implementations = {model.config._attn_implementation, backbone_config._attn_implementation}
    if implementations == {"sdpa"}:
        model.set_attn_implementation(NAME)


def use_fused_attention(model: PreTrainedModel) -> None:
    """Undo `use_fast_attention`."""
    if model.config._attn_implementation == NAME:
        model.set_attn_implementation("sdpa")
