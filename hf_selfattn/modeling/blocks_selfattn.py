"""Tokens in sorted blocks: there and back, and attention in two sortings at once.

Shape suffixes: B rows, N tokens, H heads, K blocks, W tokens of a block, M = K * W places, E width of a head.
"""

import torch
from torch import Tensor

from .far_field_selfattn import Blocks, Means
from .grouping_selfattn import far_bias_without


def permute_tokens(values_BNHE: Tensor, index_BMH: Tensor) -> Tensor:
    """Take, in each row and head, the tokens at the given places.

    Args:
        values_BNHE: per-head vectors of the tokens, or (B, N, 1, E) if all heads have the same.
        index_BMH: places in N.

    Returns:
        (B, M, H, E).
    """
    B, N, own_heads, E = values_BNHE.shape
    row_B11 = torch.arange(B, device=index_BMH.device)[:, None, None]
    head_H = torch.arange(own_heads, device=index_BMH.device)
    flat_BMH = (row_B11 * N + index_BMH) * own_heads + head_H
    return values_BNHE.reshape(-1, E).index_select(0, flat_BMH.flatten()).view(*index_BMH.shape, E)


def attend_in_two_sortings(
    first: Blocks,
    second: Blocks,
    means: Means,
    places: Tensor,
    inverse: Tensor,
    lengths_B: Tensor,
    near_bias_BKW: Tensor,
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """Attend to the own block of either sorting and to the summaries of the first sorting's blocks, in one softmax.

    Let P and Q be the blocks of token i in the first and in the second sorting, s(i, x) its logit for a key x, and
    k_c and v_c the mean key and value of block c of the first sorting. With `r(i, c) = |c without Q|`,

        y_i = [sum_{j in P or Q} exp(s(i, k_j)) v_j + sum_{c not P} r(i, c) exp(s(i, k_c)) v_c] / Z_i,

    where Z_i is the same without the values. A token of both P and Q counts once, and a token of Q is taken out of
    the number that its summary stands for: the factors of the exponentials add up to the number of tokens. The two
    sortings are merged by their normalisers, as the hash rounds of the Reformer (Kitaev et al., 2020). Fused kernels
    return no normaliser, so these are plain products, with N * (2 * W + K) logits in each head.

    Args:
        first: queries, keys and values in the blocks of the first sorting.
        second: the same tokens in the blocks of the second.
        means: of the first sorting's blocks.
        places: (B, K * W, 2 * H) the token at each place, the first sorting's heads before the second's.
        inverse: (B, N, 2 * H) the place of each token.
        lengths_B: number of real tokens of each row.
        near_bias_BKW: additive mask of the padding in each block.
        scaling: factor of the logits.

    Returns:
        The output (B, N, H, E), and the attention to the summary of each block, (B, N, H, K).
    """
    _, K, W, H, _ = first[0].shape
    dtype = torch.promote_types(near_bias_BKW.dtype, torch.float32)
    lowest = torch.finfo(dtype).min
    first_inverse, second_inverse = inverse.split(H, dim=-1)
    first_block, second_block = (inverse // W).split(H, dim=-1)
    near_bias = near_bias_BKW[:, None, :, None].to(dtype)

    # First sorting: the own block, and every other one as far as the token's second block does not hold it.
    far_bias = far_bias_without(first_block, second_block, lengths_B, K, W, dtype)
    far_bias = in_blocks(permute_tokens(far_bias, in_order(second_block, places[..., :H])), W)
    own_block = torch.eye(K, dtype=torch.bool, device=far_bias.device)[:, None]
    far_bias = far_bias.masked_fill(own_block, lowest)
    *sums, summaries = near_and_far_sums(first, means, near_bias, far_bias, scaling)
    # Second sorting: the own block without what the first has read.
    label = in_blocks(in_order(first_block, places[..., H:])[..., None], W)
    is_read = label == label.transpose(-1, -2)
    added_sums = near_sums(second, near_bias.masked_fill(is_read, lowest), scaling)

    attended, total, shift, summaries = (permute_tokens(x, first_inverse) for x in (*sums, summaries))
    added, added_total, added_shift = (permute_tokens(x, second_inverse) for x in added_sums)
    highest = torch.maximum(shift, added_shift)
    factor, added_factor = (shift - highest).exp(), (added_shift - highest).exp()
    normaliser = total * factor + added_total * added_factor
    factor, added_factor = ((x / normaliser).to(attended.dtype) for x in (factor, added_factor))
    return attended * factor + added * added_factor, summaries * factor


def in_order(values_BNH: Tensor, places_BMH: Tensor) -> Tensor:
    """Return, in each row and head, the values of the tokens at the given places: (B, M, H).

    Args:
        values_BNH: one number for each token in each head.
        places_BMH: the token at each place.
    """
    return permute_tokens(values_BNH[..., None], places_BMH).squeeze(-1)


def in_blocks(values_BMHE: Tensor, block_size: int) -> Tensor:
    """Return the values of sorted tokens by head and block: (B, H, K, W, E).

    Args:
        values_BMHE: vectors of the tokens in sorted order.
        block_size: W.
    """
    return values_BMHE.transpose(1, 2).unflatten(2, (-1, block_size))


def near_sums(blocks: Blocks, bias: Tensor, scaling: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sums of attention inside each block, before they are divided.

    Args:
        blocks: queries, keys and values (B, K, W, H, E).
        bias: additive mask that broadcasts to (B, H, K, W, W).
        scaling: factor of the logits.

    Returns:
        The sum of the values with their exponentials (B, M, H, E), the sum of the exponentials (B, M, H, 1), and the
        number that was taken off the logits for it (B, M, H, 1), their maximum.
    """
    query, key, value = (x.permute(0, 3, 1, 2, 4) for x in blocks)
    logits = (query * scaling) @ key.transpose(-1, -2) + bias
    shift = logits.detach().amax(dim=-1, keepdim=True)
    factors = (logits - shift).exp()
    sums = (factors.to(value.dtype) @ value, factors.sum(dim=-1, keepdim=True), shift)
    attended, total, shift = (x.flatten(2, 3).transpose(1, 2) for x in sums)
    return attended, total, shift


def near_and_far_sums(
    blocks: Blocks, means: Means, near_bias: Tensor, far_bias: Tensor, scaling: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the sums of attention to the own block's tokens and to the block means, before they are divided.

    Args:
        blocks: queries, keys and values (B, K, W, H, E).
        means: of the keys and values of each block.
        near_bias: additive mask that broadcasts to (B, H, K, W, W).
        far_bias: additive mask over the means, (B, H, K, W, K).
        scaling: factor of the logits.

    Returns:
        What `near_sums` returns, and the exponentials of the means (B, M, H, K).
    """
    query, key, value = (x.permute(0, 3, 1, 2, 4) for x in blocks)
    query = query * scaling
    mean_key, mean_value = (x.transpose(1, 2) for x in means)  # (B, H, K, E)
    near = query @ key.transpose(-1, -2) + near_bias
    far = query.flatten(2, 3) @ mean_key.transpose(-1, -2) + far_bias.flatten(2, 3)  # (B, H, M, K)
    near_shift, far_shift = (x.detach().amax(dim=-1, keepdim=True) for x in (near, far))
    shift = torch.maximum(near_shift.flatten(2, 3), far_shift)
    near_factors = (near - shift.unflatten(2, near.shape[2:4])).exp()
    far_factors = (far - shift).exp()
    total = near_factors.sum(dim=-1, keepdim=True).flatten(2, 3) + far_factors.sum(dim=-1, keepdim=True)
    to_means = far_factors.to(value.dtype)
    attended = (near_factors.to(value.dtype) @ value).flatten(2, 3) + to_means @ mean_value
    attended, total, shift, to_means = (x.transpose(1, 2) for x in (attended, total, shift, to_means))
    return attended, total, shift, to_means
