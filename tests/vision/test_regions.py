"""Regions of an image: RoIAlign and suppression are those of torchvision."""

from __future__ import annotations

import pytest
import torch
from shapes import random_boxes

from hf_selfattn.modeling.regions_selfattn import roi_align, undoubled

ops = pytest.importorskip("torchvision.ops", reason="make test-vision installs torchvision")
pytestmark = [
    pytest.mark.vision,
    pytest.mark.skipif(not hasattr(torch.ops.torchvision, "roi_align"), reason="make test-vision has these operators"),
]


@pytest.mark.parametrize(("size", "samples"), [(1, 14), (7, 2)])
def test_roi_align_is_torchvisions(size: int, samples: int) -> None:
    maps, boxes = torch.randn(2, 9, 6, 4, requires_grad=True), random_boxes(2, 20, spread=1.5).float()
    pixels = [rows * torch.tensor([6, 9, 6, 9]) for rows in boxes]
    expected = ops.roi_align(maps.movedim(-1, 1), pixels, size, sampling_ratio=samples, aligned=True)
    expected = expected.movedim(1, -1).unflatten(0, (2, 20))
    read = roi_align(maps, boxes, size, samples)
    torch.testing.assert_close(read, expected, atol=1e-5, rtol=0)
    weights = torch.randn_like(expected)
    (gradient,), (wanted,) = (torch.autograd.grad((x * weights).sum(), maps) for x in (read, expected))
    torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=0)


def test_suppression_is_torchvisions() -> None:
    boxes = random_boxes(1, 200, seed=5).float()
    kept = ops.nms(boxes[0], torch.linspace(1, 0, 200), 0.5)
    assert undoubled(boxes, 0.5)[0].nonzero()[:, 0].tolist() == sorted(kept.tolist())
