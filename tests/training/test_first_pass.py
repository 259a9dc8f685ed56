"""The prototypes of the groups: k-means before training, moving averages in it, hard codes."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_batch, tiny_labels, tiny_model, tiny_rows
from torch.nn import functional as F

from hf_selfattn.modeling.attention_selfattn import GroupedAttentionHead
from hf_selfattn.modeling.codebook_selfattn import DECAY, follow_tokens, hard_codes, spherical_kmeans
from hf_selfattn.training.first_pass import fit_codebooks

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


@pytest.mark.parametrize("num_sortings", [1, 2])
def test_fitted_prototypes_are_nearer_to_the_tokens_and_differ_by_head(num_sortings: int) -> None:
    model, (rows, collate) = tiny_model(num_sortings=num_sortings, num_head_layers=2), tiny_rows(LENGTHS)
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


def test_random_prototypes_stay_and_both_copies_of_peft_are_set() -> None:
    rows, collate = tiny_rows(LENGTHS)
    model = tiny_model(codebook="random")
    before = head_of(model).prototypes.clone()
    fit_codebooks(model, rows, collate)
    assert torch.equal(before, head_of(model).prototypes)
    adapted = get_peft_model(tiny_model(), LoraConfig(target_modules=["query"], modules_to_save=["heads"]))
    fit_codebooks(adapted, rows, collate)
    first, second = (module.prototypes for module in adapted.modules() if isinstance(module, GroupedAttentionHead))
    assert torch.equal(first, second) and not torch.equal(first, before)


def naive_followed(prototypes: torch.Tensor, counts: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """One codebook whose counts are not 0 and of which no prototype is dead, prototype by prototype."""
    nearest = (tokens @ prototypes.T).argmax(dim=-1)
    moved = []
    for number, prototype in enumerate(prototypes):
        own = tokens[nearest == number]
        average = DECAY * counts[number] + (1 - DECAY) * len(own)
        step = (1 - DECAY) * len(own) / average
        moved.append(prototype if not len(own) else (1 - step) * prototype + step * own.mean(dim=0))
    return F.normalize(torch.stack(moved), dim=-1)


def test_prototypes_follow_the_mean_of_their_real_tokens() -> None:
    tokens = F.normalize(torch.randn(2, 30, 8), dim=-1)
    prototypes = F.normalize(torch.randn(3, 4, 8), dim=-1)
    is_real = torch.arange(30) < torch.tensor([30, 11])[:, None]
    groups = torch.einsum("bne,hge->bhng", tokens, prototypes).argmax(dim=-1)
    moved, counts = prototypes.clone(), torch.full((3, 4), 10.0)
    follow_tokens(moved, counts, tokens, groups, is_real)
    for head in range(3):
        expected = naive_followed(prototypes[head], torch.full((4,), 10.0), tokens[is_real])
        torch.testing.assert_close(moved[head], expected)
    torch.testing.assert_close(counts.sum(dim=-1), torch.full((3,), DECAY * 40 + (1 - DECAY) * 41))


def test_a_dead_prototype_is_put_where_a_token_is() -> None:
    tokens = clusters(4, 10)[0][None]
    prototypes = F.normalize(torch.randn(1, 3, 8), dim=-1)
    prototypes[0, 2] = -tokens[0].mean(dim=0)
    prototypes = F.normalize(prototypes, dim=-1)
    groups = (tokens @ prototypes[0].T).argmax(dim=-1)[:, None]
    dead = sorted(set(range(3)) - set(groups.unique().tolist()))
    assert dead
    counts = torch.zeros(1, 3)
    follow_tokens(prototypes, counts, tokens, groups, torch.ones(1, 40, dtype=torch.bool))
    for number in dead:
        assert (tokens[0] @ prototypes[0, number]).max() > 1 - 1e-5
    assert (counts > 0).all()


def test_only_training_moves_prototypes_and_the_rest_of_training_goes_on() -> None:
    model, batch = tiny_model(codebook="ema"), tiny_batch(LENGTHS)
    before = head_of(model).prototypes.clone()
    model.eval()(**batch)
    assert torch.equal(before, head_of(model).prototypes)
    model.train()(**batch, **tiny_labels("single_label", batch)).loss.backward()
    assert not torch.equal(before, head_of(model).prototypes)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert "prototype_counts" in "".join(model.state_dict())
    assert "prototype_counts" not in "".join(tiny_model().state_dict())


def test_hard_codes_are_prototypes_with_the_gradient_of_the_tokens() -> None:
    metric = F.normalize(torch.randn(2, 5, 8), dim=-1).requires_grad_()
    prototypes, groups = torch.randn(3, 4, 8), torch.randint(4, (2, 3, 5))
    codes = hard_codes(metric, prototypes, groups)
    for b in range(2):
        for n in range(5):
            for h in range(3):
                torch.testing.assert_close(codes[b, n, h], prototypes[h, groups[b, h, n]])
    codes.backward(torch.ones_like(codes))
    torch.testing.assert_close(metric.grad, torch.full_like(metric, 3.0))


def test_hard_codes_train_the_metric_and_answer_alike_whatever_the_padding() -> None:
    model, batch = tiny_model("token", metric_code="hard"), tiny_batch(LENGTHS)
    logits = model(**batch).logits
    for row, length in enumerate(LENGTHS):
        single = model(batch["input_ids"][row : row + 1, :length]).logits[0]
        torch.testing.assert_close(logits[row, :length], single, atol=1e-5, rtol=0)
    logits.sum().backward()
    assert head_of(model).metric.weight.grad.abs().sum() > 0
