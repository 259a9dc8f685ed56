"""Detectors on every family of image backbones, tuned in every way: three steps, saved, and opened elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from image_matrix import FAMILIES, TUNINGS, closure, open_all, train, train_all
from shapes import shape_images
from tiny_images import SIDE, tiny_image_config
from transformers import AutoModel, AutoModelForObjectDetection
from transformers.models.detr import DetrImageProcessorPil

import hf_selfattn
from hf_selfattn import SelfAttnForObjectDetection, SelfAttnImageModel
from hf_selfattn.adapters import add_lora, merge_adapters, open_adapter

PACKAGE = str(Path(hf_selfattn.__file__).parents[1])
OPTIONS: dict[str, Any] = {"num_proposals": 12, "id2label": {0: "square", 1: "disc", 2: "cross"}}


def batch() -> dict[str, Any]:
    images, labels = shape_images(2, (SIDE, SIDE), most=1)
    return {"pixel_values": images, "labels": labels}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("families")
    processor = DetrImageProcessorPil(size={"height": SIDE, "width": SIDE})
    train_all(SelfAttnForObjectDetection, made, batch(), processor, **OPTIONS)
    return made


@pytest.mark.parametrize("package", ["block", PACKAGE], ids=["without the package", "with the package"])
def test_opened_in_another_process(package: str, folder: Path, tmp_path: Path) -> None:
    assert open_all("AutoModelForObjectDetection", "object-detection", folder, tmp_path, package) == ""


def test_checkpoints_carry_what_they_need(folder: Path) -> None:
    needed = closure("detection_selfattn")
    for checkpoint in (folder / "checkpoints").iterdir():
        assert {path.name for path in checkpoint.glob("*.py")} == needed
        config = json.loads((checkpoint / "config.json").read_text())
        assert config["auto_map"]["AutoModelForObjectDetection"] == "detection_selfattn.SelfAttnForObjectDetection"
        assert config["auto_map"]["AutoModel"] == "image_selfattn.SelfAttnImageModel"
    assert len(list((folder / "checkpoints").iterdir())) == len(FAMILIES) * len(TUNINGS)


def test_other_checkpoints_carry_no_detector(tmp_path: Path) -> None:
    assert not closure("modeling_selfattn") & {"detection_selfattn.py", "regions_selfattn.py", "image_selfattn.py"}
    SelfAttnImageModel(tiny_image_config("resnet")).save_pretrained(tmp_path)
    assert not {path.name for path in tmp_path.glob("*.py")} & {"detection_selfattn.py", "regions_selfattn.py"}
    assert "AutoModelForObjectDetection" not in json.loads((tmp_path / "config.json").read_text())["auto_map"]
    reopened = AutoModelForObjectDetection.from_pretrained(tmp_path, num_labels=2)
    assert isinstance(reopened, SelfAttnForObjectDetection), "a detector begins from any model of these heads"


@pytest.mark.parametrize("family", ["resnet", "vit"])
def test_an_adapter_is_the_whole_detector_when_merged(family: str, folder: Path) -> None:
    checkpoint, place = folder / "checkpoints" / f"{family}-lora", str(folder / "backbones" / family)
    opened = open_adapter(checkpoint, backbone_name_or_path=place, is_trainable=True)
    names = {name for name, weight in opened.named_parameters() if weight.requires_grad}
    for part in ("lora_A", "heads.", "regions.", "classifier."):
        assert any(part in name for name in names), part
    assert not any(".backbone." in name and "lora" not in name for name in names)
    images = batch()["pixel_values"]
    with torch.no_grad():
        before = opened.eval()(images)
        merged = merge_adapters(opened)(images)
    torch.testing.assert_close(merged.last_hidden_state, before.last_hidden_state, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["resnet", "vit"])
def test_only_the_heads_of_an_adapter_train(family: str, folder: Path) -> None:
    model = SelfAttnForObjectDetection.from_backbone(
        str(folder / "backbones" / family), fusion_init=0.7, head_dim=8, subsequence_length=SIDE, **OPTIONS
    )
    adapted = add_lora(model, r=2)
    before = {name: weight.clone() for name, weight in adapted.named_parameters() if not weight.requires_grad}
    train(adapted, batch())
    after = dict(adapted.named_parameters())
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


def test_the_base_model_opens_from_a_detector(folder: Path) -> None:
    model = AutoModel.from_pretrained(folder / "checkpoints" / "vit-full")
    assert isinstance(model, SelfAttnImageModel)
