"""Layer-wise learning rates: the deeper a layer of the backbone, the slower it learns."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainingArguments

NUMBERED_LAYER = re.compile(r"\.backbone\..*?\.?layers?\.(\d+)\.")


def layer_depth(name: str, num_layers: int) -> int:
    """Return how far above the embeddings a parameter stands: 0 for these, `num_layers` + 1 for the heads.

    Args:
        name: of the parameter, in the whole model.
        num_layers: of the backbone.
    """
    if ".backbone." not in f".{name}":
        return num_layers + 1
    found = NUMBERED_LAYER.search(f".{name}")
    return int(found.group(1)) + 1 if found else 0


def layer_decay_groups(model: PreTrainedModel, arguments: TrainingArguments, decay: float) -> list[dict[str, Any]]:
    """Return parameter groups whose learning rate falls by a factor with each layer (Howard and Ruder, 2018).

    Biases and norms have no weight decay.

    Args:
        model: the model that trains; its configuration tells the number of the backbone's layers.
        arguments: learning rate and weight decay.
        decay: factor from one layer to the one below, above 0 and at most 1.

    Raises:
        ValueError: if the factor is out of range.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"layer_decay={decay} must be above 0 and at most 1.")
    num_layers = model.config.num_hidden_layers
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((layer_depth(name, num_layers), parameter.dim() > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": arguments.learning_rate * decay ** (num_layers + 1 - depth),
            "weight_decay": arguments.weight_decay if is_matrix else 0.0,
        }
        for (depth, is_matrix), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def layer_decay_optimizer(model: PreTrainedModel, arguments: TrainingArguments, decay: float) -> torch.optim.Optimizer:
    """Return the optimizer that `Trainer` would make, with layer-wise learning rates.

    Args:
        model: the model that trains.
        arguments: options of `Trainer`, `optim` among them.
        decay: factor from one layer to the one below.
    """
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
    optimizer: torch.optim.Optimizer = optimizer_class(layer_decay_groups(model, arguments, decay), **options)
    return optimizer
