"""The second pass over data: k-means puts the prototypes of the grouped attention where tokens are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..modeling.attention_selfattn import GroupedAttentionHead, HeadMasks
from ..modeling.codebook_selfattn import spherical_kmeans
from ..modeling.heads_selfattn import SelfAttnHeads
from .standardisation import read_rows

MOST_TOKENS = 16_384


@torch.no_grad()
def fit_codebooks(
    model: nn.Module,
    rows: Sequence[dict[str, Any]],
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
    seed: int = 0,
) -> None:
    """Set the prototypes of every grouped-attention head to the means that k-means finds among these rows' tokens.

    Each head begins with other draws, so that heads group differently. Heads that stand on other ones are set after
    them. A model with `codebook="random"` is left as it is.
    """
    copies = [module for module in model.modules() if isinstance(module, SelfAttnHeads)]  # PEFT keeps a second copy
    layers = zip(*(grouped_heads(copy) for copy in copies), strict=True)
    for number, heads in enumerate(layers):
        config = heads[0].config
        if config.codebook == "random":
            return
        metric_NE = metric_of(model, heads, rows, collate)
        generator = torch.Generator().manual_seed(seed + number)
        if len(metric_NE) > MOST_TOKENS:
            metric_NE = metric_NE[torch.randperm(len(metric_NE), generator=generator)[:MOST_TOKENS]]
        num_codebooks = config.num_sortings * config.num_grouped_attention_heads
        found = torch.stack([spherical_kmeans(metric_NE, config.num_groups, generator) for _ in range(num_codebooks)])
        for head in heads:
            head.prototypes.copy_(found)


def grouped_heads(heads: SelfAttnHeads) -> list[GroupedAttentionHead]:
    """Return the grouped-attention heads in their order."""
    return [module for module in heads.modules() if isinstance(module, GroupedAttentionHead)]


def metric_of(model: nn.Module, heads: Sequence[GroupedAttentionHead], rows: Any, collate: Any) -> Tensor:
    """Return the unit vectors in which the real tokens of the rows are compared: (N, E)."""
    seen: list[Tensor] = []

    def look(head: GroupedAttentionHead, inputs: tuple[Tensor, HeadMasks]) -> None:
        features_BND, masks = inputs[:2]
        place_N = torch.arange(features_BND.shape[1], device=features_BND.device)
        seen.append(head.unit_metric(features_BND)[place_N < masks.lengths_B[:, None]].float())

    hooks = [head.register_forward_pre_hook(look) for head in heads]
    read_rows(model, rows, collate)
    for hook in hooks:
        hook.remove()
    return torch.cat(seen)
