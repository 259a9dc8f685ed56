"""The peer for detection: a head after RetinaNet (Lin et al., 2017) on the map that our detector reads.

Two towers of convolutions answer class and box at nine anchors of each place of about 8 pixels; focal loss. It has no
regions, and no attention over them. Everything else, from the mixed layers to the budget, is as in ours.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.image_transforms import corners_to_center_format

from hf_selfattn.modeling.configuration_selfattn import SelfAttnConfig
from hf_selfattn.modeling.detection_selfattn import (
    SelfAttnForObjectDetection,
    SelfAttnObjectDetectionOutput,
    box_loss,
    checked_labels,
)
from hf_selfattn.modeling.heads_selfattn import build_norm
from hf_selfattn.modeling.regions_selfattn import moved_boxes, pairwise_iou, undoubled

WIDTH, DEPTH = 128, 2  # of the towers; the width is that of our map of places
SIDES, RATIOS = (32, 64, 128), (0.5, 1.0, 2.0)  # of anchors, in pixels, and width over height
IS_OBJECT, IS_NONE = 0.5, 0.4  # overlap from which, and below which, an anchor shows a true box, or none
PRIOR = 0.01  # probability of an object at the start
ALPHA, GAMMA = 0.25, 2.0  # of the focal loss
CANDIDATES, OVERLAP, MOST = 1000, 0.5, 100  # boxes that are looked at, that double one another, that are answered


class RetinaHead(nn.Module):
    """Class and box at each anchor: (B, D, H, W) -> (B, N, C) and (B, N, 4)."""

    weight = None

    def __init__(self, config: SelfAttnConfig):
        super().__init__()
        self.norm = build_norm(config)
        self.finer = nn.ConvTranspose2d(config.hidden_size, WIDTH, kernel_size=2, stride=2)
        self.label_tower, self.box_tower = (
            nn.Sequential(
                *(layer for _ in range(DEPTH) for layer in (nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU()))
            )
            for _ in range(2)
        )
        anchors = len(SIDES) * len(RATIOS)
        self.label = nn.Conv2d(WIDTH, anchors * config.num_labels, 3, padding=1)
        self.box = nn.Conv2d(WIDTH, anchors * 4, 3, padding=1)

    def reset_weights(self) -> None:
        """Start as the paper does: with few objects, and boxes near their anchors."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
        for tower in (self.label_tower, self.box_tower, nn.Sequential(self.finer)):
            for module in tower:
                if not isinstance(module, nn.ReLU):
                    nn.init.kaiming_normal_(module.weight)
        nn.init.constant_(self.label.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, map_BHWD: Tensor) -> tuple[Tensor, Tensor]:
        fine = F.relu(self.finer(self.norm(map_BHWD).movedim(-1, 1)))
        labels, boxes = self.label(self.label_tower(fine)), self.box(self.box_tower(fine))
        anchors = len(SIDES) * len(RATIOS)
        return tuple(  # type: ignore[return-value]
            found.movedim(1, -1).unflatten(-1, (anchors, -1)).flatten(1, 3).float() for found in (labels, boxes)
        )


def anchor_boxes(height: int, width: int, pixels: tuple[int, int]) -> Tensor:
    """Return (N, 4) the anchors of a map, row by row, of an image of so many rows and columns of pixels."""
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    halves = torch.tensor(
        [
            (side * ratio**0.5 / 2 / pixels[1], side / ratio**0.5 / 2 / pixels[0])
            for side, ratio in product(SIDES, RATIOS)
        ]
    )
    centres = torch.stack([x, y], dim=-1).flatten(0, 1)[:, None]
    return torch.cat([centres - halves, centres + halves], dim=-1).flatten(0, 1)


class RetinaDetector(SelfAttnForObjectDetection):
    """Our model with the peer's head in the place of regions, attention and classifier."""

    def __init__(self, config: SelfAttnConfig, **options: Any):
        super().__init__(config, **options)
        del self.regions
        self.classifier = RetinaHead(config)
        self.classifier.reset_weights()

    def forward(self, pixel_values: Tensor, labels: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Return losses, and the surest boxes of each image; all images of a batch are of one size."""
        found = self.model.backbone_features(pixel_values=pixel_values)
        height, width = found.map_size or (0, 0)
        features = self.model.heads.standardised(found.layers)[:, found.num_prefix_tokens :]
        scores, deltas = self.classifier(features.unflatten(1, (height, width)))
        anchors = anchor_boxes(2 * height, 2 * width, tuple(pixel_values.shape[2:])).to(deltas.device)  # type: ignore[arg-type]
        loss = None
        if labels is not None:
            truth = checked_labels(labels, self.num_labels, pixel_values)
            matched = torch.stack([anchors_of(anchors, row.boxes_G4) for row in truth])
            loss = focal_loss(scores, matched, truth) + boxes_loss(anchors, deltas, matched, truth)
        answers = surest(scores.sigmoid(), moved_boxes(anchors, deltas).clamp(0, 1))
        return SelfAttnObjectDetectionOutput(loss=loss, logits=answers[0], pred_boxes=answers[1])


@torch.no_grad()
def anchors_of(anchors_N4: Tensor, boxes_G4: Tensor) -> Tensor:
    """Return (N,) the true box of each anchor; -1 of none, -2 where it is in between; each box has its best anchor."""
    if not len(boxes_G4):
        return torch.full((len(anchors_N4),), -1)
    overlap_NG = pairwise_iou(anchors_N4, boxes_G4)
    best_N, of_N = overlap_NG.max(dim=1)
    of_N = torch.where(best_N >= IS_OBJECT, of_N, torch.where(best_N < IS_NONE, -1, -2))
    of_N[overlap_NG.argmax(dim=0)] = torch.arange(len(boxes_G4), device=of_N.device)
    return of_N


def focal_loss(scores_BNC: Tensor, matched_BN: Tensor, truth: list[Any]) -> Tensor:
    """Return the focal loss of the classes, for each anchor that shows an object."""
    targets = torch.zeros_like(scores_BNC)
    for row, (of_N, boxes) in enumerate(zip(matched_BN, truth, strict=True)):
        shows = of_N >= 0
        targets[row, shows, boxes.labels_G[of_N[shows]]] = 1
    entropy = F.binary_cross_entropy_with_logits(scores_BNC, targets, reduction="none")
    right = torch.where(targets > 0, scores_BNC.sigmoid(), 1 - scores_BNC.sigmoid())
    losses = torch.where(targets > 0, ALPHA, 1 - ALPHA) * (1 - right) ** GAMMA * entropy
    return losses[matched_BN > -2].sum() / (matched_BN >= 0).sum().clamp(min=1)


def boxes_loss(anchors_N4: Tensor, deltas_BN4: Tensor, matched_BN: Tensor, truth: list[Any]) -> Tensor:
    """Return the loss of the boxes of anchors that show an object: that of our detector."""
    shows = matched_BN >= 0
    targets = torch.cat([boxes.boxes_G4[of_N[of_N >= 0]] for of_N, boxes in zip(matched_BN, truth, strict=True)])
    losses = box_loss(anchors_N4.expand_as(deltas_BN4)[shows], deltas_BN4[shows], targets)
    return losses.sum() / shows.sum().clamp(min=1)


@torch.no_grad()
def surest(scores_BNC: Tensor, boxes_BN4: Tensor) -> tuple[Tensor, Tensor]:
    """Return of each image the surest boxes that double none of their class, as our detector answers.

    Returns:
        Logits (B, MOST, C + 1), whose softmax is the score of the class of each box and 0 for the others; and
        boxes (B, MOST, 4) as (centre x, centre y, width, height).
    """
    best_BN, labels_BN = scores_BNC.max(dim=-1)
    order = best_BN.topk(min(CANDIDATES, best_BN.shape[1]), dim=1).indices
    best, labels = best_BN.gather(1, order), labels_BN.gather(1, order)
    boxes = boxes_BN4.take_along_dim(order[..., None], dim=1)
    best = best * undoubled(boxes, OVERLAP, labels)
    order = best.topk(min(MOST, best.shape[1]), dim=1).indices
    best, labels = best.gather(1, order), labels.gather(1, order)
    shares = F.one_hot(labels, scores_BNC.shape[-1] + 1) * best[..., None]
    shares[..., -1] = 1 - best
    return shares.clamp(min=1e-9).log(), corners_to_center_format(boxes.take_along_dim(order[..., None], dim=1))
