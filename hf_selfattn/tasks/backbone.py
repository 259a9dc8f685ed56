"""The backbone of a run: its configuration and tokenizer, how a model is built on it, or on a tuned one."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..adapters import merge_adapters, model_class_of
from ..arguments import ModelArguments, RunArguments
from ..modeling.base_selfattn import SelfAttnPreTrainedModel
from ..modeling.configuration_selfattn import SelfAttnConfig, backbone_window
from ..modeling.modeling_selfattn import SelfAttnForTokenClassification

# Dropout there keeps attention from its fused kernel, by the name it has in the families' configurations.
ATTENTION_DROPOUT_FIELDS = ("attention_probs_dropout_prob", "attention_dropout")
# Of the backbone's hidden layers, how many a probe mixes.
MIXED_LAYERS = 4
# A tokenizer that claims no limit makes pipelines pass a text on whole: the model reads any length.
NO_LIMIT = int(1e30)

Collate = Callable[[list[dict[str, Any]]], Any]


def integers_as_bytes(value: Any) -> bytes:
    """Return token ids and the like as bytes."""
    return np.asarray(value, dtype=np.int64).tobytes()


@dataclass(frozen=True)
class Inputs:
    """How the backbone reads the rows of a task, as `Task.encode` returns them."""

    columns: tuple[str, ...]  # of a row, that it reads; a row need not have all of them
    collate: Collate  # makes a batch of rows with these columns alone
    state: Any  # all of the processor that decides what is read, as `json` writes it
    as_bytes: Callable[[Any], bytes] = integers_as_bytes  # of the value of a column, what is read of it
    beside_features: tuple[str, ...] | None = None  # columns that a batch needs beside kept features; None: all
    says_length: bool = True  # whether the column `length` says about how many positions the backbone makes of a row


def hub_options(arguments: ModelArguments) -> dict[str, str]:
    """Return what every download of the backbone has in common."""
    return {"revision": arguments.model_revision} if arguments.model_revision else {}


def open_with(
    open_processor: Callable[..., Any], arguments: ModelArguments, processor: str
) -> tuple[PreTrainedConfig, Any]:
    """Return the configuration of the model that a run starts from, and its processor, which errors call so."""
    options = hub_options(arguments)
    if (Path(arguments.model) / "adapter_config.json").is_file():
        raise ValueError(
            f"model={arguments.model!r} is a checkpoint of PEFT inside of a run. Give the folder of the run when "
            "it is done, or the command that started it, which goes on from its newest checkpoint."
        )
    try:
        config = AutoConfig.from_pretrained(arguments.model, **options)
        return config, open_processor(arguments.model, **options)
    except OSError as error:
        raise ValueError(
            f"The backbone model={arguments.model!r} cannot be opened. Give a name on the hub or a folder with "
            f"config.json, weights and {processor}. {error}"
        ) from error


def open_backbone(arguments: ModelArguments) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Return the configuration and the tokenizer of the backbone."""
    config, tokenizer = open_with(AutoTokenizer.from_pretrained, arguments, "tokenizer")
    if tokenizer.pad_token is None:
        filling = tokenizer.eos_token or tokenizer.unk_token
        if filling is None:
            raise ValueError(
                f"The tokenizer of model={arguments.model!r} has no token to pad rows with. Save a copy with one: "
                "tokenizer.add_special_tokens({'pad_token': '[PAD]'}), and the backbone with resized embeddings."
            )
        logging.getLogger(__name__).warning("The tokenizer has no padding token; %s pads (and is masked).", filling)
        tokenizer.pad_token = filling
    return getattr(config, "backbone_config", config), tokenizer


def is_tuned(arguments: ModelArguments) -> bool:
    """Return whether what is to be tuned is a model of this package, and no plain backbone."""
    return isinstance(AutoConfig.from_pretrained(arguments.model, **hub_options(arguments)), SelfAttnConfig)


def tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return what a tokenizer is made of; how it pads and cuts depends on its last call, and is left out."""
    if not tokenizer.is_fast:
        return {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return {name: value for name, value in state.items() if name not in ("truncation", "padding")}


def text_inputs(tokenizer: PreTrainedTokenizerBase) -> Inputs:
    """Return how a backbone reads tokens."""
    names = tuple(tokenizer.model_input_names)
    return Inputs(names, DataCollatorWithPadding(tokenizer), tokenizer_state(tokenizer))


def window_of(backbone_config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many tokens the backbone reads at once."""
    return backbone_window(backbone_config) or int(tokenizer.model_max_length)


def backbone_settings(arguments: ModelArguments, backbone_config: PreTrainedConfig) -> dict[str, Any]:
    """Return how a model opens its backbone.

    Dropout inside the backbone's attention is off unless `backbone` sets it: it keeps attention from its fused
    kernel, which costs more than half of a step on 512 tokens, and the heads have their own. Weights that were stored
    in half precision train in float32, as mixed precision does it.
    """
    if arguments.quantization == "nf4" and not torch.accelerator.is_available():
        raise ValueError("quantization='nf4' trains on an accelerator only, and here is none. Set quantization=int8.")
    no_dropout = {name: 0.0 for name in ATTENTION_DROPOUT_FIELDS if hasattr(backbone_config, name)}
    return {
        "dtype": torch.float32,
        "hub_options": hub_options(arguments),
        "backbone_options": {**no_dropout, **arguments.backbone},
        "backbone_quantization": arguments.quantization,
    }


def head_settings(
    arguments: RunArguments, backbone_config: PreTrainedConfig, fusion_init: float | None
) -> dict[str, Any]:
    """Return the fields of the heads. A probe mixes the last `MIXED_LAYERS` layers unless `heads` says how many.

    The last layer of a frozen backbone is made for what it was trained on, and its last four layers together say more
    of another task (Devlin et al., 2019, section 5.3; benchmarks/LOG.md).
    """
    if arguments.tuning not in ("probe", "probe+lora"):
        return arguments.heads
    changed = copy.deepcopy(backbone_config)
    changed.update(arguments.backbone)
    num_layers = getattr(changed, "num_hidden_layers", None)  # of a convolutional network models tell
    mixed = {"num_mixed_layers": min(MIXED_LAYERS, num_layers)} if num_layers else {}
    start = {} if fusion_init is None else {"fusion_init": fusion_init}
    return {**mixed, **start, **arguments.heads}


def tuned_model(
    model_class: type[SelfAttnPreTrainedModel], arguments: ModelArguments, labels: dict[str, Any]
) -> tuple[PreTrainedModel, str]:
    """Return a model with the weights of one that was tuned before, uncalibrated, and a sentence on what it keeps.

    Labels of the same name keep their answers, others start fresh; of a model of another task backbone and heads are
    kept. An adapter is merged into its backbone.
    """
    before = open_tuned(model_class, arguments)
    config = copy.deepcopy(before.config)
    config.backbone_config.update(arguments.backbone)
    names = [labels["id2label"][number] for number in range(len(labels["id2label"]))]
    known = [before.config.id2label[number] for number in range(before.config.num_labels)]
    # The backbone is no longer the one that a name on the hub stands for.
    changes = {**labels, "temperature": 1.0, "thresholds": None, "backbone_hash": None}
    changes |= {"backbone_name_or_path": None, "backbone_revision": None, "adapter_subfolder": None}
    for name, value in {**changes, **arguments.heads}.items():
        setattr(config, name, value)
    model = model_class(config)
    try:
        model.base_model.load_state_dict(before.base_model.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"heads={arguments.heads} does not fit the heads of {arguments.model}, which are trained already. Leave "
            "heads out, or give the plain backbone as model."
        ) from error
    same_task = type(before) is model_class
    if same_task:
        copy_answers(before, model, known, names)
    if isinstance(model, SelfAttnForTokenClassification):
        tokenizer = AutoTokenizer.from_pretrained(arguments.model, **hub_options(arguments))
        model.read_marks(tokenizer)
    kept = [name for name in names if same_task and name in known]
    fresh = [name for name in names if name not in kept]
    said = f"Training goes on from {arguments.model}, which was tuned before: backbone and heads are kept"
    said += f", and the answers for {', '.join(kept)}" if kept else ""
    return model, f"{said}; {', '.join(fresh)} start fresh." if fresh else f"{said}."


def open_tuned(model_class: type[SelfAttnPreTrainedModel], arguments: ModelArguments) -> PreTrainedModel:
    """Return the tuned model, whole, of the class that it was saved as."""
    options = hub_options(arguments)
    config = SelfAttnConfig.from_pretrained(arguments.model, **options)
    same_class = (config.architectures or [""])[0] == model_class.__name__
    saved_as = model_class if same_class else model_class_of(config)
    if arguments.backbone_name_or_path is not None:
        options["backbone_name_or_path"] = arguments.backbone_name_or_path
    return merge_adapters(saved_as.from_pretrained(arguments.model, **options))


@torch.no_grad()
def copy_answers(before: PreTrainedModel, model: PreTrainedModel, known: list[str], names: list[str]) -> None:
    """Copy what stands above backbone and heads; of what belongs to labels, the part of those that both know."""
    shared = [name for name in names if name in known]
    theirs, ours = [known.index(name) for name in shared], [names.index(name) for name in shared]
    state = dict(before.named_parameters())
    for name, value in model.named_parameters():
        if name.startswith(f"{model.base_model_prefix}.") or name not in state:
            continue
        part, places = state[name], []
        for axis, (old, new) in enumerate(zip(part.shape, value.shape, strict=True)):
            more = old - len(known)  # class queries have one more, for all labels
            if more == new - len(names) and more in (0, 1):
                part = part.index_select(axis, torch.tensor([*theirs, *[len(known)] * more]))
                places.append(torch.tensor([*ours, *[len(names)] * more]))
            else:
                places.append(torch.arange(new))
        value[torch.meshgrid(*places, indexing="ij")] = part
