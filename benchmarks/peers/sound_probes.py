"""Heads on a frozen sound backbone beside those for images: mean and deviation of states, and of log-mel bands."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from hf_selfattn import AudioClassificationArguments
from hf_selfattn.data.sounds import open_sound
from hf_selfattn.modeling.sound_windows_selfattn import SAMPLING_RATE, whisper_spectrogram
from hf_selfattn.tasks import task_of

from .image_probes import Answers, Array, Kept, answer_statistics, run_on_features

BANDS = 80


def run_deviation_probe(arguments: AudioClassificationArguments) -> dict[str, Any]:
    """Return the results of logistic regression on mean and deviation of the last layer's states."""
    return run_on_features(arguments, answer_deviations)


def run_spectrogram_probe(arguments: AudioClassificationArguments) -> dict[str, Any]:
    """Return the results of logistic regression on mean and deviation of log-mel bands, without any backbone."""
    return run_on_features(arguments, partial(answer_spectrograms, arguments))


def answer_deviations(kept: Kept) -> tuple[Answers, dict[str, Any]]:
    """Answer from mean and deviation over the frames of each sound."""
    states = {name: [row["features"][:, -1].float() for row in kept.cache.rows[name]] for name in kept.labels}
    return answer_statistics(kept, {name: np.stack([*map(statistics, sounds)]) for name, sounds in states.items()})


def answer_spectrograms(arguments: AudioClassificationArguments, kept: Kept) -> tuple[Answers, dict[str, Any]]:
    """Answer from mean and deviation over the spectrogram of each sound."""
    task = task_of(arguments)
    splits = task.with_validation(task.load()).splits
    return answer_statistics(
        kept, {name: np.stack([spectrum(source) for source in split["sound"]]) for name, split in splits.items()}
    )


def statistics(states_ND: torch.Tensor) -> Array:
    """Return (2 D,) mean and deviation over the frames."""
    return torch.cat([states_ND.mean(dim=0), states_ND.std(dim=0, correction=0)]).numpy()


def spectrum(source: Any) -> Array:
    """Return (2 M,) mean and deviation of the log-mel bands of a sound."""
    sound = torch.from_numpy(open_sound(source, SAMPLING_RATE))
    return statistics(whisper_spectrogram(sound[None], BANDS)[0].T)
