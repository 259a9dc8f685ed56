# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows of tokens: right-padded, split into windows that a backbone can read, and merged back.

Shape suffixes: B rows, T tokens of a padded row, N tokens of a right-padded row, S windows of a row, W tokens of a
window, D features.
"""

from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass
class Subsequences:
    """Where each slot of each window comes from, and where each token's features are found again."""

    source_BSW: Tensor  # index into the row's T tokens, its special ones among them; 0 in padding slots
    segment_source_BSW: Tensor  # for segment ids: a closing token but the row's own has that of the text before it
    mask_BSW: Tensor  # True where the slot holds a token
    slot_BT: Tensor  # index into the S * W slots of the row from which the features of a token are taken

    def trim(self) -> "Subsequences":
        """Return the same plan without the windows and slots that no row uses, or while compiling, that none could."""
        S, width = self.mask_BSW.shape[1:]
        W = torch.sym_min(width, self.slot_BT.shape[1])
        if not torch.compiler.is_compiling():
            S = int(self.mask_BSW.any(dim=2).sum(dim=1).max())
            W = int(self.mask_BSW.sum(dim=2).max())
        return Subsequences(
            source_BSW=self.source_BSW[:, :S, :W],
            segment_source_BSW=self.segment_source_BSW[:, :S, :W],
            mask_BSW=self.mask_BSW[:, :S, :W],
            slot_BT=self.slot_BT // width * W + self.slot_BT % width,
        )


@dataclass
class TokenRows:
    """Tokens of right-padded rows, and where they stood in the input."""

    values: Tensor  # (B, N) ids or (B, N, D) embeddings
    types_BN: Tensor | None  # segment ids, or None
    mask_BN: Tensor | None = None  # True at real tokens, or None where no token is padding
    lengths_B: Tensor | None = None  # number of real tokens, or None where no token is padding
    order_BN: Tensor | None = None  # place in the input of each token, or None where the order is the same
    inverse_BT: Tensor | None = None  # place among these of each token of the input, or None likewise

    def select(self, rows: Tensor) -> "TokenRows":
        """Return the values, types and mask of some of the rows."""
        types, mask = (None if x is None else x[rows] for x in (self.types_BN, self.mask_BN))
        return TokenRows(self.values[rows], types, mask)


def right_padded_rows(values: Tensor, attention_mask: Tensor | None, types_BT: Tensor | None) -> TokenRows:
    """Return the rows of an input, (B, T) ids or (B, T, D) embeddings, with the real tokens at the front."""
    if values.shape[1] == 0:
        raise ValueError("The input has no tokens. Give each row at least one, if only padding.")
    mask_BT = real_tokens(attention_mask, values)
    if mask_BT is None:
        return TokenRows(values, types_BT)
    lengths_B = mask_BT.sum(dim=1)
    if is_right_padded(mask_BT):
        return TokenRows(values, types_BT, mask_BT, lengths_B)
    order_BN, inverse_BT = right_pad_order(mask_BT)
    if torch.compiler.is_exporting():
        order_BN, inverse_BT = cut_to_longest(order_BN, inverse_BT, lengths_B)
    return TokenRows(
        values=gather_tokens(values, order_BN),
        types_BN=None if types_BT is None else types_BT.gather(1, order_BN),
        mask_BN=first_tokens(lengths_B, order_BN.shape[1]),
        lengths_B=lengths_B,
        order_BN=order_BN,
        inverse_BT=inverse_BT,
    )


def padding_of_pairs(mask_B1QT: Tensor) -> Tensor:
    """Return the mask (B, T) of one of pairs of tokens, boolean or additive, which must hide padding alone."""
    sees_BQT = (mask_B1QT >= 0 if mask_B1QT.is_floating_point() else mask_B1QT.bool())[:, 0]
    real_BT = sees_BQT.any(dim=1)
    asks_BQ = sees_BQT.any(dim=2)  # padding may see nothing
    if ((sees_BQT != real_BT[:, None]) & asks_BQ[..., None]).any():
        raise ValueError(
            f"attention_mask of shape {tuple(mask_B1QT.shape)} hides tokens from some tokens and not from others. "
            "Windows and groups decide that here: give one of shape (batch_size, sequence_length), 0 at padding."
        )
    return real_BT


def are_counted(position_ids: Tensor | None, attention_mask: Tensor | None, first: int) -> bool:
    """Return whether positions are those that a backbone counts itself: from the first one, one for each token."""
    if position_ids is None or attention_mask is not None and attention_mask.dim() != 2:
        return False
    real_BT = torch.ones_like(position_ids) if attention_mask is None else attention_mask.long()
    return bool(((position_ids == real_BT.cumsum(dim=1) - 1 + first) | (real_BT == 0)).all())


def real_tokens(attention_mask: Tensor | None, values: Tensor) -> Tensor | None:
    """Return (B, T) True at real tokens, or None where all are real and that is known, but not for export."""
    if attention_mask is None:
        if not torch.compiler.is_exporting():
            return None
        attention_mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    if attention_mask.shape != values.shape[:2]:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, but the input has {tuple(values.shape[:2])} "
            "(batch_size, sequence_length). Give one number per token, 0 at padding."
        )
    mask_BT = attention_mask.bool()
    if not torch.compiler.is_compiling() and bool(mask_BT.all()):
        return None
    is_first_T = torch.arange(mask_BT.shape[1], device=mask_BT.device) == 0  # of a row of padding alone it counts
    return mask_BT | (is_first_T & ~mask_BT.any(dim=1, keepdim=True))


def is_right_padded(mask_BT: Tensor) -> bool:
    """Return whether padding is known to stand at the right of every row only; False while compiling."""
    return not torch.compiler.is_compiling() and bool((mask_BT[:, :-1] >= mask_BT[:, 1:]).all())


def right_pad_order(mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Return two (B, T) orders: `x.gather(1, first)` is right-padded, `y.gather(1, second)` puts it back."""
    real_BT, num_real_B1 = mask_BT.cumsum(dim=1), mask_BT.sum(dim=1, keepdim=True)
    padding_BT = num_real_B1 + (~mask_BT).cumsum(dim=1)
    inverse_BT = torch.where(mask_BT, real_BT, padding_BT) - 1
    return invert_permutation(inverse_BT), inverse_BT


def cut_to_longest(order_BT: Tensor, inverse_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return the orders of `right_pad_order`, (B, N) and (B, T), for the N tokens of the longest row, at least 2.

    It is for export: N stands in the data, and of such a size `torch.export` assumes nothing. Of the size of an input
    it would keep what is true of the example only, such as that there are several windows.
    """
    longest = cast(int, lengths_B.max().clamp(min=2).item())
    torch._check(longest >= 2)
    torch._check(longest <= order_BT.shape[1] + 1)
    return F.pad(order_BT, (0, 1)).narrow(1, 0, longest), inverse_BT.clamp(max=longest - 1)


def first_tokens(lengths_B: Tensor, num_tokens: int) -> Tensor:
    """Return (B, T) True at the real tokens of right-padded rows."""
    return torch.arange(num_tokens, device=lengths_B.device) < lengths_B[:, None]


def pack(values: Tensor, mask_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Return the real tokens of all rows as one, (1, T) or (1, T, D), and where they stood among B * N."""
    places_T = mask_BN.flatten().nonzero()[:, 0]
    return values.flatten(0, 1)[places_T][None], places_T


def unpack(features_1TD: Tensor, places_T: Tensor, num_rows: int, num_tokens: int) -> Tensor:
    """Return tokens at their places in padded rows, (B, N, D), zeros at padding."""
    empty = features_1TD.new_zeros(num_rows * num_tokens, features_1TD.shape[-1])
    return empty.index_copy(0, places_T, features_1TD[0]).unflatten(0, (num_rows, num_tokens))


def row_starts(lengths_B: Tensor) -> Tensor:
    """Return where each of packed rows begins, and behind them the end of the last: (B + 1)."""
    return F.pad(lengths_B.cumsum(dim=0), (1, 0))


def invert_permutation(order: Tensor) -> Tensor:
    """Return the inverse of permutations along the last dimension, by scatter."""
    positions = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, positions)


def gather_tokens(values: Tensor, index_BN: Tensor) -> Tensor:
    """Take tokens from each row of (B, T) ids or (B, T, D) features."""
    if values.dim() == 3:
        index_BN = index_BN[..., None].expand(-1, -1, values.shape[-1])
    return values.gather(1, index_BN)


def starts_with(input_ids_BT: Tensor, lengths_B: Tensor, token_ids: list[int]) -> Tensor:
    """Return (B,) True where a right-padded row begins with the given tokens."""
    wanted = torch.tensor(token_ids, device=input_ids_BT.device, dtype=input_ids_BT.dtype)
    return (input_ids_BT[:, : len(token_ids)] == wanted).all(dim=1) & (lengths_B >= len(token_ids))


def ends_with(input_ids_BT: Tensor, lengths_B: Tensor, token_ids: list[int]) -> Tensor:
    """Return (B,) True where the real part of a right-padded row ends with the given tokens."""
    wanted = torch.tensor(token_ids, device=input_ids_BT.device, dtype=input_ids_BT.dtype)
    offsets = torch.arange(len(token_ids), device=input_ids_BT.device) - len(token_ids)
    index = (lengths_B[:, None] + offsets).clamp(min=0)
    return (input_ids_BT.gather(1, index) == wanted).all(dim=1) & (lengths_B >= len(token_ids))


Integers = TypeVar("Integers", int, Tensor)


def ceil_div(numerator: Integers, denominator: Integers) -> Integers:
    """Return the quotient of integers, rounded up."""
    return (numerator + denominator - 1) // denominator


def num_windows(length: int, capacity: int, stride: int) -> int:
    """Return how many windows a text needs."""
    return torch.sym_max(1, ceil_div(length - stride, capacity - stride))


def split(
    lengths_B: Tensor,
    num_tokens: int,
    window: int,
    stride: int,
    num_prefix: int,
    num_suffix: int,
    has_prefix_B: Tensor,
    has_suffix_B: Tensor,
) -> Subsequences:
    """Plan the windows of right-padded rows.

    A row's text, without its special tokens, is cut into the least number of equally long windows, so the plan of a
    row depends on that row alone. Where the row is framed by special tokens, each window is. In the tokens that two
    windows share, the first half is taken from the left window and the second half from the right one: each token
    from the window in which it has most context. The row's own special tokens come from its first and last window.
    """
    prefix_B1 = (has_prefix_B.long() * num_prefix)[:, None]
    suffix_B1 = (has_suffix_B.long() * num_suffix)[:, None]
    capacity_B1 = window - prefix_B1 - suffix_B1
    text_B1 = (lengths_B[:, None] - prefix_B1 - suffix_B1).clamp(min=0)

    fresh_B1 = (text_B1 - stride).clamp(min=1)  # tokens of the text less those that two windows share
    count_B1 = ceil_div(fresh_B1, capacity_B1 - stride)
    step_B1 = ceil_div(fresh_B1, count_B1)

    most_windows = num_windows(num_tokens, window - num_prefix - num_suffix, stride)
    window_S = torch.arange(most_windows, device=lengths_B.device)[None]
    start_BS = window_S * step_B1
    size_BS = torch.minimum(step_B1 + stride, text_B1 - start_BS).clamp(min=0)
    in_use_BS1 = (window_S < count_B1)[..., None]
    slot_W = torch.arange(window, device=lengths_B.device)
    in_text_BSW = slot_W - prefix_B1[..., None]
    in_suffix_BSW = in_text_BSW - size_BS[..., None]
    is_prefix_BSW = (in_text_BSW < 0) & in_use_BS1
    is_text_BSW = (in_text_BSW >= 0) & (in_suffix_BSW < 0) & in_use_BS1
    is_suffix_BSW = (in_suffix_BSW >= 0) & (in_suffix_BSW < suffix_B1[..., None]) & in_use_BS1
    first_BS1 = (prefix_B1 + start_BS)[..., None]
    segment_source_BSW = (first_BS1 + torch.minimum(in_text_BSW, size_BS[..., None] - 1)).clamp(min=0)
    source_BSW = torch.where(is_prefix_BSW, slot_W, first_BS1 + in_text_BSW)
    source_BSW = torch.where(is_suffix_BSW, (prefix_B1 + text_B1)[..., None] + in_suffix_BSW, source_BSW)
    is_end_BSW = is_suffix_BSW & (window_S == count_B1 - 1)[..., None]
    segment_source_BSW = torch.where(is_end_BSW, source_BSW, segment_source_BSW)
    mask_BSW = is_prefix_BSW | is_text_BSW | is_suffix_BSW

    token_T = torch.arange(num_tokens, device=lengths_B.device)[None]
    in_text_BT = token_T - prefix_B1
    window_BT = torch.minimum((in_text_BT - stride // 2).clamp(min=0) // step_B1, count_B1 - 1)
    window_BT = torch.where(in_text_BT < text_B1, window_BT, count_B1 - 1)
    slot_BT = window_BT * window + prefix_B1 + in_text_BT - window_BT * step_B1
    return Subsequences(
        source_BSW=torch.where(mask_BSW, source_BSW, 0),
        segment_source_BSW=torch.where(is_text_BSW | is_suffix_BSW, segment_source_BSW, 0),
        mask_BSW=mask_BSW,
        slot_BT=torch.where(token_T < lengths_B[:, None], slot_BT, 0),
    )


def plan_windows(
    values: Tensor, lengths_B: Tensor | None, window: int, stride: int, prefix_ids: list[int], suffix_ids: list[int]
) -> Subsequences:
    """Plan the windows of right-padded rows, (B, T) ids that tell by special tokens whether they are framed, or
    (B, T, D) embeddings, which are.
    """
    B, T = values.shape[:2]
    lengths_B = torch.full((B,), T, device=values.device) if lengths_B is None else lengths_B
    num_prefix, num_suffix = len(prefix_ids), len(suffix_ids)
    if values.dim() == 2:
        has_prefix = starts_with(values, lengths_B, prefix_ids)
        has_suffix = ends_with(values, lengths_B, suffix_ids)
        has_suffix &= lengths_B >= has_prefix * num_prefix + num_suffix
    else:
        has_prefix = has_suffix = lengths_B >= num_prefix + num_suffix
    return split(lengths_B, T, window, stride, num_prefix, num_suffix, has_prefix, has_suffix).trim()


def rows_of_windows(rows: TokenRows, windows: Subsequences, padding: int) -> TokenRows:
    """Return the windows as rows of their own, B * S of W tokens."""
    mask_BSW = windows.mask_BSW
    values = fill_windows(rows.values, windows.source_BSW, mask_BSW, padding)
    types = None if rows.types_BN is None else fill_windows(rows.types_BN, windows.segment_source_BSW, mask_BSW)
    mask = mask_BSW.flatten(0, 1)
    if torch.compiler.is_compiling():  # no window can be left out, and no softmax may be over nothing
        is_first_W = torch.arange(mask.shape[1], device=mask.device) == 0
        mask = mask | (~mask.any(dim=1, keepdim=True) & is_first_W)
    return TokenRows(values.flatten(0, 1), None if types is None else types.flatten(0, 1), mask)


def fill_windows(values: Tensor, source_BSW: Tensor, mask_BSW: Tensor, padding: int = 0) -> Tensor:
    """Return (B, S, W) ids or (B, S, W, D) embeddings: the tokens of right-padded rows in their windows."""
    filled = gather_tokens(values, source_BSW.flatten(1)).unflatten(1, source_BSW.shape[1:])
    is_empty = ~mask_BSW if values.dim() == 2 else ~mask_BSW[..., None]
    return filled.masked_fill(is_empty, padding if values.dim() == 2 else 0)


def merge(features: Tensor, windows: Subsequences) -> Tensor:
    """Return (B, T, D) the features (B, S, W, D) of the windows as one sequence per row."""
    return gather_tokens(features.flatten(1, 2), windows.slot_BT)
