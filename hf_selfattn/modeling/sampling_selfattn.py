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
"""What training reads of a row: a random share of its windows in the backbone, and of its tokens in the heads.

Shape suffixes: B rows, T tokens of a padded row, S windows of a row, W tokens of a window, N tokens that are read,
R drawn items of a row, D features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .subsequences_selfattn import Subsequences, first_tokens, gather_tokens, right_pad_order


@dataclass
class DrawnTokens:
    """Some tokens of right-padded rows.

    Attributes:
        places_BR: their places, in ascending order; behind those of a row that has fewer, places of other tokens.
        lengths_B: how many each row has.
    """

    places_BR: Tensor
    lengths_B: Tensor

    def put_back(self, read_BRD: Tensor, others_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Return all tokens, (B, T, D), those that were drawn as they were read, and which these are, (B, T).

        Args:
            read_BRD: features of the drawn tokens.
            others_BTD: features that the others have.
        """
        others_BTD = others_BTD.to(read_BRD.dtype)
        is_drawn_BR = first_tokens(self.lengths_B, self.places_BR.shape[1])
        read_BRD = torch.where(is_drawn_BR[..., None], read_BRD, gather_tokens(others_BTD, self.places_BR))
        features_BTD = others_BTD.scatter(1, self.places_BR[..., None].expand_as(read_BRD), read_BRD)
        nothing_BT = torch.zeros(others_BTD.shape[:2], dtype=torch.bool, device=is_drawn_BR.device)
        return features_BTD, nothing_BT.scatter(1, self.places_BR, is_drawn_BR)


@dataclass
class DrawnWindows:
    """Some windows of right-padded rows, and the tokens whose features come from them.

    Attributes:
        windows: the plan of these windows; their N tokens, moved to the front of each row, are all that it merges.
        order_BN: the place in the row of each of these tokens.
        inverse_BT: the index into N of each token of the row; means nothing for one that is not read.
        lengths_B: how many tokens of each row are read.
        is_read_BT: which ones.
    """

    windows: Subsequences
    order_BN: Tensor
    inverse_BT: Tensor
    lengths_B: Tensor
    is_read_BT: Tensor

    def tokens_read(self, by_heads_BN: Tensor | None) -> Tensor:
        """Return which tokens of the row were read, (B, T).

        Args:
            by_heads_BN: those of the windows' tokens that the heads drew, or None where they read all.
        """
        if by_heads_BN is None:
            return self.is_read_BT
        return self.is_read_BT & by_heads_BN.gather(1, self.inverse_BT)


def number_drawn(number: int, keep_rate: float) -> int:
    """Return how many of a number of items are drawn, at least one.

    Args:
        number: of items.
        keep_rate: share that is drawn.
    """
    return torch.sym_max(1, torch.sym_int(number * keep_rate + 0.5))


@torch.no_grad()
def draw(counts_B: Tensor, keep_rate: float, bonus_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Draw a random share of each row's items, all equally likely, with the generator that dropout uses, too.

    Args:
        counts_B: items of each row.
        keep_rate: share that is drawn.
        bonus_BN: 0, or how much sooner than others an item is drawn: one with 1 before all with 0.

    Returns:
        The numbers of the drawn items (B, R), in ascending order and then other items, and how many were drawn (B,).
    """
    B, N = bonus_BN.shape
    R = number_drawn(N, keep_rate)
    drawn_B = (counts_B.float() * keep_rate + 0.5).long().clamp(1, R)
    number_N = torch.arange(N, device=counts_B.device)
    score_BN = torch.rand(B, N, device=counts_B.device) + bonus_BN
    best_BR = score_BN.masked_fill(number_N >= counts_B[:, None], -1).topk(R, dim=1).indices
    is_other_BR = number_N[:R] >= drawn_B[:, None]
    return (best_BR + N * is_other_BR).sort(dim=1).values % N, drawn_B


def draw_tokens(lengths_B: Tensor, num_tokens: int, keep_rate: float, num_prefix: int, num_suffix: int) -> DrawnTokens:
    """Draw the tokens that the heads read: first of all those at the ends of a row, where special tokens stand.

    The others pass the heads by, as in random layerwise token dropping (Yao et al., 2022), so every token has an
    output, and a tagger learns from all of its labels. The heads then cost the share of tokens that is kept, and the
    kept ones see each other as the tokens of a shorter text. Drawn once for all head layers, so that a token was read
    by all or by none and a sequence classifier can leave out those that were not: their features are never part of
    what it reads at evaluation. Special tokens are kept as by Hou et al. (2022).

    Args:
        lengths_B: number of real tokens of each row.
        num_tokens: T, the padded length.
        keep_rate: share of the tokens that is drawn.
        num_prefix: special tokens before a text.
        num_suffix: special tokens after a text.
    """
    place_T, length_B1 = torch.arange(num_tokens, device=lengths_B.device), lengths_B[:, None]
    is_special_BT = (place_T < num_prefix) | ((place_T >= length_B1 - num_suffix) & (place_T < length_B1))
    return DrawnTokens(*draw(lengths_B, keep_rate, is_special_BT + 2.0 * (place_T == 0)))


def draw_windows(windows: Subsequences, lengths_B: Tensor | None, keep_rate: float, keep_first: bool) -> DrawnWindows:
    """Draw the windows that the backbone reads; tokens that would be taken from others are not read.

    Args:
        windows: the plan of `split`.
        lengths_B: number of real tokens of each row, or None where no token is padding.
        keep_rate: share of the windows that is drawn.
        keep_first: whether a row's first window is always one of them.
    """
    B, S, W = windows.mask_BSW.shape
    if lengths_B is None:
        lengths_B = windows.slot_BT.new_full((B,), windows.slot_BT.shape[1])
    is_first_BS = (torch.arange(S, device=lengths_B.device) == 0).expand(B, -1)
    kept_BR, drawn_B = draw(windows.mask_BSW.any(dim=2).sum(dim=1), keep_rate, is_first_BS.float() * keep_first)
    is_drawn_BR = first_tokens(drawn_B, kept_BR.shape[1])
    number_BR = torch.arange(kept_BR.shape[1], device=lengths_B.device).expand_as(kept_BR)
    number_BS = kept_BR.new_full((B, S), -1).scatter(1, kept_BR, number_BR.masked_fill(~is_drawn_BR, -1))

    number_BT = number_BS.gather(1, windows.slot_BT // W)
    is_read_BT = (number_BT >= 0) & first_tokens(lengths_B, number_BT.shape[1])
    order_BT, inverse_BT = right_pad_order(is_read_BT)
    read_B = is_read_BT.sum(dim=1)
    N = order_BT.shape[1] if torch.compiler.is_compiling() else int(read_B.max())
    slot_BT = torch.where(is_read_BT, number_BT * W + windows.slot_BT % W, 0)
    take_BRW = kept_BR[..., None].expand(-1, -1, W)
    drawn = Subsequences(
        source_BSW=windows.source_BSW.gather(1, take_BRW),
        segment_source_BSW=windows.segment_source_BSW.gather(1, take_BRW),
        mask_BSW=windows.mask_BSW.gather(1, take_BRW) & is_drawn_BR[..., None],
        slot_BT=slot_BT.gather(1, order_BT[:, :N]),
    )
    return DrawnWindows(drawn, order_BT[:, :N], inverse_BT.clamp(max=N - 1), read_B, is_read_BT)


def refuse_drawn_windows(keep_rate: float) -> None:
    """Raise an error where a tagger is to read a share of the windows.

    Args:
        keep_rate: share of the windows.

    Raises:
        ValueError: if it is below 1.
    """
    if keep_rate < 1:
        raise ValueError(
            f"subsequence_keep_rate={keep_rate} is for sequence classification: words in windows that are not read "
            "have no features, and so no tags. Take 1.0, and where a tagger is to read less in training, "
            "token_keep_rate or the recipe's sample_tokens."
        )
