# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""Images of different sizes in one batch, and large ones in overlapping tiles, whose feature maps become one.

Shape suffixes: C channels, T pixels of a tile's side, P tokens before a map, N cells, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .subsequences_selfattn import ceil_div


@dataclass(frozen=True)
class TileAxis:
    """How one side of an image is cut, in cells of the feature map."""

    starts: list[int]  # first cell of each tile; all tiles are equally long
    owners: list[int]  # for each cell the tile that it is taken from: the one in which it is nearest to the middle


@dataclass(frozen=True)
class TilePlan:
    """The tiles of one image, row by row."""

    rows: TileAxis
    columns: TileAxis

    def corners(self, cell: int) -> list[tuple[int, int]]:
        """Return the upper left corner of each tile in pixels."""
        return [(top * cell, left * cell) for top in self.rows.starts for left in self.columns.starts]

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the whole image in cells."""
        return len(self.rows.owners), len(self.columns.owners)


def cut_axis(pixels: int, tile: int, shared: int, cell: int) -> TileAxis:
    """Return the least number of tiles for a side, spread evenly, neighbours sharing so many pixels or more.

    A cell is not halved: neighbours share whole cells, and all but one at most.
    """
    num_cells, size = ceil_div(pixels, cell), tile // cell
    overlap = min(ceil_div(shared, cell), size - 1)
    room = max(num_cells - size, 0)
    count = 1 + ceil_div(room, size - overlap)
    starts = [round(number * room / max(count - 1, 1)) for number in range(count)]
    owners = [
        min(range(count), key=lambda number: abs(2 * (cell_number - starts[number]) + 1 - size))
        for cell_number in range(num_cells)
    ]
    return TileAxis(starts, owners)


def plan_tiles(image_size: tuple[int, int], tile: int, shared: int, cell: int) -> TilePlan:
    """Return the tiles of an image of (height, width) pixels."""
    height, width = image_size
    return TilePlan(cut_axis(height, tile, shared, cell), cut_axis(width, tile, shared, cell))


def cut_tile(image_CHW: Tensor, corner: tuple[int, int], tile: int) -> Tensor:
    """Return a tile (C, T, T); what stands over the edge of the image is 0, the mean colour."""
    top, left = corner
    part = image_CHW[:, top : top + tile, left : left + tile]
    return F.pad(part, (0, tile - part.shape[2], 0, tile - part.shape[1]))


def merge_tiles(tiles: Tensor, plan: TilePlan, num_prefix: int) -> Tensor:
    """Return the features (P + N, D) of an image of those of its tiles (tiles, P + cells, D).

    What stands before a map, such as CLS, is the mean over all tiles.
    """
    size = round((tiles.shape[1] - num_prefix) ** 0.5)
    maps = tiles[:, num_prefix:].unflatten(1, (size, size))
    rows, columns = (torch.tensor(axis.owners, device=tiles.device) for axis in (plan.rows, plan.columns))
    row_places, column_places = (
        torch.arange(len(axis.owners), device=tiles.device)
        - torch.tensor([axis.starts[owner] for owner in axis.owners], device=tiles.device)
        for axis in (plan.rows, plan.columns)
    )
    owners = rows[:, None] * len(plan.columns.starts) + columns
    whole = maps[owners, row_places[:, None], column_places]
    return torch.cat([tiles[:, :num_prefix].mean(dim=0), whole.flatten(0, 1)])


def real_sizes(pixel_values: Tensor, pixel_mask: Tensor | None) -> list[tuple[int, int]]:
    """Return height and width of each image of a batch without its padding, which stands at the right and below."""
    B, _, H, W = pixel_values.shape
    if pixel_mask is None:
        return [(H, W)] * B
    if pixel_mask.shape != (B, H, W):
        raise ValueError(
            f"pixel_mask has shape {tuple(pixel_mask.shape)}, but pixel_values need {(B, H, W)}: one number per pixel."
        )
    mask = pixel_mask.bool()
    heights, widths = mask[:, :, 0].sum(dim=1), mask[:, 0].sum(dim=1)
    if (mask.sum(dim=(1, 2)) != heights * widths).any() or (heights * widths == 0).any():
        raise ValueError("pixel_mask must be 1 on a rectangle in the upper left corner of each image and 0 elsewhere.")
    return list(zip(heights.tolist(), widths.tolist(), strict=True))


def pad_images(arrays: Sequence[Any]) -> dict[str, Tensor]:
    """Return `pixel_values` (B, C, H, W) and `pixel_mask` (B, H, W) of images (C, h, w) of different sizes."""
    images = [torch.as_tensor(image) for image in arrays]
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    places = [(0, width - image.shape[2], 0, height - image.shape[1]) for image in images]
    masks = [image.new_ones(image.shape[1:], dtype=torch.long) for image in images]
    return {
        "pixel_values": torch.stack([F.pad(image, place) for image, place in zip(images, places, strict=True)]),
        "pixel_mask": torch.stack([F.pad(mask, place) for mask, place in zip(masks, places, strict=True)]),
    }


def keep_image_size(image_processor: Any) -> Any:
    """Let an image processor shrink and crop nothing, as tiles need it, and return it, to be saved with the model."""
    if not hasattr(image_processor, "do_resize"):
        raise ValueError(
            f"{type(image_processor).__name__} always resizes. Take another for tiles, such as ViTImageProcessor with "
            "the mean and standard deviation of the colours that the backbone was trained on."
        )
    image_processor.do_resize = False
    if hasattr(image_processor, "do_center_crop"):
        image_processor.do_center_crop = False
    return image_processor
