"""The object detector: what it learns, what its losses are, and that padding, order and doubles change nothing."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from shapes import SHAPES, shape_images
from torch import Tensor
from transformers import ResNetConfig
from transformers.image_transforms import center_to_corners_format, corners_to_center_format
from transformers.models.detr import DetrImageProcessorPil

from hf_selfattn import SelfAttnConfig, SelfAttnForObjectDetection
from hf_selfattn.metrics import box_metric_values
from hf_selfattn.modeling.detection_selfattn import (
    MIDDLE,
    TrueBoxes,
    balanced_mean,
    class_targets,
    object_at_places,
    object_in_regions,
    stands_alone,
)
from hf_selfattn.modeling.regions_selfattn import moved_boxes, pairwise_iou, reference_boxes

STEPS = 120
EMPTY = {"labels_G": torch.zeros(0, dtype=torch.long), "boxes_G4": torch.zeros(0, 4)}
BACKBONE = ResNetConfig(embedding_size=16, hidden_sizes=[32, 64], depths=[1, 1], layer_type="basic")
SMALL: dict[str, Any] = {
    "num_labels": len(SHAPES),
    "num_proposals": 20,
    "head_dim": 8,
    "group_dim": 8,
    "num_groups": 4,
    "block_size": 8,
    "subsequence_length": 96,
}


def detector(seed: int = 0, **options: Any) -> SelfAttnForObjectDetection:
    torch.manual_seed(seed)
    config = SelfAttnConfig(backbone_config=deepcopy(BACKBONE), **{**SMALL, "fusion_init": 0.7, **options})
    return SelfAttnForObjectDetection(config).eval()


def move_boxes(model: SelfAttnForObjectDetection) -> None:
    """Let the boxes move, which start where they were proposed."""
    for refine in model.classifier.refiners:
        torch.nn.init.normal_(refine.move.weight, std=0.3)


def answers(outputs: Any, sizes: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """What DETR's processor makes of outputs."""
    return DetrImageProcessorPil().post_process_object_detection(outputs, threshold=0.01, target_sizes=sizes)


def in_pixels(labels: list[dict[str, Tensor]], sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
    return [
        {
            "boxes": center_to_corners_format(label["boxes"]) * torch.tensor([width, height] * 2),
            "labels": label["class_labels"],
        }
        for label, (height, width) in zip(labels, sizes, strict=True)
    ]


def average_precision(outputs: Any, labels: list[dict[str, Tensor]], sizes: list[tuple[int, int]]) -> float:
    return box_metric_values(in_pixels(labels, sizes), answers(outputs, sizes), SHAPES)["map_50"]


def test_eight_images_are_learned() -> None:
    model = detector(num_proposals=40, fusion_init=0.0, classifier_dropout=0.0).train()
    images, labels = shape_images(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS, pct_start=0.1)
    for _ in range(STEPS):
        model(images, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    model.eval()
    sizes = [(96, 96)] * 8
    with torch.no_grad():
        outputs = model(images)
    assert average_precision(outputs, labels, sizes) >= 0.95
    found = answers(outputs, sizes)
    for answer in found:
        same = answer["labels"][:, None] == answer["labels"]
        doubles = pairwise_iou(answer["boxes"], answer["boxes"]).triu(diagonal=1) > 0.5
        assert not (same & doubles).any(), "DETR's processor suppresses nothing"
    unseen, their_labels = shape_images(8, seed=1)
    with torch.no_grad():
        assert average_precision(model(unseen), their_labels, sizes) > 0.6


@pytest.mark.parametrize("most", [1, 4])
def test_gradients_reach_every_parameter(most: int) -> None:
    model = detector(num_self_attention_heads=2, num_grouped_attention_heads=2).train()
    images, labels = shape_images(2, most=most)
    outputs = model(images, labels=labels)
    assert set(outputs.loss_dict) == {"loss_objectness", "loss_proposals", "loss_class", "loss_boxes"}
    torch.testing.assert_close(outputs.loss, sum(outputs.loss_dict.values()))
    outputs.loss.backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not without


def no_boxes() -> dict[str, Tensor]:
    return {"class_labels": torch.zeros(0, dtype=torch.long), "boxes": torch.zeros(0, 4)}


@pytest.mark.parametrize("full", [0, 1])
def test_images_without_boxes_train(full: int) -> None:
    model = detector().train()
    images, labels = shape_images(3)
    labels = labels[:full] + [no_boxes()] * (3 - full)
    outputs = model(images, labels=labels)
    outputs.loss.backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())
    assert (outputs.loss_dict["loss_boxes"] == 0) == (full == 0)
    assert outputs.loss_dict["loss_class"] > 0 < outputs.loss_dict["loss_objectness"]


def test_training_is_deterministic() -> None:
    images, labels = shape_images(3)
    gradients = []
    for _ in range(2):
        model = detector(classifier_dropout=0.1).train()
        torch.manual_seed(1)
        model(images, labels=labels).loss.backward()
        gradients.append([weight.grad for weight in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def padded(sizes: list[tuple[int, int]]) -> tuple[list[Tensor], list[dict[str, Tensor]], Tensor, Tensor]:
    """Images of different sizes and their labels, apart and in one batch whose padding is noise."""
    made = [shape_images(1, size, seed=number) for number, size in enumerate(sizes)]
    height, width = (max(size[side] for size in sizes) for side in (0, 1))
    batch = torch.randn(len(sizes), 3, height, width)
    mask = torch.zeros(len(sizes), height, width, dtype=torch.long)
    for row, ((image, _), (h, w)) in enumerate(zip(made, sizes, strict=True)):
        batch[row, :, :h, :w], mask[row, :h, :w] = image[0], 1
    return [image for image, _ in made], [labels[0] for _, labels in made], batch, mask


@torch.no_grad()
def test_padding_and_the_other_images_change_nothing() -> None:
    model = detector()
    move_boxes(model)
    sizes = [(96, 64), (50, 77), (96, 64), (40, 96)]
    images, labels, batch, mask = padded(sizes)
    together = model(batch, pixel_mask=mask, labels=labels)
    assert together.loss.isfinite()
    for row, image in enumerate(images):
        alone = model(image, labels=labels[row : row + 1])
        count = int(model.propose(image, []).lengths_B)
        for name in ("logits", "pred_boxes", "last_hidden_state"):
            assert together[name].shape[1] == model.config.num_proposals, "batches can be put together"
            torch.testing.assert_close(together[name][row, :count], alone[name][0, :count], atol=1e-5, rtol=1e-4)
        assert (together.logits[row, count:].argmax(dim=-1) == len(SHAPES)).all(), "what is no region is no object"


@pytest.mark.parametrize("mask", ["hole", "right", "other"])
def test_masks_that_are_no_padding_are_refused(mask: str) -> None:
    made = {"hole": torch.ones(1, 32, 32), "right": torch.ones(1, 32, 32), "other": torch.ones(1, 32, 30)}[mask]
    made[0, :3, :3] = 0
    if mask == "right":
        made[0, :, :9] = 0
    with pytest.raises(ValueError, match="pixel_mask"):
        detector()(torch.zeros(1, 3, 32, 32), pixel_mask=made)


@torch.no_grad()
def test_regions_read_one_another_unless_the_attention_is_off() -> None:
    for heads in (2, 0):
        model = detector(num_self_attention_heads=heads, num_grouped_attention_heads=heads, num_proposals=6)
        features, boxes = torch.randn(1, 6, 64), torch.tensor([6])
        changed = features.clone()
        changed[0, 5] += 1
        once, again = (model.model.heads.attend(x, boxes).features for x in (features, changed))
        moved = (once != again).any(dim=-1)[0]
        assert moved.tolist() == ([True] * 6 if heads else [False] * 5 + [True])


@torch.no_grad()
def test_attention_over_regions_is_returned() -> None:
    model = detector(attn_implementation="eager", block_size=4, num_grouped_attention_heads=3)
    outputs = model(shape_images(2)[0], output_attentions=True)
    B, Q, _ = outputs.logits.shape
    assert outputs.group_ids[0].shape == (B, 3, Q) and outputs.summary_attentions[0].shape[:3] == (B, 3, Q)
    assert outputs.fusion_weights[0].tolist() == pytest.approx([0.7, 0.7])


@torch.no_grad()
def test_doubles_answer_no_object() -> None:
    boxes = torch.tensor([[[0, 0, 0.4, 0.4], [0, 0, 0.41, 0.4], [0, 0, 0.4, 0.41], [0.5, 0.5, 1, 1]]])
    logits = torch.tensor([[[1.0, 0, 0], [2.0, 0, 0], [0, 1.5, 0], [0.5, 0, 0]]])
    real = torch.ones(1, 4, dtype=torch.bool)
    assert stands_alone(logits, boxes, real).tolist() == [[False, True, True, True]]
    real[0, 1] = False
    assert stands_alone(logits, boxes, real).tolist()[0][0]


def test_places_in_the_middle_of_a_box_answer_for_it() -> None:
    references = reference_boxes(6, 8, (1.0, 1.0), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(30, 2, generator=generator)
    boxes = torch.cat(
        [corner, torch.minimum(corner + torch.rand(30, 2, generator=generator) * 0.6, torch.ones(()))], 1
    )
    boxes[0] = torch.tensor([0, 0, 0.01, 0.01])  # less than a place, in the corner
    boxes[1] = torch.tensor([0.995, 0.2, 1, 0.9])
    boxes[2] = torch.tensor([0, 0, 1, 1])
    matched = object_at_places(references, boxes)
    centres = (references[:, :2] + references[:, 2:]) / 2
    for place, centre in enumerate(centres):
        near = []
        for number, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
            reach = max(MIDDLE * (x1 - x0), 0.5 / 8 + 1e-5), max(MIDDLE * (y1 - y0), 0.5 / 6 + 1e-5)
            away = abs(centre[0] - (x0 + x1) / 2), abs(centre[1] - (y0 + y1) / 2)
            if away[0] <= reach[0] and away[1] <= reach[1]:
                near.append(((x1 - x0) * (y1 - y0), number))
        assert matched[place] == (min(near)[1] if near else -1)
    for number in range(30):
        assert (object_at_places(references, boxes[number : number + 1]) == 0).any(), "no box goes without a place"
    assert (object_at_places(references, boxes[:0]) == -1).all()


def test_regions_show_what_they_overlap_by_half() -> None:
    regions = torch.tensor([[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.3], [0.2, 0.2, 0.9, 0.9], [0.6, 0.6, 0.7, 0.7]])
    truth = torch.tensor([[0.25, 0.25, 0.9, 0.9], [0, 0, 0.5, 0.5]])
    assert object_in_regions(regions, truth).tolist() == [1, 1, 0, -1]
    assert object_in_regions(regions, truth[:0]).tolist() == [-1] * 4


@torch.no_grad()
def test_each_refinement_begins_where_the_last_one_ended() -> None:
    model, (images, _) = detector(), shape_images(2)
    start = corners_to_center_format(model.propose(images, []).boxes_BQ4)
    torch.testing.assert_close(model(images).pred_boxes, start, atol=2e-3, rtol=0)
    move_boxes(model)
    regions = model.propose(images, [])
    (start, first), (between, second) = model.moved(
        [regions], [0, 1], regions.grid_BQF, regions.boxes_BQ4, regions.features_BQD
    )
    assert torch.equal(start, regions.boxes_BQ4) and first.any() and second.any()
    torch.testing.assert_close(between, moved_boxes(start, first).clamp(0, 1))


def test_an_object_is_as_probable_as_its_box_is_right() -> None:
    found = torch.tensor([[[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.25], [0.6, 0.6, 0.7, 0.7]], [[0.0, 0, 1, 1]] * 3])
    truth = [TrueBoxes(torch.tensor([2]), torch.tensor([[0, 0, 0.5, 0.5]])), TrueBoxes(**EMPTY)]
    targets = class_targets(found, torch.tensor([[0, 0, -1], [-1, -1, -1]]), truth, 4)
    assert targets[0].tolist() == [[0, 0, 1, 0], [0, 0, 0.5, 0.5], [0, 0, 0, 1]]
    assert targets[1].tolist() == [[0, 0, 0, 1]] * 3


def test_the_balanced_mean_is_what_a_draw_of_negatives_gives() -> None:
    generator = torch.Generator().manual_seed(0)
    losses, positive = torch.rand(50, generator=generator), torch.arange(50) < 4
    drawn = []
    for _ in range(4000):
        others = 4 + torch.randperm(46, generator=generator)[:12]
        drawn.append(torch.cat([losses[:4], losses[others]]).mean())
    assert balanced_mean(losses, positive, 3.0).item() == pytest.approx(torch.stack(drawn).mean().item(), abs=5e-3)
    assert balanced_mean(losses[:10], positive[:10], 3.0).item() == pytest.approx(losses[:10].mean().item())
    assert balanced_mean(losses, torch.zeros(50, dtype=torch.bool), 3.0).item() == pytest.approx(losses.mean().item())


def test_statistics_of_batches_are_left_alone() -> None:
    model = detector().train()
    before = {name: value.clone() for name, value in model.named_buffers() if "running" in name}
    images, labels = shape_images(2)
    model(images, labels=labels)
    assert before and all(torch.equal(value, dict(model.named_buffers())[name]) for name, value in before.items())


@torch.no_grad()
def test_boxes_lie_in_the_image_and_at_the_scale_of_odd_sides() -> None:
    """A map of 8-pixel cells reaches over the edges of such an image: 7 cells of 50 pixels, 56 in all."""
    model = detector()
    outputs = model(shape_images(2, (50, 61))[0])
    corners = center_to_corners_format(outputs.pred_boxes)
    assert corners.min() > -1e-6 and corners.max() < 1 + 1e-6
    regions = model.propose(torch.zeros(1, 3, 50, 61), [])
    centres = (regions.references_N4[:, :2] + regions.references_N4[:, 2:]) / 2
    torch.testing.assert_close(centres[0] * torch.tensor([61, 50]), torch.tensor([4.0, 4.0]))
    torch.testing.assert_close(centres[-1] * torch.tensor([61, 50]), torch.tensor([60.0, 52.0]))


@torch.no_grad()
def test_a_box_that_leaves_the_image_is_no_answer() -> None:
    model, images = detector(), shape_images(2)[0]
    assert all(len(answer["boxes"]) for answer in answers(model(images), [(64, 64)] * 2))
    for refine in model.classifier.refiners:
        refine.move.bias.copy_(torch.tensor([1e3, 0, 0, 0]))
    assert not any(len(answer["boxes"]) for answer in answers(model(images), [(64, 64)] * 2))


@torch.no_grad()
def test_half_precision_answers_about_the_same() -> None:
    images, _ = shape_images(1)
    model = detector(num_proposals=5)
    whole = model(images)
    half = model.to(torch.bfloat16)(images.to(torch.bfloat16))
    assert half.pred_boxes.dtype == half.logits.dtype == torch.float32 and half.logits.isfinite().all()
    assert half.last_hidden_state.dtype == torch.bfloat16 and whole.last_hidden_state.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.tensor([[48.0, 48, 20, 20]])}, "shares of the image's width"),
        ({"boxes": torch.tensor([[0.9, 0.5, 0.4, 0.1]])}, "inside the image"),
        ({"boxes": torch.tensor([[0.5, 0.5, 0, 0.1]])}, "with an area"),
        ({"boxes": torch.tensor([[0.5, 0.5, float("nan"), 0.1]])}, "with an area"),
        ({"boxes": torch.zeros(2, 4)}, r"must be \(num_boxes,\)"),
        ({"class_labels": torch.tensor([3])}, "from 0 to 2"),
        ({"class_labels": torch.tensor([-1])}, "from 0 to 2"),
    ],
)
def test_odd_labels_are_refused(change: dict[str, Tensor], message: str) -> None:
    label = {"class_labels": torch.tensor([0]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}
    with pytest.raises(ValueError, match=message):
        detector()(torch.zeros(1, 3, 32, 32), labels=[{**label, **change}])


def test_labels_are_one_dict_for_each_image() -> None:
    with pytest.raises(ValueError, match="labels has 1 dicts, but there are 2 images"):
        detector()(torch.zeros(2, 3, 32, 32), labels=[no_boxes()])
    with pytest.raises(ValueError, match=r"labels\[0\] has no \['boxes'\]"):
        detector()(torch.zeros(1, 3, 32, 32), labels=[{"class_labels": torch.tensor([0])}])


def test_boxes_that_reach_the_borders_are_kept() -> None:
    model = detector().train()
    boxes = torch.tensor([[0.1, 0.1, 0.2, 0.2], [0.9, 0.5, 0.2, 1.0], [0.5, 0.5, 1.0, 1.0], [0.5, 0.9995, 1.0, 0.002]])
    labels = [{"class_labels": torch.tensor([0, 1, 2, 0]), "boxes": boxes}]
    loss = model(shape_images(1)[0], labels=labels).loss
    loss.backward()
    assert loss.isfinite() and all(weight.grad.isfinite().all() for weight in model.parameters())
