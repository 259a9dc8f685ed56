# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""Decoding of chains of tags: the best sequence of each row (Viterbi) and the probability of each tag at each word.

Every function takes the scores of the tags at each word and three tables: which tag may start a row, follow another,
and end a row. A table is boolean (legal or not, all legal ones alike) or holds scores (a CRF's). Positions where the
mask is False are no words: they take no part, and the words on both sides of them are neighbours.

A row of N positions takes N steps one by one. Long rows are cut into K blocks of L positions: the (C, C) products of
all blocks grow side by side in L steps, K steps carry the state from block to block, and one more operation gives the
state at every position: C times the work in L + K steps, for few rows and tags (`in_blocks`). Both ways agree to the
last digits of float64. A row whose best labels are legal as they are needs no Viterbi.

Shape suffixes: B or X rows, N positions, C tags, K blocks, L positions of a block.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .subsequences_selfattn import ceil_div, gather_tokens, right_pad_order

ILLEGAL = -1e9  # finite, so that differences and gradients stay finite; exp(ILLEGAL) is 0 in every precision
# Logarithm of the least share of a word's best label that marginals tell from others.
LOWEST = {torch.float64: -300.0, torch.float32: -40.0}
NO_WORD = -100  # the label of a position that is no word, as in `torch.nn.functional.cross_entropy`
BLOCK_LENGTH = 16  # L: positions of a block
MOST_WORK = 2**15  # numbers in the products of one step


def decode(
    scores_BNC: Tensor, mask_BN: Tensor, start: Tensor, transitions: Tensor, end: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the labels (B, N) of the best sequence of each row (Viterbi, 1967), -100 where there is no word, and the
    probability (B, N, C) of each label over all sequences, by forward-backward, 0 where there is no word. The tables
    are (C,) of the first label, (C, C) from row to column, and (C,) of the last.
    """
    rows = right_padded(scores_BNC, mask_BN, start, transitions, end)
    return best_sequences(rows), label_probabilities(rows)


def best_sequences(rows: RightPaddedRows) -> Tensor:
    """Return (B, N) the labels of the best sequence of each row, -100 where there is no word."""
    if rows.only_legality and not torch.compiler.is_compiling():
        path_BN = rows.scores_BNC.argmax(dim=2)  # the best sequence of all, wherever it is legal
        tables = (table == 0 for table in (rows.start, rows.transitions, rows.end))
        broken_B = illegal_in_order(path_BN, rows.mask_BN, *tables).any(dim=1)
        if broken_B.any():
            path_BN[broken_B] = rows.select(broken_B).best_path()
    else:
        path_BN = rows.best_path()
    return rows.put_back(path_BN, NO_WORD)


def label_probabilities(rows: RightPaddedRows) -> Tensor:
    """Return (B, N, C) the probability of each label over all sequences, 0 where there is no word."""
    scores_BNC = widest(rows.scores_BNC)
    scores_BNC = (scores_BNC - scores_BNC.amax(dim=2, keepdim=True)).clamp(min=LOWEST[scores_BNC.dtype]).exp()
    B, N, C = scores_BNC.shape
    position_N = torch.arange(N, device=scores_BNC.device)
    turned_BN = (rows.mask_BN.sum(dim=1, keepdim=True) - 1 - position_N).clamp(min=0)  # the last word first
    steps_CC, start_C, end_C = (as_factors(table) for table in (rows.transitions, rows.start, rows.end))
    before_BNC, after_BNC = messages(
        torch.stack([start_C, end_C])[:, None].expand(-1, B, -1).flatten(0, 1),
        torch.stack([steps_CC, steps_CC.t()])[:, None].expand(-1, B, -1, -1).flatten(0, 1),
        torch.cat([scores_BNC, gather_tokens(scores_BNC, turned_BN)]),
    ).split(B)
    probs_BNC = before_BNC * gather_tokens(after_BNC, turned_BN) / scores_BNC  # a word's own score counts once
    probs_BNC = probs_BNC / probs_BNC.sum(dim=2, keepdim=True)
    return rows.put_back(probs_BNC.to(rows.scores_BNC.dtype), 0)


def illegal_in_order(labels_BN: Tensor, words_BN: Tensor, start: Tensor, transitions: Tensor, end: Tensor) -> Tensor:
    """Return (B, N), True at words whose label may not stand after the word before, or first or last in its row; words
    stand at the front, the tables are boolean, and all labels are 0 … C - 1.
    """
    start, transitions, end = (table.to(labels_BN.device) for table in (start, transitions, end))
    legal_BN = torch.cat([start[labels_BN[:, :1]], transitions[labels_BN[:, :-1], labels_BN[:, 1:]]], dim=1)
    legal_BN = legal_BN & (end[labels_BN] | F.pad(words_BN[:, 1:], (0, 1)))
    return words_BN & ~legal_BN


class RightPaddedRows(NamedTuple):
    """Scores with the words of each row at its front, as many as the longest has, and the tables as scores."""

    scores_BNC: Tensor  # scores of the labels, 0 where there is no word
    mask_BN: Tensor  # True at words
    start: Tensor  # (C,) scores
    transitions: Tensor  # (C, C) scores
    end: Tensor  # (C,) scores
    order_BN: Tensor  # `x.gather(1, order_BN)` is right-padded
    place_BT: Tensor  # where in its row each of the T positions went; N or more where it is no word
    only_legality: bool  # True where the tables say only what is legal

    def select(self, rows_B: Tensor) -> RightPaddedRows:
        """Return some of the rows."""
        per_row = ("scores_BNC", "mask_BN", "order_BN", "place_BT")
        return self._replace(**{name: getattr(self, name)[rows_B] for name in per_row})

    def put_back(self, values: Tensor, fill: float) -> Tensor:
        """Return values of the words, (B, N, …), as (B, T, …) in the order that they came in."""
        is_word = self.mask_BN.view(*self.mask_BN.shape, *(1,) * (values.dim() - 2))
        values = F.pad(values.masked_fill(~is_word, fill), (0, 0) * (values.dim() - 2) + (0, 1), value=fill)
        return gather_tokens(values, self.place_BT.clamp(max=values.shape[1] - 1))

    def best_path(self) -> Tensor:
        """Return (B, N) the labels of the best sequence of each row, any label after its last word."""
        return best_path(self.start, self.transitions, self.end, self.scores_BNC, self.mask_BN)


def right_padded(
    scores_BNC: Tensor, mask_BN: Tensor, start: Tensor, transitions: Tensor, end: Tensor
) -> RightPaddedRows:
    """Return the rows in float32 (or float64), words at the front; args and errors as in `decode`."""
    if scores_BNC.dim() != 3 or 0 in scores_BNC.shape[1:] or mask_BN.shape != scores_BNC.shape[:2]:
        raise ValueError(
            f"scores have shape {tuple(scores_BNC.shape)} and the mask {tuple(mask_BN.shape)}. Give scores of shape "
            "(rows, positions, labels), at least one position and label, and a mask of shape (rows, positions)."
        )
    C = scores_BNC.shape[2]
    shapes = [tuple(table.shape) for table in (start, transitions, end)]
    if shapes != [(C,), (C, C), (C,)]:
        raise ValueError(f"The tables have shapes {shapes}, but {C} labels need {[(C,), (C, C), (C,)]}.")
    if mask_BN.dtype != torch.bool:
        raise ValueError(f"The mask is {mask_BN.dtype}. Give torch.bool, True at words: `attention_mask.bool()`.")
    scores = scores_BNC if scores_BNC.dtype == torch.float64 else scores_BNC.float()
    order_BN, place_BT = right_pad_order(mask_BN)
    mask_BN = mask_BN.gather(1, order_BN)
    if not torch.compiler.is_compiling():
        longest = max(1, int(mask_BN.any(dim=0).sum()))
        order_BN, mask_BN = order_BN[:, :longest], mask_BN[:, :longest]
    return RightPaddedRows(
        scores_BNC=gather_tokens(scores, order_BN).masked_fill(~mask_BN[..., None], 0),
        mask_BN=mask_BN,
        start=as_scores(start, scores),
        transitions=as_scores(transitions, scores),
        end=as_scores(end, scores),
        order_BN=order_BN,
        place_BT=place_BT,
        only_legality=all(table.dtype == torch.bool for table in (start, transitions, end)),
    )


def as_scores(table: Tensor, like: Tensor) -> Tensor:
    """Return a table as scores of the type and on the device of `like`: 0 and ILLEGAL for a boolean one."""
    table = table.to(like.device)
    if table.dtype == torch.bool:
        return torch.zeros_like(table, dtype=like.dtype).masked_fill(~table, ILLEGAL)
    return table.to(like.dtype).clamp(min=ILLEGAL)


def as_factors(table: Tensor) -> Tensor:
    """Return exp(score) of a table, the largest 1."""
    return widest(table - table.max()).exp()


def widest(values: Tensor) -> Tensor:
    """Return numbers in float64, or in float32 on devices without it."""
    return values.float() if values.device.type == "mps" else values.double()


def in_blocks(rows: int, positions: int, tags: int) -> bool:
    """Return whether rows are faster in blocks than position by position."""
    blocks = ceil_div(positions, BLOCK_LENGTH)
    return positions > 2 * BLOCK_LENGTH and rows * blocks * tags**2 <= MOST_WORK


def cut(values_XN: Tensor, fill: float) -> Tensor:
    """Return (X, K, L, …) from (X, N, …): blocks of positions, the last one filled up."""
    missing = -values_XN.shape[1] % BLOCK_LENGTH
    padding = (0, 0) * (values_XN.dim() - 2) + (0, missing)
    return F.pad(values_XN, padding, value=fill).unflatten(1, (-1, BLOCK_LENGTH))


def messages(start_XC: Tensor, steps_XCC: Tensor, factors_XNC: Tensor) -> Tensor:
    """Return (X, N, C) the sums over all beginnings of a chain that end in each tag, as shares of 1.

    The first is `start * factors[0]`, each later one `(the one before @ steps) * factors`, with factors above 0.
    """
    X, N, C = factors_XNC.shape
    if in_blocks(X, N, C):
        return messages_in_blocks(start_XC, steps_XCC, factors_XNC)
    first_X1C, *later = factors_XNC[:, :, None].unbind(1)
    probs_X1C = start_XC[:, None] * first_X1C
    so_far = [probs_X1C / probs_X1C.sum(dim=2, keepdim=True)]
    for factors_X1C in later:
        probs_X1C = torch.bmm(so_far[-1], steps_XCC) * factors_X1C
        so_far.append(probs_X1C / probs_X1C.sum(dim=2, keepdim=True))
    return torch.cat(so_far, dim=1)


def messages_in_blocks(start_XC: Tensor, steps_XCC: Tensor, factors_XNC: Tensor) -> Tensor:
    """Return the same as `messages`, block by block."""
    tiny = torch.finfo(factors_XNC.dtype).tiny
    factors_LXKC = cut(factors_XNC, 1.0).unbind(2)
    C = factors_XNC.shape[2]
    steps_X1CC = steps_XCC[:, None]
    product_XKCC = steps_X1CC * factors_LXKC[0][:, :, None]
    first_XCC = (start_XC * factors_XNC[:, 0])[:, None].expand(-1, C, -1)  # before the first block comes any tag
    product_XKCC = torch.cat([first_XCC[:, None], product_XKCC[:, 1:]], dim=1)
    products, logs, log_XKC = [], [], torch.zeros_like(product_XKCC[..., 0])
    for place, factors_XKC in enumerate(factors_LXKC):
        if place:
            product_XKCC = (product_XKCC @ steps_X1CC) * factors_XKC[:, :, None]
        total_XKC1 = product_XKCC.sum(dim=3, keepdim=True).clamp(min=tiny)
        product_XKCC, log_XKC = product_XKCC / total_XKC1, log_XKC + total_XKC1[..., 0].log()
        products.append(product_XKCC)
        logs.append(log_XKC)
    carried = [torch.full_like(start_XC, 1 / C)]
    for product_XCC, log_XC in zip(products[-1].unbind(1)[:-1], logs[-1].unbind(1)[:-1], strict=True):
        weights_XC = (carried[-1].log() + log_XC).softmax(dim=1)
        carried.append(torch.bmm(weights_XC[:, None], product_XCC)[:, 0])
    before_XK1C = torch.stack(carried, dim=1)[:, :, None]
    weights_XKLC = (before_XK1C.log() + torch.stack(logs, dim=2)).softmax(dim=3)
    messages_XKLC = (weights_XKLC[:, :, :, None] @ torch.stack(products, dim=2))[:, :, :, 0]
    return messages_XKLC.flatten(1, 2)[:, : factors_XNC.shape[1]]


def best_path(start_C: Tensor, steps_CC: Tensor, end_C: Tensor, scores_XNC: Tensor, mask_XN: Tensor) -> Tensor:
    """Return (X, N) the tags of the sequence of the largest sum of scores (Viterbi, 1967), any after the last word."""
    scores_XNC, start_C, steps_CC, end_C = map(widest, (scores_XNC, start_C, steps_CC, end_C))
    X, N, C = scores_XNC.shape
    best = best_in_blocks if in_blocks(X, N, C) else best_in_turn
    best_XNC = best(start_C, steps_CC, scores_XNC, mask_XN)
    previous_XMC = (best_XNC[:, :-1, :, None] + steps_CC).argmax(dim=2)  # M: from position 0 to N - 2
    same_C = torch.arange(C, device=scores_XNC.device)
    previous_XMC = torch.where(mask_XN[:, 1:, None], previous_XMC, same_C)
    last_X1 = (best_XNC[:, -1] + end_C).argmax(dim=1, keepdim=True)
    if in_blocks(X, N, C):
        return walk_back_in_blocks(previous_XMC, last_X1)
    path = [last_X1]
    for previous_XC in reversed(previous_XMC.unbind(1)):
        path.append(previous_XC.gather(1, path[-1]))
    return torch.cat(path[::-1], dim=1)


def best_in_turn(start_C: Tensor, steps_CC: Tensor, scores_XNC: Tensor, mask_XN: Tensor) -> Tensor:
    """Return (X, N, C) the best score of a beginning that ends in each tag; after the last word that of the last."""
    best = [start_C + scores_XNC[:, 0]]
    for scores_XC, word_X1 in zip(scores_XNC.unbind(1)[1:], mask_XN[..., None].unbind(1)[1:], strict=True):
        best_XC = (best[-1][:, :, None] + steps_CC).amax(dim=1) + scores_XC
        best.append(torch.where(word_X1, best_XC, best[-1]))
    return torch.stack(best, dim=1)


def best_in_blocks(start_C: Tensor, steps_CC: Tensor, scores_XNC: Tensor, mask_XN: Tensor) -> Tensor:
    """Return the same as `best_in_turn`, block by block."""
    C = scores_XNC.shape[2]
    scores_LXKC, words_LXK = cut(scores_XNC, 0.0).unbind(2), cut(mask_XN, False).unbind(2)
    stay_CC = torch.full_like(steps_CC, -torch.inf).fill_diagonal_(0)
    sums_XKCC = torch.where(words_LXK[0][..., None, None], steps_CC + scores_LXKC[0][:, :, None], stay_CC)
    first_XCC = (start_C + scores_XNC[:, 0])[:, None].expand(-1, C, -1)  # before the first block comes any tag
    sums = [torch.cat([first_XCC[:, None], sums_XKCC[:, 1:]], dim=1)]
    for scores_XKC, word_XK in zip(scores_LXKC[1:], words_LXK[1:], strict=True):
        sums_XKCC = (sums[-1][..., None] + steps_CC).amax(dim=3) + scores_XKC[:, :, None]
        sums.append(torch.where(word_XK[..., None, None], sums_XKCC, sums[-1]))
    carried = [torch.zeros_like(scores_XNC[:, 0])]
    for sums_XCC in sums[-1].unbind(1)[:-1]:
        carried.append((carried[-1][:, :, None] + sums_XCC).amax(dim=1))
    before_XK1C1 = torch.stack(carried, dim=1)[:, :, None, :, None]
    return (before_XK1C1 + torch.stack(sums, dim=2)).amax(dim=3).flatten(1, 2)[:, : scores_XNC.shape[1]]


def walk_back_in_blocks(previous_XMC: Tensor, last_X1: Tensor) -> Tensor:
    """Return (X, M + 1) the tags from the last one backwards, block by block."""
    X, M, C = previous_XMC.shape
    same_C = torch.arange(C, device=previous_XMC.device)
    missing = -M % BLOCK_LENGTH
    filled_XNC = torch.cat([previous_XMC, same_C.expand(X, missing, C)], dim=1)
    previous_LXKC = filled_XNC.unflatten(1, (-1, BLOCK_LENGTH)).unbind(2)
    maps = [previous_LXKC[-1]]  # the tag at each place of a block, for each tag after the block
    for previous_XKC in reversed(previous_LXKC[:-1]):
        maps.append(previous_XKC.gather(2, maps[-1]))
    maps_XKLC = torch.stack(maps[::-1], dim=2)
    after = [last_X1]
    for first_XC in reversed(maps_XKLC[:, :, 0].unbind(1)[1:]):
        after.append(first_XC.gather(1, after[-1]))
    after_XKL1 = torch.stack(after[::-1], dim=1)[:, :, None].expand(-1, -1, BLOCK_LENGTH, -1)
    return torch.cat([maps_XKLC.gather(3, after_XKL1)[..., 0].flatten(1)[:, :M], last_X1], dim=1)
