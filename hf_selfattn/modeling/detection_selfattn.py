# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""Object detection: self-attention and grouped attention over the regions of an image, then a class and a box of each.

Boxes are corners relative to the image, but where the caller gives or gets them: (centre x, centre y, width, height),
relative, as in DETR. Shape suffixes as in `regions_selfattn`; C classes, without the one for "no object".
"""

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig
from transformers.image_transforms import center_to_corners_format, corners_to_center_format
from transformers.utils import ModelOutput, auto_docstring, can_return_tuple

from .backbone_selfattn import open_backbone_config
from .base_selfattn import SelfAttnPreTrainedModel
from .configuration_selfattn import SelfAttnConfig, image_size
from .image_selfattn import SelfAttnImageModel, measure_backbone
from .outputs_selfattn import returns_weights, wanted_outputs
from .regions_selfattn import (
    PLACE,
    REFERENCE,
    SMALLEST,
    BoxRefiner,
    RegionProposer,
    Regions,
    box_area,
    box_overlap,
    centre_and_size,
    deltas_between,
    generalised_iou,
    moved_boxes,
    pairwise_iou,
    read_grid,
    undoubled,
)
from .tiles_selfattn import real_sizes

SAME_OBJECT = 0.5  # a region that overlaps a true box by this much shows its object (Ren et al., 2015)
SAME_ANSWER = 0.5  # of two regions of one class that overlap by more, the less probable answers "no object"
MIDDLE = 0.25  # places up to so far from a box's centre, in its sides, answer for it
NEGATIVES = {"places": 1.0, "regions": 3.0}  # for each positive, as in Faster R-CNN
REFINEMENTS = 2  # of a box, as in Cascade R-CNN (Cai and Vasconcelos, 2018)
SURE = 20.0  # logit of "no object" above the classes where an answer is a double
MOST_MIXED = 6  # layers that are mixed unless the caller says how many
TOLERANCE = 1e-3  # by which a true box may reach out of its image: rounding


@auto_docstring
@dataclass
class SelfAttnObjectDetectionOutput(ModelOutput):
    r"""
    loss (`torch.FloatTensor`, *optional*):
        The sum of the losses, where labels were given.
    loss_dict (`dict`, *optional*):
        The losses: whether places show an object, the proposals' boxes, the regions' classes and boxes.
    logits (`torch.FloatTensor` of shape `(batch_size, num_regions, num_labels + 1)`):
        Scores of the classes and, last, of "no object", for each region.
    pred_boxes (`torch.FloatTensor` of shape `(batch_size, num_regions, 4)`):
        Boxes as (centre x, centre y, width, height), relative to the image without its padding.
    last_hidden_state (`torch.FloatTensor` of shape `(batch_size, num_regions, hidden_size)`, *optional*):
        The features of the regions after the attention over them.
    group_ids (`tuple(torch.LongTensor)`, *optional*):
        For each head layer, the group of each region, `(batch_size, heads, num_regions)`.
    group_probs (`tuple(torch.FloatTensor)`, *optional*):
        For each head layer, the probability of each group, `(batch_size, heads, num_regions, groups)`.
    summary_attentions (`tuple(torch.FloatTensor)`, *optional*):
        For each head layer, the attention of each region to the summary of each block,
        `(batch_size, heads, num_regions, blocks)`.
    fusion_weights (`tuple(torch.FloatTensor)`, *optional*):
        For each head layer, the weights of the self-attention and of the grouped attention.
    """

    loss: torch.Tensor | None = None
    loss_dict: dict[str, torch.Tensor] | None = None
    logits: torch.Tensor | None = None
    pred_boxes: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    group_ids: tuple[torch.Tensor, ...] | None = None
    group_probs: tuple[torch.Tensor, ...] | None = None
    summary_attentions: tuple[torch.Tensor, ...] | None = None
    fusion_weights: tuple[torch.Tensor, ...] | None = None


class RegionClassifier(nn.Module):
    """The class of each region, (B, Q, D) -> (B, Q, C + 1), and what moves its box, time after time."""

    weight = None  # when PEFT merges, it reads the `weight` of each module that it saved, even of one that has none

    def __init__(self, config: SelfAttnConfig):
        super().__init__()
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.label = nn.Linear(config.hidden_size, config.num_labels + 1)
        self.refiners = nn.ModuleList(BoxRefiner(config) for _ in range(REFINEMENTS))

    def forward(self, features_BQD: Tensor) -> Tensor:
        return self.label(self.dropout(features_BQD))


@auto_docstring
class SelfAttnForObjectDetection(SelfAttnPreTrainedModel):
    main_input_name = "pixel_values"
    accepts_loss_kwargs = False  # the losses are means over places and regions, which `Trainer` cannot count

    def __init__(self, config: SelfAttnConfig, **options: Any):
        super().__init__(config, **options)
        self.num_labels = config.num_labels
        self.model = SelfAttnImageModel(config)
        self.model.read_finest()
        self.regions = RegionProposer(config, self.model.cell)
        self.classifier = RegionClassifier(config)
        self.post_init()

    @classmethod
    def from_backbone(cls, name_or_path: str, **options: Any) -> "SelfAttnForObjectDetection":
        if "num_mixed_layers" not in options:
            fields = options.get("backbone_options") or {}
            found = open_backbone_config(name_or_path, options.get("hub_options") or {}, fields, cls.main_input_name)
            side = options.get("subsequence_length") or image_size(found)
            options["num_mixed_layers"] = layers_to_mix(found, side)
        return super().from_backbone(name_or_path, **options)

    def train(self, mode: bool = True) -> "SelfAttnForObjectDetection":
        super().train(mode)
        for module in self.model.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()  # statistics of the few images of a batch are noise: they are kept, as in Faster R-CNN
        return self

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        labels: list[dict[str, torch.Tensor]] | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor] | SelfAttnObjectDetectionOutput:
        r"""
        pixel_mask (`torch.Tensor` of shape `(batch_size, height, width)`, *optional*):
            1 at the pixels of each image, which stand at the top left, and 0 at padding, which changes nothing: images
            of different sizes are read apart.
        labels (`list[dict]`, *optional*):
            For each image `class_labels` (`(num_boxes,)` class numbers) and `boxes` (`(num_boxes, 4)` as (centre x,
            centre y, width, height), relative to the image without its padding); an image may have none.

        In evaluation mode one of several regions that answer the same class for the same place stays, and the others
        answer "no object": `post_process_object_detection` of DETR's image processor has nothing left to suppress.
        """
        want = wanted_outputs(self, kwargs)
        record = bool(want["output_attentions"]) and returns_weights(self)
        truth = None if labels is None else checked_labels(labels, self.num_labels, pixel_values)
        groups = images_by_size(pixel_values, pixel_mask)
        parts = []
        for (height, width), rows in groups.items():
            shown = [truth[row].boxes_G4 for row in rows] if truth is not None and self.training else []
            parts.append(self.propose(pixel_values[rows, :, :height, :width], shown))
        order = [row for rows in groups.values() for row in rows]
        features, grid, boxes, lengths_B = joined_regions(parts, order, self.config.num_proposals)
        heads = self.model.heads.attend(features, lengths_B, record)
        logits = self.classifier(heads.features).float()
        is_real = torch.arange(boxes.shape[1], device=boxes.device) < lengths_B[:, None]
        moves = self.moved(parts, order, grid, boxes, heads.features)
        found = moved_boxes(*moves[-1]).clamp(0, 1)
        losses = None
        if truth is not None:
            of_parts = [[truth[row] for row in rows] for rows in groups.values()]
            losses = place_losses(parts, of_parts) | region_losses(logits, moves, is_real, truth)
        is_inside = is_real & (found[..., 2:] > found[..., :2]).all(dim=-1)  # others were moved out of the image
        is_answer = is_real if self.training else is_inside & stands_alone(logits, found, is_inside)
        return SelfAttnObjectDetectionOutput(
            loss=None if losses is None else torch.stack(list(losses.values())).sum(),
            loss_dict=losses,
            logits=torch.where(is_answer[..., None], logits, no_object(logits)),
            pred_boxes=corners_to_center_format(found),
            last_hidden_state=heads.features,
            **heads.as_fields(None) if record else {},
        )

    def propose(self, pixel_values: Tensor, shown: list[Tensor]) -> Regions:
        """Return the regions of images of one size; boxes (G, 4) of each that are shown stand among them."""
        found = self.model.backbone_features(pixel_values=pixel_values)
        height, width = cast(tuple[int, int], found.map_size)
        features_BND = self.model.heads.standardised(found.layers)[:, found.num_prefix_tokens :]
        extent = tuple(
            covered_share(cells * self.model.cell, pixels, self.model.cell)
            for cells, pixels in ((width, pixel_values.shape[3]), (height, pixel_values.shape[2]))
        )
        return self.regions(features_BND.unflatten(1, (height, width)), extent, shown)

    def moved(
        self, parts: list[Regions], order: list[int], grid_BQF: Tensor, boxes_BQ4: Tensor, features_BQD: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Return boxes (B, Q, 4) before each refinement, which begins where the last one ended, and its deltas."""
        moves: list[tuple[Tensor, Tensor]] = []
        for refine in self.classifier.refiners:
            if moves:
                boxes_BQ4 = moved_boxes(*moves[-1]).detach().clamp(0, 1)
                grid_BQF = grids_in(parts, order, boxes_BQ4)
            moves.append((boxes_BQ4, refine(grid_BQF, features_BQD)))
        return moves


def layers_to_mix(backbone_config: PreTrainedConfig, side: int) -> int:
    """Return how many of a backbone's last layers make the finest map that detection needs: 1 of a transformer."""
    shape, best = measure_backbone(backbone_config, 1, side), 1
    for number in range(1, min(MOST_MIXED, len(shape.maps)) + 1):
        if side // shape.maps[-number][0] < PLACE or shape.widths[-number] > shape.widths[-1]:
            break
        if math.prod(shape.maps[-number]) > math.prod(shape.maps[-best]):
            best = number
    return best


def covered_share(covered: int, pixels: int, cell: int) -> float:
    """Return how much of a side the cells of a map cover: all but a part of a cell, or up to a part more."""
    # Where the size of a cell could not be told, from a side that is no whole number of cells, take the whole side.
    return covered / pixels if abs(covered - pixels) < cell else 1.0


def images_by_size(pixel_values: Tensor, pixel_mask: Tensor | None) -> dict[tuple[int, int], list[int]]:
    """Return the rows of the batch in which images of each size stand, by height and width in pixels."""
    rows: dict[tuple[int, int], list[int]] = {}
    for row, size in enumerate(real_sizes(pixel_values, pixel_mask)):
        rows.setdefault(size, []).append(row)
    return rows


def joined_regions(parts: list[Regions], order: list[int], least: int) -> tuple[Tensor, ...]:
    """Return features and grids, boxes (B, Q, 4) and numbers (B,) of the regions of all images, in the batch's order.

    Args:
        order: the row in the batch of each image of the parts.
        least: that Q is at least, so that batches can be put together.
    """
    place = torch.tensor(order).argsort().to(parts[0].boxes_BQ4.device)
    joined = [
        pad_sequence([row for part in parts for row in getattr(part, name)], batch_first=True)[place]
        for name in ("features_BQD", "grid_BQF", "boxes_BQ4")
    ]
    missing = (0, 0, 0, max(0, least - joined[0].shape[1]))
    return (*(F.pad(values, missing) for values in joined), torch.cat([part.lengths_B for part in parts])[place])


def grids_in(parts: list[Regions], order: list[int], boxes_BQ4: Tensor) -> Tensor:
    """Return (B, Q, F) the grids of other boxes of the images of parts."""
    rows_of_parts = torch.tensor(order).split([len(part.lengths_B) for part in parts])
    grids = [
        read_grid(part.fine_BHWC, boxes_BQ4[rows], part.extent)
        for part, rows in zip(parts, rows_of_parts, strict=True)
    ]
    return torch.cat(grids)[torch.tensor(order).argsort()]


@dataclass
class TrueBoxes:
    """What there is in an image."""

    labels_G: Tensor
    boxes_G4: Tensor  # corners, inside the image


def checked_labels(labels: list[dict[str, Tensor]], num_labels: int, pixel_values: Tensor) -> list[TrueBoxes]:
    """Return what there is in each image, of labels as `forward` documents them."""
    if len(labels) != len(pixel_values):
        raise ValueError(
            f"labels has {len(labels)} dicts, but there are {len(pixel_values)} images: give one for each."
        )
    truth = []
    for row, label in enumerate(labels):
        if missing := {"class_labels", "boxes"} - set(label):
            raise ValueError(f"labels[{row}] has no {sorted(missing)}: each is a dict of class_labels and boxes.")
        classes, boxes = (label[name].to(pixel_values.device) for name in ("class_labels", "boxes"))
        if classes.dim() != 1 or boxes.shape != (len(classes), 4):
            raise ValueError(
                f"labels[{row}] has class_labels of shape {tuple(classes.shape)} and boxes of {tuple(boxes.shape)}: "
                "they must be (num_boxes,) and (num_boxes, 4)."
            )
        corners = center_to_corners_format(boxes.float())
        is_box = (boxes[:, 2:] > 0).all() & (corners > -TOLERANCE).all() & (corners < 1 + TOLERANCE).all()
        if not bool(is_box & (classes >= 0).all() & (classes < num_labels).all()):
            raise ValueError(
                f"labels[{row}] is {label}. Boxes are (centre x, centre y, width, height), shares of the image's "
                f"width and height, with an area and inside the image; classes are from 0 to {num_labels - 1}."
            )
        truth.append(TrueBoxes(classes.long(), corners.clamp(0, 1)))
    return truth


def place_losses(parts: list[Regions], truth: list[list[TrueBoxes]]) -> dict[str, Tensor]:
    """Return the losses of the places of maps: whether an object's middle is there, and its box."""
    entropies, positives, box_losses = [], [], []
    for regions, boxes in zip(parts, truth, strict=True):
        matched_BN = torch.stack([object_at_places(regions.references_N4, true.boxes_G4) for true in boxes])
        is_object_BN = matched_BN >= 0
        targets = boxes_shown(matched_BN, boxes)
        references = regions.references_N4.expand_as(regions.deltas_BN4)[is_object_BN]
        box_losses.append(box_loss(references, regions.deltas_BN4[is_object_BN], targets))
        entropy = F.binary_cross_entropy_with_logits(regions.objectness_BN, is_object_BN.float(), reduction="none")
        entropies.append(entropy.flatten())
        positives.append(is_object_BN.flatten())
    objectness = balanced_mean(torch.cat(entropies), torch.cat(positives), NEGATIVES["places"])
    return {"loss_objectness": objectness, "loss_proposals": mean_or_zero(torch.cat(box_losses))}


def region_losses(
    logits_BQC: Tensor, moves: list[tuple[Tensor, Tensor]], is_real_BQ: Tensor, truth: list[TrueBoxes]
) -> dict[str, Tensor]:
    """Return the losses of the regions: the class of each, and every move of the box of those that show an object."""
    box_losses = []
    matches = [objects_in_regions(boxes_BQ4, is_real_BQ, truth) for boxes_BQ4, _ in moves]
    for (boxes_BQ4, deltas_BQ4), matched_BQ in zip(moves, matches, strict=True):
        shows = matched_BQ >= 0
        losses = box_loss(boxes_BQ4[shows], deltas_BQ4[shows], boxes_shown(matched_BQ, truth))
        box_losses.append(mean_or_zero(losses))
    targets_BQC = class_targets(moved_boxes(*moves[-1]), matches[0], truth, logits_BQC.shape[-1])
    entropies = F.cross_entropy(logits_BQC[is_real_BQ], targets_BQC[is_real_BQ], reduction="none")
    is_object = (matches[0] >= 0)[is_real_BQ]
    return {
        "loss_class": balanced_mean(entropies, is_object, NEGATIVES["regions"]),
        "loss_boxes": torch.stack(box_losses).sum(),
    }


def boxes_shown(matched_BN: Tensor, truth: list[TrueBoxes]) -> Tensor:
    """Return (P, 4) the true box of each place or region that shows one, image by image."""
    return torch.cat([true.boxes_G4[row[row >= 0]] for true, row in zip(truth, matched_BN, strict=True)])


@torch.no_grad()
def class_targets(found_BQ4: Tensor, matched_BQ: Tensor, truth: list[TrueBoxes], num_classes: int) -> Tensor:
    """Return (B, Q, C + 1) the probabilities that regions shall answer: that of an object is its overlap with the box.

    So the surest of several boxes is the tightest (Li et al., 2020, "Generalized Focal Loss").
    """
    shows = matched_BQ >= 0
    labels = torch.cat([true.labels_G[row[row >= 0]] for true, row in zip(truth, matched_BQ, strict=True)])
    overlap = box_overlap(found_BQ4[shows], boxes_shown(matched_BQ, truth))[0]
    targets_BQC = found_BQ4.new_zeros(*matched_BQ.shape, num_classes)
    targets_BQC[shows] = F.one_hot(labels, num_classes) * overlap[:, None]
    targets_BQC[..., -1] = 1 - targets_BQC.sum(dim=-1)
    return targets_BQC


def object_at_places(references_N4: Tensor, boxes_G4: Tensor) -> Tensor:
    """Return (N,) the true box in whose middle each place stands, the smallest of several, or -1.

    The middle is a quarter of the box to each side of its centre, and half a place at least: no box goes without one.
    """
    centre_N12, size_N12 = (x[:, None] for x in centre_and_size(references_N4))
    centre_G2, size_G2 = centre_and_size(boxes_G4)
    reach = torch.maximum(size_G2 * MIDDLE, size_N12 * (0.5 / REFERENCE) * (1 + 1e-4))
    is_near_NG = ((centre_N12 - centre_G2).abs() <= reach).all(dim=-1)
    areas_NG = torch.where(is_near_NG, box_area(boxes_G4), torch.inf)
    return F.pad(areas_NG, (1, 0), value=2.0).argmin(dim=1) - 1  # an area is 1 at most


def objects_in_regions(boxes_BQ4: Tensor, is_real_BQ: Tensor, truth: list[TrueBoxes]) -> Tensor:
    """Return (B, Q) the true box that each real region shows, or -1."""
    rows = [object_in_regions(row, true.boxes_G4) for row, true in zip(boxes_BQ4, truth, strict=True)]
    return torch.stack(rows).masked_fill(~is_real_BQ, -1)


def object_in_regions(boxes_Q4: Tensor, true_boxes_G4: Tensor) -> Tensor:
    """Return (Q,) the true box that each region overlaps most, or -1 where it overlaps none by half."""
    return F.pad(pairwise_iou(boxes_Q4, true_boxes_G4), (1, 0), value=SAME_OBJECT).argmax(dim=1) - 1


def box_loss(boxes: Tensor, deltas: Tensor, targets: Tensor) -> Tensor:
    """Return the loss (N,) of deltas (N, 4) that are to move boxes to targets: their distance, and 1 - GIoU."""
    distance = F.smooth_l1_loss(deltas, deltas_between(boxes, targets), reduction="none").sum(dim=-1)
    return distance + 1 - generalised_iou(moved_boxes(boxes, deltas), targets)


def balanced_mean(losses: Tensor, is_positive: Tensor, negatives: float) -> Tensor:
    """Return the weighted mean of losses (N,) in which the negatives count as much as `negatives` for each positive.

    Faster R-CNN draws so many of them at random; this is what the draw expects, without its noise.
    """
    num_positives = is_positive.sum()
    num_negatives = (len(losses) - num_positives).clamp(min=1)
    share = (negatives * num_positives.clamp(min=1) / num_negatives).clamp(max=1)
    weights = torch.where(is_positive, 1.0, share)
    return (losses * weights).sum() / weights.sum().clamp(min=SMALLEST)


def mean_or_zero(losses: Tensor) -> Tensor:
    """Return the mean of losses (N,), or 0 of none."""
    return losses.sum() / max(len(losses), 1)


@torch.no_grad()
def stands_alone(logits_BQC: Tensor, boxes_BQ4: Tensor, is_real_BQ: Tensor) -> Tensor:
    """Return (B, Q) which regions double none that answers the same class for the same place with more certainty."""
    scores_BQ, labels_BQ = logits_BQC.softmax(dim=-1)[..., :-1].max(dim=-1)
    order_BQ = scores_BQ.masked_fill(~is_real_BQ, -1).argsort(dim=1, descending=True, stable=True)
    boxes_BQ4, labels_BQ = boxes_BQ4.take_along_dim(order_BQ[..., None], 1), labels_BQ.gather(1, order_BQ)
    return undoubled(boxes_BQ4, SAME_ANSWER, labels_BQ).gather(1, order_BQ.argsort(dim=1))


def no_object(logits_BQC: Tensor) -> Tensor:
    """Return logits of the same shape that answer "no object"."""
    return F.pad(torch.zeros_like(logits_BQC[..., :-1]), (0, 1), value=SURE)


__all__ = ["SelfAttnForObjectDetection"]
