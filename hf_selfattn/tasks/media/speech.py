"""Transcripts as labels of sounds: their numbers for CTC, and what a model recognised as text with times.

Shape suffixes: N frames, C characters or pieces of words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from ..answers import Answer, EncodedRows, Row
from ..problems import Array
from .sounds import SoundAnswers, SoundCollator

NO_LABEL = -100  # behind the end of a transcript, and of what was recognised


class SpeechCollator(SoundCollator):
    """Makes a batch of sounds, and of their transcripts as numbers of characters."""

    def labels(self, labels: Sequence[Any]) -> Tensor:
        """Return transcripts of different lengths as a batch."""
        return pad_sequence([torch.tensor(label) for label in labels], batch_first=True, padding_value=NO_LABEL)


def likeliest_tokens(outputs: Any, labels: Any) -> Tensor:
    """Return of the outputs of a batch the likeliest character of each frame, (B, N)."""
    logits: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
    return logits.argmax(dim=-1)


def recognised(tokens: Array, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the texts that the likeliest characters (B, N) of frames say, with one space between words."""
    texts: list[str] = tokenizer.batch_decode(np.where(tokens < 0, tokenizer.pad_token_id, tokens).tolist())
    return [" ".join(text.split()) for text in texts]


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


class SpeechAnswers(SoundAnswers):
    """Answers to a sound: what is said in it, and when."""

    @property
    def extractor(self) -> Any:
        """What makes tensors of sounds."""
        return self.processor.feature_extractor

    @property
    def processor_state(self) -> Any:
        """All of the processor that decides what is read and written, as `json` writes it."""
        vocabulary = json.dumps(self.processor.tokenizer.get_vocab(), sort_keys=True)
        return {"extractor": super().processor_state, "vocabulary": vocabulary}

    def answered(self, of_words: bool) -> list[str]:
        """Return the text, how sure it is and, on request, its words with their times."""
        return ["text", "confidence", "words"]

    def expectation(self, threshold: float, record: Mapping[str, Any]) -> str:
        """Refuse: a text has words of many probabilities."""
        raise ValueError(f"abstain={threshold} needs one probability for each row, which a recogniser does not give.")

    def read(self, logits: Tensor, rows: Sequence[Row], encoded: EncodedRows, numbers: Sequence[int]) -> list[Answer]:
        """Return text, mean confidence of its words, and the words with start and end in seconds."""
        tokenizer, config = self.processor.tokenizer, self.model.config
        tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        seconds = config.inputs_to_logits_ratio / self.extractor.sampling_rate
        answers = []
        for of_sound in logits:
            characters = greedy_path(of_sound, tokens, config.pad_token_id, seconds)
            words = join_words(characters, tokenizer.word_delimiter_token)
            sure = float(np.mean([word.confidence for word in words])) if words else 0.0
            text = " ".join(word.text for word in words)
            answers.append({"text": text, "confidence": sure, "words": [asdict(word) for word in words]})
        return answers
