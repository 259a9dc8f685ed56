# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""Attention inside blocks, and to the means of the other blocks, by FlexAttention (Dong et al., 2024).

All blocks of a row are one sequence of keys, followed by the block means once. Which part of it a query sees is a
`BlockMask` of the number of blocks and their width alone; padding and the logarithms of the numbers of tokens are a
vector (B, S). So memory is linear in the tokens, where PyTorch's fused kernel needs the means copied to each block.

Shape suffixes: B rows, H heads, F = B * H, K blocks, W tokens of a block, M = K * W tokens, T places of tokens in
whole tiles, S keys, E width of a key, V width of a value, R tiles of queries, C tiles of keys.
"""

from collections.abc import Callable
from functools import cache, lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from .grouping_selfattn import Means, block_counts, window_bias
from .subsequences_selfattn import ceil_div

TILE = 128  # the width that FlexAttention's kernels are tuned for; narrower tiles suit some of them only
NARROWEST = 16  # the width of a head that a matrix unit multiplies


def attend_in_blocks(
    query: Tensor, key: Tensor, value: Tensor, means: Means | None, lengths_B: Tensor, block_size: int, scaling: float
) -> Tensor:
    """Attend to the tokens of the own block and to the means of the others: (B, M, H, V).

    It is compiled, but for a CPU, where that takes long and PyTorch 2.13 fails at lengths that vary: there it is a
    plain product with all logits in memory, without gradients.

    Args:
        query, key, value: (B, M, H, E), (B, M, H, E) and (B, M, H, V), in blocks of W.
        means: mean keys and values of the blocks, (B, K, H, E) and (B, K, H, V), or None to stay in the own block.
    """
    B, M, H, V = value.shape
    num_blocks = M // block_size
    num_means = 0 if means is None else num_blocks
    dtype = attention_dtype(value)
    T = places_of_tokens(M)
    query, key, value = (in_tiles(x.to(dtype), T) for x in (query, key, value))
    if means is not None:
        mean_key, mean_value = (in_tiles(x.to(dtype), in_whole_tiles(num_means)) for x in means)
        key, value = torch.cat([key, mean_key], dim=2), torch.cat([value, mean_value], dim=2)
    dtype = torch.promote_types(dtype, torch.float32)
    bias_BS = key_bias(lengths_B, num_blocks, block_size, num_means, dtype)
    bias_FS = bias_BS[:, None].expand(-1, H, -1).reshape(B * H, -1).contiguous()
    scale = torch.full((), scaling, dtype=dtype, device=value.device)
    mask = block_mask(num_blocks, block_size, num_means, value.device)
    plain = value.device.type == "cpu" or torch.compiler.is_compiling()
    attend = biased_attention if plain else compiled_attention()
    attended_F1TV = attend(query, key, value, bias_FS, scale, mask)
    return attended_F1TV[:, 0, :M, :V].unflatten(0, (B, H)).transpose(1, 2)


def biased_attention(
    query: Tensor, key: Tensor, value: Tensor, bias_FS: Tensor, scale: Tensor, mask: BlockMask
) -> Tensor:
    """Return attention (F, 1, T, V) with a bias of the keys that all queries share."""

    def with_bias(score: Tensor, row: Tensor, head: Tensor, place: Tensor, key_place: Tensor) -> Tensor:
        return score * scale + bias_FS[row, key_place]

    return flex_attention(query, key, value, score_mod=with_bias, block_mask=mask, scale=1.0)


@cache
def compiled_attention() -> Callable[..., Tensor]:
    """Return `biased_attention` compiled for inputs of any size.

    The compiler makes programs of their own for sizes of 1, for other strides and for views. Therefore rows and heads
    are one dimension here, there are at least two tiles, and all inputs are tensors with memory of their own.
    """
    # With `fullgraph` the limit of recompilations is an error, and not all logits in memory, uncompiled.
    return torch.compile(biased_attention, dynamic=True, fullgraph=True)


def in_tiles(values_BMHE: Tensor, num_places: int) -> Tensor:
    """Return vectors by row and head, filled up with zeros to some places and to the narrowest width: (F, 1, T, E)."""
    B, M, H, E = values_BMHE.shape
    values_F1ME = values_BMHE.transpose(1, 2).reshape(B * H, 1, M, E).contiguous()
    if M == num_places and E >= NARROWEST:
        return values_F1ME
    return F.pad(values_F1ME, (0, max(NARROWEST - E, 0), 0, num_places - M))


def in_whole_tiles(num_places: int) -> int:
    """Return how many places there are with those that fill up the last tile."""
    return ceil_div(num_places, TILE) * TILE


def places_of_tokens(num_tokens: int) -> int:
    """Return the number of places T of sorted tokens: whole tiles, and at least two."""
    return max(in_whole_tiles(num_tokens), 2 * TILE)


def key_bias(lengths_B: Tensor, num_blocks: int, block_size: int, num_means: int, dtype: torch.dtype) -> Tensor:
    """Return what is added to the logits of the keys for every query, (B, S), as `near_and_far_bias` has it."""
    counts_BK = block_counts(lengths_B, num_blocks, block_size)
    # Half of the lowest number: kernels change the base of the exponentials, by a factor of 1.44.
    near_BM = window_bias(counts_BK, block_size, dtype).flatten(1) / 2
    bias_BT = F.pad(near_BM, (0, places_of_tokens(near_BM.shape[1]) - near_BM.shape[1]))
    if not num_means:
        return bias_BT
    far_BK = counts_BK.clamp(min=1).to(dtype).log().masked_fill(counts_BK == 0, torch.finfo(dtype).min / 2)
    return torch.cat([bias_BT, F.pad(far_BK, (0, in_whole_tiles(num_means) - num_means))], dim=1)


def block_mask(num_blocks: int, block_size: int, num_means: int, device: torch.device) -> BlockMask:
    """Return which keys each query sees: those of its own block and the means of the others."""
    if torch.compiler.is_compiling():
        return build_block_mask(num_blocks, block_size, num_means, device)
    with torch.inference_mode(False):  # it outlives the call, and a later one may compute gradients
        return cached_block_mask(num_blocks, block_size, num_means, device)


def build_block_mask(num_blocks: int, block_size: int, num_means: int, device: torch.device) -> BlockMask:
    """Return the mask of `block_mask` from the first and the last block of each tile, not from all pairs of tokens.

    Places that fill up the last tile of tokens are in blocks of their own. Where a tile of queries sees all of a tile
    of keys, no pair in it is asked again.
    """
    T = places_of_tokens(num_blocks * block_size)
    S = T + in_whole_tiles(num_means)
    token_block_T = torch.arange(T, device=device) // block_size
    mean_block = torch.arange(S - T, device=device)
    block_S = torch.cat([token_block_T, mean_block.masked_fill(mean_block >= num_means, -1)])
    is_mean_S = (torch.arange(S, device=device) >= T) & (block_S >= 0)

    def sees(row: Tensor, head: Tensor, place: Tensor, key_place: Tensor) -> Tensor:
        return (block_S[place] == block_S[key_place]) != is_mean_S[key_place]

    first_R1, last_R1 = token_block_T[::TILE, None], token_block_T[TILE - 1 :: TILE, None]
    first_C, last_C = first_R1[:, 0], last_R1[:, 0]
    is_one_R1 = first_R1 == last_R1
    shares_RC = (first_R1 <= last_C) & (first_C <= last_R1)
    is_same_RC = is_one_R1 & (first_C == last_C) & (first_R1 == first_C)

    start_C = torch.arange(0, S - T, TILE, device=device)
    end_C = (start_C + TILE - 1).clamp(max=num_means - 1)
    has_own_RC = (first_R1 <= end_C) & (start_C <= last_R1)
    has_only_own_RC = has_own_RC & is_one_R1 & (start_C == end_C)
    is_seen_RC = torch.cat([shares_RC, ~has_only_own_RC], dim=1)
    is_full_RC = torch.cat([is_same_RC, ~has_own_RC & (end_C == start_C + TILE - 1)], dim=1)
    return BlockMask.from_kv_blocks(
        *numbers_and_places(is_seen_RC & ~is_full_RC),
        *numbers_and_places(is_full_RC),
        BLOCK_SIZE=TILE,
        mask_mod=sees,
        seq_lengths=(T, S),
    )


# The layers of one call share their masks; more are not kept, since a mask has a number for each pair of tiles.
cached_block_mask = lru_cache(maxsize=8)(build_block_mask)


def numbers_and_places(is_kept_RC: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many tiles each row of tiles keeps, (1, 1, R), and all tiles with these first, (1, 1, R, C)."""
    places_RC = is_kept_RC.int().argsort(dim=1, descending=True, stable=True)
    return is_kept_RC.sum(dim=1, dtype=torch.int32)[None, None], places_RC.int()[None, None].contiguous()


def attention_dtype(features: Tensor) -> torch.dtype:
    """Return the type in which attention is computed: that of mixed precision, where it is on."""
    kind = features.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else features.dtype
