"""The first pass over data: mean and scale of the backbone's features, which the heads take off before they learn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters import base_model
from ..modeling.backbone_selfattn import BackboneFeatures
from ..modeling.heads_selfattn import SelfAttnHeads

BATCH_SIZE = 8


@torch.no_grad()
def standardise_features(
    model: nn.Module, rows: Sequence[dict[str, Any]], collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]]
) -> None:
    """Set `feature_mean` and `feature_scale` of the heads, so that the features of these rows' tokens have mean 0, and
    variance 1 on average over the channels: one scale for all, since some backbones have channels that never change.

    Of several mixed layers each is given variance 1 first (`layer_scale`): the hidden states of a backbone that
    normalises before its layers grow from one layer to the next, and the last ones would drown the others.

    Args:
        model: a model of this package, with or without adapters; one without heads is left as it is.
    """
    heads = [module for module in model.modules() if isinstance(module, SelfAttnHeads)]  # PEFT keeps a second copy
    if not heads:
        return
    sums: list[tuple[Tensor, Tensor, int]] = []
    for found in read_features(model, rows, collate):
        features_LND = torch.stack([real_features(layer, found.lengths_B) for layer in found.layers]).double()
        products_LL = torch.einsum("knd,lnd->kl", features_LND, features_LND) / features_LND.shape[-1]
        sums.append((features_LND.sum(1), products_LL, features_LND.shape[1]))

    total, products, count = (sum(values) for values in zip(*sums, strict=True))
    mean_LD = total / count
    covariance_LL = products / count - mean_LD @ mean_LD.T / mean_LD.shape[1]
    for module in heads:
        share_L = torch.ones_like(mean_LD[:, 0])
        if module.layer_weight is not None and module.layer_scale is not None:
            module.layer_scale.copy_(covariance_LL.diagonal().clamp(min=1e-6).rsqrt())
            share_L = (module.layer_weight * module.layer_scale).double()
        module.feature_mean.copy_(share_L @ mean_LD)
        module.feature_scale.fill_((share_L @ covariance_LL @ share_L).clamp(min=1e-6).rsqrt())


@torch.no_grad()
def read_features(
    model: nn.Module, rows: Sequence[dict[str, Any]], collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]]
) -> Iterator[BackboneFeatures]:
    """Yield what the heads of a model read of rows, batch by batch."""
    base, trains = base_model(model).base_model, model.training
    device = next(model.parameters()).device
    model.eval()
    for start in range(0, len(rows), BATCH_SIZE):
        batch = collate(list(rows[start : start + BATCH_SIZE]))
        yield base.backbone_features(**{name: batch[name].to(device) for name in base.input_names if name in batch})
    model.train(trains)


def real_features(features_BND: Tensor, lengths_B: Tensor | None) -> Tensor:
    """Return the vectors (N, D) of all real positions."""
    if lengths_B is None:
        return features_BND.flatten(0, 1)
    position_N = torch.arange(features_BND.shape[1], device=lengths_B.device)
    return features_BND[position_N < lengths_B[:, None]]
