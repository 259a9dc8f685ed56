"""Sounds as the rows of a task: opened when they are read, at the rate of the backbone, answered by a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedConfig

from ...arguments import ModelArguments
from ...data.sounds import open_sound
from ...data.sounds.load import SOUNDS
from ...data.sounds.open import opened_sound
from ...data.sounds.read import SECONDS
from ...modeling.sound_windows_selfattn import open_sound_extractor
from ..answers import Row
from ..backbone import Inputs, open_with
from .files import FileAnswers, file_content

FRAMES_A_SECOND = 50  # that most backbones make; it decides only which rows are read together


def open_sound_backbone(arguments: ModelArguments) -> tuple[PreTrainedConfig, Any]:
    """Return the configuration of the backbone, and a feature extractor for it that cuts no sound."""
    config, extractor = open_with(open_sound_extractor, arguments, "feature extractor (preprocessor_config.json)")
    return getattr(config, "backbone_config", config), extractor


class SoundCollator:
    """Makes a batch of rows: opens their sounds, lets the extractor make tensors of them, and adds the labels.

    Args:
        extractor: feature extractor of the backbone.
    """

    def __init__(self, extractor: Any):
        self.extractor = extractor

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        batch: dict[str, Tensor] = {}
        if "sound" in rows[0]:
            batch.update(self.waves([row["sound"] for row in rows]))
        if "labels" in rows[0]:
            batch["labels"] = self.labels([row["labels"] for row in rows])
        return batch

    def waves(self, sources: Sequence[Any]) -> dict[str, Tensor]:
        """Return sounds as a batch, those of different lengths padded and with a mask."""
        rate = self.extractor.sampling_rate
        sounds = [source if isinstance(source, np.ndarray) else open_sound(source, rate) for source in sources]
        return dict(self.extractor(sounds, sampling_rate=rate, padding=True, return_tensors="pt"))

    def labels(self, labels: Sequence[Any]) -> Tensor:
        """Return the labels of rows as a batch."""
        return torch.tensor(labels)


def sound_inputs(extractor: Any) -> Inputs:
    """Return how a backbone reads sounds; beside kept features nothing is needed, so that no sound is opened."""
    state = json.loads(extractor.to_json_string())
    return Inputs(("sound",), SoundCollator(extractor), state, file_content, beside_features=())


def frames_of_sounds(split: Dataset) -> list[int]:
    """Return about how many frames the backbone makes of each sound of a split."""
    return [frames_in(seconds) for seconds in split[SECONDS]]


def frames_in(seconds: float) -> int:
    """Return about how many frames a backbone makes of so many seconds."""
    return max(1, round(seconds * FRAMES_A_SECOND))


class SoundAnswers(FileAnswers):
    """Answers to a sound: a file, or the bytes of one, or samples at the rate of the backbone."""

    medium = SOUNDS
    fields = ("sound",)
    example: Row = {"sound": np.zeros(8_000, dtype=np.float32)}

    @property
    def extractor(self) -> Any:
        """What makes tensors of sounds."""
        return self.processor

    @property
    def inputs(self) -> Inputs:
        """How the model reads a sound."""
        return sound_inputs(self.extractor)

    def look(self, source: Any) -> None:
        """Open a sound; an error says what is wrong with it."""
        if not isinstance(source, np.ndarray):
            open_sound(source, self.extractor.sampling_rate)
        elif source.ndim != 1 or not len(source) or not np.isfinite(source).all():
            raise ValueError(f"samples of shape {source.shape}: give (N,) finite ones, mono.")

    def length_of(self, source: Any) -> int:
        """Return about how many frames the backbone makes of a sound, by what its header says."""
        if isinstance(source, np.ndarray):
            return frames_in(len(source) / self.extractor.sampling_rate)
        with opened_sound(source) as sound:
            return frames_in(sound.file.frames / sound.rate)
