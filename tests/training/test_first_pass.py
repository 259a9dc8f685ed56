"""The first passes over data: mean and scale of the features, and prototypes by k-means, before training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from datasets import IterableDataset
from peft import LoraConfig, get_peft_model
from tiny_images import tiny_image_model, tiny_pixels
from tiny_models import tiny_model, tiny_rows
from torch import Tensor
from torch.nn import functional as F

from hf_selfattn import NerArguments, build_arguments
from hf_selfattn.metrics.baselines import LinearModel
from hf_selfattn.modeling.attention_selfattn import GroupedAttentionHead
from hf_selfattn.modeling.backbone_selfattn import BackboneFeatures
from hf_selfattn.modeling.heads_selfattn import SelfAttnHeads
from hf_selfattn.tasks import task_of
from hf_selfattn.training.first_pass import (
    classifier_inputs,
    fit_codebooks,
    spherical_kmeans,
    standardise_features,
    start_linear,
)
from hf_selfattn.training.setup import linear_start

LENGTHS = [70, 9, 31, 5, 40]


@torch.no_grad()
def features_read(model: Any, rows: list[dict[str, Any]]) -> Tensor:
    """The mixed features of all tokens, row by row, as the backbone gives them: (N, D)."""
    base = model.base_model
    found = [base.backbone_features(input_ids=row["input_ids"][None]) for row in rows]
    return torch.cat([base.heads.mixed(features.layers)[0] for features in found]).double()


def test_features_get_mean_0_and_variance_1_whatever_the_padding() -> None:
    model = tiny_model(num_mixed_layers=2).train()
    rows, collate = tiny_rows([70, 9, 31, 5, 12, 40, 8, 8, 64, 3])
    standardise_features(model, rows, collate)
    assert model.training
    heads = model.base_model.heads
    features = features_read(model.eval(), rows)
    standardised = (features - heads.feature_mean) * heads.feature_scale
    torch.testing.assert_close(standardised.mean(0), torch.zeros(features.shape[1]).double(), atol=1e-4, rtol=0)
    variance = standardised.var(0, unbiased=False).mean()
    torch.testing.assert_close(variance, torch.ones(()).double(), atol=1e-4, rtol=0)


def test_stages_of_different_width_are_standardised_as_the_heads_read_them() -> None:
    model = tiny_image_model("resnet", num_mixed_layers=2)
    pixels = tiny_pixels(6)
    rows = [{"pixel_values": image} for image in pixels]
    standardise_features(
        model, rows, lambda batch: {"pixel_values": torch.stack([row["pixel_values"] for row in batch])}
    )
    heads = model.base_model.heads
    with torch.no_grad():
        found = model.base_model.backbone_features(pixels)
        standardised = heads.standardised(found.layers).flatten(0, 1).double()
    assert heads.projected(found.layers)[0].ne(found.layers[0]).any()
    torch.testing.assert_close(standardised.mean(0), torch.zeros(standardised.shape[1]).double(), atol=1e-3, rtol=0)
    assert standardised.var(0, unbiased=False).mean().item() == pytest.approx(1, abs=1e-3)


def test_mixed_layers_start_with_equal_shares_however_large_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_model(num_mixed_layers=2).base_model
    rows, collate = tiny_rows([70, 9, 31, 5])
    read = base.backbone_features

    def grown(**inputs: Tensor) -> BackboneFeatures:
        found = read(**inputs)
        return replace(found, layers=(found.layers[0], 1000 * found.layers[1]))

    monkeypatch.setattr(base, "backbone_features", grown)
    standardise_features(base, rows, collate)
    with torch.no_grad():
        found = [grown(input_ids=row["input_ids"][None]) for row in rows]
    layers = torch.cat([torch.stack(features.layers)[:, 0] for features in found], dim=1).double()
    deviation = layers.var(dim=1, unbiased=False).mean(-1).sqrt()
    assert deviation[1] > 100 * deviation[0]
    shares = (base.heads.layer_weight * base.heads.layer_scale).detach() * deviation
    torch.testing.assert_close(shares, torch.full((2,), 0.5).double(), atol=1e-4, rtol=0)


def test_both_copies_of_an_adapted_model_are_set() -> None:
    model = get_peft_model(tiny_model(), LoraConfig(target_modules=["query"], modules_to_save=["heads", "classifier"]))
    rows, collate = tiny_rows([9, 31, 5])
    standardise_features(model, rows, collate)
    first, second = (module for module in model.modules() if isinstance(module, SelfAttnHeads))
    assert torch.equal(first.feature_mean, second.feature_mean) and first.feature_mean.abs().sum() > 0
    assert first.feature_scale == second.feature_scale != 1


def test_a_model_without_heads_is_left_alone() -> None:
    model = torch.nn.Linear(2, 2)
    before = model.weight.clone()
    standardise_features(model, [{}], lambda rows: {})
    assert torch.equal(model.weight, before)


def head_of(model: torch.nn.Module) -> GroupedAttentionHead:
    return model.base_model.heads.layers[0].grouped_attention


def clusters(num_clusters: int, each: int, width: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors around far centres, shuffled, and their cluster."""
    centres = F.normalize(torch.randn(num_clusters, width), dim=-1)
    label = torch.arange(num_clusters).repeat(each)[torch.randperm(num_clusters * each)]
    return F.normalize(centres[label] + 0.02 * torch.randn(len(label), width), dim=-1), label


def test_kmeans_finds_clusters_and_repeats_itself() -> None:
    torch.manual_seed(0)
    vectors, label = clusters(6, 40)
    first, second = (spherical_kmeans(vectors, 6, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(6))
    nearest = (vectors @ first.T).argmax(dim=-1)
    assert all(len(set(nearest[label == number].tolist())) == 1 for number in range(6))
    assert len(set(nearest.tolist())) == 6


def test_kmeans_with_fewer_vectors_than_groups_fills_up() -> None:
    vectors = F.normalize(torch.randn(2, 8), dim=-1).repeat(5, 1)
    found = spherical_kmeans(vectors, 4, torch.Generator().manual_seed(0))
    assert found.shape == (4, 8) and found.isfinite().all()
    assert (vectors @ found.T).amax(dim=-1).min() > 1 - 1e-5


def test_fitted_prototypes_are_nearer_to_the_tokens_and_differ_by_head() -> None:
    model, (rows, collate) = tiny_model(num_head_layers=2), tiny_rows(LENGTHS)
    before = [layer.grouped_attention.prototypes.clone() for layer in model.base_model.heads.layers]
    model.train()
    fit_codebooks(model, rows, collate)
    assert model.training
    seen = []
    hook = head_of(model).register_forward_pre_hook(
        lambda head, inputs: seen.append(head.unit_metric(inputs[0])[0].detach())
    )
    model.eval()
    for row in rows:
        model(input_ids=row["input_ids"][None])
    hook.remove()
    tokens, prototypes = torch.cat(seen), head_of(model).prototypes
    for old, new in zip(before[0], prototypes, strict=True):
        assert (tokens @ new.T).amax(dim=-1).mean() > (tokens @ old.T).amax(dim=-1).mean()
    assert len({tuple(part.flatten().tolist()) for part in prototypes}) == len(prototypes)
    assert not torch.equal(before[1], model.base_model.heads.layers[1].grouped_attention.prototypes)


def test_both_copies_of_peft_are_set() -> None:
    rows, collate = tiny_rows(LENGTHS)
    before = head_of(tiny_model()).prototypes
    adapted = get_peft_model(tiny_model(), LoraConfig(target_modules=["query"], modules_to_save=["heads"]))
    fit_codebooks(adapted, rows, collate)
    first, second = (module.prototypes for module in adapted.modules() if isinstance(module, GroupedAttentionHead))
    assert torch.equal(first, second) and not torch.equal(first, before)


@pytest.mark.parametrize("pooling", ["class_query", "mean", "cls"])
@pytest.mark.parametrize("adapted", [False, True])
def test_a_classifier_starts_as_a_linear_model_of_what_it_reads(pooling: str, adapted: bool) -> None:
    model = tiny_model(num_labels=3, fusion_init=0.5, pooling=pooling)
    rows, collate = tiny_rows(LENGTHS)
    if adapted:
        model = get_peft_model(model, LoraConfig(target_modules=["query"], modules_to_save=["heads", "classifier"]))
    means = classifier_inputs(model, rows, collate)
    assert means.shape == (5, model.config.hidden_size)
    rng = np.random.default_rng(0)
    found = LinearModel(rng.normal(size=(3, means.shape[1])), rng.normal(size=3))
    start_linear(model, found)
    with torch.no_grad():
        logits = model.eval()(**collate(rows)).logits
    np.testing.assert_allclose(logits.numpy(), found.logits(means), rtol=1e-3, atol=1e-3)


def test_only_classifiers_of_whole_inputs_start_from_a_linear_model() -> None:
    task = task_of(build_arguments({"model": "m", "output_dir": "o", "linear_start": True}, NerArguments))
    with pytest.raises(ValueError, match="linear_start=true is for classifiers of whole inputs, not for"):
        task.linear_start(None, {})


def test_a_stream_is_not_read_for_a_linear_start() -> None:
    stream = IterableDataset.from_generator(lambda: iter([{"input_ids": [1]}]))
    with pytest.raises(ValueError, match="streaming=true"):
        linear_start(Mock(), None, tiny_model(), {"train": stream}, ["input_ids"], None)
