"""The seam between backbone and heads: features (B, N, D) and lengths, whatever the backbone reads."""

from __future__ import annotations

import pytest
import torch
from tiny_models import WINDOW, tiny_batch, tiny_model
from torch import Tensor
from transformers import PreTrainedConfig, ResNetConfig, ViTConfig

from hf_selfattn import SelfAttnConfig, SelfAttnForSequenceClassification, SelfAttnModel
from hf_selfattn.modeling.backbone_selfattn import as_sequence

HEADS = {"head_dim": 8, "group_dim": 8, "num_groups": 4, "block_size": 4, "fusion_init": 0.7}
RESNET = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
VIT = ViTConfig(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20, image_size=32, patch_size=8
)
IMAGES = {"resnet": (RESNET, (32 // 8) ** 2), "vit": (VIT, 1 + (32 // 8) ** 2)}


def pixels() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("rows", [[9, 5], [2 * WINDOW + 5, 9]])
@torch.no_grad()
def test_the_model_is_the_heads_on_the_features_of_the_backbone(rows: list[int], side: str) -> None:
    model, batch = tiny_model("model", num_mixed_layers=2), tiny_batch(rows, padding_side=side)
    found = model.backbone_features(**batch)
    assert found.lengths_B.tolist() == rows and len(found.layers) == 2
    outputs = model(**batch, output_hidden_states=True)
    is_real = batch["attention_mask"].bool()
    for layer, expected in zip(found.layers, outputs.hidden_states[-2:], strict=True):
        assert layer.shape == (2, max(rows), 32)
        for row, length in enumerate(rows):
            assert torch.equal(layer[row, :length], expected[row, is_real[row]]), "what is real stands first"
    features = found.in_input_order(model.heads(found.layers, found.lengths_B).features)
    assert torch.equal(features[is_real], outputs.last_hidden_state[is_real])


@torch.no_grad()
def test_features_of_an_earlier_run_are_the_features() -> None:
    model, batch = tiny_model("model", num_mixed_layers=2), tiny_batch([40, 7], padding_side="left")
    once = model.backbone_features(**batch)
    kept = torch.stack([once.in_input_order(layer) for layer in once.layers], dim=2)
    again = model.backbone_features(**batch, features=kept)
    assert all(torch.equal(one[0], other[0]) for one, other in zip(once.layers, again.layers, strict=True))
    assert torch.equal(once.lengths_B, again.lengths_B)


def test_maps_become_sequences_row_by_row() -> None:
    sequence, maps = torch.randn(2, 5, 7), torch.randn(2, 7, 3, 4)
    assert as_sequence(sequence) is sequence
    assert torch.equal(as_sequence(maps)[1, 4 * 2 + 3], maps[1, :, 2, 3])


@pytest.mark.parametrize("kind", IMAGES)
def test_heads_stand_on_the_features_of_images(kind: str) -> None:
    backbone, num_places = IMAGES[kind]
    torch.manual_seed(0)
    config = SelfAttnConfig(backbone_config=backbone, **HEADS)
    assert (config.hidden_size, config.vocab_size) == (16, None)
    model = SelfAttnModel(config).eval()
    assert model.main_input_name == "pixel_values"
    images = pixels()
    found = model.backbone_features(pixel_values=images)
    assert [layer.shape for layer in found.layers] == [(2, num_places, 16)] and found.lengths_B is None
    torch.testing.assert_close(found.layers[0], as_sequence(model.backbone(images).last_hidden_state))
    features = model.heads(found.layers, found.lengths_B).features
    assert features.shape == (2, num_places, 16) and not torch.equal(features, found.layers[0])
    torch.testing.assert_close(model(pixel_values=images).last_hidden_state, features)
    features.sum().backward()
    assert all(parameter.grad is not None for parameter in model.heads.parameters())


def test_a_task_model_of_texts_reads_no_images() -> None:
    with pytest.raises(
        ValueError, match=r"SelfAttnForSequenceClassification reads input_ids, but .*'vit' reads pixel"
    ):
        SelfAttnForSequenceClassification(SelfAttnConfig(backbone_config=VIT, num_labels=3, **HEADS))


def test_layers_of_a_vision_transformer_are_mixed() -> None:
    config = SelfAttnConfig(backbone_config=VIT, num_mixed_layers=3, **HEADS)
    found = SelfAttnModel(config).backbone_features(pixel_values=pixels())
    assert [layer.shape for layer in found.layers] == [(2, 17, 16)] * 3


@pytest.mark.parametrize("backbone", [RESNET, VIT], ids=["resnet", "vit"])
def test_other_inputs_than_the_backbones_own_are_refused(backbone: PreTrainedConfig) -> None:
    model = SelfAttnModel(SelfAttnConfig(backbone_config=backbone, **HEADS))
    with pytest.raises(ValueError, match=r"SelfAttnImageModel does not read \['attention_mask', 'input_ids'\]"):
        model(**tiny_batch([5]))
    with pytest.raises(ValueError, match=r"reads pixel_values, and none were given"):
        model()
    with pytest.raises(ValueError, match=r"SelfAttnModel does not read \['pixel_values'\]"):
        tiny_model("model")(pixel_values=pixels())


def test_layers_of_different_widths_and_sizes_are_mixed() -> None:
    model = SelfAttnModel(SelfAttnConfig(backbone_config=RESNET, num_mixed_layers=3, **HEADS))
    assert model.config.layer_widths == [8, 8, 16]
    found = model.backbone_features(pixel_values=pixels())
    stages = model.backbone(pixels(), output_hidden_states=True).hidden_states
    assert [layer.shape[2] for layer in stages] == [8, 8, 4] and found.map_size == (4, 4)
    for layer, stage in zip(found.layers, stages, strict=True):
        width = stage.shape[1]
        averaged = torch.nn.functional.avg_pool2d(stage, stage.shape[2] // 4)
        torch.testing.assert_close(layer[..., :width], as_sequence(averaged))
        assert not layer[..., width:].any()
    projected = model.heads.projected(found.layers)
    torch.testing.assert_close(projected[0], found.layers[0][..., :8] @ model.heads.layer_projection[0].weight.T)
    assert torch.equal(projected[2], found.layers[2])


def test_texts_have_no_projections() -> None:
    model = tiny_model("model", num_mixed_layers=3)
    assert model.heads.layer_projection is None and model.config.layer_widths is None
    assert not [name for name in model.state_dict() if "projection" in name]
