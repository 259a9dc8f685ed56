"""The peer: the stock token classifier of Transformers, trained, decoded and scored by our recipe on the same rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForTokenClassification, PreTrainedConfig, PreTrainedTokenizerBase

from hf_selfattn.arguments import NerArguments
from hf_selfattn.data import TaggingData
from hf_selfattn.modeling.peft_selfattn import LORA_TARGETS
from hf_selfattn.tasks.tag_encoding import IGNORED
from hf_selfattn.tasks.token_classification import TAGGING, tokenise_tags
from hf_selfattn.training.setup import TASKS

NO_WORD = -1  # the place of a token that has no label


@dataclass
class StockNerArguments(NerArguments):
    """The arguments of the recipe for named entities, for the model without our heads."""


def tokenise_for_stock(
    arguments: NerArguments, data: TaggingData, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Dataset]:
    """Label the first token of each word and no other, as the token classification example of Transformers does."""
    return {name: split.map(first_tokens) for name, split in tokenise_tags(arguments, data, tokenizer).items()}


def first_tokens(row: dict[str, Any]) -> dict[str, Any]:
    """Return labels and places of a row with those of each word's first token alone."""
    seen: set[int] = {NO_WORD}
    labels, places = [], []
    for label, place in zip(row["labels"], row["places"], strict=True):
        labels.append(IGNORED if place in seen else label)
        places.append(NO_WORD if place in seen else place)
        seen.add(place)
    return {"labels": labels, "places": places}


def build_stock_tagger(arguments: NerArguments, data: TaggingData, backbone_config: PreTrainedConfig) -> Any:
    """Return `AutoModelForTokenClassification`, with LoRA on the same layers as ours where it is asked for.

    Raises:
        ValueError: if heads are asked for: there are none.
    """
    if arguments.heads:
        raise ValueError(f"heads={arguments.heads}, but the stock model has none.")
    model = AutoModelForTokenClassification.from_pretrained(
        arguments.model,
        id2label=dict(enumerate(data.label_names)),
        label2id={name: number for number, name in enumerate(data.label_names)},
        **arguments.backbone,
    )
    if arguments.tuning == "full":
        return model
    options = {"r": 16, "lora_alpha": 32, "target_modules": LORA_TARGETS[backbone_config.model_type]}
    return get_peft_model(model, LoraConfig(task_type=TaskType.TOKEN_CLS, **{**options, **arguments.lora}))


TASKS[StockNerArguments] = replace(TAGGING, tokenise=tokenise_for_stock, build_model=build_stock_tagger)
