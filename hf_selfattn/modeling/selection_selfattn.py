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
"""Which other blocks a sorted block reads in full, beside the means of the rest.

Shape suffixes: B rows, H heads, K blocks, W tokens of a block, S selected blocks, E width of a key or value.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .far_field_selfattn import Blocks, Means, block_means
from .grouping_selfattn import block_counts


@torch.no_grad()
def select_blocks(
    query_BKWHE: Tensor, mean_key_BKHE: Tensor, lengths_B: Tensor, num_selected: int
) -> tuple[Tensor, Tensor]:
    """Return, for each block and head, the other blocks whose mean key its mean query likes best.

    Of K blocks no more than K - 1 can be others. An exported program is for any K: there S is `num_selected`, and
    the choices that are none are marked.

    Args:
        query_BKWHE: queries in sorted blocks.
        mean_key_BKHE: mean key of each block.
        lengths_B: number of real tokens of each row.
        num_selected: most blocks that a block selects.

    Returns:
        The selected blocks, (B, H, K, S), and whether each is a block with real tokens that is not the own one.
    """
    _, K, W, _, _ = query_BKWHE.shape
    mean_query = block_means(query_BKWHE, lengths_B)
    score = mean_query.float().transpose(1, 2) @ mean_key_BKHE.float().permute(0, 2, 3, 1)  # (B, H, K, K)
    own_KK = torch.eye(K, dtype=torch.bool, device=score.device)
    is_empty_BK = block_counts(lengths_B, K, W) == 0
    score = score.masked_fill(own_KK | is_empty_BK[:, None, None], -torch.inf)
    if torch.compiler.is_exporting():
        score = F.pad(score, (0, num_selected), value=-torch.inf)
    else:
        num_selected = min(num_selected, K - 1)
    best = score.topk(num_selected, dim=-1)
    return best.indices.clamp(max=K - 1), best.values > -torch.inf


def with_selected_blocks(
    blocks: Blocks, means: Means, bias_BKM: Tensor, lengths_B: Tensor, num_selected: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the tokens of each block read: their own block, the selected ones, and the means of all blocks.

    In each head a block selects others by its mean query and their mean keys, much as native sparse attention does by
    compressed keys (Yuan et al., 2025). The choice has no gradient. The mean of a block that is read in full is
    masked, so that each token still counts once.

    Args:
        blocks: queries, keys and values (B, K, W, H, E).
        means: of the keys and values of each block.
        bias_BKM: additive mask over the own block's W tokens and the K means.
        lengths_B: number of real tokens of each row.
        num_selected: most blocks that a block selects.

    Returns:
        Keys and values (B, K, W + S * W + K, H, E) and the additive mask over them, (B, K, H, 1, W + S * W + K).
    """
    query, *keys_and_values = blocks
    B, K, W, H, _ = query.shape
    chosen_BHKS, is_open_BHKS = select_blocks(query, means[0], lengths_B, num_selected)
    bias = bias_BKM[:, :, None].expand(-1, -1, H, -1).transpose(1, 2)  # (B, H, K, W + K)
    near, far = bias.split([W, K], dim=-1)
    selected = selected_bias(chosen_BHKS, is_open_BHKS, lengths_B, W, bias.dtype)
    number_K = torch.arange(K, device=far.device)
    is_read = ((chosen_BHKS[..., None] == number_K) & is_open_BHKS[..., None]).any(dim=-2)
    far = far.masked_fill(is_read, torch.finfo(far.dtype).min)
    key, value = (
        torch.cat([x, *blocks_at(x, chosen_BHKS), mean[:, None].expand(-1, K, -1, -1, -1)], dim=2)
        for x, mean in zip(keys_and_values, means, strict=True)
    )
    return key, value, torch.cat([near, selected, far], dim=-1).transpose(1, 2)[:, :, :, None]


def selected_bias(
    chosen_BHKS: Tensor, is_open_BHKS: Tensor, lengths_B: Tensor, block_size: int, dtype: torch.dtype
) -> Tensor:
    """Return the additive mask over the tokens of selected blocks, (B, H, K, S * W), 0 at real tokens.

    Args:
        chosen_BHKS: the selected blocks.
        is_open_BHKS: which of them are read.
        lengths_B: number of real tokens of each row.
        block_size: W.
        dtype: of the mask.
    """
    places_W = torch.arange(block_size, device=lengths_B.device)
    place_BHKSW = chosen_BHKS[..., None] * block_size + places_W
    is_masked = (place_BHKSW >= lengths_B[:, None, None, None, None]) | ~is_open_BHKS[..., None]
    zeros = torch.zeros(is_masked.shape, dtype=dtype, device=lengths_B.device)
    return zeros.masked_fill(is_masked, torch.finfo(dtype).min).flatten(-2)


def blocks_at(blocks_BKWHE: Tensor, chosen_BHKS: Tensor) -> list[Tensor]:
    """Return, for each selection, the chosen block of every block and head: S tensors (B, K, W, H, E).

    Args:
        blocks_BKWHE: vectors of the tokens in sorted blocks.
        chosen_BHKS: the selected blocks.
    """
    B, K, W, H, E = blocks_BKWHE.shape
    rows = blocks_BKWHE.permute(0, 3, 1, 2, 4).reshape(B * H * K, W * E)  # whole blocks are copied: fast
    first_BH11 = torch.arange(B * H, device=rows.device).view(B, H, 1, 1) * K
    return [
        rows.index_select(0, index.flatten()).view(B, H, K, W, E).permute(0, 2, 3, 1, 4)
        for index in (first_BH11 + chosen_BHKS).unbind(dim=-1)
    ]
