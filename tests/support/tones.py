"""Speech that a tiny backbone learns in seconds: each letter is a tone, and a pause parts the words."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tiny_sounds import HEADS, RATE
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer

from hf_selfattn import SelfAttnConfig, SelfAttnForCTC, greedy_path, join_words
from hf_selfattn.tasks.media.speech import SpokenWord

TOKENS = ["<pad>", "|", *"abcdef"]
LETTER = 2_240  # samples, of which the tone is the middle 1,600


def spoken(text: str, seed: int = 0) -> Tensor:
    """Return a text as sound, with a little noise."""
    time = torch.arange(1_600) / RATE
    silence = torch.zeros(320)
    parts = []
    for letter in text:
        if letter == " ":
            parts.append(torch.zeros(LETTER))
        else:
            frequency = 300 * 1.35 ** (TOKENS.index(letter) - 2)
            parts += [silence, torch.sin(2 * math.pi * frequency * time) / 2, silence]
    noise = torch.randn(len(text) * LETTER, generator=torch.Generator().manual_seed(seed))
    return torch.cat(parts) + noise / 100


def made_up_texts(count: int, seed: int = 0) -> list[str]:
    """Return texts of two words of two to four letters."""
    generator = torch.Generator().manual_seed(seed)

    def word() -> str:
        length = int(torch.randint(2, 5, (), generator=generator))
        return "".join("abcdef"[number] for number in torch.randint(6, (length,), generator=generator))

    return [f"{word()} {word()}" for _ in range(count)]


def batch_of(texts: Sequence[str], seed: int = 0) -> dict[str, Tensor]:
    """Return spoken texts and their labels as a batch."""
    sounds = [spoken(text, seed + number) for number, text in enumerate(texts)]
    labels = [torch.tensor([TOKENS.index("|" if letter == " " else letter) for letter in text]) for text in texts]
    return {
        "input_values": pad_sequence(sounds, batch_first=True),
        "attention_mask": pad_sequence(
            [torch.ones(len(sound), dtype=torch.long) for sound in sounds], batch_first=True
        ),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
    }


def tone_model() -> Any:
    """Return a tiny recogniser that reads two seconds at once, and has learned nothing yet."""
    torch.manual_seed(0)
    without_dropout = dict.fromkeys(
        ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"), 0.0
    )
    backbone = Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(48, 32),
        conv_kernel=(320, 3),
        conv_stride=(160, 2),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        apply_spec_augment=False,
        **without_dropout,
    )
    config = SelfAttnConfig(
        backbone_config=backbone,
        vocab_size=len(TOKENS),
        pad_token_id=0,
        subsequence_length=2 * RATE,
        subsequence_stride=RATE // 2,
        classifier_dropout=0.0,
        **{**HEADS, "block_size": 16},
    )
    return SelfAttnForCTC(config)


def words_of(logits: Tensor) -> list[SpokenWord]:
    """Return the words that logits (N, C) say."""
    return join_words(greedy_path(logits, TOKENS, blank=0, seconds=320 / RATE))


def train_recogniser(texts: Sequence[str], steps: int = 150) -> Any:
    """Return a recogniser that has learned so many steps on all of the texts."""
    model = tone_model().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        optimizer.zero_grad()
        model(**batch_of(texts, seed=step * len(texts))).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def tone_tokenizer(folder: Path) -> Wav2Vec2CTCTokenizer:
    """Return the tokenizer of the letters, whose vocabulary is written into a folder."""
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(TOKENS)}))
    return Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), unk_token="<pad>", bos_token=None, eos_token=None)
