"""The peer for texts: the stock classifier of Transformers, trained and scored by our recipe on the same rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from datasets import Dataset
from peft import LoraConfig, TaskType, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Trainer,
)

from hf_selfattn import TextClassificationArguments, register_task
from hf_selfattn.data import ClassificationData
from hf_selfattn.modeling.adapter_selfattn import LORA_TARGETS
from hf_selfattn.modeling.configuration_selfattn import backbone_window
from hf_selfattn.tasks.evaluation import plain_model
from hf_selfattn.tasks.text_classification import TextClassification
from hf_selfattn.training.setup import LEARNING_RATE

LEARNING_RATE["frozen"] = LEARNING_RATE["probe"]


@dataclass
class StockArguments(TextClassificationArguments):
    """The arguments of the recipe for texts, for a peer; `frozen` trains what is on the backbone."""

    task: ClassVar[str] = "stock-text-classification"

    tuning: Literal["frozen", "lora", "full"] = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads:
            raise ValueError(f"heads={self.heads}, but a peer has none of ours. Leave heads out.")


@register_task
class StockClassifier(TextClassification):
    """`AutoModelForSequenceClassification`, which reads what its backbone reads in one window."""

    name = "stock-text-classification"

    def encode(self, data: ClassificationData, processor: PreTrainedTokenizerBase) -> dict[str, Dataset]:
        """Cut what the backbone cannot read in one window off each text, as `truncation=True` does.

        Raises:
            ValueError: for text pairs, of which the longer one would have to be cut.
        """
        if "text_pair" in data.splits["train"].column_names:
            raise ValueError("The peers read single texts, but the rows are text pairs.")
        window = backbone_window(AutoConfig.from_pretrained(self.arguments.model)) or 512

        def cut(row: dict[str, Any]) -> dict[str, Any]:
            names = [name for name in processor.model_input_names if name in row]
            return {name: [*row[name][: window - 1], row[name][-1]] for name in names} | {"length": window}

        def cut_long(row: dict[str, Any]) -> dict[str, Any]:
            return cut(row) if row["length"] > window else {}

        return {name: split.map(cut_long) for name, split in super().encode(data, processor).items()}

    def build_model(self, data: ClassificationData, backbone_config: PreTrainedConfig) -> Any:
        """Return the stock model."""
        model = AutoModelForSequenceClassification.from_pretrained(
            self.arguments.model, **self.label_options(data), **self.arguments.backbone
        )
        return tune_peer(model, self.arguments, None)

    def evaluate(
        self, data: ClassificationData, tokens: dict[str, Dataset], evaluator: Trainer, output_dir: Path
    ) -> dict[str, Any]:
        """Score as ours; the model does not keep its calibration, for which its configuration has no field."""
        results = super().evaluate(data, tokens, evaluator, output_dir)
        config = plain_model(evaluator).config
        del config.temperature, config.thresholds
        return results


def tune_peer(model: Any, arguments: TextClassificationArguments, head_modules: list[str] | None) -> Any:
    """Return a peer with those parameters trainable that its tuning trains; LoRA on the same layers as ours.

    Args:
        head_modules: what is trained in full beside LoRA; the classifier where it is None.
    """
    if arguments.tuning == "lora":
        backbone_config = getattr(model.config, "backbone_config", model.config)
        options = {"r": 16, "lora_alpha": 32, "target_modules": LORA_TARGETS[backbone_config.model_type]}
        options |= {"modules_to_save": head_modules} if head_modules else {}
        return get_peft_model(model, LoraConfig(task_type=TaskType.SEQ_CLS, **{**options, **arguments.lora}))
    model.base_model.requires_grad_(arguments.tuning == "full")
    return model
