"""Learning rates of the parts of a model: of the heads, and of what stands below them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainingArguments

from ..adapters import HEAD_MODULES, base_model
from ..arguments import RunArguments
from ..modeling.base_selfattn import SelfAttnPreTrainedModel
from ..tasks import Task

# Adapters are near 0 where they start and small; at their rate whole matrices run ahead of them and fit what the
# backbone gives as it is, which costs accuracy on other domains. On frozen features the attention heads, which start
# out random, fit the training rows before the task head has learned from the features (benchmarks/LOG.md).
HEADS_SHARE = 0.3


def is_on_backbone(name: str) -> bool:
    """Return whether a parameter belongs to the attention heads or the task head, not to backbone or adapter."""
    return not set(HEAD_MODULES).isdisjoint(name.split("."))


def is_attention_head(name: str) -> bool:
    """Return whether a parameter belongs to the attention heads, not to backbone, adapter or task head."""
    return ".heads.layers." in f".{name}"


def learning_rate_groups(
    model: PreTrainedModel,
    options: TrainingArguments,
    heads_rate: float,
    is_head: Callable[[str], bool] = is_on_backbone,
) -> list[dict[str, Any]]:
    """Return parameter groups of which the heads have a rate of their own; biases and norms have no weight decay."""
    if not heads_rate > 0:
        raise ValueError(f"heads_learning_rate={heads_rate} must be above 0.")
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = heads_rate if is_head(name) else options.learning_rate
            groups.setdefault((rate, parameter.dim() > 1), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": options.weight_decay if is_matrix else 0.0}
        for (rate, is_matrix), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def heads_rate_of(model: nn.Module, options: TrainingArguments, task: Task[Any]) -> float | None:
    """Return the learning rate of the heads, or None where it is that of all."""
    arguments: RunArguments = task.arguments
    if arguments.heads_learning_rate is not None:
        return arguments.heads_learning_rate
    share = {"lora": HEADS_SHARE, "probe": task.probe_heads_share}.get(arguments.tuning, 1.0)
    if share != 1 and isinstance(base_model(model), SelfAttnPreTrainedModel):
        return share * float(options.learning_rate)
    return None


def grouped_optimizer(
    model: PreTrainedModel, options: TrainingArguments, task: Task[Any]
) -> torch.optim.Optimizer | None:
    """Return the optimizer that `Trainer` would make, with rates of the parts; None where it has to make it."""
    heads_rate = heads_rate_of(model, options, task)
    if heads_rate is None:
        return None
    optimizer_class, own = Trainer.get_optimizer_cls_and_kwargs(options, model)
    if not isinstance(optimizer_class, type) or not own.keys().isdisjoint(("params", "model", "optimizer_dict")):
        if task.arguments.heads_learning_rate is None:
            return None
        name = getattr(options.optim, "value", options.optim)
        raise ValueError(
            f"optim={name!r} arranges the parameters itself: heads_learning_rate says nothing to it. Leave it out, or "
            "take another optimizer, such as adamw_torch."
        )
    is_head = is_attention_head if task.arguments.tuning == "probe" else is_on_backbone
    groups = learning_rate_groups(model, options, heads_rate, is_head)
    optimizer: torch.optim.Optimizer = optimizer_class(groups, **own)
    return optimizer
