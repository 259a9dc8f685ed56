from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_model, tiny_rows
from torch import Tensor

from hf_selfattn.modeling.heads_selfattn import SelfAttnHeads
from hf_selfattn.training.standardisation import standardise_features


def features_read(model: Any, rows: list[dict[str, Any]]) -> Tensor:
    """The mixed features of all tokens, row by row, as the backbone gives them: (N, D)."""
    seen: list[Tensor] = []
    heads = model.base_model.heads
    hook = heads.register_forward_pre_hook(lambda module, inputs: seen.append(module.mixed(inputs[0])[0]))
    with torch.no_grad():
        for row in rows:
            model(input_ids=row["input_ids"][None])
    hook.remove()
    return torch.cat(seen).double()


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


def test_mixed_layers_start_with_equal_shares_however_large_they_are() -> None:
    model = tiny_model(num_mixed_layers=2)
    heads = model.base_model.heads
    rows, collate = tiny_rows([70, 9, 31, 5])
    seen: list[Tensor] = []

    def grow(module: SelfAttnHeads, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden_states, *others = inputs
        return ((hidden_states[0], 1000 * hidden_states[1]), *others)

    def record(module: SelfAttnHeads, inputs: tuple[Any, ...]) -> None:
        seen.append(torch.stack(inputs[0])[:, 0].double())

    heads.register_forward_pre_hook(grow)
    standardise_features(model, rows, collate)
    heads.register_forward_pre_hook(record)
    with torch.no_grad():
        for row in rows:
            model(input_ids=row["input_ids"][None])
    deviation = torch.cat(seen, dim=1).var(dim=1, unbiased=False).mean(-1).sqrt()
    assert deviation[1] > 100 * deviation[0]
    shares = (heads.layer_weight * heads.layer_scale).detach() * deviation
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
