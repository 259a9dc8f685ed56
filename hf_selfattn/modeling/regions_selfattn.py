# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""Regions of an image: proposed at each place of a feature map, thinned out, and read from the map.

Boxes are corners (x0, y0, x1, y1) relative to the image, whose width and height are 1. Shape suffixes: B images, H
rows and W columns of a map, N places, D and C features, G true boxes, Q regions, S cells of a region's side.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import initialization as init

from .configuration_selfattn import SelfAttnConfig
from .heads_selfattn import build_norm

MAP_WIDTH = 128  # features of the map from which boxes are proposed
PLACE = 8  # pixels of a place's side, about: a cell of the backbone's map is parted for it
MOST_PARTS = 4  # of a cell's side
GRID = 7  # cells of a region's side, as in Faster R-CNN
GRID_WIDTH = 256  # of the networks that read such a grid, at most
SAMPLES = 2  # points of the map in a cell of a region, in each direction
REFERENCE = 4.0  # side of the box from which a proposal is measured, in places
PROPOSAL_OVERLAP = 0.7  # of two proposals that overlap by more, the less probable is left out (Ren et al., 2015)
CANDIDATES = 5  # most probable places that are looked at, for each proposal that is wanted
JITTER = 0.15  # by how much a true box is moved when it stands among the proposals, in widths and heights
MAX_GROWTH = math.log(1000 / 16)  # of a side, as in Faster R-CNN
# By how much an output of 1 moves and grows a region's box, as in Faster R-CNN. A step of Adam changes the output of
# a wide layer by about 1, and a box that is off by a tenth would go astray.
STRIDE = (0.1, 0.1, 0.2, 0.2)
FREQUENCIES = 8  # of the sines and cosines of a box
SMALLEST = 1e-6  # a side and an area are at least this


def box_area(boxes: Tensor) -> Tensor:
    """Return the areas of boxes (..., 4)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_overlap(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return intersection over union and the union of boxes (..., 4), element by element with broadcasting."""
    low = torch.maximum(boxes[..., :2], others[..., :2])
    high = torch.minimum(boxes[..., 2:], others[..., 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    union = (box_area(boxes) + box_area(others) - shared).clamp(min=SMALLEST**2)
    return shared / union, union


def pairwise_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return (..., N, M) the intersection over union of each of boxes (..., N, 4) with each of (..., M, 4)."""
    return box_overlap(boxes[..., :, None, :], others[..., None, :, :])[0]


def generalised_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return how well boxes (..., 4) agree one by one, from -1 to 1, also where they are apart (Rezatofighi, 2019)."""
    iou, union = box_overlap(boxes, others)
    low = torch.minimum(boxes[..., :2], others[..., :2])
    high = torch.maximum(boxes[..., 2:], others[..., 2:])
    hull = (high - low).prod(dim=-1).clamp(min=SMALLEST**2)
    return iou - (hull - union) / hull


def centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return centres and sizes (..., 2) of boxes."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def moved_boxes(boxes: Tensor, deltas: Tensor) -> Tensor:
    """Return boxes moved by (dx, dy) of their sizes and grown by the exponentials of (dw, dh) (Girshick, 2014)."""
    centre, size = centre_and_size(boxes)
    centre = centre + deltas[..., :2] * size
    half = size * deltas[..., 2:].clamp(max=MAX_GROWTH).exp() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def deltas_between(boxes: Tensor, targets: Tensor) -> Tensor:
    """Return the deltas that move boxes to targets."""
    (centre, size), (target, target_size) = centre_and_size(boxes), centre_and_size(targets)
    size, target_size = size.clamp(min=SMALLEST), target_size.clamp(min=SMALLEST)
    return torch.cat([(target - centre) / size, (target_size / size).log()], dim=-1)


@torch.no_grad()
def undoubled(boxes_BQ4: Tensor, threshold: float, labels_BQ: Tensor | None = None) -> Tensor:
    """Return (B, Q) which boxes, of falling score, greedy suppression keeps: those that overlap none kept before them.

    All boxes are judged at once, and again by what was kept, until nothing changes. After round k the first k boxes
    are as the greedy loop leaves them, so it ends, mostly after a few rounds.

    Args:
        labels_BQ: boxes of different labels do not suppress one another.
    """
    doubles_BQQ = (pairwise_iou(boxes_BQ4, boxes_BQ4) > threshold).triu(diagonal=1)
    if labels_BQ is not None:
        doubles_BQQ = doubles_BQQ & (labels_BQ[:, :, None] == labels_BQ[:, None])
    kept_BQ = torch.ones_like(doubles_BQQ[:, 0])
    while True:
        now_BQ = ~(doubles_BQQ & kept_BQ[..., None]).any(dim=1)
        if torch.equal(now_BQ, kept_BQ):
            return kept_BQ
        kept_BQ = now_BQ


def roi_align(map_BHWD: Tensor, boxes_BQ4: Tensor, size: int, samples: int = SAMPLES) -> Tensor:
    """Return (B, Q, S, S, D) what a map shows in each box: RoIAlign (He et al., 2017) as two matrix products.

    Bilinear interpolation is one along the rows times one along the columns, and so is the mean of a cell's points.
    The result is torchvision's `roi_align(…, aligned=True)`, and the gradient is deterministic on every device.

    Args:
        size: S, cells of a region's side.
        samples: points of a cell in each direction, torchvision's `sampling_ratio`.
    """
    H, W = map_BHWD.shape[1:3]
    x0, y0, x1, y1 = boxes_BQ4.to(torch.promote_types(map_BHWD.dtype, torch.float32)).unbind(dim=-1)
    rows_BQSH = interpolation(y0, y1, H, size, samples).to(map_BHWD.dtype)
    columns_BQSW = interpolation(x0, x1, W, size, samples).to(map_BHWD.dtype)
    strips = rows_BQSH.flatten(1, 2) @ map_BHWD.flatten(2)  # (B, Q * S, W * D)
    return columns_BQSW[:, :, None] @ strips.unflatten(1, (-1, size)).unflatten(-1, (W, -1))


def interpolation(low_BQ: Tensor, high_BQ: Tensor, length: int, size: int, samples: int) -> Tensor:
    """Return (B, Q, S, L) how much each of L places counts in each of S parts of the way from `low` to `high`."""
    steps = (torch.arange(size * samples, device=low_BQ.device) + 0.5) / (size * samples)
    points = (low_BQ[..., None] + (high_BQ - low_BQ)[..., None] * steps) * length - 0.5
    is_seen = (points >= -1) & (points <= length)
    distance = points.clamp(0, length - 1)[..., None] - torch.arange(length, device=low_BQ.device)
    weights = (1 - distance.abs()).clamp(min=0) * is_seen[..., None]
    return weights.unflatten(-2, (size, samples)).mean(dim=-2)


def box_waves(boxes: Tensor) -> Tensor:
    """Return (..., 64) sines and cosines of the centre and the size of boxes (..., 4)."""
    numbers = torch.cat(centre_and_size(boxes), dim=-1)
    angles = numbers[..., None] * math.pi * 2.0 ** torch.arange(FREQUENCIES, device=boxes.device)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


@dataclass
class Regions:
    """The regions of images: what they show and where they are; of each row, what is real stands first."""

    features_BQD: Tensor
    grid_BQF: Tensor  # of narrow features, how an object lies in its box
    boxes_BQ4: Tensor  # inside the image
    lengths_B: Tensor  # regions of each image
    objectness_BN: Tensor  # logit of each place: whether an object's middle is there
    deltas_BN4: Tensor  # of each place, from its reference box to the proposal
    references_N4: Tensor  # the box from which each place measures
    fine_BHWC: Tensor  # the map from which grids are read
    extent: tuple[float, ...]  # its width and height in those of the image


class SmallLinear(nn.Linear):
    """A linear layer that answers about 0 at first: boxes begin where they are measured from."""

    # Transformers passes over `reset_weights` of modules that hold no weights themselves, so it is the layer's own.
    def reset_weights(self) -> None:
        """Draw small weights, unless weights were loaded."""
        init.normal_(self.weight, std=0.01)


class RegionProposer(nn.Module):
    """Propose regions of a feature map, and read them from it.

    The cells of the map are parted, by learned weights, into places of about 8 pixels, for objects that are small.
    Each place tells whether an object's middle is there and one box, measured from a square of fixed size (Ren et al.,
    2015, with one anchor; as in FCOS of Tian et al., 2019, every place in the middle of an object answers for it). So
    there are no anchor shapes to choose for the data, and each object has several places that learn it.

    A region's feature is the mean of the whole features inside, what there is, plus a small network on a grid of
    narrow ones, how it lies in the box, plus where the box is.
    """

    weight = None  # when PEFT merges, it reads the `weight` of each module that it saved, even of one that has none

    def __init__(self, config: SelfAttnConfig, cell: int):
        super().__init__()
        self.num_proposals = config.num_proposals
        self.parts = max(1, min(MOST_PARTS, round(cell / PLACE)))
        width = config.hidden_size
        self.norm = build_norm(config)
        self.part = nn.Linear(width, self.parts**2 * MAP_WIDTH)
        self.mix = nn.Conv2d(MAP_WIDTH, MAP_WIDTH, kernel_size=3, padding=1)
        # One product for both: that of a matrix and one vector rounds by where weights lie, and near ties would turn.
        self.answer = SmallLinear(MAP_WIDTH, 1 + 4)
        inner = min(GRID_WIDTH, width)
        self.grid = nn.Sequential(nn.Linear(GRID**2 * MAP_WIDTH, inner), nn.GELU(), nn.Linear(inner, width))
        self.place = nn.Linear(4 * 2 * FREQUENCIES, width)

    def forward(self, map_BHWD: Tensor, extent: tuple[float, ...], shown: list[Tensor]) -> Regions:
        """Propose regions of images, and read them.

        Args:
            extent: width and height of the map in those of the image; cells at the edges may reach over it.
            shown: true boxes (G, 4) of each image, which stand jittered after its proposals; or none.
        """
        features_BHWD = self.norm(map_BHWD.to(cast(Tensor, self.norm.weight).dtype))
        fine_BHWC = self.finer_map(features_BHWD)
        answers_BN5 = self.answer(fine_BHWC.flatten(1, 2)).float()
        objectness_BN, deltas_BN4 = answers_BN5[..., 0], answers_BN5[..., 1:]
        references_N4 = reference_boxes(fine_BHWC.shape[1], fine_BHWC.shape[2], extent, map_BHWD.device)
        proposed = self.best(objectness_BN, moved_boxes(references_N4, deltas_BN4))
        if shown:
            proposed = [torch.cat(pair) for pair in zip(proposed, map(jittered, shown), strict=True)]
        lengths_B = torch.tensor([len(boxes) for boxes in proposed], device=map_BHWD.device)
        boxes_BQ4 = pad_sequence(proposed, batch_first=True)
        features_BQD, grid_BQF = self.read(features_BHWD, fine_BHWC, boxes_BQ4, extent)
        places = (objectness_BN, deltas_BN4, references_N4)
        return Regions(features_BQD, grid_BQF, boxes_BQ4, lengths_B, *places, fine_BHWC, extent)

    def finer_map(self, features_BHWD: Tensor) -> Tensor:
        """Return (B, H, W, C) a map of places, into which each cell is parted."""
        parts = self.part(features_BHWD).movedim(-1, 1)
        fine_BCHW = self.mix(F.gelu(F.pixel_shuffle(parts, self.parts)))
        return F.gelu(fine_BCHW).movedim(1, -1)

    @torch.no_grad()
    def best(self, objectness_BN: Tensor, boxes_BN4: Tensor) -> list[Tensor]:
        """Return (Q, 4) of each image, most probable first: boxes inside the image that do not double one another."""
        count = min(CANDIDATES * self.num_proposals, objectness_BN.shape[1])
        order_BK = objectness_BN.argsort(dim=1, descending=True, stable=True)[:, :count]
        boxes_BK4 = boxes_BN4.take_along_dim(order_BK[..., None], dim=1).clamp(0, 1)
        kept_BK = undoubled(boxes_BK4, PROPOSAL_OVERLAP)
        return [boxes[kept][: self.num_proposals] for boxes, kept in zip(boxes_BK4, kept_BK, strict=True)]

    def read(
        self, features_BHWD: Tensor, fine_BHWC: Tensor, boxes_BQ4: Tensor, extent: tuple[float, ...]
    ) -> tuple[Tensor, Tensor]:
        """Return the features (B, Q, D) of boxes, and their grids (B, Q, S * S * C)."""
        whole_BQD = roi_align(features_BHWD, on_map(boxes_BQ4, extent), 1, GRID * SAMPLES)[:, :, 0, 0]
        grid_BQF = read_grid(fine_BHWC, boxes_BQ4, extent)
        place_BQD = self.place(box_waves(boxes_BQ4).to(whole_BQD.dtype))
        return whole_BQD + self.grid(grid_BQF) + place_BQD, grid_BQF


class BoxRefiner(nn.Module):
    """How regions move, by a grid of what they show and their feature: (B, Q, S * S * C), (B, Q, D) -> (B, Q, 4)."""

    weight = None  # when PEFT merges, it reads the `weight` of each module that it saved, even of one that has none

    def __init__(self, config: SelfAttnConfig):
        super().__init__()
        inner = min(GRID_WIDTH, config.hidden_size)
        self.grid = nn.Linear(GRID**2 * MAP_WIDTH, inner)
        self.feature = nn.Linear(config.hidden_size, inner, bias=False)
        self.move = SmallLinear(inner, 4)

    def forward(self, grid_BQF: Tensor, features_BQD: Tensor) -> Tensor:
        moves_BQ4 = self.move(F.gelu(self.grid(grid_BQF) + self.feature(features_BQD))).float()
        return moves_BQ4 * moves_BQ4.new_tensor(STRIDE)


def on_map(boxes: Tensor, extent: tuple[float, ...]) -> Tensor:
    """Return boxes (..., 4) of an image in the width and height of its map."""
    return boxes / boxes.new_tensor(extent * 2)


def read_grid(fine_BHWC: Tensor, boxes_BQ4: Tensor, extent: tuple[float, ...]) -> Tensor:
    """Return (B, Q, S * S * C) what a map shows in the cells of a grid on each box."""
    return roi_align(fine_BHWC, on_map(boxes_BQ4, extent), GRID).flatten(2)


def reference_boxes(height: int, width: int, extent: tuple[float, ...], device: torch.device) -> Tensor:
    """Return (N, 4) the boxes from which the places of a map measure, row by row; those at borders reach out."""
    y, x = torch.meshgrid(*(torch.arange(n, device=device) + 0.5 for n in (height, width)), indexing="ij")
    centre_N2 = torch.stack([x, y], dim=-1).flatten(0, 1)
    place = torch.tensor([extent[0] / width, extent[1] / height] * 2, device=device)
    return torch.cat([centre_N2 - REFERENCE / 2, centre_N2 + REFERENCE / 2], dim=-1) * place


def jittered(boxes_G4: Tensor) -> Tensor:
    """Return true boxes as proposals could have found them: moved a little, inside the image."""
    return moved_boxes(boxes_G4, (2 * torch.rand_like(boxes_G4) - 1) * JITTER).clamp(0, 1)
