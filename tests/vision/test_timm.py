"""Backbones of timm, such as VGG, through its wrapper in Transformers. `make test` installs what they need."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_images import HEADS, tiny_pixels
from tiny_models import aligned
from transformers import AutoModelForImageClassification, TimmWrapperConfig

from hf_selfattn import SelfAttnConfig, SelfAttnForImageClassification
from hf_selfattn.adapters import add_lora, backbone_layers, tune
from hf_selfattn.modeling.tiles_selfattn import pad_images

pytestmark = [
    pytest.mark.vision,
    pytest.mark.skipif(not (find_spec("timm") and find_spec("torchvision")), reason="make test has a run with timm"),
]
# Architecture, side of its images in pixels, convolutional or not.
ARCHITECTURES = {
    "vgg11": (64, True),
    "resnet18": (64, True),
    "test_vit": (160, False),
    "test_convnext": (160, True),
    "test_efficientnet": (160, True),
    "swin_tiny_patch4_window7_224": (224, False),
}


def timm_model(architecture: str, **options: Any) -> Any:
    torch.manual_seed(0)
    shallow = {"depths": (1, 1, 1, 1)} if "swin" in architecture else None
    backbone = TimmWrapperConfig(architecture=architecture, model_args=shallow)
    sizes = {"subsequence_length": ARCHITECTURES[architecture][0], "num_labels": 3, **HEADS, "block_size": 16}
    return SelfAttnForImageClassification(SelfAttnConfig(backbone_config=backbone, **sizes, **options))


@pytest.mark.parametrize("tuning", ["full", "lora", "probe"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_trains_saves_and_opens(architecture: str, tuning: str, tmp_path: Path) -> None:
    side, is_convolutional = ARCHITECTURES[architecture]
    model = timm_model(architecture, num_mixed_layers=2)
    kinds = {type(model.model.backbone.get_submodule(name)) for name in backbone_layers(model)}
    assert any(issubclass(kind, torch.nn.Conv2d) for kind in kinds) == is_convolutional
    tuned = tune(model, tuning, **({"r": 2} if tuning == "lora" else {})).train()
    optimizer = torch.optim.SGD([weight for weight in tuned.parameters() if weight.requires_grad], lr=1e-3)
    batch = {"pixel_values": tiny_pixels(3, side, side), "labels": torch.tensor([0, 1, 2])}
    for _ in range(3):
        optimizer.zero_grad()
        tuned(**batch).loss.backward()
        optimizer.step()
    assert not [name for name, weight in tuned.named_parameters() if weight.requires_grad and weight.grad is None]
    plain = tuned.eval().merge_and_unload() if tuning == "lora" else tuned.eval()
    with torch.no_grad():
        expected = plain(pixel_values=batch["pixel_values"]).logits
    plain.save_pretrained(tmp_path)
    reopened = aligned(AutoModelForImageClassification.from_pretrained(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(reopened(pixel_values=batch["pixel_values"]).logits, expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_layers_of_vgg_that_no_feature_needs_leave() -> None:
    model = timm_model("vgg11")
    assert sum(weight.numel() for weight in model.model.backbone.parameters()) == 9_220_480, "the convolutions"
    assert not [name for name in model.state_dict() if "pre_logits" in name]
    found = model.model.backbone_features(tiny_pixels(1, 96, 64))
    assert found.map_size == (3, 2) and found.layers[0].shape == (1, 6, 512)


@pytest.mark.parametrize("tiles", [False, True])
@torch.no_grad()
def test_padding_changes_nothing(tiles: bool) -> None:
    model = timm_model("resnet18", tiles=tiles).eval()
    images = [tiny_pixels(1, height, width)[0] for height, width in ((70, 100), (64, 64), (130, 66))]
    alone = torch.cat([model(pixel_values=image[None]).logits for image in images])
    torch.testing.assert_close(model(**pad_images(images)).logits, alone, atol=1e-5, rtol=0)


def test_lora_of_a_convolution_is_one() -> None:
    adapted = add_lora(timm_model("resnet18"), r=2)
    ranks = {tuple(weight.shape[:1]) for name, weight in adapted.named_parameters() if ".lora_A." in name}
    assert ranks == {(2,)}
