"""The grouped attention as a double loop over heads and tokens, which every fast form is compared with."""

from __future__ import annotations

from math import log, sqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_selfattn.modeling.attention_selfattn import GroupedAttentionHead


def naive_blocks(head: GroupedAttentionHead, u: Tensor, prototypes: Tensor) -> list[list[int]]:
    """The tokens of one row, sorted by their group in one head and inside it, and cut into blocks."""
    highest, group = (x.tolist() for x in (u @ prototypes.T).max(dim=-1))
    level = [int((1 - cosine) * 512) for cosine in highest]
    order = sorted(range(len(u)), key=lambda i: (group[i], level[i], i))
    return [order[start : start + head.block_size] for start in range(0, len(u), head.block_size)]


def naive_shift(
    head: GroupedAttentionHead,
    h: int,
    blocks: list[list[int]],
    q: Tensor,
    own: Tensor,
    k: Tensor,
    u: Tensor,
    v: Tensor,
) -> Tensor:
    """How far the values of far blocks lie from their means for one query, by the derivative of attention in a block.

    The logits of a block's tokens around their mean are s; the sum of s times v is what the covariance of values and
    keys makes of the query, and the sum of s squared is the variance of its logits.
    """
    shift, variance = torch.zeros_like(v[0]), v.new_zeros(())
    for block in blocks:
        logits = [q @ k[j] / sqrt(head.head_dim) + head.metric_scale[h] * (own @ u[j]) for j in block]
        mean = sum(logits) / len(block)
        shift = shift + sum((logit - mean) * v[j] for logit, j in zip(logits, block, strict=True)) / len(v)
        variance = variance + sum((logit - mean) ** 2 for logit in logits) / len(v)
    return shift / (1 + variance)


def naive_grouped(head: GroupedAttentionHead, x: Tensor) -> tuple[Tensor, Tensor]:
    """One row without padding, (N, D): double loop over heads and tokens. Returns (N, D) and (H, N, K)."""
    N, d = len(x), head.head_dim
    projected = head.qkv(x).view(N, head.num_heads, -1)
    u = F.normalize(head.metric(x), dim=-1)
    heads, summaries = [], x.new_zeros(head.num_heads, N, -(-N // head.block_size))
    for h in range(head.num_heads):
        q, k, v = projected[:, h, :d], projected[:, h, d : 2 * d], projected[:, h, 2 * d : 2 * d + head.value_dim]
        blocks = naive_blocks(head, u, head.prototypes[h])
        rows: list[Tensor] = []
        for i in range(N):
            near = next(block for block in blocks if i in block)
            logits = [q[i] @ k[j] / sqrt(d) + head.metric_scale[h] * (u[i] @ u[j]) for j in near]
            values = [v[j] for j in near]
            others = [number for number, block in enumerate(blocks) if i not in block]
            for number in others:
                far = blocks[number]
                similarity = head.metric_scale[h] * (u[i] @ u[far].mean(dim=0))
                logits.append(q[i] @ k[far].mean(dim=0) / sqrt(d) + similarity + log(len(far)))
                values.append(v[far].mean(dim=0))
            weights = torch.stack(logits).softmax(dim=0)
            shift = naive_shift(head, h, blocks, q[i], u[i], k, u, v)
            rows.append(weights @ torch.stack(values) + weights[len(near) :].sum() * shift)
            summaries[h, i, others] = weights[len(near) :].detach()
        heads.append(torch.stack(rows))
    return head.output(torch.cat(heads, dim=-1)), summaries
