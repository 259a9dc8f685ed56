# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""Sound: the frames that backbones make of it, windows of long sound, and spectrograms for backbones that read such.

Shape suffixes: B pieces of sound, T samples, F frames of a spectrogram, M mel bands.
"""

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoFeatureExtractor, PreTrainedConfig, Wav2Vec2FeatureExtractor
from transformers.audio_utils import mel_filter_bank

from .subsequences_selfattn import ceil_div

SAMPLING_RATE = 16_000  # of the backbones that read spectrograms
HOP = 160  # samples from one frame of a spectrogram to the next
FRAME = 400  # samples of such a frame
DEFAULT_WINDOW = 320_000  # samples, 20 seconds, where a backbone has no limit of its own

READ_PADDING = ("hubert", "wav2vec2")  # families that hide padding from every layer behind the convolutions


@dataclass(frozen=True)
class FrameGrid:
    """Which samples a backbone makes its frames of: frame number f begins at sample f * step."""

    step: int  # samples from one frame to the next
    least: int  # samples that make a first frame
    reach: int  # samples that a frame reads
    shortest: int  # samples that the backbone reads at least: what is shorter is filled up with silence
    longest: int | None = None  # samples that it reads at once, or None where it has no limit
    reads_padding: bool = False  # whether sounds of different lengths, read together, are read as each of them alone

    def num_frames(self, num_samples: int) -> int:
        """Return how many frames a sound has, at least one."""
        return max(num_samples - self.least, 0) // self.step + 1

    def num_samples(self, num_frames: int) -> int:
        """Return how many samples so many frames read."""
        return (num_frames - 1) * self.step + self.reach


def frame_grid(backbone_config: PreTrainedConfig) -> FrameGrid:
    """Return the frames of a backbone.

    Raises:
        ValueError: if it is none that can be read: one of waves such as Wav2Vec2, AST, or Whisper.
    """
    if backbone_config.model_type == "whisper":
        return spectrogram_grid(2, backbone_config.max_source_positions)
    if backbone_config.model_type == "audio-spectrogram-transformer":
        columns = (backbone_config.max_length - backbone_config.patch_size) // backbone_config.time_stride + 1
        return spectrogram_grid(backbone_config.time_stride, columns)
    kernels, steps = (getattr(backbone_config, name, None) for name in ("conv_kernel", "conv_stride"))
    if not kernels or not steps or getattr(backbone_config, "add_adapter", False):
        raise ValueError(
            f"The backbone {backbone_config.model_type!r} makes its frames in a way that is not known here. Take "
            "Wav2Vec2, HuBERT, WavLM, SEW or their like with add_adapter=False, AST, or Whisper."
        )
    reach = 1
    for kernel, step in zip(reversed(kernels), reversed(steps), strict=True):
        reach = (reach - 1) * step + kernel
    grid = FrameGrid(math.prod(steps), reach, reach, reach)
    # The other kind of normalisation is over all samples, padding among them.
    reads_padding = backbone_config.feat_extract_norm == "layer" and backbone_config.model_type in READ_PADDING
    shortest = grid.num_samples(getattr(backbone_config, "squeeze_factor", 1))
    return replace(grid, shortest=shortest, reads_padding=reads_padding)


def spectrogram_grid(frames: int, positions: int) -> FrameGrid:
    """Return the frames of a backbone that reads a spectrogram, so many of its frames at each of its positions."""
    step = frames * HOP
    return FrameGrid(step, 1, step, shortest=step * positions, longest=step * positions)


@dataclass(frozen=True)
class SoundPiece:
    """One window of a sound."""

    samples_T: Tensor
    first: int  # of the frames of the window, those from this one
    last: int  # to below this one are taken


def cut_sound(sound_T: Tensor, grid: FrameGrid, window: int, stride: int) -> list[SoundPiece]:
    """Return the least number of windows, spread evenly, each of which shares at least `stride` with the next.

    Of the frames that two windows share, each gives the half that is nearer to its middle.
    """
    num_frames, size = grid.num_frames(len(sound_T)), grid.num_frames(window)
    room = num_frames - size
    if room <= 0:
        return [SoundPiece(sound_T, 0, num_frames)]
    count = 1 + ceil_div(room, size - stride // grid.step)
    starts = [number * room // (count - 1) for number in range(count)]
    cuts = [0, *((left + size + right) // 2 for left, right in zip(starts, starts[1:], strict=False)), num_frames]
    return [
        SoundPiece(sound_T[start * grid.step :][: grid.num_samples(size)], first - start, last - start)
        for start, first, last in zip(starts, cuts, cuts[1:], strict=False)
    ]


@cache
def mel_filters(scale: str, num_bins: int, num_bands: int, lowest: float) -> Tensor:
    """Return the filters (bins, M) of a spectrogram's bands."""
    options = {"norm": "slaney"} if scale == "slaney" else {"norm": None, "triangularize_in_mel_space": True}
    highest = SAMPLING_RATE / 2
    filters = mel_filter_bank(num_bins, num_bands, lowest, highest, SAMPLING_RATE, mel_scale=scale, **options)
    return torch.from_numpy(filters).float()


def whisper_spectrogram(sound_BT: Tensor, num_bands: int) -> Tensor:
    """Return (B, M, F) the spectrogram of `WhisperFeatureExtractor`, of sound that is filled up with silence."""
    window = torch.hann_window(FRAME, device=sound_BT.device)
    waves = torch.stft(sound_BT, FRAME, HOP, window=window, return_complex=True)
    power = waves[..., :-1].abs() ** 2
    filters = mel_filters("slaney", FRAME // 2 + 1, num_bands, 0.0).to(sound_BT.device)
    bands = (filters.T @ power).clamp(min=1e-10).log10()
    return (torch.maximum(bands, bands.amax(dim=(1, 2), keepdim=True) - 8) + 4) / 4


def masked_spans(spectrogram_BMF: Tensor, config: PreTrainedConfig) -> Tensor:
    """Return a spectrogram with spans of frames and of bands at 0: SpecAugment (Park et al., 2019), as of Whisper.

    Transformers applies it in the whole Whisper, and the encoder alone has none.
    """
    spans = (
        (2, config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks),
        (1, config.mask_feature_prob, config.mask_feature_length, config.mask_feature_min_masks),
    )
    for side, prob, length, least in spans:
        if prob > 0:
            B, size = len(spectrogram_BMF), spectrogram_BMF.shape[side]
            count = max(int(prob * size / length + torch.rand(())), least)
            starts_BS1 = torch.randint(max(size - length, 0) + 1, (B, count, 1), device=spectrogram_BMF.device)
            places = torch.arange(size, device=spectrogram_BMF.device)
            masked = ((places >= starts_BS1) & (places < starts_BS1 + length)).any(dim=1)
            spectrogram_BMF = spectrogram_BMF.masked_fill(masked.unsqueeze(3 - side), 0)
    return spectrogram_BMF


def ast_spectrogram(sound_BT: Tensor, lengths_B: Tensor, config: PreTrainedConfig, mean: float, std: float) -> Tensor:
    """Return (B, F, M) the spectrogram of `ASTFeatureExtractor` of the first samples of sound, F its `max_length`."""
    frames = F.pad(sound_BT, (0, max(FRAME - sound_BT.shape[1], 0))).unfold(1, FRAME, HOP)
    frames = frames - frames.mean(dim=-1, keepdim=True)
    frames = frames - 0.97 * torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
    window = torch.hann_window(FRAME, periodic=False, device=sound_BT.device)
    power = torch.fft.rfft(frames * window, n=512).abs() ** 2
    filters = mel_filters("kaldi", 257, config.num_mel_bins, 20.0).to(sound_BT.device)
    bands = (power @ filters).clamp(min=torch.finfo(torch.float32).eps).log()[:, : config.max_length]
    real_B = (lengths_B - FRAME).clamp(min=-HOP) // HOP + 1
    is_real_BF1 = (torch.arange(bands.shape[1], device=bands.device) < real_B[:, None])[..., None]
    bands = F.pad(bands.masked_fill(~is_real_BF1, 0), (0, 0, 0, config.max_length - bands.shape[1]))
    return (bands - mean) / (2 * std)


def sounds_of_rows(input_values: Tensor, attention_mask: Tensor | None) -> list[Tensor]:
    """Return the sounds of a batch (B, T) without their padding.

    Raises:
        ValueError: for another shape, and for a row without samples.
    """
    if input_values.dim() != 2:
        raise ValueError(
            f"input_values have shape {tuple(input_values.shape)}, but sound is read as it is: (batch_size, samples). "
            "Spectrograms are made inside; take the feature extractor of open_sound_extractor."
        )
    if attention_mask is not None and attention_mask.shape != input_values.shape:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, but input_values need "
            f"{tuple(input_values.shape)}: one number per sample, 0 at padding."
        )
    sounds = list(input_values)
    if attention_mask is not None:
        sounds = [sound[mask.bool()] for sound, mask in zip(sounds, attention_mask, strict=True)]
    if empty := [row for row, sound in enumerate(sounds) if not len(sound)]:
        raise ValueError(f"Rows {empty} have no samples. Leave empty recordings out.")
    return sounds


def open_sound_extractor(name_or_path: str, **hub_options: Any) -> Wav2Vec2FeatureExtractor:
    """Return the feature extractor to save with a model on this backbone: one that cuts no sound.

    That of a backbone that reads waves stays as it is but for `return_attention_mask`, which is on. Those of Whisper
    and AST cut; the model makes their spectrograms itself, window by window, of sound that nothing was done to.
    """
    found = AutoFeatureExtractor.from_pretrained(name_or_path, **hub_options)
    return Wav2Vec2FeatureExtractor(
        sampling_rate=found.sampling_rate,
        do_normalize=isinstance(found, Wav2Vec2FeatureExtractor) and found.do_normalize,
        return_attention_mask=True,
    )
