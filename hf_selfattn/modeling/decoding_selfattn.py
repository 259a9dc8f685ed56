# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""Chains of tags: which are legal, the best one of each row (Viterbi), the probability of each tag, and a CRF.

Every function takes the scores of the tags at each word and three tables: which tag may start a row, follow another,
and end a row. A table is boolean (legal or not, all legal ones alike) or holds scores (a CRF's). Positions where the
mask is False are no words: they take no part, and the words on both sides of them are neighbours.

A row of N positions takes N steps one by one. To decode, long rows are cut into K blocks of L positions: the (C, C)
products of all blocks grow side by side in L steps, K steps carry the state from block to block, and one more
operation gives the state at every position: C times the work in L + K steps, for few rows and tags (`in_blocks`). Both
ways agree to the last digits of float64. A row whose best labels are legal as they are needs no Viterbi.

Shape suffixes: B or X rows, N positions, C tags, K blocks, L positions of a block.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .subsequences_selfattn import ceil_div, gather_tokens, right_pad_order

TAG = re.compile(r"O|([BIMELSU])(?:-(.+))?")
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


def read_tags(label_names: tuple[str, ...]) -> list[tuple[str, str]] | None:
    """Return role and type of each tag of IOB2 or BIOES (also BILOU, BMES), or None for labels of no such scheme.

    A set in which a tag could stand in no legal sequence (I-X without B-X: IO or IOB1) is no such scheme either. Bare
    "B" and "I" are for entities of one kind.
    """
    if not label_names:
        raise ValueError("label_names is empty. Give the name of each label, for example ['O', 'B-PER', 'I-PER'].")
    tags = []
    for name in label_names:
        match = TAG.fullmatch(name)
        if match is None:
            return None
        role = match[1] or "O"
        tags.append(({"M": "I", "L": "E", "U": "S"}.get(role, role), match[2] or ""))
    has_ends = any(role in "ES" for role, _ in tags)
    for role, kind in tags:
        if role in "IE" and ("B", kind) not in tags or has_ends and role in "BI" and ("E", kind) not in tags:
            return None
    if not any(role in ("OS" if has_ends else "OB") for role, _ in tags):
        return None  # no tag for a row of one word
    return tags


def transition_mask(label_names: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Return which tag may start a row, (C,), follow another, (C, C) from row to column, and end a row, (C,).

    Labels that are neither IOB2 nor BIOES (see `read_tags`) are all legal everywhere.
    """
    start, transitions, end, _ = tag_tables(tuple(label_names))
    return torch.tensor(start), torch.tensor(transitions), torch.tensor(end)


@lru_cache
def tag_tables(label_names: tuple[str, ...]) -> tuple[list[bool], list[list[bool]], list[bool], list[list[bool]]]:
    """Return which tag may start a row, follow another and end a row, and which continues the entity of another.

    They are lists all along, since models are built on the meta device, where a tensor has no numbers.
    """
    tags, C = read_tags(label_names), len(label_names)
    if tags is None:
        return [True] * C, [[True] * C] * C, [True] * C, [[False] * C] * C
    has_ends = any(role in "ES" for role, _ in tags)
    start = [role not in "IE" for role, _ in tags]
    end = [not (has_ends and role in "BI") for role, _ in tags]
    goes_on = [[a in "BI" and b in "IE" and kind == other for b, other in tags] for a, kind in tags]
    legal = [[goes_on[i][j] or (end[i] and start[j]) for j in range(C)] for i in range(C)]
    return start, legal, end, goes_on


class LinearChainCRF(nn.Module):
    """Learned scores of each transition, 0 at first, on top of the legal ones (Lafferty et al., 2001)."""

    legal_start: Tensor
    legal_transitions: Tensor
    legal_end: Tensor

    weight = None  # when PEFT merges, it reads the `weight` of each module that it saved, even of one that has none

    def __init__(self, label_names: list[str]) -> None:
        super().__init__()
        C = len(label_names)
        self.label_names = list(label_names)
        self.start_scores = nn.Parameter(torch.empty(C))
        self.transition_scores = nn.Parameter(torch.empty(C, C))
        self.end_scores = nn.Parameter(torch.empty(C))
        for name, table in zip(("start", "transitions", "end"), transition_mask(label_names), strict=True):
            self.register_buffer(f"legal_{name}", table, persistent=False)  # the label names tell it

    def reset_weights(self) -> None:
        """Fill parameters and buffers, unless they were loaded."""
        for parameter in self.parameters():
            init.zeros_(parameter)
        for name, table in zip(("start", "transitions", "end"), transition_mask(self.label_names), strict=True):
            init.copy_(getattr(self, f"legal_{name}"), table)

    def forward(self, scores_BNC: Tensor, labels_BN: Tensor, mask_BN: Tensor) -> Tensor:
        """Return (B,) the negative log-likelihood of the labels, summed over the words of each row."""
        if labels_BN.shape != mask_BN.shape:
            raise ValueError(
                f"labels have shape {tuple(labels_BN.shape)} and the mask {tuple(mask_BN.shape)}. Give one label for "
                f"each position, {NO_WORD} where there is no word."
            )
        if not torch.compiler.is_compiling():
            self._check_labels(labels_BN, mask_BN.bool() & (labels_BN != NO_WORD))
        return crf_nll(scores_BNC, labels_BN, mask_BN, *self.tables())

    def tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the scores of the first label, (C,), of transitions, (C, C), and of the last label, (C,)."""
        dtype = torch.promote_types(self.start_scores.dtype, torch.float32)  # ILLEGAL is beyond float16
        return (
            self.start_scores.to(dtype).masked_fill(~self.legal_start, ILLEGAL),
            self.transition_scores.to(dtype).masked_fill(~self.legal_transitions, ILLEGAL),
            self.end_scores.to(dtype).masked_fill(~self.legal_end, ILLEGAL),
        )

    def _check_labels(self, labels_BN: Tensor, words_BN: Tensor) -> None:
        C = len(self.label_names)
        unknown_BN = words_BN & ((labels_BN < 0) | (labels_BN >= C))
        if unknown_BN.any():
            row, position = unknown_BN.nonzero()[0].tolist()
            raise ValueError(
                f"labels[{row}, {position}] is {int(labels_BN[row, position])}, but there are {C} labels. Give 0 to "
                f"{C - 1}, or {NO_WORD} where there is no word."
            )
        wrong_BN = illegal_words(labels_BN, words_BN, self.legal_start, self.legal_transitions, self.legal_end)
        if wrong_BN.any():
            row, position = wrong_BN.nonzero()[0].tolist()
            names = [self.label_names[label] for label in labels_BN[row, words_BN[row]].tolist()]
            word = int(words_BN[row, :position].sum())
            context = " ".join(names[max(word - 1, 0) : word + 2])
            raise ValueError(
                f"labels[{row}, {position}] is {names[word]!r}, word {word + 1} of the {len(names)} in its row, which "
                f"no legal sequence holds there ({context}). Repair the tags, for example an entity that begins with "
                "I to one that begins with B."
            )


def illegal_words(labels_BN: Tensor, mask_BN: Tensor, start: Tensor, transitions: Tensor, end: Tensor) -> Tensor:
    """Return (B, N), True at words whose label may not stand after the word before, or first or last in its row."""
    order_BN, inverse_BN = right_pad_order(mask_BN)
    words_BN, labels_BN = mask_BN.gather(1, order_BN), labels_BN.masked_fill(~mask_BN, 0).gather(1, order_BN)
    return illegal_in_order(labels_BN, words_BN, start, transitions, end).gather(1, inverse_BN)


def crf_nll(
    scores_BNC: Tensor, labels_BN: Tensor, mask_BN: Tensor, start: Tensor, transitions: Tensor, end: Tensor
) -> Tensor:
    """Return (B,) the negative log-likelihood of the labels in a linear-chain CRF (Lafferty et al., 2001)."""
    rows = right_padded(scores_BNC, mask_BN & (labels_BN != NO_WORD), start, transitions, end)
    alphas_BNC, shifts_BN = forward_scores(rows)
    terms_BN = shifts_BN - path_terms(rows, labels_BN)  # word by word: the difference of two long sums loses digits
    return terms_BN.sum(dim=1) + last_step(rows, alphas_BNC)


def forward_scores(rows: RightPaddedRows) -> tuple[Tensor, Tensor]:
    """Return the log sum of exp(score) of the beginnings of sequences that end in each label, its own score included,
    as (B, N, C) with 0 as the largest number of each position and (B, N) what was subtracted there for it.
    """
    step_BC = rows.start + rows.scores_BNC[:, 0]
    shifts = [step_BC.detach().amax(dim=1, keepdim=True)]
    alphas = [step_BC - shifts[0]]
    words_BN1 = rows.mask_BN[..., None]
    for scores_BC, word_B1 in zip(rows.scores_BNC.unbind(1)[1:], words_BN1.unbind(1)[1:], strict=True):
        step_BC = torch.logsumexp(alphas[-1][:, :, None] + rows.transitions, dim=1) + scores_BC
        shifts.append(step_BC.detach().amax(dim=1, keepdim=True))
        alphas.append(torch.where(word_B1, step_BC - shifts[-1], alphas[-1]))
    return torch.stack(alphas, dim=1), torch.cat(shifts, dim=1).masked_fill(~rows.mask_BN, 0)


def last_step(rows: RightPaddedRows, alphas_BNC: Tensor) -> Tensor:
    """Return (B,) the log sum over the last labels with the scores of the end, 0 for a row without words."""
    return torch.logsumexp(alphas_BNC[:, -1] + rows.end, dim=1).masked_fill(~rows.mask_BN[:, 0], 0)


def path_terms(rows: RightPaddedRows, labels_BN: Tensor) -> Tensor:
    """Return (B, N) what each word adds to the score of its row's labels, which come in their order before padding."""
    words = rows.mask_BN
    labels = labels_BN.gather(1, rows.order_BN).masked_fill(~words, 0)
    is_last = words & ~F.pad(words[:, 1:], (0, 1))
    steps = torch.cat([rows.start[labels[:, :1]], rows.transitions[labels[:, :-1], labels[:, 1:]]], dim=1)
    terms = steps + pick(rows.scores_BNC, labels) + rows.end[labels].masked_fill(~is_last, 0)
    return terms.masked_fill(~words, 0)


def pick(values_BNC: Tensor, labels_BN: Tensor) -> Tensor:
    """Return (B, N) the value of the label at each position."""
    return values_BNC.gather(2, labels_BN[..., None])[..., 0]
