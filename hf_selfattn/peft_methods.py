"""Any method of PEFT on a model of this package, and several adapters in one batch."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, cast

import torch
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig, PeftModel, PeftType, TaskType
from torch import Tensor
from transformers import PreTrainedModel

from .adapters import HEAD_MODULES, any_parameter_in


def method_config(model: PreTrainedModel, method: str, task_type: str, **options: Any) -> PeftConfig:
    """Return a configuration of any PEFT method under which the heads train in full and are saved.

    Where no `target_modules` are given, adapters stand on the layers that suit the method in each backbone family.
    PEFT's prompt methods add tokens alone: they train neither the heads nor any other classifier.

    Args:
        method: name of a method in PEFT, such as `IA3`, `LOHA` or `LN_TUNING`.

    Raises:
        ValueError: for a method or a task that PEFT does not know.
    """
    known = sorted(kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING)
    if method not in known:
        raise ValueError(f"method={method!r} is unknown to this version of PEFT; it knows {', '.join(known)}.")
    if task_type not in TaskType.__members__:
        raise ValueError(f"task_type={task_type!r} is unknown; it is one of {', '.join(TaskType.__members__)}.")
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(method)]
    names = {field.name for field in fields(config_class)}
    defaults = {
        "modules_to_save": [name for name in HEAD_MODULES if any_parameter_in(model, name)],
        "exclude_modules": rf".*\b({'|'.join(HEAD_MODULES)})\b.*",
    }
    defaults = {name: value for name, value in defaults.items() if name in names}
    return config_class(task_type=TaskType[task_type], **{**defaults, **options})


@torch.no_grad()
def mixed_logits(model: PeftModel, adapter_names: list[str], **inputs: Tensor) -> Tensor:
    """Return the logits of a batch whose rows are answered by different adapters, each with its own heads.

    PEFT's own argument `adapter_names` mixes LoRA on inputs of one window, and only heads that are a single layer.
    Here the rows of each adapter go through the model together, so every method, the heads and any length work.

    Args:
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
