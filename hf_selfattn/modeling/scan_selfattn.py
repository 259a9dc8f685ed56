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
"""Recurrences along the positions of a row, as a chain of tags has them, in few steps.

A row of N positions takes N steps one by one. Long rows are cut into K blocks of L positions: the (C, C) products of
all blocks grow side by side in L steps, K steps carry the state from block to block, and one more operation gives the
state at every position. That is C times the work in L + K steps, so it is for few rows and tags (`in_blocks`); many
rows share the cost of a step already. Both ways agree to the last digits of float64, whatever stands in the batch.

Shape suffixes: X rows, N positions, C tags, K blocks, L positions of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 16  # L: positions of a block
MOST_WORK = 2**15  # numbers in the products of one step


def widest(values: Tensor) -> Tensor:
    """Return numbers in float64, or in float32 on devices without it.

    Args:
        values: numbers of any floating type.
    """
    return values.float() if values.device.type == "mps" else values.double()


def in_blocks(rows: int, positions: int, tags: int) -> bool:
    """Return whether rows are faster in blocks than position by position.

    Args:
        rows: X.
        positions: N.
        tags: C.
    """
    blocks = -(-positions // BLOCK)
    return positions > 2 * BLOCK and rows * blocks * tags**2 <= MOST_WORK


def cut(values_XN: Tensor, fill: float) -> Tensor:
    """Return (X, K, L, …) from (X, N, …): blocks of positions, the last one filled up.

    Args:
        values_XN: values of the positions, perhaps with further dimensions.
        fill: value of the positions that are added.
    """
    missing = -values_XN.shape[1] % BLOCK
    padding = (0, 0) * (values_XN.dim() - 2) + (0, missing)
    return F.pad(values_XN, padding, value=fill).unflatten(1, (-1, BLOCK))


def messages(start_XC: Tensor, steps_XCC: Tensor, factors_XNC: Tensor) -> Tensor:
    """Return (X, N, C) the sums over all beginnings of a chain that end in each tag, as shares of 1.

    The first is `start * factors[0]`, each later one `(the one before @ steps) * factors`.

    Args:
        start_XC: factors of the first tag.
        steps_XCC: factors of each transition, from row to column.
        factors_XNC: factors of each tag at each position, above 0.
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
    """Return (X, N) the tags of the sequence of the largest sum of scores (Viterbi, 1967), any after the last word.

    Args:
        start_C: scores of the first tag.
        steps_CC: scores of each transition, from row to column.
        end_C: scores of the last tag.
        scores_XNC: scores of each tag at each position.
        mask_XN: True at words, which stand at the front.
    """
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
    """Return (X, M + 1) the tags from the last one backwards, block by block.

    Args:
        previous_XMC: the tag at each position but the last, for each tag of the next one.
        last_X1: the last tag.
    """
    X, M, C = previous_XMC.shape
    same_C = torch.arange(C, device=previous_XMC.device)
    missing = -M % BLOCK
    filled_XNC = torch.cat([previous_XMC, same_C.expand(X, missing, C)], dim=1)
    previous_LXKC = filled_XNC.unflatten(1, (-1, BLOCK)).unbind(2)
    maps = [previous_LXKC[-1]]  # the tag at each place of a block, for each tag after the block
    for previous_XKC in reversed(previous_LXKC[:-1]):
        maps.append(previous_XKC.gather(2, maps[-1]))
    maps_XKLC = torch.stack(maps[::-1], dim=2)
    after = [last_X1]
    for first_XC in reversed(maps_XKLC[:, :, 0].unbind(1)[1:]):
        after.append(first_XC.gather(1, after[-1]))
    after_XKL1 = torch.stack(after[::-1], dim=1)[:, :, None].expand(-1, -1, BLOCK, -1)
    return torch.cat([maps_XKLC.gather(3, after_XKL1)[..., 0].flatten(1)[:, :M], last_X1], dim=1)
