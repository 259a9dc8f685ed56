# Copyright 2026 The hf_selfattn authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Divide tokens into similarity groups, sort them by group and cut the sorted sequence into equal blocks.

Shape suffixes: B rows, N tokens, H heads, G groups, E similarity dimensions, K blocks, W tokens of a block.
"""

import torch
from torch import Tensor

from .subsequences_selfattn import invert_permutation

LEVELS = 1024  # of the similarity to a prototype, from 1 to -1, in the order of a group


def group_similarity(metric_BNE: Tensor, prototypes_HGE: Tensor) -> Tensor:
    """Return the cosine similarity of each token to each prototype of each head.

    Args:
        metric_BNE: unit vectors of the tokens.
        prototypes_HGE: unit vectors of the groups.

    Returns:
        (B, H, N, G).
    """
    H, G, E = prototypes_HGE.shape
    similarity = metric_BNE @ prototypes_HGE.reshape(H * G, E).T.to(metric_BNE.dtype)
    return similarity.unflatten(-1, (H, G)).transpose(1, 2)


@torch.no_grad()
def sort_by_group(
    similarity_BHNG: Tensor, lengths_B: Tensor, group_order: str = "position"
) -> tuple[Tensor, Tensor, Tensor]:
    """Sort the tokens of right-padded rows by their most similar group and inside it; padding comes last.

    The key `group * N + position` is an integer of its own for each token, so the order is deterministic and no
    shape depends on the data. By similarity, `level` comes before the position in it: how unlike the group's prototype
    the token is, in `LEVELS` steps. Tokens that are alike then lie side by side however far apart they stand in the
    text, and where a border of two blocks goes through a group, it seldom parts them.

    Args:
        similarity_BHNG: similarity of each token to each group.
        lengths_B: number of real tokens of each row.
        group_order: what tokens of a group are sorted by, `"position"` or `"similarity"`.

    Returns:
        The group of each token (B, H, N), the order, and its inverse: `order[b, h, i]` is the token at place i.
    """
    N, G = similarity_BHNG.shape[-2:]
    # As it lies in memory: twice as fast.
    highest_BHN, groups_BHN = (x.transpose(1, 2) for x in similarity_BHNG.transpose(1, 2).max(dim=-1))
    keys_BHN, num_keys = groups_BHN, G
    if group_order == "similarity":
        levels_BHN = ((1 - highest_BHN.float()) * (LEVELS / 2)).long().clamp(0, LEVELS - 1)
        keys_BHN, num_keys = groups_BHN * LEVELS + levels_BHN, G * LEVELS
    position_N = torch.arange(N, device=groups_BHN.device)
    is_real_B1N = (position_N < lengths_B[:, None])[:, None]
    order_BHN = (torch.where(is_real_B1N, keys_BHN, num_keys) * N + position_N).argsort(dim=-1)
    return groups_BHN, order_BHN, invert_permutation(order_BHN)


def is_one_block(num_blocks: int) -> bool:
    """Return whether there is one block only; an exported program is for any number of them.

    Args:
        num_blocks: K.
    """
    return not torch.compiler.is_exporting() and num_blocks == 1


def block_counts(lengths_B: Tensor, num_blocks: int, block_size: int) -> Tensor:
    """Return (B, K) the number of real tokens in each block of the sorted sequence.

    Padding is sorted last in every head, so the counts are the same for all heads.

    Args:
        lengths_B: number of real tokens of each row.
        num_blocks: K.
        block_size: W.
    """
    starts_K = torch.arange(num_blocks, device=lengths_B.device) * block_size
    return (lengths_B[:, None] - starts_K).clamp(0, block_size)


def window_bias(counts_BK: Tensor, block_size: int, dtype: torch.dtype) -> Tensor:
    """Return the additive mask of attention inside each block: (B, K, W), 0 at real tokens.

    A block without a real token lets its first place through, so that no softmax is over nothing; what comes of it
    is never read.

    Args:
        counts_BK: real tokens of each block.
        block_size: W.
        dtype: of the mask.
    """
    places_W = torch.arange(block_size, device=counts_BK.device)
    allowed_BKW = places_W < counts_BK.clamp(min=1)[..., None]
    return torch.zeros(allowed_BKW.shape, dtype=dtype, device=counts_BK.device).masked_fill(
        ~allowed_BKW, torch.finfo(dtype).min
    )


def near_and_far_bias(counts_BK: Tensor, block_size: int, dtype: torch.dtype) -> Tensor:
    """Return the additive mask of each block's tokens over its own W tokens and the K block summaries.

    A summary stands for all tokens of its block, so its logit gets the logarithm of their number; the summary of the
    own block and those of empty blocks are masked. Where there is one block there are no summaries.

    Args:
        counts_BK: real tokens of each block.
        block_size: W.
        dtype: of the mask.

    Returns:
        (B, K, W + K), or (B, 1, W) for one block.
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


@torch.no_grad()
def far_bias_without(
    first_block_BNH: Tensor,
    second_block_BNH: Tensor,
    lengths_B: Tensor,
    num_blocks: int,
    block_size: int,
    dtype: torch.dtype,
) -> Tensor:
    """Return the bias of the summaries of one sorting's blocks for the tokens of each block of another sorting.

    It is the logarithm of the number of real tokens that the first block has outside the second; a summary of which
    none is left is masked.

    Args:
        first_block_BNH: block of each token in the sorting that is summarised.
        second_block_BNH: block of each token in the other sorting.
        lengths_B: number of real tokens of each row.
        num_blocks: K.
        block_size: W.
        dtype: of the bias.

    Returns:
        (B, K, H, K), second block before first.
    """
    B, N, H = first_block_BNH.shape
    is_real_BN = torch.arange(N, device=lengths_B.device) < lengths_B[:, None]
    pair_BNH = second_block_BNH * num_blocks + first_block_BNH
    shared = torch.zeros(B, num_blocks**2, H, dtype=dtype, device=lengths_B.device)
    shared = shared.scatter_add(1, pair_BNH, is_real_BN[..., None].to(dtype).expand(-1, -1, H))
    counts_BK = block_counts(lengths_B, num_blocks, block_size)
    left = counts_BK[:, None, None] - shared.unflatten(1, (num_blocks, num_blocks)).transpose(2, 3)
    return left.clamp(min=1).log().masked_fill(left == 0, torch.finfo(dtype).min)
