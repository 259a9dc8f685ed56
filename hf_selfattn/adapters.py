"""Low-rank adapters on the backbone, with the heads trained in full beside them."""

from __future__ import annotations

from os import PathLike
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from .modeling import modeling_selfattn
from .modeling.adapter_selfattn import HUB_OPTIONS, carries_adapter
from .modeling.configuration_selfattn import SelfAttnConfig
from .modeling.peft_selfattn import register_adapter_targets

# Modules that are trained and saved in full, where the model has them.
HEAD_MODULES = ("heads", "classifier", "crf")

register_adapter_targets()


# What a configuration alone is built as.
CLASS_OF_TASK = {
    "SEQ_CLS": modeling_selfattn.SelfAttnForSequenceClassification,
    "TOKEN_CLS": modeling_selfattn.SelfAttnForTokenClassification,
}


def lora_config(model: PreTrainedModel | SelfAttnConfig, task_type: str, **options: Any) -> LoraConfig:
    """Return a LoRA configuration for a model of this package (Hu et al., 2021).

    Adapters stand on all linear layers of the backbone, as in QLoRA (Dettmers et al., 2023), unless `target_modules`
    names others. There is no dropout by default: on a CPU it costs more than the adapters save.

    Raises:
        ValueError: for a task that PEFT, or this package, does not know.
    """
    if task_type not in CLASS_OF_TASK:
        raise ValueError(f"task_type={task_type!r} is unknown; it is one of {', '.join(CLASS_OF_TASK)}.")
    if isinstance(model, SelfAttnConfig):
        with torch.device("meta"):
            model = CLASS_OF_TASK[task_type](model)
    rank = options.get("r", 16)
    targets = options.pop("target_modules", None) or "all-linear"
    defaults = {
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "target_modules": backbone_linears(model) if targets == "all-linear" else targets,
        "exclude_modules": rf".*\b({'|'.join(HEAD_MODULES)})\b.*",
        "modules_to_save": [name for name in HEAD_MODULES if any_parameter_in(model, name)],
    }
    return LoraConfig(task_type=TaskType[task_type], **{**defaults, **options})


def backbone_linears(model: PreTrainedModel) -> list[str]:
    """Return the names of all linear layers of the backbone, under adapters or not."""
    modules = dict(model.base_model.backbone.named_modules())
    adapted = [name for name, module in modules.items() if isinstance(module, BaseTunerLayer)]
    inside = tuple(f"{name}." for name in adapted)  # the layer itself, and linear layers of the adapter
    plain = {name: module for name, module in modules.items() if name not in adapted and not name.startswith(inside)}
    plain |= {name: cast(BaseTunerLayer, modules[name]).get_base_layer() for name in adapted}
    return sorted(name for name, module in plain.items() if isinstance(module, nn.Linear))


def any_parameter_in(model: nn.Module, name: str) -> bool:
    """Return whether a module of that name holds parameters."""
    return any(
        path.split(".")[-1] == name and any(True for _ in module.parameters())
        for path, module in model.named_modules()
    )


def add_lora(model: PreTrainedModel, task_type: str, **options: Any) -> PeftModel:
    """Return the model with LoRA adapters; only they and the heads train."""
    return get_peft_model(model, lora_config(model, task_type, **options))


def task_type_of(model: PreTrainedModel) -> str:
    """Return what PEFT calls the task of a model of this package: `SEQ_CLS` or `TOKEN_CLS`."""
    return next(task_type for task_type, kind in CLASS_OF_TASK.items() if isinstance(model, kind))


def tune(model: PreTrainedModel, tuning: str, task_type: str, **lora: Any) -> PreTrainedModel | PeftModel:
    """Return the model with those parameters trainable that a way of tuning trains."""
    if tuning == "lora":
        return add_lora(model, task_type, **lora)
    backbone: nn.Module = model.base_model.backbone
    backbone.requires_grad_(tuning == "full")
    return model


def base_model(model: nn.Module) -> PreTrainedModel:
    """Return the model of transformers under its adapters."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


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
    if isinstance(model, modeling_selfattn.SelfAttnPreTrainedModel) and carries_adapter(model):
        model = model.adapted[0]
    return model.merge_and_unload() if isinstance(model, PeftModel) else model


def open_adapter(name_or_path: str | PathLike[str], *, is_trainable: bool = False, **options: Any) -> PeftModel:
    """Open an adapter checkpoint as a model of PEFT, to train the adapter further or to use what PEFT offers.

    Args:
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
    model_class = getattr(modeling_selfattn, config.architectures[0])
    model = model_class.from_pretrained(name_or_path, is_trainable=is_trainable, **options)
    return cast(PeftModel, model.adapted[0])


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Return how many parameters a model has and how many of them train."""
    return {
        "all": sum(parameter.numel() for parameter in model.parameters()),
        "trainable": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
    }
