"""Image classifiers on every family of backbones: features, sizes, gradients, losses, checkpoints and pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_images import (
    CONVOLUTIONAL,
    HEADS,
    IMAGE_BACKBONES,
    SIDE,
    tiny_image_config,
    tiny_image_model,
    tiny_image_processor,
    tiny_pixels,
)
from tiny_models import BACKBONES, aligned
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    CLIPConfig,
    CLIPModel,
    PreTrainedConfig,
    SiglipConfig,
    SiglipModel,
    pipeline,
)

from hf_selfattn import SelfAttnConfig, SelfAttnForImageClassification, SelfAttnImageModel, open_adapter
from hf_selfattn.adapters import add_lora, backbone_layers, tune
from hf_selfattn.hub.saving import save_adapter
from hf_selfattn.modeling.tiles_selfattn import pad_images

SIZES = [(40, 72), (64, 33), (40, 72), (SIDE, SIDE)]


def images_of_sizes() -> list[torch.Tensor]:
    return [tiny_pixels(1, height, width, seed=height)[0] for height, width in SIZES]


@pytest.mark.parametrize("num_mixed_layers", [1, 3])
@pytest.mark.parametrize("family", IMAGE_BACKBONES)
def test_every_family_is_read(family: str, num_mixed_layers: int) -> None:
    model = tiny_image_model(family, num_mixed_layers=num_mixed_layers)
    found = model.model.backbone_features(tiny_pixels())
    assert found.map_size is not None and len(found.layers) == num_mixed_layers and found.lengths_B is None
    num_positions = found.num_prefix_tokens + found.map_size[0] * found.map_size[1]
    assert {layer.shape for layer in found.layers} == {(2, num_positions, model.config.hidden_size)}
    outputs = model(pixel_values=tiny_pixels(), labels=torch.tensor([0, 2]), output_hidden_states=True)
    assert outputs.logits.shape == (2, 3) and len(outputs.hidden_states) == num_mixed_layers
    outputs.loss.backward()
    assert not [name for name, weight in model.named_parameters() if weight.grad is None]


@pytest.mark.parametrize("family", IMAGE_BACKBONES)
@torch.no_grad()
def test_the_last_layer_is_that_of_the_backbone(family: str) -> None:
    model = tiny_image_model(family).model
    torch.manual_seed(0)
    plain = AutoModel.from_config(IMAGE_BACKBONES[family]).eval()
    plain.load_state_dict(model.backbone.state_dict(), strict=False)
    last = plain(tiny_pixels()).last_hidden_state
    found = model.backbone_features(tiny_pixels())
    if last.dim() == 4:
        assert found.map_size == tuple(last.shape[2:])
        last = last.flatten(2).transpose(1, 2)
    torch.testing.assert_close(found.layers[0], last)


@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize("family", IMAGE_BACKBONES)
@torch.no_grad()
def test_padding_and_the_rest_of_a_batch_change_nothing(family: str, tiles: bool) -> None:
    model, images = tiny_image_model(family, num_mixed_layers=2, tiles=tiles), images_of_sizes()
    batch = pad_images(images)
    batch["pixel_values"] += 100 * (1 - batch["pixel_mask"][:, None])  # what stands in the padding is not read
    together = model(**batch).logits
    alone = torch.cat([model(pixel_values=image[None]).logits for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    whole, single = model.model(**batch).last_hidden_state, model.model(images[1][None]).last_hidden_state[0]
    found, (height, width) = (
        model.model.backbone_features(**batch),
        model.model.backbone_features(images[1][None]).map_size,
    )
    prefix = found.num_prefix_tokens
    maps = [features[prefix:].unflatten(0, size) for features, size in ((whole[1], found.map_size),)]
    torch.testing.assert_close(maps[0][:height, :width].flatten(0, 1), single[prefix:], atol=1e-5, rtol=0)
    assert found.real_positions().sum(dim=1).tolist() == [
        model.model(image[None]).last_hidden_state.shape[1] for image in images
    ]


@pytest.mark.parametrize("family", IMAGE_BACKBONES)
@torch.no_grad()
def test_mirrored_reading_is_the_mean_of_what_stands_at_each_place(family: str) -> None:
    plain = tiny_image_model(family, num_mixed_layers=2).model
    model = tiny_image_model(family, num_mixed_layers=2, mirrored="sides").model
    pixels = tiny_pixels()
    found, (as_is, turned) = model.backbone_features(pixels), map(plain.backbone_features, (pixels, pixels.flip(3)))
    prefix, size = found.num_prefix_tokens, found.map_size
    for layer, one, other in zip(found.layers, as_is.layers, turned.layers, strict=True):
        other[:, prefix:] = other[:, prefix:].unflatten(1, size).flip(2).flatten(1, 2)
        torch.testing.assert_close(layer, (one + other) / 2)
    assert not torch.equal(as_is.layers[-1], turned.layers[-1])


@torch.no_grad()
def test_an_image_and_its_mirror_images_have_the_same_answers() -> None:
    model, pixels = tiny_image_model(mirrored="both", pooling="mean"), tiny_pixels()
    expected = model(pixel_values=pixels).logits
    for axes in ((2,), (3,), (2, 3)):
        torch.testing.assert_close(model(pixel_values=pixels.flip(axes)).logits, expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_positions_are_interpolated() -> None:
    model = tiny_image_model("vit").model
    table, large = model.backbone.embeddings.position_embeddings, tiny_pixels(1, 48, 80)
    found = model.backbone_features(large)
    assert found.map_size == (6, 10)
    patches = table[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    wide = F.interpolate(patches, size=(6, 10), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    found_embeddings = model.backbone.embeddings(large, interpolate_pos_encoding=True)
    unplaced = model.backbone.embeddings.patch_embeddings(large)
    torch.testing.assert_close(found_embeddings[:, 1:] - unplaced, wide, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("problem_type", "labels", "criterion"),
    [
        ("single_label_classification", torch.tensor([0, 2]), F.cross_entropy),
        ("multi_label_classification", torch.eye(3)[:2], F.binary_cross_entropy_with_logits),
        ("regression", torch.rand(2, 3), F.mse_loss),
    ],
)
@pytest.mark.parametrize("pooling", ["class_query", "mean", "cls"])
@torch.no_grad()
def test_losses_are_those_of_texts(problem_type: str, labels: Any, criterion: Any, pooling: str) -> None:
    model = tiny_image_model(problem_type=problem_type, pooling=pooling)
    outputs = model(pixel_values=tiny_pixels(), labels=labels)
    torch.testing.assert_close(outputs.loss, criterion(outputs.logits, labels))
    model.config.temperature = 2.0
    torch.testing.assert_close(model(pixel_values=tiny_pixels()).logits, outputs.logits / 2)
    answers = model.predict_labels(outputs.logits)
    assert answers.shape == ((2,) if problem_type.startswith("single") else (2, 3))


@pytest.mark.parametrize("tuning", ["full", "lora", "probe"])
@pytest.mark.parametrize("family", ["resnet", "mobilenet_v2", "vit", "swin"])
def test_models_train_are_saved_and_open(family: str, tuning: str, tmp_path: Path) -> None:
    """With every family and over the hub: tests/hub/test_round_trips.py."""
    torch.manual_seed(0)
    AutoModel.from_config(IMAGE_BACKBONES[family]).save_pretrained(tmp_path / "backbone")
    model: Any = SelfAttnForImageClassification.from_backbone(
        str(tmp_path / "backbone"), num_labels=3, num_mixed_layers=2, subsequence_length=SIDE, **HEADS
    )
    tuned = tune(aligned(model), tuning, **({"r": 2} if tuning == "lora" else {})).train()
    before = {name: value.clone() for name, value in model.base_model.backbone.state_dict().items()}
    optimizer = torch.optim.Adam([weight for weight in tuned.parameters() if weight.requires_grad], lr=1e-2)
    batch = {"pixel_values": tiny_pixels(4), "labels": torch.tensor([0, 1, 2, 0])}
    for _ in range(3):
        optimizer.zero_grad()
        tuned(**batch).loss.backward()
        optimizer.step()
    changed = {
        name.replace(".base_layer", "")
        for name, value in model.base_model.backbone.state_dict().items()
        if "lora" not in name and not torch.equal(value, before.get(name.replace(".base_layer", ""), value))
    }
    assert bool(changed) == (tuning == "full"), "frozen weights and statistics stay as they are"
    tuned.eval().requires_grad_(False)  # which weights train decides which product of matrices PyTorch takes
    with torch.no_grad():
        expected = tuned(pixel_values=batch["pixel_values"]).logits
    folder, place = tmp_path / "model", {}
    if tuning == "lora":
        save_adapter(
            tuned,
            tiny_image_processor(),
            folder,
            batch={"pixel_values": batch["pixel_values"]},
            backbone_name_or_path=str(tmp_path / "backbone"),
        )
        place = {"backbone_name_or_path": str(tmp_path / "backbone")}
        assert open_adapter(folder, **place).peft_config
    else:
        model.save_pretrained(folder)
    reopened = aligned(AutoModelForImageClassification.from_pretrained(folder, **place)).requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(reopened(pixel_values=batch["pixel_values"]).logits, expected)
    assert tuning == "lora" or type(AutoModel.from_pretrained(folder)) is SelfAttnImageModel


@pytest.mark.parametrize("family", IMAGE_BACKBONES)
def test_lora_stands_on_linear_layers_and_convolutions(family: str) -> None:
    model = tiny_image_model(family)
    kinds = {name: type(model.model.backbone.get_submodule(name)) for name in backbone_layers(model)}
    convolutions = [name for name, kind in kinds.items() if kind is torch.nn.Conv2d]
    assert bool(convolutions) == (family in (*CONVOLUTIONAL, "dinov3-convnext"))
    linears = [name for name, module in model.model.backbone.named_modules() if isinstance(module, torch.nn.Linear)]
    assert set(linears) <= kinds.keys()
    adapted = add_lora(model, r=2)
    assert {name.split(".lora_A")[0] for name, _ in adapted.named_parameters() if ".lora_A" in name} == {
        f"base_model.model.model.backbone.{name}" for name in kinds
    }


@pytest.mark.parametrize(("whole_class", "config_class"), [(CLIPModel, CLIPConfig), (SiglipModel, SiglipConfig)])
@torch.no_grad()
def test_of_two_towers_the_one_for_images_is_taken(whole_class: Any, config_class: Any, tmp_path: Path) -> None:
    family = config_class.model_type
    text = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2}
    tower = IMAGE_BACKBONES[family].to_dict()
    torch.manual_seed(0)
    whole = whole_class(config_class(text_config={**text, "vocab_size": 30}, vision_config=tower, projection_dim=8))
    whole.save_pretrained(tmp_path)
    model = SelfAttnForImageClassification.from_backbone(str(tmp_path), num_labels=2, **HEADS)
    assert model.config.backbone_config.model_type == IMAGE_BACKBONES[family].model_type
    expected = whole.eval().vision_model(tiny_pixels()).last_hidden_state
    torch.testing.assert_close(model.model.backbone_features(tiny_pixels()).layers[0], expected)


@torch.no_grad()
def test_features_of_an_earlier_run_are_the_features() -> None:
    model, images = tiny_image_model("resnet", num_mixed_layers=2), images_of_sizes()
    batch = pad_images(images)
    found = model.model.backbone_features(**batch)
    real = found.real_positions()
    kept = torch.stack([found.in_input_order(layer) for layer in found.layers], dim=2)
    again = model(features=kept, feature_mask=real).logits
    torch.testing.assert_close(again, model(**batch).logits, atol=1e-6, rtol=0)
    rows = [features[mask] for features, mask in zip(kept, real, strict=True)]  # as a cache keeps them
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(padded.shape[1]) < lengths[:, None]
    torch.testing.assert_close(model(features=padded, feature_mask=mask).logits, again, atol=1e-6, rtol=0)


def test_a_pipeline_answers_with_the_processor_beside_the_model(tmp_path: Path) -> None:
    names = {0: "cat", 1: "dog", 2: "fish"}
    model = tiny_image_model("convnext", id2label=names, temperature=2.0)
    model.save_pretrained(tmp_path)
    tiny_image_processor().save_pretrained(tmp_path)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 41, 3), dtype=np.uint8))
    pixels = tiny_image_processor()(images=image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model(pixel_values=pixels).logits.softmax(-1)[0]
    answers = pipeline("image-classification", model=str(tmp_path))(image)
    assert {answer["label"] for answer in answers} == set(names.values())
    for answer in answers:
        assert answer["score"] == pytest.approx(float(expected[list(names.values()).index(answer["label"])]), abs=1e-6)


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        (BACKBONES["bert"], {}, r"SelfAttnForImageClassification reads pixel_values, but the backbone 'bert'"),
        (BACKBONES["bert"], {"tiles": True}, r"tiles=True is for images"),
        (BACKBONES["bert"], {"mirrored": "both"}, r"mirrored='both' is for images"),
        (IMAGE_BACKBONES["resnet"], {"pooling": "cls"}, r"pooling='cls' reads a token that the backbone 'resnet'"),
        (IMAGE_BACKBONES["resnet"], {"num_mixed_layers": 9}, r"num_mixed_layers=9 is more than .*'resnet' shows: 4"),
        (
            IMAGE_BACKBONES["vit"],
            {"tiles": True, "subsequence_length": 36},
            r"no whole number of cells .*16 or 32: 32",
        ),
        (IMAGE_BACKBONES["resnet"], {"tiles": True, "subsequence_length": 40}, r"no whole number of cells"),
    ],
)
def test_what_cannot_be_is_refused(backbone: PreTrainedConfig, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelfAttnForImageClassification(SelfAttnConfig(backbone_config=backbone, num_labels=2, **HEADS, **options))


def test_masks_that_are_no_rectangles_are_refused() -> None:
    model, mask = tiny_image_model(), torch.ones(2, SIDE, SIDE)
    mask[1, 5:, 5:] = 0
    with pytest.raises(ValueError, match="must be 1 on a rectangle in the upper left corner"):
        model(pixel_values=tiny_pixels(), pixel_mask=mask)
    with pytest.raises(ValueError, match=r"pixel_mask has shape \(2, 3\), but pixel_values need \(2, 32, 32\)"):
        model(pixel_values=tiny_pixels(), pixel_mask=torch.ones(2, 3))


def test_the_configuration_keeps_what_was_measured(tmp_path: Path) -> None:
    model = tiny_image_model("mobilenet_v2", num_mixed_layers=2)
    model.save_pretrained(tmp_path)
    config = SelfAttnConfig.from_pretrained(tmp_path)
    assert config.layer_widths == model.config.layer_widths and config.hidden_size == model.config.hidden_size == 128
    assert tiny_image_config().auto_map["AutoModel"] == "image_selfattn.SelfAttnImageModel"
