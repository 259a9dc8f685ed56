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
"""Legal tag sequences: Viterbi decoding, the likelihood of a linear-chain CRF and the confidence of entities.

Every function takes the scores of the tags at each word and three tables: which tag may start a row, follow another,
and end a row. A table is boolean (legal or not, all legal ones alike) or holds scores (a CRF's). Positions where the
mask is False are no words: they take no part, and the words on both sides of them are neighbours.

In inference, long rows go in blocks (`scan_selfattn.py`), a row whose best labels are legal as they are needs no
Viterbi, and marginals are matrix products of probabilities, forwards and backwards at once. The likelihood, for
training, is one loop over the positions with (B, C, C) steps in log space.

Shape suffixes: B rows, N positions, C tags.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .scan_selfattn import best_path, messages, widest
from .subsequences_selfattn import gather_tokens, right_pad_order

ILLEGAL = -1e9  # finite, so that differences and gradients stay finite; exp(ILLEGAL) is 0 in every precision
# Logarithm of the least share of a word's best label that marginals tell from others.
LOWEST = {torch.float64: -300.0, torch.float32: -40.0}
IGNORED = -100  # the label of a position that is no word, as in `torch.nn.functional.cross_entropy`
TAG = re.compile(r"O|([BIMELSU])(?:-(.+))?")


class EntityTags(NamedTuple):
    """What each tag says of the entity that its word belongs to.

    Attributes:
        continues_C: True where the word is not the first one of its entity (I, E).
        may_go_on_C: True where the next word may belong to the same entity (B, I).
        type_C: number of the entity's type, -1 for O.
        has_ends: True in BIOES, where B and I announce that the entity goes on.
    """

    continues_C: Tensor
    may_go_on_C: Tensor
    type_C: Tensor
    has_ends: bool


def read_tags(label_names: list[str]) -> EntityTags | None:
    """Return what the tags of IOB2 or BIOES (also BILOU, BMES) mean, or None for labels that are no such scheme.

    A set in which a tag could stand in no legal sequence (I-X without B-X: IO or IOB1) is no such scheme either.

    Args:
        label_names: C names such as "O", "B-PER", "I-PER"; bare "B", "I" for entities of one kind.

    Raises:
        ValueError: if there are no labels.
    """
    if not label_names:
        raise ValueError("label_names is empty. Give the name of each label, for example ['O', 'B-PER', 'I-PER'].")
    matches = [TAG.fullmatch(name) for name in label_names]
    if any(match is None for match in matches):
        return None
    tags = [((match[1] or "O"), match[2]) for match in matches if match is not None]
    tags = [({"M": "I", "L": "E", "U": "S"}.get(role, role), kind) for role, kind in tags]
    present = set(tags)
    has_ends = any(role in "ES" for role, _ in present)
    for role, kind in present:
        unusable = role in "IE" and ("B", kind) not in present
        unusable |= has_ends and role in "BI" and ("E", kind) not in present
        if unusable:
            return None
    if not any(role in ("OS" if has_ends else "OB") for role, _ in present):
        return None  # no tag for a row of one word
    kinds = sorted({kind or "" for _, kind in tags})
    return EntityTags(
        continues_C=torch.tensor([role in "IE" for role, _ in tags]),
        may_go_on_C=torch.tensor([role in "BI" for role, _ in tags]),
        type_C=torch.tensor([-1 if role == "O" else kinds.index(kind or "") for role, kind in tags]),
        has_ends=has_ends,
    )


def transition_mask(label_names: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Return which tag may start a row, (C,), follow another, (C, C) from row to column, and end a row, (C,).

    Labels that are neither IOB2 nor BIOES (see `read_tags`) are all legal everywhere.

    Args:
        label_names: the C names in the order of the labels.

    Raises:
        ValueError: if there are no labels.
    """
    start, transitions, end, _ = tag_tables(tuple(label_names))
    return torch.tensor(start), torch.tensor(transitions), torch.tensor(end)


def entity_continuation(label_names: list[str]) -> Tensor:
    """Return (C, C), True where a tag (column) continues the entity of the tag before it (row).

    All False for labels that are neither IOB2 nor BIOES: each word is then an entity of its own.

    Args:
        label_names: the C names in the order of the labels.

    Raises:
        ValueError: if there are no labels.
    """
    return torch.tensor(tag_tables(tuple(label_names))[3])


@lru_cache
def tag_tables(label_names: tuple[str, ...]) -> tuple[list[bool], list[list[bool]], list[bool], list[list[bool]]]:
    """Return which tag may start a row, follow another and end a row, and which continues the entity of another.

    They are lists and not tensors, since they are kept: a tensor made in inference mode is of no use in training.

    Args:
        label_names: the C names in the order of the labels.
    """
    tags, C = read_tags(list(label_names)), len(label_names)
    if tags is None:
        return [True] * C, [[True] * C] * C, [True] * C, [[False] * C] * C
    goes_on_CC = tags.may_go_on_C[:, None] & tags.continues_C & (tags.type_C[:, None] == tags.type_C)
    unfinished_C = tags.may_go_on_C & torch.tensor(tags.has_ends)
    legal_CC = goes_on_CC | ~(tags.continues_C | unfinished_C[:, None])
    return (~tags.continues_C).tolist(), legal_CC.tolist(), (~unfinished_C).tolist(), goes_on_CC.tolist()


def illegal_words(labels_BN: Tensor, mask_BN: Tensor, start: Tensor, transitions: Tensor, end: Tensor) -> Tensor:
    """Return (B, N), True at words whose label may not stand after the word before, or first or last in its row.

    Args:
        labels_BN: labels 0 … C - 1; any number where the mask is False.
        mask_BN: True at words.
        start: (C,) True where a label may start a row.
        transitions: (C, C) True where the column may follow the row.
        end: (C,) True where a label may end a row.
    """
    order_BN, inverse_BN = right_pad_order(mask_BN)
    words_BN, labels_BN = mask_BN.gather(1, order_BN), labels_BN.masked_fill(~mask_BN, 0).gather(1, order_BN)
    return illegal_in_order(labels_BN, words_BN, start, transitions, end).gather(1, inverse_BN)


def illegal_in_order(labels_BN: Tensor, words_BN: Tensor, start: Tensor, transitions: Tensor, end: Tensor) -> Tensor:
    """Return the same as `illegal_words` for rows whose words stand at the front; all labels are 0 … C - 1."""
    start, transitions, end = (table.to(labels_BN.device) for table in (start, transitions, end))
    legal_BN = torch.cat([start[labels_BN[:, :1]], transitions[labels_BN[:, :-1], labels_BN[:, 1:]]], dim=1)
    legal_BN = legal_BN & (end[labels_BN] | F.pad(words_BN[:, 1:], (0, 1)))
    return words_BN & ~legal_BN


def viterbi_decode(scores_BNC: Tensor, mask_BN: Tensor, start: Tensor, transitions: Tensor, end: Tensor) -> Tensor:
    """Return (B, N) the labels of the best sequence of each row, -100 where there is no word (Viterbi, 1967).

    Args:
        scores_BNC: logits or log probabilities of each label at each position.
        mask_BN: True at words.
        start: (C,) table of the first label, boolean or scores.
        transitions: (C, C) table from row to column.
        end: (C,) table of the last label.

    Raises:
        ValueError: if the shapes do not fit.
    """
    return best_labels(right_padded(scores_BNC, mask_BN, start, transitions, end))


def marginals(scores_BNC: Tensor, mask_BN: Tensor, start: Tensor, transitions: Tensor, end: Tensor) -> Tensor:
    """Return (B, N, C) the probability of each label over all sequences, by forward-backward; 0 where no word is.

    Args and errors: as in `viterbi_decode`.
    """
    return label_probabilities(right_padded(scores_BNC, mask_BN, start, transitions, end))


def decode(
    scores_BNC: Tensor, mask_BN: Tensor, start: Tensor, transitions: Tensor, end: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what `viterbi_decode` and `marginals` do.

    Args and errors: as in `viterbi_decode`.
    """
    rows = right_padded(scores_BNC, mask_BN, start, transitions, end)
    return best_labels(rows), label_probabilities(rows)


def log_partition(scores_BNC: Tensor, mask_BN: Tensor, start: Tensor, transitions: Tensor, end: Tensor) -> Tensor:
    """Return (B,) the logarithm of the sum of exp(score) over all sequences of each row; 0 for a row without words.

    Args and errors: as in `viterbi_decode`.
    """
    rows = right_padded(scores_BNC, mask_BN, start, transitions, end)
    alphas_BNC, shifts_BN = forward_scores(rows)
    return shifts_BN.sum(dim=1) + last_step(rows, alphas_BNC)


def sequence_score(
    scores_BNC: Tensor, labels_BN: Tensor, mask_BN: Tensor, start: Tensor, transitions: Tensor, end: Tensor
) -> Tensor:
    """Return (B,) the score of one sequence of each row: its labels' scores and those of the tables.

    Args:
        labels_BN: labels 0 … C - 1; any number where the mask is False.
        scores_BNC, mask_BN, start, transitions, end: as in `viterbi_decode`, with its errors.
    """
    return path_terms(right_padded(scores_BNC, mask_BN, start, transitions, end), labels_BN).sum(dim=1)


def crf_nll(
    scores_BNC: Tensor, labels_BN: Tensor, mask_BN: Tensor, start: Tensor, transitions: Tensor, end: Tensor
) -> Tensor:
    """Return (B,) the negative log-likelihood of the labels in a linear-chain CRF (Lafferty et al., 2001).

    Args:
        labels_BN: labels 0 … C - 1; a position with -100 is no word.
        scores_BNC, mask_BN, start, transitions, end: as in `viterbi_decode`, with its errors.
    """
    rows = right_padded(scores_BNC, mask_BN & (labels_BN != IGNORED), start, transitions, end)
    alphas_BNC, shifts_BN = forward_scores(rows)
    terms_BN = shifts_BN - path_terms(rows, labels_BN)  # word by word: the difference of two long sums loses digits
    return terms_BN.sum(dim=1) + last_step(rows, alphas_BNC)


def best_labels(rows: RightPaddedRows) -> Tensor:
    """Return (B, N) the labels of `viterbi_decode`.

    Args:
        rows: scores, words at the front, and tables.
    """
    if rows.only_legality and not torch.compiler.is_compiling():
        path_BN = rows.scores_BNC.argmax(dim=2)  # the best sequence of all, wherever it is legal
        tables = (table == 0 for table in (rows.start, rows.transitions, rows.end))
        broken_B = illegal_in_order(path_BN, rows.mask_BN, *tables).any(dim=1)
        if broken_B.any():
            path_BN[broken_B] = rows.select(broken_B).best_path()
    else:
        path_BN = rows.best_path()
    return rows.put_back(path_BN, IGNORED)


def label_probabilities(rows: RightPaddedRows) -> Tensor:
    """Return (B, N, C) the probabilities of `marginals`.

    Args:
        rows: scores, words at the front, and tables.
    """
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


def as_factors(table: Tensor) -> Tensor:
    """Return exp(score) of a table, the largest 1.

    Args:
        table: scores.
    """
    return widest(table - table.max()).exp()


def span_log_probability(
    scores_BNC: Tensor,
    labels_BN: Tensor,
    mask_BN: Tensor,
    start: Tensor,
    transitions: Tensor,
    end: Tensor,
    continuation: Tensor,
) -> Tensor:
    """Return (B, N) for each word the log probability of the entity that holds it; -inf where there is no word.

    It is exact: the share of exp(score) of all sequences in which the entity's words have these labels and neither
    neighbour belongs to it. A linear-chain CRF is a Markov chain, so this is P(first label) · P(entity begins | first
    label) · Π P(label | label before) · P(entity ends | last label). A word outside all entities counts as one alone.

    Args:
        labels_BN: a path of labels, such as `viterbi_decode` gives; any number where the mask is False.
        continuation: (C, C) from `entity_continuation`.
        scores_BNC, mask_BN, start, transitions, end: as in `viterbi_decode`, with its errors.
    """
    rows = right_padded(scores_BNC, mask_BN, start, transitions, end)
    labels = labels_BN.masked_fill(~mask_BN, 0).gather(1, rows.order_BN)
    here_BM, next_BM = labels[:, :-1], labels[:, 1:]
    continuation = continuation.to(labels.device)
    alphas_BNC, betas_BNC = forward_scores(rows)[0], backward_scores(rows)
    log_probs_BN = pick(F.log_softmax(alphas_BNC + betas_BNC, dim=2), labels)
    # log P(label at n + 1 | the path's label at n), and log P(label at n | the path's label at n + 1)
    after_BMC = F.log_softmax(rows.transitions[here_BM] + (rows.scores_BNC + betas_BNC)[:, 1:], dim=2)
    before_BMC = F.log_softmax(rows.transitions.t()[next_BM] + alphas_BNC[:, :-1], dim=2)

    joined_BM = continuation[here_BM, next_BM] & rows.mask_BN[:, 1:]
    apart_BM = ~joined_BM & rows.mask_BN[:, 1:]
    log_end_BM = after_BMC.masked_fill(continuation[here_BM], ILLEGAL).logsumexp(dim=2)
    log_begin_BM = before_BMC.masked_fill(continuation.t()[next_BM], ILLEGAL).logsumexp(dim=2)
    first_BN = log_probs_BN + F.pad(log_begin_BM.masked_fill(~apart_BM, 0), (1, 0))
    later_BN = F.pad(pick(after_BMC, next_BM), (1, 0))
    joined_BN = F.pad(joined_BM, (1, 0))
    terms_BN = torch.where(joined_BN, later_BN, first_BN) + F.pad(log_end_BM.masked_fill(~apart_BM, 0), (0, 1))

    entity_BN = (~joined_BN).long().cumsum(dim=1) - 1
    totals_BN = torch.zeros_like(terms_BN).scatter_add(1, entity_BN, terms_BN)
    return rows.put_back(totals_BN.gather(1, entity_BN).clamp(max=0), -torch.inf)


class RightPaddedRows(NamedTuple):
    """Scores with the words of each row at its front, and the tables as scores.

    There are as many positions N as words in the longest row, of the T that came in.

    Attributes:
        scores_BNC: scores of the labels, 0 where there is no word.
        mask_BN: True at words.
        start: (C,) scores.
        transitions: (C, C) scores.
        end: (C,) scores.
        order_BN: `x.gather(1, order_BN)` is right-padded.
        place_BT: where in its row each of the T positions went; N or more where it is no word.
        only_legality: True where the tables say only what is legal.
    """

    scores_BNC: Tensor
    mask_BN: Tensor
    start: Tensor
    transitions: Tensor
    end: Tensor
    order_BN: Tensor
    place_BT: Tensor
    only_legality: bool

    def select(self, rows_B: Tensor) -> RightPaddedRows:
        """Return some of the rows.

        Args:
            rows_B: True at those to keep.
        """
        per_row = ("scores_BNC", "mask_BN", "order_BN", "place_BT")
        return self._replace(**{name: getattr(self, name)[rows_B] for name in per_row})

    def put_back(self, values: Tensor, fill: float) -> Tensor:
        """Return (B, T, …) values of the words in the order that they came in.

        Args:
            values: (B, N, …) values of the words.
            fill: value of the positions that are no words.
        """
        is_word = self.mask_BN.view(*self.mask_BN.shape, *(1,) * (values.dim() - 2))
        values = F.pad(values.masked_fill(~is_word, fill), (0, 0) * (values.dim() - 2) + (0, 1), value=fill)
        return gather_tokens(values, self.place_BT.clamp(max=values.shape[1] - 1))

    def best_path(self) -> Tensor:
        """Return (B, N) the labels of the best sequence of each row, any label after its last word."""
        return best_path(self.start, self.transitions, self.end, self.scores_BNC, self.mask_BN)

    def later_words(self) -> list[tuple[Tensor, Tensor]]:
        """Return, for each position but the first, its (B, C) scores and (B, 1) whether it is a word."""
        return list(zip(self.scores_BNC.unbind(1)[1:], self.mask_BN[..., None].unbind(1)[1:], strict=True))


def right_padded(
    scores_BNC: Tensor, mask_BN: Tensor, start: Tensor, transitions: Tensor, end: Tensor
) -> RightPaddedRows:
    """Return the rows in float32 (or float64), words at the front; args and errors as in `viterbi_decode`."""
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


def pick(values_BNC: Tensor, labels_BN: Tensor) -> Tensor:
    """Return (B, N) the value of the label at each position."""
    return values_BNC.gather(2, labels_BN[..., None])[..., 0]


def forward_scores(rows: RightPaddedRows) -> tuple[Tensor, Tensor]:
    """Return the log sum of exp(score) of the beginnings of sequences that end in each label, with its own score.

    Returns:
        (B, N, C) with 0 as the largest number of each position, and (B, N) what was subtracted there for it. The
        positions after the last word repeat it and subtract nothing.
    """
    step_BC = rows.start + rows.scores_BNC[:, 0]
    shifts = [step_BC.detach().amax(dim=1, keepdim=True)]
    alphas = [step_BC - shifts[0]]
    for scores_BC, word_B1 in rows.later_words():
        step_BC = torch.logsumexp(alphas[-1][:, :, None] + rows.transitions, dim=1) + scores_BC
        shifts.append(step_BC.detach().amax(dim=1, keepdim=True))
        alphas.append(torch.where(word_B1, step_BC - shifts[-1], alphas[-1]))
    return torch.stack(alphas, dim=1), torch.cat(shifts, dim=1).masked_fill(~rows.mask_BN, 0)


def backward_scores(rows: RightPaddedRows) -> Tensor:
    """Return (B, N, C) the log sum of exp(score) of what follows each label, up to one number per position."""
    betas = [rows.end.expand_as(rows.scores_BNC[:, 0])]
    for scores_BC, word_B1 in reversed(rows.later_words()):
        step_BC = torch.logsumexp(rows.transitions + (scores_BC + betas[-1])[:, None], dim=2)
        betas.append(torch.where(word_B1, step_BC - step_BC.detach().amax(dim=1, keepdim=True), betas[-1]))
    return torch.stack(betas[::-1], dim=1)


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
