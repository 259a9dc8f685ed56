"""Checkpoints and adapters of detectors; tests/hub/test_round_trips.py opens those of every family elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from shapes import shape_images
from tiny_images import HEADS, IMAGE_BACKBONES, SIDE, tiny_image_config
from tiny_models import aligned
from transformers import AutoModel, AutoModelForObjectDetection
from transformers.models.detr import DetrImageProcessorPil

import hf_selfattn
from hf_selfattn import SelfAttnForObjectDetection, SelfAttnImageModel
from hf_selfattn.adapters import add_lora, merge_adapters, open_adapter
from hf_selfattn.hub.saving import save_adapter

MODELING = Path(hf_selfattn.__file__).parent / "modeling"
OPTIONS: dict[str, Any] = {
    **HEADS,
    "num_proposals": 12,
    "num_labels": 3,
    "fusion_init": 0.7,
    "subsequence_length": SIDE,
}
IMAGES, LABELS = shape_images(2, (SIDE, SIDE), most=1)


def closure(module: str) -> set[str]:
    """Return the files that a module of the folder needs, itself among them."""
    siblings = re.findall(r"^\s*from \.(\w+) import", (MODELING / f"{module}.py").read_text(), re.MULTILINE)
    return {f"{module}.py"}.union(*(closure(sibling) for sibling in siblings))


def detector_on(family: str, folder: Path, **options: Any) -> SelfAttnForObjectDetection:
    """A detector on the tiny backbone of a family, which is saved in the folder."""
    torch.manual_seed(0)
    AutoModel.from_config(IMAGE_BACKBONES[family]).save_pretrained(folder)
    return SelfAttnForObjectDetection.from_backbone(str(folder), **{**OPTIONS, **options})


def train(model: Any) -> None:
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], lr=1e-3)
    for _ in range(3):
        model.train()(pixel_values=IMAGES, labels=LABELS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def test_a_checkpoint_carries_what_it_needs(tmp_path: Path) -> None:
    detector_on("resnet", tmp_path / "backbone").save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == closure("detection_selfattn")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["auto_map"]["AutoModelForObjectDetection"] == "detection_selfattn.SelfAttnForObjectDetection"
    assert config["auto_map"]["AutoModel"] == "image_selfattn.SelfAttnImageModel"
    again = AutoModelForObjectDetection.from_pretrained(tmp_path)
    assert again.config.auto_map == config["auto_map"]
    assert isinstance(AutoModel.from_pretrained(tmp_path), SelfAttnImageModel)


def test_other_checkpoints_carry_no_detector(tmp_path: Path) -> None:
    assert not closure("modeling_selfattn") & {"detection_selfattn.py", "regions_selfattn.py", "image_selfattn.py"}
    SelfAttnImageModel(tiny_image_config("resnet")).save_pretrained(tmp_path)
    assert not {path.name for path in tmp_path.glob("*.py")} & {"detection_selfattn.py", "regions_selfattn.py"}
    assert "AutoModelForObjectDetection" not in json.loads((tmp_path / "config.json").read_text())["auto_map"]
    reopened = AutoModelForObjectDetection.from_pretrained(tmp_path, num_labels=2)
    assert isinstance(reopened, SelfAttnForObjectDetection), "a detector begins from any model of these heads"


@pytest.mark.parametrize("family", ["resnet", "mobilenet_v2", "vit"])
def test_an_adapter_is_saved_opened_and_merged(family: str, tmp_path: Path) -> None:
    place = {"backbone_name_or_path": str(tmp_path / "backbone")}
    adapted = add_lora(detector_on(family, tmp_path / "backbone"), r=2)
    before = {name: weight.clone() for name, weight in adapted.named_parameters() if not weight.requires_grad}
    train(adapted)
    after = dict(adapted.named_parameters())
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    save_adapter(adapted, DetrImageProcessorPil(), tmp_path / "adapter", batch={"pixel_values": IMAGES}, **place)

    opened = open_adapter(tmp_path / "adapter", is_trainable=True, **place)
    names = {name for name, weight in opened.named_parameters() if weight.requires_grad}
    for part in ("lora_A", "heads.", "regions.", "classifier."):
        assert any(part in name for name in names), part
    assert not any(".backbone." in name and "lora" not in name for name in names)
    with torch.no_grad():
        expected = adapted(pixel_values=IMAGES)
        answer = aligned(opened.eval())(pixel_values=IMAGES)
        merged = merge_adapters(opened)(pixel_values=IMAGES)
    torch.testing.assert_close(answer.logits, expected.logits, atol=1e-6, rtol=0)
    torch.testing.assert_close(merged.last_hidden_state, expected.last_hidden_state, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("family", "mixed"), [("resnet", 2), ("convnext", 2), ("mobilenet_v2", 6), ("vit", 1)])
def test_stages_are_mixed_in_the_finest_map(family: str, mixed: int, tmp_path: Path) -> None:
    model = detector_on(family, tmp_path)
    cell = 16 if family == "mobilenet_v2" else 8
    assert model.config.num_mixed_layers == mixed and model.model.cell == cell
    found = model.model.backbone_features(torch.zeros(1, 3, SIDE, 2 * SIDE))
    assert found.map_size == (SIDE // cell, 2 * SIDE // cell)
    assert detector_on(family, tmp_path, num_mixed_layers=1).config.num_mixed_layers == 1
