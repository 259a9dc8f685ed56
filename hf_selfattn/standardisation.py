"""The first pass over data: mean and scale of the backbone's features, which the heads take off before they learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .modeling.heads_selfattn import SelfAttnHeads

BATCH_SIZE = 8


@torch.no_grad()
def standardise_features(
    model: nn.Module, rows: Sequence[dict[str, Any]], collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]]
) -> None:
    """Set `feature_mean` and `feature_scale` of the heads, so that the features of these rows' tokens have mean 0, and
    variance 1 on average over the channels: one scale for all, since some backbones have channels that never change.

    Args:
        model: a model of this package, with or without adapters; one without heads is left as it is.
        rows: tokenised rows, which hold only what the model reads.
        collate: makes a batch of rows.
    """
    heads = [module for module in model.modules() if isinstance(module, SelfAttnHeads)]  # PEFT keeps a second copy
    if not heads:
        return
    sums: list[tuple[Tensor, Tensor, int]] = []

    def look(module: SelfAttnHeads, inputs: tuple[Any, ...]) -> None:
        hidden_states, lengths_B = inputs[:2]
        features_BND = module.mixed(hidden_states).double()
        if lengths_B is not None:
            features_BND = features_BND[
                torch.arange(features_BND.shape[1], device=lengths_B.device) < lengths_B[:, None]
            ]
        features_ND = features_BND.flatten(0, -2)
        sums.append((features_ND.sum(0), features_ND.square().sum(0), len(features_ND)))

    hooks = [module.register_forward_pre_hook(look) for module in heads]
    read_rows(model, rows, collate)
    for hook in hooks:
        hook.remove()

    total, squares, count = (sum(values) for values in zip(*sums, strict=True))
    mean_D = total / count
    scale = (squares / count - mean_D.square()).mean().clamp(min=1e-6).rsqrt()
    for module in heads:
        module.feature_mean.copy_(mean_D)
        module.feature_scale.fill_(scale)


@torch.no_grad()
def read_rows(
    model: nn.Module, rows: Sequence[dict[str, Any]], collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]]
) -> None:
    """Let a model read rows, for what its hooks see.

    Args:
        model: any model; it is as before afterwards.
        rows: tokenised rows, which hold only what the model reads.
        collate: makes a batch of rows.
    """
    trains = model.training
    device = next(model.parameters()).device
    model.eval()
    for start in range(0, len(rows), BATCH_SIZE):
        batch = collate(list(rows[start : start + BATCH_SIZE]))
        model(**{name: values.to(device) for name, values in batch.items()})
    model.train(trains)
