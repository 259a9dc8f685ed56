"""Tiny random backbones and models that read images, batches and an image processor."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    ConvNextConfig,
    ConvNextV2Config,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DINOv3ConvNextConfig,
    DINOv3ViTConfig,
    MobileNetV2Config,
    PreTrainedConfig,
    ResNetConfig,
    SiglipVisionConfig,
    SwinConfig,
    ViTConfig,
)
from transformers.models.vit import ViTImageProcessorPil

from hf_selfattn import SelfAttnConfig, SelfAttnForImageClassification

SIDE = 32  # pixels of an image's side
HEADS: dict[str, Any] = {"head_dim": 8, "group_dim": 8, "num_groups": 4, "block_size": 4}

_VIT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "image_size": SIDE,
    "patch_size": 8,
}
_STAGES: dict[str, Any] = {"hidden_sizes": [8, 12, 16], "depths": [1, 1, 1]}

IMAGE_BACKBONES: dict[str, PreTrainedConfig] = {
    "resnet": ResNetConfig(embedding_size=8, layer_type="basic", **_STAGES),
    "convnext": ConvNextConfig(num_stages=3, image_size=SIDE, **_STAGES),
    "convnextv2": ConvNextV2Config(num_stages=3, image_size=SIDE, **_STAGES),
    "mobilenet_v2": MobileNetV2Config(depth_multiplier=0.1, min_depth=4, image_size=SIDE, finegrained_output=False),
    "swin": SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4, image_size=SIDE, patch_size=4),
    "vit": ViTConfig(**_VIT),
    "dinov2": Dinov2Config(**{**_VIT, "mlp_ratio": 2}),
    "dinov2-registers": Dinov2WithRegistersConfig(**{**_VIT, "mlp_ratio": 2, "num_register_tokens": 2}),
    "dinov3": DINOv3ViTConfig(**_VIT),
    "dinov3-convnext": DINOv3ConvNextConfig(hidden_sizes=[4, 8, 12, 16], depths=[1, 1, 1, 1], image_size=SIDE),
    "siglip": SiglipVisionConfig(**_VIT),
    "clip": CLIPVisionConfig(**_VIT),
}
# Families with feature maps, and no token before them.
CONVOLUTIONAL = ("resnet", "convnext", "convnextv2", "mobilenet_v2")


def tiny_image_config(family: str = "vit", **options: Any) -> SelfAttnConfig:
    """Return the configuration of a tiny model that reads images.

    Args:
        family: a key of `IMAGE_BACKBONES`.
        options: fields of the configuration that differ.
    """
    return SelfAttnConfig(
        backbone_config=deepcopy(IMAGE_BACKBONES[family]), **{**HEADS, "subsequence_length": SIDE, **options}
    )


def tiny_image_model(family: str = "vit", seed: int = 0, **options: Any) -> Any:
    """Return a tiny random image classifier of three classes in evaluation mode, its heads far from 0.

    Args:
        family: a key of `IMAGE_BACKBONES`.
        seed: of the weights.
        options: fields of the configuration that differ.
    """
    torch.manual_seed(seed)
    config = tiny_image_config(family, **{"num_labels": 3, "fusion_init": 0.7, **options})
    return SelfAttnForImageClassification(config).eval()


def tiny_pixels(rows: int = 2, height: int = SIDE, width: int = SIDE, seed: int = 0) -> Tensor:
    """Return random images (B, 3, H, W)."""
    return torch.randn(rows, 3, height, width, generator=torch.Generator().manual_seed(seed))


def tiny_image_processor(**options: Any) -> ViTImageProcessorPil:
    """Return a processor that resizes images to `SIDE` and needs no torchvision."""
    return ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}, **options)
