# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""Words of several tokens: where they begin, one feature for each, and answers that are legal for whole words.

Shape suffixes: B rows, T tokens of a padded row, D features, C labels, V ids of the vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .crf_selfattn import LinearChainCRF, tag_tables, transition_mask
from .decoding_selfattn import decode
from .subsequences_selfattn import real_tokens

TIE = 1e-4  # what the decoded label is above every other one, so that its argmax cannot be a tie
FADE = 0.999  # a word's later tokens are a little less sure than its first, which a pipeline may ask for the surest


@dataclass
class Words:
    """Which tokens belong to which word.

    Attributes:
        starts_BT: True at the first token of each word.
        members_BT: True at every token of a word; special tokens and padding belong to none.
        first_BT: index of the first token of a token's word; its own where it belongs to none.
    """

    starts_BT: Tensor
    members_BT: Tensor
    first_BT: Tensor


def find_words(
    values: Tensor,
    attention_mask: Tensor | None,
    special_token_ids: list[int],
    continues_word_V: Tensor,
    word_starts: Tensor | None,
) -> Words:
    """Find the words of each row; where nothing else is known, every token but the special ones is a word.

    Args:
        values: (B, T) ids or (B, T, D) embeddings, in which special tokens cannot be told from others.
        attention_mask: (B, T), not 0 at real tokens, or None.
        word_starts: (B, T), not 0 at the first token of each word, or None to find them by `continues_word_V`.

    Raises:
        ValueError: if word_starts has another shape than the input.
    """
    if word_starts is not None and word_starts.shape != values.shape[:2]:
        raise ValueError(
            f"word_starts has shape {tuple(word_starts.shape)}, but the input has {tuple(values.shape[:2])} "
            "(batch_size, sequence_length). Give one number per token, 1 at the first token of each word."
        )
    real_BT = real_tokens(attention_mask, values)
    if real_BT is None:
        real_BT = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    if values.dim() == 2:
        special = torch.tensor(special_token_ids, dtype=values.dtype, device=values.device)
        real_BT = real_BT & (values[..., None] != special).all(dim=2)
    position_T = torch.arange(values.shape[1], device=values.device)
    if word_starts is not None:
        starts_BT = real_BT & word_starts.bool()
    elif values.dim() == 2:
        follows_BT = real_BT[:, (position_T - 1).clamp(min=0)] & (position_T > 0)  # no padding or special token before
        starts_BT = real_BT & ~(follows_BT & continues_word_V[values])
    else:
        starts_BT = real_BT
    word_BT = starts_BT.cumsum(dim=1)  # 0 before the first word
    start_of_word = F.pad(torch.zeros_like(word_BT), (0, 1)).scatter_add(1, word_BT, position_T * starts_BT)
    members_BT = real_BT & (word_BT > 0)
    return Words(starts_BT, members_BT, torch.where(members_BT, start_of_word.gather(1, word_BT), position_T))


def pool_words(features_BTD: Tensor, words: Words, pooling: str) -> Tensor:
    """Return (B, T, D) one feature for each word, at all of its tokens; a token of no word keeps its own."""
    index_BTD = words.first_BT[..., None].expand_as(features_BTD)
    if pooling == "first":
        return features_BTD.gather(1, index_BTD)
    ones_BT = torch.ones_like(words.first_BT, dtype=features_BTD.dtype)
    sums_BTD = torch.zeros_like(features_BTD).scatter_add(1, index_BTD, features_BTD)
    sizes_BT = torch.zeros_like(ones_BT).scatter_add(1, words.first_BT, ones_BT)
    return sums_BTD.gather(1, index_BTD) / sizes_BT.gather(1, words.first_BT)[..., None]


def continuing_labels(label_names: list[str]) -> Tensor:
    """Return (C,) the label of a word's later tokens for each label of its first: I-X for B-X, itself for others.

    Labels of other schemes than IOB2 stay as they are: a scheme with ends has no such label for a single word.
    """
    goes_on_CC = tag_tables(tuple(label_names))[3]
    numbers = {name: number for number, name in enumerate(label_names)}
    inside = [numbers.get("I" + name[1:], i) if name[:1] == "B" else i for i, name in enumerate(label_names)]
    return torch.tensor([later if goes_on_CC[i][later] else i for i, later in enumerate(inside)])


def decode_words(
    logits_BTC: Tensor, words: Words, label_names: list[str], decoding: str, crf: LinearChainCRF | None
) -> Tensor:
    """Return (B, T, C) scores of the answer: log marginal probabilities, exchanged as in `answer_by_words`.

    With `argmax`, and for labels that are no tags of entities, they are the scores that came in.
    """
    if crf is None and not any(map(any, tag_tables(tuple(label_names))[3])):
        return logits_BTC
    scores, starts = logits_BTC.float(), words.starts_BT
    if decoding == "argmax":
        return answer_by_words(scores, scores.argmax(dim=2), words, label_names)
    tables = transition_mask(label_names) if crf is None else crf.tables()
    path_BT, probs_BTC = decode(scores, starts, *tables)
    smallest = torch.finfo(probs_BTC.dtype).tiny
    return answer_by_words(probs_BTC.clamp(min=smallest).log(), path_BT, words, label_names)


def answer_by_words(scores_BTC: Tensor, path_BT: Tensor, words: Words, label_names: list[str]) -> Tensor:
    """Return (B, T, C) scores whose argmax is the decoded label at each word, and that label going on after its start.

    The score of the decoded label and the highest one change places where they differ.
    """
    best_BT1 = scores_BTC.argmax(dim=2, keepdim=True)
    decoded_BT1 = torch.where(words.starts_BT, path_BT, 0)[..., None]
    decoded_BT1 = torch.where(words.starts_BT[..., None], decoded_BT1, best_BT1)
    answers_BTC = exchange(scores_BTC, decoded_BT1, best_BT1)

    later_C = continuing_labels(label_names).to(scores_BTC.device)
    first_BT1 = words.first_BT[..., None]
    answers_BTC = answers_BTC.gather(1, first_BT1.expand_as(answers_BTC))
    label_BT1 = decoded_BT1.gather(1, first_BT1)
    goes_on_BT1 = (words.members_BT & ~words.starts_BT)[..., None]
    later_BT1 = torch.where(goes_on_BT1, later_C[label_BT1], label_BT1)
    answers_BTC = exchange(answers_BTC, later_BT1, label_BT1)
    top_BT1 = answers_BTC.gather(2, later_BT1)
    answers_BTC = torch.minimum(answers_BTC, top_BT1 - TIE).scatter(2, later_BT1, top_BT1)
    return torch.where(goes_on_BT1, answers_BTC * FADE, answers_BTC)


def exchange(scores_BTC: Tensor, one_BT1: Tensor, other_BT1: Tensor) -> Tensor:
    """Return scores in which two labels of each token have changed places."""
    first, second = scores_BTC.gather(2, one_BT1), scores_BTC.gather(2, other_BT1)
    return scores_BTC.scatter(2, one_BT1, second).scatter(2, other_BT1, first)


def continuing_tokens(tokenizer: object) -> list[int]:
    """Return the ids that go on with the word before them, for a tokenizer that marks them (WordPiece: `##ing`).

    Tokenizers that mark the beginning of words instead (byte-level BPE, SentencePiece) join punctuation to a word
    without any mark, so for them there are none: each token is then a word of its own.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    prefix = getattr(getattr(backend, "model", None), "continuing_subword_prefix", None)
    if not prefix or backend is None:
        return []
    return sorted(
        number for token, number in backend.get_vocab().items() if token.startswith(prefix) and token != prefix
    )
