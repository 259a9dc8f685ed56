"""LoRA and every other method of PEFT on models of this package: configure, open, merge, and mix in one batch."""

from __future__ import annotations

import sys
from dataclasses import fields
from importlib import import_module
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .modeling import base_selfattn, modeling_selfattn
from .modeling.adapter_selfattn import HUB_OPTIONS, NEVER_RUN, carries_adapter, register_adapter_targets
from .modeling.configuration_selfattn import SelfAttnConfig

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig, PeftModel, TaskType

# Modules that are trained and saved in full, where the model has them.
HEAD_MODULES = ("heads", "regions", "classifier", "crf")

# What a configuration alone is built as.
CLASS_OF_TASK = {
    "SEQ_CLS": modeling_selfattn.SelfAttnForSequenceClassification,
    "TOKEN_CLS": modeling_selfattn.SelfAttnForTokenClassification,
}

register_adapter_targets()


def is_adapted(model: nn.Module) -> TypeGuard[PeftModel]:
    """Return whether a model is one of PEFT, which then is imported."""
    return "peft" in sys.modules and isinstance(model, sys.modules["peft"].PeftModel)


def lora_config(model: PreTrainedModel | SelfAttnConfig, task_type: str | None = None, **options: Any) -> LoraConfig:
    """Return a LoRA configuration (Hu et al., 2021) under which the heads train in full and are saved.

    Adapters stand on all linear layers of the backbone, as in QLoRA (Dettmers et al., 2023), and on the convolutions
    of a convolutional network. There is no dropout: on a CPU it costs more than the adapters save.

    Args:
        model: a model of this package, or its configuration alone, which needs a `task_type`.
        task_type: of PEFT, `SEQ_CLS` or `TOKEN_CLS`; that of the model where it is left out.
        options: of `LoraConfig`, such as `r` (16), `lora_alpha` (2 r) and `target_modules`; they win.

    Raises:
        ValueError: for a task that PEFT, or this package, does not know.
    """
    from peft import LoraConfig  # here and below, for it imports a lot, and most commands need none of it

    if isinstance(model, SelfAttnConfig):
        if task_type not in CLASS_OF_TASK:
            raise ValueError(
                f"task_type={task_type!r} is unknown for a configuration alone; it is one of "
                f"{', '.join(CLASS_OF_TASK)}. Give the model itself for another."
            )
        with torch.device("meta"):
            model = CLASS_OF_TASK[task_type](model)
    rank, targets = options.get("r", 16), options.pop("target_modules", None) or "all-linear"
    defaults = {
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "target_modules": backbone_layers(model) if targets == "all-linear" else targets,
        **head_options(model),
    }
    return LoraConfig(task_type=peft_task(model, task_type), **{**defaults, **options})


def method_config(model: PreTrainedModel, method: str, task_type: str | None = None, **options: Any) -> PeftConfig:
    """Return a configuration of any PEFT method under which the heads train in full and are saved.

    Where no `target_modules` are given, adapters stand on the layers that suit the method in each backbone family.
    PEFT's prompt methods add tokens alone: they train neither the heads nor any other classifier.

    Args:
        method: name of a method in PEFT, such as `IA3`, `LOHA` or `LN_TUNING`.
        task_type: of PEFT; that of the model where it is left out.
        options: of the method's configuration in PEFT; they win.

    Raises:
        ValueError: for a method or a task that PEFT does not know.
    """
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType

    register_adapter_targets()
    known = sorted(kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING)
    if method not in known:
        raise ValueError(f"method={method!r} is unknown to this version of PEFT; it knows {', '.join(known)}.")
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(method)]
    names = {field.name for field in fields(config_class)}
    defaults = {name: value for name, value in head_options(model).items() if name in names}
    return config_class(task_type=peft_task(model, task_type), **{**defaults, **options})


def head_options(model: nn.Module) -> dict[str, Any]:
    """Return the options of PEFT under which the heads train in full and get no adapters."""
    with_parameters = {name for path, _ in model.named_parameters() for name in path.split(".")[:-1]}
    return {
        "modules_to_save": [name for name in HEAD_MODULES if name in with_parameters],
        "exclude_modules": rf".*\b({'|'.join(HEAD_MODULES)})\b.*",
    }


def peft_task(model: PreTrainedModel, task_type: str | None) -> TaskType | None:
    """Return PEFT's task of that name, or of the model, which is none of PEFT's for a model class of one's own."""
    from peft import TaskType

    name = task_type or task_type_of(model)
    if name is not None and name not in TaskType.__members__:
        raise ValueError(f"task_type={name!r} is unknown; it is one of {', '.join(TaskType.__members__)}.")
    return None if name is None else TaskType[name]


def task_type_of(model: PreTrainedModel) -> str | None:
    """Return what PEFT calls the task of a model: `SEQ_CLS`, `TOKEN_CLS`, or nothing."""
    return next((task_type for task_type, kind in CLASS_OF_TASK.items() if isinstance(model, kind)), None)


def backbone_layers(model: PreTrainedModel) -> list[str]:
    """Return the names of the layers of the backbone that LoRA changes, under adapters or not.

    They are all linear layers, and convolutions: not those of single channels, which have no rank to lower, and not
    the only one of a transformer, which cuts an image into patches. Layers that never run are none of them.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    modules = dict(model.base_model.backbone.named_modules())
    adapted = [name for name, module in modules.items() if isinstance(module, BaseTunerLayer)]
    inside = tuple(f"{name}." for name in adapted)  # the layer itself, and linear layers of the adapter
    plain = {name: module for name, module in modules.items() if name not in adapted and not name.startswith(inside)}
    plain |= {name: cast(BaseTunerLayer, modules[name]).get_base_layer() for name in adapted}
    idle = NEVER_RUN.get(model.config.backbone_config.model_type, ())
    linears = [name for name, module in plain.items() if isinstance(module, nn.Linear) and not name.endswith(idle)]
    convolutions = [name for name, module in plain.items() if isinstance(module, nn.Conv2d) and module.groups == 1]
    return sorted([*linears, *(convolutions if len(convolutions) > 1 else [])])


def add_lora(model: PreTrainedModel, task_type: str | None = None, **options: Any) -> PeftModel:
    """Return the model with LoRA adapters; only they and the heads train. The options are those of `lora_config`."""
    from peft import get_peft_model

    return get_peft_model(model, lora_config(model, task_type, **options))


def tune(
    model: PreTrainedModel, tuning: str, task_type: str | None = None, **lora: Any
) -> PreTrainedModel | PeftModel:
    """Return the model with those parameters trainable that a way of tuning trains."""
    if tuning == "lora":
        return add_lora(model, task_type, **lora)
    backbone: nn.Module = model.base_model.backbone
    backbone.requires_grad_(tuning == "full")
    return model


def base_model(model: nn.Module) -> PreTrainedModel:
    """Return the model of transformers under its adapters."""
    return model.get_base_model() if is_adapted(model) else model


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Return how many parameters a model has and how many of them train."""
    return {
        "all": sum(parameter.numel() for parameter in model.parameters()),
        "trainable": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
    }


def open_adapter(name_or_path: str | PathLike[str], *, is_trainable: bool = False, **options: Any) -> PeftModel:
    """Open an adapter checkpoint as a model of PEFT, to train the adapter further or to use what PEFT offers.

    Args:
        name_or_path: a folder, or a repository on the hub.
        is_trainable: whether adapter and heads go on training; otherwise everything is frozen.
        options: of `from_pretrained`; `backbone_name_or_path` says where a backbone is that was a folder.

    Raises:
        ValueError: if the checkpoint holds no adapter, or does not open.
    """
    hub_options = {name: value for name, value in options.items() if name in HUB_OPTIONS}
    config = SelfAttnConfig.from_pretrained(name_or_path, **hub_options)
    if config.adapter_subfolder is None:
        raise ValueError(
            f"{name_or_path} holds no adapter; open it with AutoModelForSequenceClassification or its like."
        )
    model = model_class_of(config).from_pretrained(name_or_path, is_trainable=is_trainable, **options)
    return cast("PeftModel", model.adapted[0])


def model_class_of(config: SelfAttnConfig) -> Any:
    """Return the class of this package that a model was saved as.

    Raises:
        ValueError: if it is none of them.
    """
    name = (config.architectures or [""])[0]
    for place in (config.auto_map or {}).values():
        module, _, found = place.partition(".")
        if found == name:
            return getattr(import_module(f"{__package__}.modeling.{module}"), name)
    raise ValueError(f"This is a {name or config.model_type}, and no model of this package: tune it first.")


def merge_adapters(model: nn.Module) -> PreTrainedModel:
    """Return the plain model with its adapters merged into the weights.

    Args:
        model: a model with or without adapters, perhaps opened from an adapter checkpoint.

    Raises:
        ValueError: if the backbone is quantised.
    """
    if (quantization := getattr(base_model(model).config, "backbone_quantization", "none")) != "none":
        raise ValueError(
            f"The backbone is quantised ({quantization}), and an adapter cannot be merged into it without loss. Open "
            "the adapter with backbone_quantization='none' and merge that."
        )
    if isinstance(model, base_selfattn.SelfAttnPreTrainedModel) and carries_adapter(model):
        model = model.adapted[0]
    return model.merge_and_unload() if is_adapted(model) else model


@torch.no_grad()
def mixed_logits(model: PeftModel, adapter_names: list[str], **inputs: Tensor) -> Tensor:
    """Return the logits of a batch whose rows are answered by different adapters, each with its own heads.

    PEFT's own argument `adapter_names` mixes LoRA on inputs of one window, and only heads that are a single layer.
    Here the rows of each adapter go through the model together, so every method, the heads and any length work.

    Args:
        adapter_names: one for each row; `__base__` is the model without an adapter.
        inputs: what the model reads, such as input_ids and attention_mask (B, T).

    Returns:
        (B, C) logits, or (B, T, C) of a token classifier.

    Raises:
        ValueError: if the model is in training mode, the number of names is not that of the rows, or there is no such
            adapter.
    """
    rows = len(next(iter(inputs.values())))
    if model.training:
        raise ValueError("Adapters are mixed in one batch for answers only: call model.eval() first.")
    if len(adapter_names) != rows:
        raise ValueError(f"There are {len(adapter_names)} adapter_names for {rows} rows; give one for each row.")
    if unknown := set(adapter_names) - {*model.peft_config, "__base__"}:
        raise ValueError(f"There is no adapter {sorted(unknown)}; the model has {sorted(model.peft_config)}.")
    active, trainable = model.active_adapter, [p for p in model.parameters() if p.requires_grad]
    logits_of_row: dict[int, Tensor] = {}
    try:
        for name in set(adapter_names):
            index = [row for row, other in enumerate(adapter_names) if other == name]
            answers = adapter_logits(model, name, {key: values[index] for key, values in inputs.items()})
            logits_of_row.update(zip(index, answers, strict=True))
    finally:
        model.set_adapter(active)
        model.requires_grad_(False)  # switching also switches what trains
        for parameter in trainable:
            parameter.requires_grad_(True)
    return torch.stack([logits_of_row[row] for row in range(rows)])


def adapter_logits(model: PeftModel, name: str, inputs: dict[str, Tensor]) -> Tensor:
    """Return the logits of one adapter, or of the model without any for `__base__`."""
    if name == "__base__":
        with model.disable_adapter():
            return cast(Tensor, model(**inputs).logits)
    model.set_adapter(name)
    return cast(Tensor, model(**inputs).logits)
