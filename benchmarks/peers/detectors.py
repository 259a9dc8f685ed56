"""Detectors on a frozen backbone: ours, and the peer of `retina`, both on maps that are computed once.

Half of a detector's training is the backbone, which answers the same of an image in every epoch where it is frozen and
images are not mirrored. So its answers are kept in memory, and all rows of an experiment cost little more than heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedConfig, Trainer
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndNoAttention

from hf_selfattn import ObjectDetectionArguments, register_task
from hf_selfattn.data.images import BoxData
from hf_selfattn.modeling.detection_selfattn import MOST_MIXED
from hf_selfattn.tasks.evaluation import plain_model
from hf_selfattn.tasks.object_detection import ObjectDetection

from .retina import RetinaDetector


@dataclass
class FrozenDetectionArguments(ObjectDetectionArguments):
    """The arguments of the recipe for objects, on a backbone that is frozen."""

    task: ClassVar[str] = "frozen-object-detection"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tuning != "probe":
            raise ValueError(f"tuning={self.tuning}, but the maps of a frozen backbone are kept. Set tuning=probe.")


@dataclass
class RetinaArguments(FrozenDetectionArguments):
    """The same for the peer."""

    task: ClassVar[str] = "retina-object-detection"


@register_task
class FrozenDetection(ObjectDetection):
    """Our detector, whose backbone reads each image once."""

    name = "frozen-object-detection"

    def build_model(self, data: BoxData, backbone_config: PreTrainedConfig) -> Any:
        """Return the model with the maps of its backbone kept."""
        model = super().build_model(data, backbone_config)
        backbone = model.base_model.backbone
        backbone.forward = KeptMaps(backbone.forward)
        return model

    def evaluate(
        self, data: BoxData, encoded: dict[str, Dataset], evaluator: Trainer, output_dir: Path
    ) -> dict[str, Any]:
        """Score the model as it is saved, whose backbone reads every image."""
        del plain_model(evaluator).base_model.backbone.forward
        return super().evaluate(data, encoded, evaluator, output_dir)


@register_task
class RetinaDetection(FrozenDetection):
    """The peer's head on the same maps."""

    name = "retina-object-detection"
    model_class = RetinaDetector


class KeptMaps:
    """The forward pass of a frozen convolutional backbone that remembers, in half precision, what it answered.

    Args:
        forward: of the backbone.
    """

    def __init__(self, forward: Any):
        self.forward = forward
        self.kept: dict[bytes, tuple[Tensor, ...]] = {}

    def __call__(self, pixel_values: Tensor, **options: Any) -> BaseModelOutputWithPoolingAndNoAttention:
        keys = [blake2b(image.numpy().tobytes(), digest_size=16).digest() for image in pixel_values]
        if missing := [row for row, key in enumerate(keys) if key not in self.kept]:
            with torch.no_grad():
                found = self.forward(pixel_values[missing], **options)
            layers = [*found.hidden_states[-MOST_MIXED:], found.last_hidden_state]
            for place, row in enumerate(missing):
                self.kept[keys[row]] = tuple(layer[place].half() for layer in layers)
        layers = [torch.stack(maps) for maps in zip(*(self.read(key) for key in keys), strict=True)]
        return BaseModelOutputWithPoolingAndNoAttention(last_hidden_state=layers[-1], hidden_states=tuple(layers[:-1]))

    def read(self, key: bytes) -> list[Tensor]:
        """Return the layers of an image."""
        return [layer.float() for layer in self.kept[key]]
