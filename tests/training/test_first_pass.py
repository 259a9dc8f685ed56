"""The prototypes of the groups: k-means before training."""

from __future__ import annotations

import torch
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_model, tiny_rows
from torch.nn import functional as F

from hf_selfattn.modeling.attention_selfattn import GroupedAttentionHead
from hf_selfattn.training.first_pass import fit_codebooks, spherical_kmeans

LENGTHS = [70, 9, 31, 5, 40]


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
