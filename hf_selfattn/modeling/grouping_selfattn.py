# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""Divide tokens into similarity groups, sort them by group and cut the sorted sequence into equal blocks.

Shape suffixes: B rows, N tokens, H heads, G groups, K blocks, W tokens of a block, M = K * W places, E width of a
vector, V columns of values. `lengths_B` is the number of real tokens of each row, `counts_BK` that of each block.
"""

import torch
from torch import Tensor

from .subsequences_selfattn import invert_permutation

Blocks = tuple[Tensor, Tensor, Tensor]  # queries, keys and values, each (B, K, W, H, E)
Means = tuple[Tensor, Tensor]  # mean keys and mean values of the blocks, each (B, K, H, E)

TEMPERATURE = 0.1  # of the group probabilities that are reported
LEVELS = 1024  # of the similarity to a prototype, from 1 to -1, in the order of a group


def group_similarity(metric_BNE: Tensor, prototypes_HGE: Tensor) -> Tensor:
    """Return (B, H, N, G) the cosine similarity of each token to each prototype of each head."""
    H, G, E = prototypes_HGE.shape
    similarity = metric_BNE @ prototypes_HGE.reshape(H * G, E).T.to(metric_BNE.dtype)
    return similarity.unflatten(-1, (H, G)).transpose(1, 2)


def group_probabilities(similarity_BHNG: Tensor) -> Tensor:
    """Return the softmax of the similarity to each group, as it is reported."""
    return (similarity_BHNG / TEMPERATURE).softmax(dim=-1)


@torch.no_grad()
def sort_by_group(similarity_BHNG: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the group of each token (B, H, N), and the order by it and inside it, padding last, with its inverse.

    The key `(group * LEVELS + level) * N + position` is an integer of its own for each token, so the order is
    deterministic and no shape depends on the data. `level` is how unlike the group's prototype the token is, in
    `LEVELS` steps: tokens that are alike lie side by side however far apart they stand in the text, and where a border
    of two blocks goes through a group, it seldom parts them.
    """
    N, G = similarity_BHNG.shape[-2:]
    # As it lies in memory: twice as fast.
    highest_BHN, groups_BHN = (x.transpose(1, 2) for x in similarity_BHNG.transpose(1, 2).max(dim=-1))
    levels_BHN = ((1 - highest_BHN.float()) * (LEVELS / 2)).long().clamp(0, LEVELS - 1)
    keys_BHN = groups_BHN * LEVELS + levels_BHN
    position_N = torch.arange(N, device=groups_BHN.device)
    is_real_B1N = (position_N < lengths_B[:, None])[:, None]
    order_BHN = (torch.where(is_real_B1N, keys_BHN, G * LEVELS) * N + position_N).argsort(dim=-1)
    return groups_BHN, order_BHN, invert_permutation(order_BHN)


def is_one_block(num_blocks: int) -> bool:
    """Return whether there is one block only; an exported program is for any number of them."""
    return not torch.compiler.is_exporting() and num_blocks == 1


def block_counts(lengths_B: Tensor, num_blocks: int, block_size: int) -> Tensor:
    """Return (B, K) the number of real tokens in each block; in every head padding is sorted last."""
    starts_K = torch.arange(num_blocks, device=lengths_B.device) * block_size
    return (lengths_B[:, None] - starts_K).clamp(0, block_size)


def window_bias(counts_BK: Tensor, block_size: int, dtype: torch.dtype) -> Tensor:
    """Return the additive mask inside each block, (B, K, W): 0 at real tokens, and at one where there is none."""
    places_W = torch.arange(block_size, device=counts_BK.device)
    allowed_BKW = places_W < counts_BK.clamp(min=1)[..., None]
    return torch.zeros(allowed_BKW.shape, dtype=dtype, device=counts_BK.device).masked_fill(
        ~allowed_BKW, torch.finfo(dtype).min
    )


def near_and_far_bias(counts_BK: Tensor, block_size: int, dtype: torch.dtype) -> Tensor:
    """Return the additive mask of each block over its own W tokens and K summaries, (B, K, W + K); of one, (B, 1, W).

    A summary stands for all tokens of its block, so its logit gets the logarithm of their number; the summary of the
    own block and those of empty blocks are masked.
    """
    near_BKW = window_bias(counts_BK, block_size, dtype)
    K = counts_BK.shape[1]
    if is_one_block(K):
        return near_BKW
    own_KK = torch.eye(K, dtype=torch.bool, device=counts_BK.device)
    hidden_BKK = own_KK | (counts_BK == 0)[:, None]
    far_BK = counts_BK.clamp(min=1).to(dtype).log()
    far_BKK = far_BK[:, None].expand(-1, K, -1).masked_fill(hidden_BKK, torch.finfo(dtype).min)
    return torch.cat([near_BKW, far_BKK], dim=-1)


def permute_tokens(values_BNHE: Tensor, index_BMH: Tensor) -> Tensor:
    """Return (B, M, H, E) the tokens at the given places of each row and head, from (B, N, 1, E) where heads share."""
    B, N, own_heads, E = values_BNHE.shape
    row_B11 = torch.arange(B, device=index_BMH.device)[:, None, None]
    head_H = torch.arange(own_heads, device=index_BMH.device)
    flat_BMH = (row_B11 * N + index_BMH) * own_heads + head_H
    return values_BNHE.reshape(-1, E).index_select(0, flat_BMH.flatten()).view(*index_BMH.shape, E)


def block_means(blocks_BKWHE: Tensor, lengths_B: Tensor) -> Tensor:
    """Return the mean of the real tokens of every block: (B, K, H, E)."""
    _, K, W, H, _ = blocks_BKWHE.shape
    counts_BK = block_counts(lengths_B, K, W)
    share_BKW = real_places(counts_BK, W).to(blocks_BKWHE.dtype) / counts_BK.clamp(min=1)[..., None]
    means_BKF = (share_BKW[:, :, None] @ blocks_BKWHE.flatten(3)).squeeze(2)
    return means_BKF.unflatten(-1, (H, -1))


def real_places(counts_BK: Tensor, block_size: int) -> Tensor:
    """Return whether each place of each block holds a real token: (B, K, W)."""
    return torch.arange(block_size, device=counts_BK.device) < counts_BK[..., None]


def far_field_slope(
    blocks: Blocks, means_BKHE: Tensor, lengths_B: Tensor, scaling: float, value_dim: int
) -> tuple[Tensor, Tensor]:
    """Return how far the value of a whole block lies from its mean value, for each query.

    Attention inside a block c moves its value from the mean v_c towards the tokens whose keys the query likes. If keys
    and values of a block are normally distributed, it is exactly `v_c + C q` with the covariance C of values and keys
    (Stein's lemma); in the fast multipole method (Greengard and Rokhlin, 1987) this is the dipole after the monopole.
    One covariance is taken for all blocks, the mean of theirs. A query whose logits vary much inside a block, by a
    variance `q.S q` with the keys' covariance S, meets few of its tokens, where no linear term holds: the shift is
    divided by `1 + q.S q`. Returned are the shift, (B, M, H, V), and what it is multiplied by for that, (B, M, H, 1).
    """
    _, K, W, _, E = blocks[1].shape
    is_real_BKW = real_places(block_counts(lengths_B, K, W), W)[..., None, None]
    around = (blocks[1] - means_BKHE[:, :, None]).mul_(is_real_BKW)
    dtype = around.dtype
    wide = torch.float32 if dtype == torch.float16 else dtype  # which cannot hold a large shift or variance
    around, query, key, value = (x.flatten(1, 2).transpose(1, 2).to(wide) for x in (around, *blocks))  # (B, H, M, E)
    share_B111 = scaling / lengths_B.clamp(min=1).to(key.dtype)[:, None, None, None]
    around = around.transpose(-1, -2)
    covariance_BHEF = torch.cat([around @ key, around @ value], dim=-1) * share_B111
    to_keys, to_values, _ = (query @ covariance_BHEF).split([E, value_dim, E - value_dim], dim=-1)
    # Rounded, it may fall below 0, and at -1 the division would be by 0: keys with much in common, in bfloat16.
    variance = ((to_keys * query).sum(dim=-1, keepdim=True) * scaling).clamp(min=0)
    return to_values.transpose(1, 2), (1 + variance).reciprocal().transpose(1, 2)
