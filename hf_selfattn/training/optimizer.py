"""Learning rates of the parts of a model: of the heads, and of the backbone layer by layer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainingArguments

from ..adapters import HEAD_MODULES, base_model
from ..arguments import RecipeArguments
from ..modeling.modeling_selfattn import SelfAttnForTokenClassification, SelfAttnPreTrainedModel

# Adapters are near 0 where they start and small; at their rate whole matrices run ahead of them and fit what the
# backbone gives as it is, which costs accuracy on other domains. On frozen features the attention heads, which start
# out random, fit the training rows before the task head has learned from the features; those of a tagger, which has
# as many answers as tokens, do not (benchmarks/LOG.md).
HEADS_SHARE = 0.3
NUMBERED_LAYER = re.compile(r"\.backbone\..*?\.?layers?\.(\d+)\.")


def layer_depth(name: str, num_layers: int) -> int:
    """Return how far above the embeddings a parameter stands: 0 for these, `num_layers` + 1 for the heads."""
    if ".backbone." not in f".{name}":
        return num_layers + 1
    found = NUMBERED_LAYER.search(f".{name}")
    return int(found.group(1)) + 1 if found else 0


def is_on_backbone(name: str) -> bool:
    """Return whether a parameter belongs to the attention heads or the task head, not to backbone or adapter."""
    return not set(HEAD_MODULES).isdisjoint(name.split("."))


def is_attention_head(name: str) -> bool:
    """Return whether a parameter belongs to the attention heads, not to backbone, adapter or task head."""
    return ".heads.layers." in f".{name}"


def learning_rate_groups(
    model: PreTrainedModel,
    arguments: TrainingArguments,
    decay: float = 1.0,
    heads_rate: float | None = None,
    is_head: Callable[[str], bool] = is_on_backbone,
) -> list[dict[str, Any]]:
    """Return parameter groups whose learning rate falls by a factor with each layer (Howard and Ruder, 2018).

    Biases and norms have no weight decay.

    Args:
        model: the model that trains; its configuration tells the number of the backbone's layers.
        decay: factor from one layer to the one below, above 0 and at most 1.

    Raises:
        ValueError: if the factor or the rate is out of range.
    """
    if heads_rate is not None and not heads_rate > 0:
        raise ValueError(f"heads_learning_rate={heads_rate} must be above 0.")
    if not 0 < decay <= 1:
        raise ValueError(f"layer_decay={decay} must be above 0 and at most 1.")
    num_layers = model.config.num_hidden_layers
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = arguments.learning_rate * decay ** (num_layers + 1 - layer_depth(name, num_layers))
            rate = heads_rate if heads_rate is not None and is_head(name) else rate
            groups.setdefault((rate, parameter.dim() > 1), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": arguments.weight_decay if is_matrix else 0.0}
        for (rate, is_matrix), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def heads_rate_of(model: nn.Module, options: TrainingArguments, arguments: RecipeArguments) -> float | None:
    """Return the learning rate of the heads, or None where it is that of all."""
    if arguments.heads_learning_rate is not None:
        return arguments.heads_learning_rate
    trained = base_model(model)
    is_tagger = isinstance(trained, SelfAttnForTokenClassification)
    is_slower = arguments.tuning == "lora" or (arguments.tuning == "probe" and not is_tagger)
    if is_slower and isinstance(trained, SelfAttnPreTrainedModel):
        return HEADS_SHARE * float(options.learning_rate)
    return None


def grouped_optimizer(
    model: PreTrainedModel, options: TrainingArguments, arguments: RecipeArguments
) -> torch.optim.Optimizer | None:
    """Return the optimizer that `Trainer` would make, with learning rates of the parts; None where it has to make it.

    Raises:
        ValueError: if rates are given for an optimizer that arranges the parameters itself.
    """
    decay = arguments.layer_decay if arguments.tuning == "full" else 1.0
    heads_rate = heads_rate_of(model, options, arguments)
    if decay == 1 and heads_rate is None:
        return None
    optimizer_class, own = Trainer.get_optimizer_cls_and_kwargs(options, model)
    if not isinstance(optimizer_class, type) or not own.keys().isdisjoint(("params", "model", "optimizer_dict")):
        if decay == 1 and arguments.heads_learning_rate is None:
            return None
        name = getattr(options.optim, "value", options.optim)
        raise ValueError(
            f"optim={name!r} arranges the parameters itself: layer_decay and heads_learning_rate say "
            "nothing to it. Leave them out, or take another optimizer, such as adamw_torch."
        )
    is_head = is_attention_head if arguments.tuning == "probe" else is_on_backbone
    groups = learning_rate_groups(model, options, decay, heads_rate, is_head)
    optimizer: torch.optim.Optimizer = optimizer_class(groups, **own)
    return optimizer
