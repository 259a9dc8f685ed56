# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""Connectionist temporal classification (Graves et al., 2006): the best path, with times and confidences.

Shape suffixes: N frames, C characters or pieces of words.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SpokenWord:
    """A recognised word, or a character."""

    text: str
    start: float  # in seconds
    end: float
    confidence: float  # the mean probability of its characters, each at the frame where it is most probable


def greedy_path(logits_NC: Tensor, tokens: Sequence[str], blank: int, seconds: float) -> list[SpokenWord]:
    """Return the characters of the most probable path.

    Args:
        tokens: the vocabulary, by number.
        seconds: from one frame to the next: `config.inputs_to_logits_ratio` over the sampling rate.
    """
    probs_N, ids_N = logits_NC.float().softmax(dim=-1).max(dim=-1)
    ids, lengths = torch.unique_consecutive(ids_N, return_counts=True)
    found, start = [], 0
    for token, length in zip(ids.tolist(), lengths.tolist(), strict=True):
        if token != blank:
            sure = float(probs_N[start : start + length].max())
            found.append(SpokenWord(tokens[token], start * seconds, (start + length) * seconds, sure))
        start += length
    return found


def join_words(characters: Sequence[SpokenWord], delimiter: str = "|") -> list[SpokenWord]:
    """Return the words that characters make up, which a delimiter parts."""
    words: list[list[SpokenWord]] = [[]]
    for character in characters:
        if character.text == delimiter:
            words.append([])
        else:
            words[-1].append(character)
    return [
        SpokenWord(
            "".join(character.text for character in word),
            word[0].start,
            word[-1].end,
            sum(character.confidence for character in word) / len(word),
        )
        for word in words
        if word
    ]
