"""Transcripts as labels of sounds: their numbers for CTC, and what a model recognised as text with times."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from ...modeling.ctc_selfattn import greedy_path, join_words
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
    """Return the texts that the likeliest characters (B, N) of frames say."""
    texts: list[str] = tokenizer.batch_decode(np.where(tokens < 0, tokenizer.pad_token_id, tokens).tolist())
    return texts


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
