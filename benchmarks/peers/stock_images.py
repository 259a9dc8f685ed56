"""The peer for images: the stock classifier of Transformers, trained and scored by our recipe on the same images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from datasets import Dataset
from transformers import AutoModelForImageClassification, PreTrainedConfig, Trainer

from hf_selfattn import ImageClassificationArguments, register_task
from hf_selfattn.data.images import ImageData
from hf_selfattn.tasks.evaluation import plain_model
from hf_selfattn.tasks.image_classification import ImageClassification


@dataclass
class StockImageArguments(ImageClassificationArguments):
    """The arguments of the recipe for images, for the model without our heads, all of which trains."""

    task: ClassVar[str] = "stock-image-classification"

    tuning: Literal["full"] = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads:
            raise ValueError(f"heads={self.heads}, but a peer has none of ours. Leave heads out.")


@register_task
class StockImageClassifier(ImageClassification):
    """`AutoModelForImageClassification`, a linear layer on the mean of the last map."""

    name = "stock-image-classification"

    def build_model(self, data: ImageData, backbone_config: PreTrainedConfig) -> Any:
        """Return the stock model."""
        return AutoModelForImageClassification.from_pretrained(
            self.arguments.model, **self.label_options(data), **self.arguments.backbone
        )

    def evaluate(
        self, data: ImageData, encoded: dict[str, Dataset], evaluator: Trainer, output_dir: Path
    ) -> dict[str, Any]:
        """Score as ours; the model does not keep its calibration, for which its configuration has no field."""
        results = super().evaluate(data, encoded, evaluator, output_dir)
        config = plain_model(evaluator).config
        del config.temperature, config.thresholds
        return results
