"""Tiny random backbones and models that read sound, and sounds."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from transformers import (
    ASTConfig,
    HubertConfig,
    PreTrainedConfig,
    SEWConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WhisperConfig,
)

from hf_selfattn import SelfAttnConfig, SelfAttnForAudioClassification, SelfAttnForCTC

RATE = 16_000
HEADS: dict[str, Any] = {"head_dim": 8, "group_dim": 8, "num_groups": 4, "block_size": 4}
VOCABULARY = ["<pad>", "|", "a", "b", "c", "d"]

_SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
}
_WAVES: dict[str, Any] = {
    **_SIZES,
    "conv_dim": (8, 8),
    "conv_kernel": (400, 2),
    "conv_stride": (80, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "apply_spec_augment": False,
}

SOUND_BACKBONES: dict[str, PreTrainedConfig] = {
    "wav2vec2": Wav2Vec2Config(**_WAVES),
    "wav2vec2-layer": Wav2Vec2Config(**_WAVES, feat_extract_norm="layer", do_stable_layer_norm=True),
    "hubert-layer": HubertConfig(**_WAVES, feat_extract_norm="layer", do_stable_layer_norm=True),
    "hubert": HubertConfig(**_WAVES),
    "wavlm": WavLMConfig(**_WAVES),
    "wavlm-layer": WavLMConfig(**_WAVES, feat_extract_norm="layer", do_stable_layer_norm=True),
    "sew": SEWConfig(**_WAVES, squeeze_factor=2),
    "ast": ASTConfig(
        **_SIZES, patch_size=4, frequency_stride=4, time_stride=3, max_length=100, num_mel_bins=16
    ),  # a window of 15,840 samples
    "whisper": WhisperConfig(
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=20,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=20,
        num_mel_bins=16,
        max_source_positions=50,
    ),  # a window of 16,000 samples
}
FAMILIES = tuple(SOUND_BACKBONES)


def tiny_sound_config(family: str = "wav2vec2", **options: Any) -> SelfAttnConfig:
    """Return the configuration of a tiny model that reads sound in windows of about a second.

    Args:
        family: a key of `SOUND_BACKBONES`.
        options: fields of the configuration that differ.
    """
    window = 15_840 if family == "ast" else 16_000
    return SelfAttnConfig(
        backbone_config=deepcopy(SOUND_BACKBONES[family]), **{**HEADS, "subsequence_length": window, **options}
    )


def tiny_sound_model(family: str = "wav2vec2", kind: str = "classification", seed: int = 0, **options: Any) -> Any:
    """Return a tiny random model in evaluation mode, its heads far from 0.

    Args:
        family: a key of `SOUND_BACKBONES`.
        kind: `classification`, of three classes, or `ctc`, of `VOCABULARY`.
        seed: of the weights.
        options: fields of the configuration that differ.
    """
    torch.manual_seed(seed)
    labels = {"num_labels": 3} if kind == "classification" else {"vocab_size": len(VOCABULARY), "pad_token_id": 0}
    config = tiny_sound_config(family, **{**labels, "fusion_init": 0.7, **options})
    return (SelfAttnForAudioClassification if kind == "classification" else SelfAttnForCTC)(config).eval()


def tiny_sound(samples: int = 8_001, seed: int = 0) -> Tensor:
    """Return noise of so many samples."""
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) / 3


def tiny_extractor(**options: Any) -> Wav2Vec2FeatureExtractor:
    """Return what prepares sound for a tiny model: nothing is done to it."""
    return Wav2Vec2FeatureExtractor(**{"do_normalize": False, "return_attention_mask": True, **options})
