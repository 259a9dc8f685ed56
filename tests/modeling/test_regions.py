"""Regions: overlaps, suppression and RoIAlign against naive references, forward and gradient."""

from __future__ import annotations

import itertools

import pytest
import torch
from shapes import random_boxes
from torch import Tensor
from transformers.loss.loss_for_object_detection import generalized_box_iou

from hf_selfattn.modeling.regions_selfattn import (
    PROPOSAL_OVERLAP,
    deltas_between,
    generalised_iou,
    moved_boxes,
    pairwise_iou,
    reference_boxes,
    roi_align,
    undoubled,
)


def bilinear(feature_map: Tensor, y: float, x: float) -> Tensor:
    """The value of a map (H, W, D) at a point: none outside, that of the edge up to one cell beyond it."""
    H, W, _ = feature_map.shape
    if not (-1 <= y <= H and -1 <= x <= W):
        return torch.zeros_like(feature_map[0, 0])
    y, x = min(max(y, 0), H - 1), min(max(x, 0), W - 1)
    top, left = min(int(y), H - 1), min(int(x), W - 1)
    bottom, right = min(top + 1, H - 1), min(left + 1, W - 1)
    down, over = y - top, x - left
    above = (1 - over) * feature_map[top, left] + over * feature_map[top, right]
    below = (1 - over) * feature_map[bottom, left] + over * feature_map[bottom, right]
    return (1 - down) * above + down * below


def naive_roi_align(maps: Tensor, boxes: Tensor, size: int, samples: int) -> Tensor:
    """RoIAlign as its paper has it: the mean of points that are read one by one."""
    B, H, W, D = maps.shape
    read = torch.zeros(B, boxes.shape[1], size, size, D, dtype=maps.dtype)
    for b, q, row, column in itertools.product(range(B), range(boxes.shape[1]), range(size), range(size)):
        x0, y0, x1, y1 = (boxes[b, q] * torch.tensor([W, H, W, H]) - 0.5).tolist()
        points = [
            bilinear(
                maps[b],
                y0 + (y1 - y0) * (row + (i + 0.5) / samples) / size,
                x0 + (x1 - x0) * (column + (j + 0.5) / samples) / size,
            )
            for i, j in itertools.product(range(samples), range(samples))
        ]
        read[b, q, row, column] = torch.stack(points).mean(dim=0)
    return read


@pytest.mark.parametrize(("height", "width"), [(5, 7), (1, 4), (8, 3)])
@pytest.mark.parametrize(("size", "samples"), [(1, 3), (3, 2), (4, 1)])
def test_roi_align_is_the_mean_of_its_points(height: int, width: int, size: int, samples: int) -> None:
    maps = torch.randn(2, height, width, 3, dtype=torch.float64, requires_grad=True)
    boxes = random_boxes(2, 4, spread=1.8)
    read, expected = roi_align(maps, boxes, size, samples), naive_roi_align(maps, boxes, size, samples)
    torch.testing.assert_close(read, expected)
    weights = torch.randn_like(expected)
    (gradient,), (wanted,) = (torch.autograd.grad((x * weights).sum(), maps) for x in (read, expected))
    torch.testing.assert_close(gradient, wanted)


def test_roi_align_in_single_precision() -> None:
    maps, boxes = torch.randn(1, 9, 6, 4), random_boxes(1, 5, spread=1.5).float()
    torch.testing.assert_close(roi_align(maps, boxes, 3, 2), naive_roi_align(maps, boxes, 3, 2), atol=1e-5, rtol=0)


def naive_suppression(boxes: Tensor, threshold: float, labels: Tensor) -> list[bool]:
    """Greedy suppression, one box after the other."""
    kept: list[int] = []
    for place in range(len(boxes)):
        rivals = [other for other in kept if labels[other] == labels[place]]
        if all(pairwise_iou(boxes[place : place + 1], boxes[[other]]) <= threshold for other in rivals):
            kept.append(place)
    return [place in kept for place in range(len(boxes))]


@pytest.mark.parametrize("threshold", [0.1, 0.5, PROPOSAL_OVERLAP])
def test_suppression_is_the_greedy_one(threshold: float) -> None:
    boxes = random_boxes(4, 60, seed=3)
    boxes[1] = boxes[1, :1] + torch.arange(60)[:, None] * 0.01  # a chain, each overlapping the next
    labels = torch.arange(60).expand(4, -1) % 3
    together, apart = undoubled(boxes, threshold), undoubled(boxes, threshold, labels)
    for row in range(4):
        assert together[row].tolist() == naive_suppression(boxes[row], threshold, torch.zeros(60))
        assert apart[row].tolist() == naive_suppression(boxes[row], threshold, labels[row])
    assert 0 < together.sum() < apart.sum()


def test_overlaps_are_those_of_transformers() -> None:
    boxes, others = random_boxes(9, seed=1), random_boxes(9, seed=2)
    expected = generalized_box_iou(boxes, others)
    torch.testing.assert_close(generalised_iou(boxes[:, None], others), expected)
    torch.testing.assert_close(generalised_iou(boxes, others), expected.diagonal())
    assert pairwise_iou(boxes, others[:0]).shape == (9, 0)


def test_overlaps_of_boxes_without_area_are_numbers() -> None:
    point = torch.tensor([[0.5, 0.5, 0.5, 0.5]], requires_grad=True)
    for overlap in (pairwise_iou(point, point), generalised_iou(point, point)):
        (gradient,) = torch.autograd.grad(overlap.sum(), point)
        assert overlap.isfinite().all() and gradient.isfinite().all()


def test_deltas_move_a_box_to_its_target() -> None:
    boxes, targets = random_boxes(7, seed=1), random_boxes(7, seed=2)
    torch.testing.assert_close(moved_boxes(boxes, deltas_between(boxes, targets)), targets)
    torch.testing.assert_close(moved_boxes(boxes, torch.zeros(7, 4)), boxes)
    far = moved_boxes(boxes, torch.full((7, 4), 1e4))
    growth = (far[:, 2] - far[:, 0]) / (boxes[:, 2] - boxes[:, 0])
    torch.testing.assert_close(growth, torch.full_like(growth, 1000 / 16))


def test_references_stand_on_the_places_of_the_image() -> None:
    boxes = reference_boxes(2, 4, (1.0, 1.25), torch.device("cpu"))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    torch.testing.assert_close(centres[:4, 0], torch.tensor([0.125, 0.375, 0.625, 0.875]))
    torch.testing.assert_close(centres[::4, 1], torch.tensor([0.25, 0.75]) * 1.25)
    torch.testing.assert_close((boxes[:, 2:] - boxes[:, :2])[0], torch.tensor([1.0, 2.5]))
