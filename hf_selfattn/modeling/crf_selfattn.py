# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""Tags of entities: which sequences of them are legal, and a linear-chain CRF that learns which are likely.

The likelihood, for training, is one loop over the positions with (B, C, C) steps in log space.

Shape suffixes: B rows, N positions, C tags.
"""

from __future__ import annotations

import re
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .decoding_selfattn import ILLEGAL, NO_WORD, RightPaddedRows, illegal_in_order, right_padded
from .subsequences_selfattn import right_pad_order

TAG = re.compile(r"O|([BIMELSU])(?:-(.+))?")


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
