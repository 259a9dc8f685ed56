# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""Connectionist temporal classification (Graves et al., 2006): its loss, and the best path with times and confidences.

Shape suffixes: B sounds, N frames, C characters or pieces of words, S labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import logging

logger = logging.get_logger(__name__)


def ctc_losses(logits_BNC: Tensor, lengths_B: Tensor, labels_BS: Tensor, blank: int) -> Tensor:
    """Return the loss (B,) of each transcript, 0 where it has more characters than its sound has frames.

    Args:
        lengths_B: number of frames of each sound.
        labels_BS: the transcripts, -100 where there is no more of them.
    """
    is_label_BS = labels_BS >= 0
    label_lengths_B = is_label_BS.sum(dim=1)
    repeats_B = ((labels_BS[:, 1:] == labels_BS[:, :-1]) & is_label_BS[:, 1:]).sum(dim=1)
    is_short_B = lengths_B < label_lengths_B + repeats_B
    if is_short_B.any():
        logger.warning_once(
            "Some transcripts have more characters than their sound has frames, and nothing is learned of them. Check "
            "that they belong together; a backbone with more frames a second, or pieces of words, can hold more."
        )
    log_probs_NBC = F.log_softmax(logits_BNC, dim=-1, dtype=torch.float32).transpose(0, 1)
    with torch.backends.cudnn.flags(enabled=False):  # it takes no blank but 0
        return F.ctc_loss(
            log_probs_NBC,
            labels_BS[is_label_BS],
            lengths_B,
            label_lengths_B,
            blank=blank,
            reduction="none",
            zero_infinity=True,
        )


def silence_padding(logits_BNC: Tensor, mask_BN: Tensor | None, blank: int) -> Tensor:
    """Return logits that say the blank at padding, so that a batch is decoded as each sound of it alone."""
    if mask_BN is None:
        return logits_BNC
    silence_C = torch.full_like(logits_BNC[0, 0], -100.0)  # not the least number: beam search adds logarithms
    silence_C[blank] = 0.0
    return torch.where(mask_BN[..., None], logits_BNC, silence_C)


@dataclass(frozen=True)
class SpokenWord:
    """A recognised word, or a character."""

    text: str
    start: float  # in seconds
    end: float
    confidence: float  # the mean probability of its characters, each at the frame where it is most probable


def best_path(logits_NC: Tensor, tokens: Sequence[str], blank: int, seconds: float) -> list[SpokenWord]:
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
