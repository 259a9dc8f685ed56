"""The first passes over data: mean and scale of the features, and k-means, which puts prototypes where tokens are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..adapters import base_model
from ..metrics.baselines import LinearModel
from ..metrics.inputs import Array
from ..modeling.attention_selfattn import GroupedAttentionHead
from ..modeling.backbone_selfattn import BackboneFeatures
from ..modeling.heads_selfattn import ClassQueryClassifier, PooledClassifier, SelfAttnHeads

BATCH_SIZE = 8
MOST_TOKENS = 16_384
ITERATIONS = 10
LEAST_BIAS = -20.0  # of a class that training lacks: a loss on such a row stays a number to compare


@torch.no_grad()
def standardise_features(
    model: nn.Module, rows: Sequence[dict[str, Any]], collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]]
) -> None:
    """Set `feature_mean` and `feature_scale` of the heads, so that the features of these rows' tokens have mean 0, and
    variance 1 on average over the channels: one scale for all, since some backbones have channels that never change.

    Of several mixed layers each is given variance 1 first (`layer_scale`): the hidden states of a backbone that
    normalises before its layers grow from one layer to the next, and the last ones would drown the others.
    A model without heads is left as it is.
    """
    heads = [module for module in model.modules() if isinstance(module, SelfAttnHeads)]  # PEFT keeps a second copy
    if not heads:
        return
    sums: list[tuple[Tensor, Tensor, int]] = []
    for found in read_features(model, rows, collate):
        layers = heads[0].projected(found.layers)
        features_LND = torch.stack([real_features(layer, found.lengths_B) for layer in layers]).double()
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


def start_linear(model: nn.Module, found: LinearModel) -> None:
    """Let the classifier answer as a linear model of what it reads."""
    for module in model.modules():  # PEFT keeps a second copy
        if isinstance(module, (PooledClassifier, ClassQueryClassifier)):
            bias = torch.from_numpy(found.bias).clamp(min=LEAST_BIAS)
            module.start_from(torch.from_numpy(found.weight), bias)


@torch.no_grad()
def classifier_inputs(
    model: nn.Module, rows: Sequence[dict[str, Any]], collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]]
) -> Array:
    """Return (N, D) the means that the classifier reads of rows."""
    plain, means = base_model(model), []
    for found in read_features(model, rows, collate):
        features = found.in_input_order(plain.base_model.heads(found.layers, found.lengths_B).features)
        means.append(plain.classifier.pooled(features, found.real_positions()).float().cpu())
    return torch.cat(means).numpy()


@torch.no_grad()
def read_features(
    model: nn.Module, rows: Sequence[dict[str, Any]], collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]]
) -> Iterator[BackboneFeatures]:
    """Yield what the heads of a model read of rows, batch by batch."""
    base, trains = base_model(model).base_model, model.training
    device = next(model.parameters()).device
    model.eval()
    for start in range(0, len(rows), BATCH_SIZE):
        batch = collate([rows[number] for number in range(start, min(start + BATCH_SIZE, len(rows)))])
        yield base.backbone_features(**{name: batch[name].to(device) for name in base.input_names if name in batch})
    model.train(trains)


def real_features(features_BND: Tensor, lengths_B: Tensor | None) -> Tensor:
    """Return the vectors (N, D) of all real positions."""
    if lengths_B is None:
        return features_BND.flatten(0, 1)
    position_N = torch.arange(features_BND.shape[1], device=lengths_B.device)
    return features_BND[position_N < lengths_B[:, None]]


@torch.no_grad()
def fit_codebooks(
    model: nn.Module,
    rows: Sequence[dict[str, Any]],
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
    seed: int = 0,
) -> None:
    """Set the prototypes of every grouped-attention head to the means that k-means finds among these rows' tokens.

    Each head begins with other draws, so that heads group differently. Heads that stand on other ones are set after
    them.
    """
    copies = [module for module in model.modules() if isinstance(module, SelfAttnHeads)]  # PEFT keeps a second copy
    layers = zip(*(grouped_heads(copy) for copy in copies), strict=True)
    for number, heads in enumerate(layers):
        config = heads[0].config
        metric_NE = metric_of(model, number, rows, collate)
        generator = torch.Generator().manual_seed(seed + number)
        if len(metric_NE) > MOST_TOKENS:
            metric_NE = metric_NE[torch.randperm(len(metric_NE), generator=generator)[:MOST_TOKENS]]
        num_heads = config.num_grouped_attention_heads
        found = torch.stack([spherical_kmeans(metric_NE, config.num_groups, generator) for _ in range(num_heads)])
        for head in heads:
            head.prototypes.copy_(found)


def grouped_heads(heads: SelfAttnHeads) -> list[GroupedAttentionHead]:
    """Return the grouped-attention heads in their order."""
    return [module for module in heads.modules() if isinstance(module, GroupedAttentionHead)]


def metric_of(model: nn.Module, layer: int, rows: Any, collate: Any) -> Tensor:
    """Return the unit vectors in which an attention layer compares the real tokens of the rows: (N, E)."""
    heads: SelfAttnHeads = base_model(model).base_model.heads
    metrics = []
    for found in read_features(model, rows, collate):
        metric_BNE = heads.unit_metric(found.layers, found.lengths_B, layer)
        metrics.append(real_features(metric_BNE, found.lengths_B).float())
    return torch.cat(metrics)


def spherical_kmeans(vectors_NE: Tensor, num_groups: int, generator: torch.Generator) -> Tensor:
    """Return the unit vectors (G, E) that spherical k-means finds (Dhillon and Modha, 2001).

    The first ones are drawn as k-means++ does (Arthur and Vassilvitskii, 2007), far from one another. Where there are
    fewer distinct vectors than groups, the others are random.
    """
    N = len(vectors_NE)
    chosen = [int(torch.randint(N, (), generator=generator))]
    distance_N = 1 - vectors_NE @ vectors_NE[chosen[0]]
    while len(chosen) < num_groups:
        weight_N = distance_N.clamp(min=0).where(distance_N > 1e-6, 0).double().cpu()
        if not weight_N.any():
            break
        chosen.append(int(torch.multinomial(weight_N, 1, generator=generator)))
        distance_N = torch.minimum(distance_N, 1 - vectors_NE @ vectors_NE[chosen[-1]])
    random_GE = torch.randn(num_groups - len(chosen), vectors_NE.shape[1], generator=generator)
    prototypes_GE = torch.cat([vectors_NE[chosen], F.normalize(random_GE, dim=-1).to(vectors_NE)])
    for _ in range(ITERATIONS):
        nearest_N = (vectors_NE @ prototypes_GE.T).argmax(dim=-1)
        sums_GE = torch.zeros_like(prototypes_GE).index_add(0, nearest_N, vectors_NE)
        is_empty_G1 = sums_GE.norm(dim=-1, keepdim=True) < 1e-6
        prototypes_GE = torch.where(is_empty_G1, prototypes_GE, F.normalize(sums_GE, dim=-1))
    return prototypes_GE
