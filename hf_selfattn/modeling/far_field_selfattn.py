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
"""What a block's mean key and mean value leave out: the values lean towards the keys that a query likes.

Shape suffixes: B rows, H heads, K blocks, W tokens of a block, E width of keys and values, V columns of values.
"""

import torch
from torch import Tensor

from .grouping_selfattn import block_counts

Blocks = tuple[Tensor, Tensor, Tensor]  # queries, keys and values, each (B, K, W, H, E)
Means = tuple[Tensor, Tensor]  # mean keys and mean values of the blocks, each (B, K, H, E)


def block_means(blocks_BKWHE: Tensor, lengths_B: Tensor) -> Tensor:
    """Return the mean of the real tokens of every block: (B, K, H, E).

    Args:
        blocks_BKWHE: vectors of the tokens in sorted blocks.
        lengths_B: number of real tokens of each row.
    """
    _, K, W, H, _ = blocks_BKWHE.shape
    counts_BK = block_counts(lengths_B, K, W)
    share_BKW = real_places(counts_BK, W).to(blocks_BKWHE.dtype) / counts_BK.clamp(min=1)[..., None]
    means_BKF = (share_BKW[:, :, None] @ blocks_BKWHE.flatten(3)).squeeze(2)
    return means_BKF.unflatten(-1, (H, -1))


def real_places(counts_BK: Tensor, block_size: int) -> Tensor:
    """Return whether each place of each block holds a real token: (B, K, W).

    Args:
        counts_BK: real tokens of each block.
        block_size: W.
    """
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
    divided by `1 + q.S q`.

    Args:
        blocks: queries, keys and values in sorted blocks, all of one width.
        means_BKHE: mean key of each block.
        lengths_B: number of real tokens of each row.
        scaling: factor of the logits.
        value_dim: V, how many columns of the values are moved.

    Returns:
        The shift before the division, (B, M, H, V), and what it is multiplied by, (B, M, H, 1); of float16 in
        float32, since one of them may be large where the other is small.
    """
    _, K, W, _, E = blocks[1].shape
    is_real_BKW = real_places(block_counts(lengths_B, K, W), W)[..., None, None]
    around = (blocks[1] - means_BKHE[:, :, None]).mul_(is_real_BKW)
    dtype = around.dtype
    wide = torch.float32 if dtype == torch.float16 else dtype  # which cannot hold the variance of sharp logits
    around, query, key, value = (x.flatten(1, 2).transpose(1, 2).to(wide) for x in (around, *blocks))  # (B, H, M, E)
    share_B111 = scaling / lengths_B.clamp(min=1).to(key.dtype)[:, None, None, None]
    around = around.transpose(-1, -2)
    covariance_BHEF = torch.cat([around @ key, around @ value], dim=-1) * share_B111
    to_keys, to_values, _ = (query @ covariance_BHEF).split([E, value_dim, E - value_dim], dim=-1)
    # Rounded, it may fall below 0, and at -1 the division would be by 0: keys with much in common, in bfloat16.
    variance = ((to_keys * query).sum(dim=-1, keepdim=True) * scaling).clamp(min=0)
    return to_values.transpose(1, 2), (1 + variance).reciprocal().transpose(1, 2)
