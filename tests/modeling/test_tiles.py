"""Large images in tiles: the plan, the merged map, and a small object that shrinking would lose."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_images import HEADS, tiny_image_model, tiny_image_processor, tiny_pixels
from torch import Tensor
from torch.nn import functional as F
from transformers import ResNetConfig

from hf_selfattn import SelfAttnConfig, SelfAttnForImageClassification
from hf_selfattn.modeling import image_selfattn
from hf_selfattn.modeling.image_selfattn import ImageFeatures
from hf_selfattn.modeling.tiles_selfattn import cut_axis, keep_image_size, pad_images


@pytest.mark.parametrize("tile", [32, 64])
@pytest.mark.parametrize("shared", [0, 5, 16, 24])
@pytest.mark.parametrize("pixels", [1, 7, 31, 32, 33, 63, 64, 65, 200, 1001])
def test_every_cell_is_in_a_tile_and_neighbours_overlap(pixels: int, shared: int, tile: int) -> None:
    axis, cell = cut_axis(pixels, tile, shared, 8), 8
    size = tile // cell
    assert len(axis.owners) == math.ceil(pixels / cell), "the last cells stand over the edge rather than be lost"
    assert axis.owners == sorted(axis.owners) and set(axis.owners) == set(range(len(axis.starts)))
    for place, owner in enumerate(axis.owners):
        assert axis.starts[owner] <= place < axis.starts[owner] + size
    for left, right in zip(axis.starts, axis.starts[1:], strict=False):
        assert (left + size - right) * cell >= min(shared, tile - cell) and left < right
    assert axis.starts[0] == 0 and axis.starts[-1] == max(len(axis.owners) - size, 0)


@pytest.mark.parametrize("size", [(32, 32), (40, 100), (37, 99), (200, 8)])
@torch.no_grad()
def test_the_merged_map_is_that_of_the_whole_image(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_image_model("siglip", tiles=True, subsequence_stride=8).model
    most: list[int] = []

    def means_of_cells(pixel_values: Tensor, record: bool) -> ImageFeatures:
        most.append(len(pixel_values))
        maps = F.avg_pool2d(pixel_values, 8)
        return ImageFeatures((maps.flatten(2).transpose(1, 2),), (maps.shape[2], maps.shape[3]))

    monkeypatch.setattr(model, "_read_images", means_of_cells)
    monkeypatch.setattr(image_selfattn, "TILES_AT_ONCE", 3)
    image = tiny_pixels(1, *size)
    height, width = (math.ceil(side / 8) for side in size)
    expected = F.avg_pool2d(F.pad(image, (0, width * 8 - size[1], 0, height * 8 - size[0])), 8)
    found = model.backbone_features(image)
    assert found.map_size == (height, width) and max(most) <= 3
    torch.testing.assert_close(found.layers[0], expected.flatten(2).transpose(1, 2))


@torch.no_grad()
def test_an_image_of_one_tile_is_read_as_without_tiles() -> None:
    for family in ("resnet", "vit", "swin"):
        plain, tiled = (tiny_image_model(family, tiles=tiles) for tiles in (False, True))
        torch.testing.assert_close(plain(tiny_pixels()).logits, tiled(tiny_pixels()).logits)


def test_tiles_train() -> None:
    model = tiny_image_model("vit", tiles=True)
    model(pixel_values=tiny_pixels(1, 70, 50), labels=torch.tensor([1])).loss.backward()
    assert not [name for name, weight in model.named_parameters() if weight.grad is None]


SQUARE = (250, 30, 30)  # of 24 pixels, on a background of grey noise


def photograph(height: int, width: int, corner: tuple[int, int] | None, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(115, 136, (height, width, 1), dtype=np.uint8)
    pixels = np.broadcast_to(noise, (height, width, 3)).copy()
    if corner is not None:
        pixels[corner[0] : corner[0] + 24, corner[1] : corner[1] + 24] = SQUARE
    return Image.fromarray(pixels)


def small_detector(processor: Any) -> SelfAttnForImageClassification:
    """A probe on random convolutions, trained on photographs of 25 tiles whether there is a square."""
    torch.manual_seed(0)
    backbone = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 16], depths=[1, 1, 1], layer_type="basic")
    sizes = {**HEADS, "block_size": 1024, "subsequence_length": 256, "subsequence_stride": 32}
    config = SelfAttnConfig(backbone_config=backbone, num_labels=2, tiles=True, classifier_dropout=0.0, **sizes)
    model = SelfAttnForImageClassification(config).eval()
    places = np.random.default_rng(0).integers(0, 1000, (8, 2)).tolist()
    rows = [photograph(1024, 1024, (top, left) if row % 2 else None, row) for row, (top, left) in enumerate(places)]
    with torch.no_grad():
        found = model.model.backbone_features(**pad_images(processor(images=rows)["pixel_values"]))
        model.model.heads.feature_mean.copy_(found.layers[0].mean(dim=(0, 1)))
        model.model.heads.feature_scale.copy_(found.layers[0].std().reciprocal())
        features = model.model.heads(found.layers).features
    optimizer = torch.optim.Adam(model.classifier.parameters(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(model.classifier(features), torch.arange(8) % 2).backward()
        optimizer.step()
    return model


@pytest.mark.slow
@torch.no_grad()
def test_a_small_object_in_a_large_image_is_found_with_tiles_and_lost_without() -> None:
    processor = keep_image_size(tiny_image_processor())
    with torch.enable_grad():
        model = small_detector(processor)
    shrinking = tiny_image_processor()
    shrinking.size = {"height": 256, "width": 256}
    empty, full = (photograph(4000, 6000, corner, seed=99) for corner in (None, (3970, 5970)))

    def says_object(image: Image.Image, prepare: Any) -> float:
        return float(model(**prepare(images=image, return_tensors="pt")).logits.softmax(-1)[0, 1])

    assert says_object(full, processor) > 0.5 > says_object(empty, processor)
    assert says_object(full, shrinking) == pytest.approx(says_object(empty, shrinking), abs=0.05), "shrunk, it is gone"
    assert says_object(full, shrinking) < 0.5
