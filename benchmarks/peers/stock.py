"""The peer: the stock token classifier of Transformers, trained, decoded and scored by our recipe on the same rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Dataset
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForTokenClassification, PreTrainedConfig, PreTrainedTokenizerBase

from hf_selfattn import NerArguments, register_task
from hf_selfattn.data import TaggingData
from hf_selfattn.modeling.adapter_selfattn import LORA_TARGETS
from hf_selfattn.tasks.tag_encoding import IGNORED
from hf_selfattn.tasks.token_classification import TokenClassification

NO_WORD = -1  # the place of a token that has no label


@dataclass
class StockNerArguments(NerArguments):
    """The arguments of the recipe for named entities, for the model without our heads."""

    task: ClassVar[str] = "stock-token-classification"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads:
            raise ValueError(f"heads={self.heads}, but the stock model has none.")


@register_task
class StockTagger(TokenClassification):
    """`AutoModelForTokenClassification`, taught the first token of each word as the example of Transformers does."""

    name = "stock-token-classification"

    def encode(self, data: TaggingData, processor: PreTrainedTokenizerBase) -> dict[str, Dataset]:
        """Label the first token of each word and no other."""
        return {name: split.map(first_tokens) for name, split in super().encode(data, processor).items()}

    def build_model(self, data: TaggingData, backbone_config: PreTrainedConfig) -> Any:
        """Return the stock model, with LoRA on the same layers as ours where it is asked for."""
        arguments = self.arguments
        model = AutoModelForTokenClassification.from_pretrained(
            arguments.model, **self.label_options(data), **arguments.backbone
        )
        if arguments.tuning == "full":
            return model
        options = {"r": 16, "lora_alpha": 32, "target_modules": LORA_TARGETS[backbone_config.model_type]}
        return get_peft_model(model, LoraConfig(task_type=TaskType.TOKEN_CLS, **{**options, **arguments.lora}))


def first_tokens(row: dict[str, Any]) -> dict[str, Any]:
    """Return labels and places of a row with those of each word's first token alone."""
    seen: set[int] = {NO_WORD}
    labels, places = [], []
    for label, place in zip(row["labels"], row["places"], strict=True):
        labels.append(IGNORED if place in seen else label)
        places.append(NO_WORD if place in seen else place)
        seen.add(place)
    return {"labels": labels, "places": places}
