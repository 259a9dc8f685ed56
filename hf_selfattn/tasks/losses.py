"""Losses beyond those of the model: weighted and ordinal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..modeling.loss_selfattn import mean_loss

LossFunction = Callable[..., Tensor]
LOSSES = {
    "single_label_classification": ("cross_entropy",),
    "multi_label_classification": ("cross_entropy",),
    "ordinal": ("ordinal", "cross_entropy"),
    "regression": ("mse",),
}


def build_loss(
    problem: str,
    references: NDArray[Any],
    num_labels: int,
    *,
    kind: str | None = None,
    class_weights: str | None = None,
    label_smoothing: float = 0.0,
) -> LossFunction | None:
    """Return what `Trainer` takes as `compute_loss_func`, or None where the model's own loss is the one wanted.

    Args:
        problem: one of `LOSSES`.
        references: right answers of the training rows, from which balanced weights are counted.
        num_labels: C.
        kind: name of the loss; the first one of the problem where it is not given.
        class_weights: `balanced`, or None.
        label_smoothing: of `Trainer`, which smooths the plain cross entropy of classes and nothing else.

    Raises:
        ValueError: for a loss or an option that the problem does not have.
    """
    kind = kind or LOSSES[problem][0]
    if kind not in LOSSES[problem]:
        raise ValueError(f"loss={kind!r} is unknown for {problem}; it is {' or '.join(map(repr, LOSSES[problem]))}.")
    if problem == "regression" and class_weights:
        raise ValueError("A regression has no classes: leave class_weights out.")
    is_plain = kind == "cross_entropy" and not class_weights and problem != "multi_label_classification"
    if label_smoothing and not is_plain:
        raise ValueError(
            f"label_smoothing_factor={label_smoothing} smooths the plain cross entropy of classes alone. Leave it "
            f"out, or leave out class_weights and set loss=cross_entropy; the problem here is {problem}."
        )
    if problem == "regression" or (kind == "cross_entropy" and not class_weights):
        return None
    weights = balanced_weights(references, num_labels) if class_weights == "balanced" else None

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        logits = outputs["logits"].float()
        weight = None if weights is None else weights.to(logits.device)
        if problem == "multi_label_classification":
            targets = labels.to(logits.dtype)
            losses = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="none")
        else:
            losses = F.cross_entropy(logits, labels, weight=weight, reduction="none")
        if kind == "ordinal":
            losses = losses + ordinal_losses(logits, labels)
        return losses.mean() if num_items_in_batch is None else losses.sum() / num_items_in_batch

    return loss


def smoothed_loss(smoothing: float) -> LossFunction:
    """Return the smoothed cross entropy of tokens, 0 where none of a batch has a label, which that of `Trainer` is not."""

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        logits, labels = outputs["logits"].float().flatten(0, 1), labels.flatten()
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        return mean_loss(losses, labels, num_items_in_batch)

    return loss


def balanced_weights(references: NDArray[Any], num_labels: int) -> Tensor:
    """Return the weight of each class, N / (C * its rows), or of each label's positives, negatives / positives.

    Args:
        references: (N,) class numbers, or (N, C) 0 and 1. A class without rows has the weight 1.
    """
    if references.ndim == 2:
        positives = references.sum(axis=0)
        ratios = (len(references) - positives) / np.maximum(positives, 1)
    else:
        positives = np.bincount(references, minlength=num_labels)
        ratios = len(references) / (num_labels * np.maximum(positives, 1))
    return torch.tensor(np.where(positives > 0, ratios, 1.0), dtype=torch.float32)


def ordinal_losses(logits_BC: Tensor, labels_B: Tensor) -> Tensor:
    """Return the squared earth mover's distance of each row from its right class (Hou et al., 2016), (B,).

    It is added to the cross entropy, so that a wrong answer costs more the farther it is off.
    """
    reached_BC = F.softmax(logits_BC, dim=-1).cumsum(dim=-1)
    wanted_BC = (torch.arange(logits_BC.shape[1], device=labels_B.device) >= labels_B[:, None]).to(reached_BC.dtype)
    return (reached_BC - wanted_BC).square().sum(dim=-1)
