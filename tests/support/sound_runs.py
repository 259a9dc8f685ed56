"""Made sounds in folders, tiny backbones that read them, and settings of short runs on both."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from image_runs import QUICK
from numpy.typing import NDArray
from tiny_sounds import HEADS, RATE, SOUND_BACKBONES, tiny_extractor
from tones import made_up_texts, spoken, tone_model
from transformers import AutoModel

from hf_selfattn import AudioClassificationArguments, SpeechRecognitionArguments, build_arguments

PITCHES = {"bell": 1_900.0, "hum": 190.0, "reed": 640.0}  # Hz


def sound_backbone(folder: Path, family: str = "wav2vec2-layer") -> str:
    """Save a tiny random backbone with its feature extractor, and return where."""
    torch.manual_seed(0)
    AutoModel.from_config(deepcopy(SOUND_BACKBONES[family])).save_pretrained(folder)
    tiny_extractor().save_pretrained(folder)
    return str(folder)


def made_sound(kind: str, seed: int, rate: int = RATE) -> NDArray[Any]:
    """Return a tone of the pitch of its class in noise, .2 to .4 seconds long."""
    random = np.random.default_rng(seed)
    time = np.arange(int(rate * random.uniform(0.2, 0.4))) / rate
    tone = np.sin(2 * np.pi * PITCHES[kind] * random.uniform(0.95, 1.05) * time)
    return np.asarray(0.5 * tone + 0.02 * random.standard_normal(len(time)))


def sound_folders(folder: Path, count: int, seed: int = 0) -> str:
    """Write so many sounds of each class into folders of their names, at several rates, and return where."""
    for number, kind in enumerate(PITCHES):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for sound in range(count):
            rate = (RATE, 22_050)[sound % 2]
            made = made_sound(kind, 10_000 * seed + 100 * sound + number, rate)
            soundfile.write(folder / kind / f"{sound:02}.wav", made, rate)
    return str(folder)


def sound_settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return settings of a short run on made sounds, whose validation split is made of train."""
    model = folder / "backbone"
    return {
        "model": str(model) if model.is_dir() else sound_backbone(model),
        "train": sound_folders(folder / "train", 12),
        "test": sound_folders(folder / "test", 4, seed=1),
        "output_dir": str(folder / "run"),
        "feature_cache": str(folder / "features"),
        "heads": HEADS,
        **QUICK,
        **changes,
    }


def sound_arguments(folder: Path, **changes: Any) -> AudioClassificationArguments:
    """Return arguments of a short run on made sounds."""
    return build_arguments(sound_settings(folder, **changes), AudioClassificationArguments)


def speech_table(folder: Path, split: str, count: int, seed: int = 0) -> str:
    """Write texts of tones (see `tones`) and a table of their paths, transcripts and speakers, and return where."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    lines = ["path,transcript,speaker"]
    for number, text in enumerate(made_up_texts(count, seed)):
        name = f"{split}/{number:03}.wav"
        soundfile.write(folder / name, spoken(text, 1_000 * seed + number).numpy(), RATE)
        lines.append(f"{name},{text.title()}.,{number % 4}")
    (folder / f"{split}.csv").write_text("\n".join(lines), encoding="utf-8")
    return str(folder / f"{split}.csv")


def speech_settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return settings of a short run on texts of tones."""
    model = folder / "backbone"
    if not model.is_dir():
        torch.manual_seed(0)
        AutoModel.from_config(tone_model().config.backbone_config).save_pretrained(model)
        tiny_extractor().save_pretrained(model)
    return {
        "model": str(model),
        "train": speech_table(folder, "train", 24),
        "validation": speech_table(folder, "validation", 6, seed=1),
        "test": speech_table(folder, "test", 6, seed=2),
        "case": "lower",
        "remove_punctuation": True,
        "output_dir": str(folder / "run"),
        "feature_cache": str(folder / "features"),
        "heads": {**HEADS, "block_size": 16, "classifier_dropout": 0.0},
        **QUICK,
        **changes,
    }


def speech_arguments(folder: Path, **changes: Any) -> SpeechRecognitionArguments:
    """Return arguments of a short run on texts of tones."""
    return build_arguments(speech_settings(folder, **changes), SpeechRecognitionArguments)
