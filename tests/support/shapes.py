"""Made images with boxes, coloured shapes on noise, and random boxes."""

from __future__ import annotations

import torch
from torch import Tensor

SHAPES = ("red square", "green disc", "blue cross")
SIDES = (14, 34)  # of a shape, in pixels, from and to


def shape_mask(kind: int, side: int) -> Tensor:
    """Return (side, side) where a shape is."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, side) for _ in range(2)), indexing="ij")
    if kind == 0:
        return torch.ones(side, side, dtype=torch.bool)
    return x**2 + y**2 <= 1 if kind == 1 else (x.abs() < 0.35) | (y.abs() < 0.35)


def shape_images(
    count: int, size: tuple[int, int] = (96, 96), most: int = 4, seed: int = 0
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Return images (B, 3, height, width) of 1 to `most` shapes each, and their labels as DETR takes them."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    images = 0.3 * torch.randn(count, 3, height, width, generator=generator)
    labels = []
    for image in images:
        boxes: list[list[int]] = []
        classes: list[int] = []
        wanted = int(torch.randint(1, most + 1, (), generator=generator))
        while len(boxes) < wanted:
            side = int(torch.randint(*SIDES, (), generator=generator))
            x, y = (int(torch.randint(0, n - side + 1, (), generator=generator)) for n in (width, height))
            box = [x, y, x + side, y + side]
            if any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in boxes):
                continue
            kind = int(torch.randint(0, len(SHAPES), (), generator=generator))
            image[kind, y : y + side, x : x + side][shape_mask(kind, side)] += 2
            boxes.append(box)
            classes.append(kind)
        x0, y0, x1, y1 = torch.tensor(boxes).float().div(torch.tensor([width, height, width, height])).unbind(dim=1)
        relative = torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], dim=1)
        labels.append({"class_labels": torch.tensor(classes), "boxes": relative})
    return images, labels


def random_boxes(*shape: int, seed: int = 0, spread: float = 1.0) -> Tensor:
    """Corners of random boxes, some of them over the edges of the image where `spread` is above 1."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * spread - (spread - 1) / 2
    size = torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * 0.5
    return torch.cat([corner, corner + size], dim=-1)
