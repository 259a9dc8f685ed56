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
"""The linear-chain CRF as a module: learned scores of each transition on top of the legal ones.

Shape suffixes: B rows, N positions, C tags.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .decoding_selfattn import (
    IGNORED,
    ILLEGAL,
    crf_nll,
    entity_continuation,
    illegal_words,
    marginals,
    span_log_probability,
    transition_mask,
    viterbi_decode,
)


class LinearChainCRF(nn.Module):
    """Learned scores of each transition on top of the legal ones (Lafferty et al., 2001).

    The parameters are allocated only: `reset` fills them with 0, which gives the legal-transition model. The buffers
    are not saved: they are `transition_mask` and `entity_continuation` of the label names, in this order.

    Args:
        label_names: the C names in the order of the labels.

    Raises:
        ValueError: if there are no labels.
    """

    legal_start: Tensor
    legal_transitions: Tensor
    legal_end: Tensor
    continuation: Tensor

    weight = None  # when PEFT merges, it reads the `weight` of each module that it saved, even of one that has none

    def __init__(self, label_names: list[str]) -> None:
        super().__init__()
        C = len(label_names)
        self.label_names = list(label_names)
        self.start_scores = nn.Parameter(torch.empty(C))
        self.transition_scores = nn.Parameter(torch.empty(C, C))
        self.end_scores = nn.Parameter(torch.empty(C))
        for name, table in zip(("start", "transitions", "end"), transition_mask(label_names), strict=True):
            self.register_buffer(f"legal_{name}", table, persistent=False)
        self.register_buffer("continuation", entity_continuation(label_names), persistent=False)

    def reset(self, zero: Callable[[Tensor], Any], copy: Callable[[Tensor, Tensor], Any]) -> None:
        """Fill parameters and buffers, where they were allocated only.

        Args:
            zero: fills a parameter with 0.
            copy: fills the first tensor with the second.
        """
        for parameter in self.parameters():
            zero(parameter)
        for name, table in zip(("start", "transitions", "end"), transition_mask(self.label_names), strict=True):
            copy(getattr(self, f"legal_{name}"), table)
        copy(self.continuation, entity_continuation(self.label_names))

    def forward(self, scores_BNC: Tensor, labels_BN: Tensor, mask_BN: Tensor) -> Tensor:
        """Return (B,) the negative log-likelihood of the labels, summed over the words of each row.

        Args:
            scores_BNC: logits of each label at each position.
            labels_BN: labels; a position with -100 is no word.
            mask_BN: True at words.

        Raises:
            ValueError: if the shapes do not fit, or a label is unknown or may not stand where it stands.
        """
        if labels_BN.shape != mask_BN.shape:
            raise ValueError(
                f"labels have shape {tuple(labels_BN.shape)} and the mask {tuple(mask_BN.shape)}. Give one label for "
                f"each position, {IGNORED} where there is no word."
            )
        if not torch.compiler.is_compiling():
            self._check_labels(labels_BN, mask_BN.bool() & (labels_BN != IGNORED))
        return crf_nll(scores_BNC, labels_BN, mask_BN, *self.tables())

    def decode(self, scores_BNC: Tensor, mask_BN: Tensor) -> Tensor:
        """Return (B, N) the best labels; see `viterbi_decode`."""
        return viterbi_decode(scores_BNC, mask_BN, *self.tables())

    def marginals(self, scores_BNC: Tensor, mask_BN: Tensor) -> Tensor:
        """Return (B, N, C) the probability of each label; see `marginals`."""
        return marginals(scores_BNC, mask_BN, *self.tables())

    def span_log_probability(self, scores_BNC: Tensor, labels_BN: Tensor, mask_BN: Tensor) -> Tensor:
        """Return (B, N) the log probability of each word's entity; see `span_log_probability`."""
        return span_log_probability(scores_BNC, labels_BN, mask_BN, *self.tables(), self.continuation)

    def tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the scores of the first label, (C,), of transitions, (C, C), and of the last label, (C,)."""
        return (
            self.start_scores.masked_fill(~self.legal_start, ILLEGAL),
            self.transition_scores.masked_fill(~self.legal_transitions, ILLEGAL),
            self.end_scores.masked_fill(~self.legal_end, ILLEGAL),
        )

    def _check_labels(self, labels_BN: Tensor, words_BN: Tensor) -> None:
        C = len(self.label_names)
        unknown_BN = words_BN & ((labels_BN < 0) | (labels_BN >= C))
        if unknown_BN.any():
            row, position = unknown_BN.nonzero()[0].tolist()
            raise ValueError(
                f"labels[{row}, {position}] is {int(labels_BN[row, position])}, but there are {C} labels. Give 0 to "
                f"{C - 1}, or {IGNORED} where there is no word."
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
