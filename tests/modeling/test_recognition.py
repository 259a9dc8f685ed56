"""Recognition: what a tiny model learns, words at their places in long recordings, and the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_sounds import RATE, tiny_extractor, tiny_sound, tiny_sound_model
from tones import LETTER, TOKENS, batch_of, made_up_texts, spoken, tone_tokenizer, train_recogniser, words_of
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import Wav2Vec2ForCTC, pipeline

from hf_selfattn import SelfAttnConfig, SelfAttnForCTC, greedy_path, join_words
from hf_selfattn.modeling.audio_selfattn import ctc_losses

TEXTS = made_up_texts(10)


@pytest.fixture(scope="module")
def recogniser() -> Any:
    return train_recogniser(TEXTS)


@torch.no_grad()
def test_ten_utterances_are_learned(recogniser: Any) -> None:
    batch = batch_of(TEXTS)
    logits = recogniser(batch["input_values"], batch["attention_mask"]).logits
    assert [" ".join(word.text for word in words_of(row)) for row in logits] == TEXTS
    assert all(0.5 < word.confidence <= 1 for row in logits for word in words_of(row))


@torch.no_grad()
def test_words_of_a_long_recording_stand_where_they_stand_in_its_pieces(recogniser: Any) -> None:
    texts = [TEXTS[number % 10] for number in range(60)]  # 80 seconds, 50 windows
    long, expected, now = [], [], 0.0
    for number, text in enumerate(texts):
        sound = spoken(text, seed=number % 10)
        for word in words_of(recogniser(sound[None]).logits[0]):
            expected.append((word.text, word.start + now, word.end + now))
        long += [sound, spoken(" ", seed=number)]
        now += (len(sound) + LETTER) / RATE
    found = words_of(recogniser(torch.cat(long)[None]).logits[0])
    assert [word.text for word in found] == [word for word, _, _ in expected] == " ".join(texts).split()
    for word, (_, start, end) in zip(found, expected, strict=True):
        assert abs(word.start - start) < 0.2 and abs(word.end - end) < 0.2


@torch.no_grad()
def test_the_pipeline_tells_words_and_times(recogniser: Any, tmp_path: Path) -> None:
    recogniser.save_pretrained(tmp_path)
    tiny_extractor().save_pretrained(tmp_path)
    tone_tokenizer(tmp_path).save_pretrained(tmp_path)
    recognise = pipeline("automatic-speech-recognition", model=str(tmp_path))
    text = " ".join(TEXTS)
    sound = spoken(text)
    answer = recognise(sound.numpy(), return_timestamps="word")
    assert answer["text"] == text
    found = words_of(recogniser(sound[None]).logits[0])
    assert len(answer["chunks"]) == len(found) == 20
    for chunk, word in zip(answer["chunks"], found, strict=True):
        assert chunk["text"] == word.text
        assert np.allclose(chunk["timestamp"], (word.start, word.end))
    assert recognise(sound.numpy(), chunk_length_s=3)["text"] == text  # cut by the pipeline, too


def test_the_loss_is_that_of_transformers() -> None:
    model = tiny_sound_model("wav2vec2", "ctc", num_self_attention_heads=0, num_grouped_attention_heads=0)
    config = model.config.backbone_config
    config.vocab_size, config.ctc_loss_reduction, config.final_dropout = model.config.vocab_size, "sum", 0.0
    stock = Wav2Vec2ForCTC(config).eval()
    stock.wav2vec2.load_state_dict(model.model.backbone.state_dict(), strict=False)
    stock.lm_head.load_state_dict(model.classifier.state_dict())
    sound, labels = tiny_sound(9_001)[None], torch.tensor([[2, 2, 3, 1, 4, -100]])
    ours, theirs = model(sound, labels=labels), stock(sound, labels=labels)
    torch.testing.assert_close(ours.logits, theirs.logits)
    torch.testing.assert_close(ours.loss * 5, theirs.loss)
    torch.testing.assert_close(model(sound, labels=labels, num_items_in_batch=10).loss * 2, ours.loss)


def test_the_loss_of_a_batch_is_that_of_its_rows() -> None:
    model = tiny_sound_model("whisper", "ctc")
    sounds, labels = [tiny_sound(n, seed=n) for n in (4_001, 20_333)], [[2, 3], [4, 4, 5, 2]]
    batch = {
        "input_values": pad_sequence(sounds, batch_first=True),
        "attention_mask": pad_sequence([torch.ones(len(sound)) for sound in sounds], batch_first=True),
        "labels": pad_sequence([torch.tensor(row) for row in labels], batch_first=True, padding_value=-100),
    }
    alone = [
        model(sound[None], labels=torch.tensor([row])).loss * len(row)
        for sound, row in zip(sounds, labels, strict=True)
    ]
    torch.testing.assert_close(model(**batch).loss, sum(alone) / 6)


def test_a_transcript_that_does_not_fit_is_said_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    logits = torch.randn(2, 3, 6, requires_grad=True)
    labels = torch.tensor([[2, 2, -100], [2, 3, 2]])
    assert ctc_losses(logits, torch.tensor([3, 3]), labels, 0).isfinite().all()
    losses = ctc_losses(logits, torch.tensor([2, 3]), labels, 0)  # two equal letters need a blank between them
    assert losses[0] == 0 and losses[1] > 0
    losses.sum().backward()
    assert logits.grad is not None and not logits.grad[0].any() and logits.grad[1].any()


def test_the_best_path_is_read() -> None:
    path = [0, 2, 2, 0, 2, 1, 1, 3, 0]
    logits = F.one_hot(torch.tensor(path), len(TOKENS)).float() * 20
    letters = greedy_path(logits, TOKENS, blank=0, seconds=0.5)
    assert [(letter.text, letter.start, letter.end) for letter in letters] == [
        ("a", 0.5, 1.5),
        ("a", 2.0, 2.5),
        ("|", 2.5, 3.5),
        ("b", 3.5, 4.0),
    ]
    words = join_words(letters)
    assert [(word.text, word.start, word.end) for word in words] == [("aa", 0.5, 2.5), ("b", 3.5, 4.0)]
    assert words[0].confidence == pytest.approx(1, abs=1e-4)
    assert join_words(greedy_path(logits[:1], TOKENS, blank=0, seconds=0.5)) == []


def test_recognition_needs_a_vocabulary_with_a_blank() -> None:
    config = tiny_sound_model("whisper").config.backbone_config
    for options in ({"vocab_size": 6}, {"vocab_size": 6, "pad_token_id": 6}):
        with pytest.raises(ValueError, match=r"recognition needs both.*Give vocab_size=len\(tokenizer\)"):
            SelfAttnForCTC(SelfAttnConfig(backbone_config=config, **options))
