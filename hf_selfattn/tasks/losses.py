"""Losses beyond those of the model: weighted, smoothed, focal and ordinal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

LossFunction = Callable[..., Tensor]
LOSSES = {
    "single_label_classification": ("cross_entropy", "focal"),
    "multi_label_classification": ("cross_entropy", "focal"),
    "ordinal": ("ordinal", "cross_entropy", "focal"),
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
    focal_gamma: float = 2.0,
) -> LossFunction | None:
    """Return what `Trainer` takes as `compute_loss_func`, or None where the model's own loss is the one wanted.

    Args:
        references: right answers of the training rows, from which balanced weights are counted.
        label_smoothing: share of the target that is spread evenly over the classes (Szegedy et al., 2016).
        focal_gamma: exponent by which the focal loss plays down rows that are answered well (Lin et al., 2017).

    Raises:
        ValueError: for a loss or an option that the problem does not have.
    """
    kind = kind or LOSSES[problem][0]
    if kind not in LOSSES[problem]:
        raise ValueError(f"loss={kind!r} is unknown for {problem}; it is {' or '.join(map(repr, LOSSES[problem]))}.")
    if problem == "regression":
        if class_weights or label_smoothing:
            raise ValueError("A regression has no classes: leave class_weights and label_smoothing_factor out.")
        return None
    if kind == "cross_entropy" and not class_weights and not label_smoothing:
        return None
    multi_label = problem == "multi_label_classification"
    weights = balanced_weights(references, num_labels) if class_weights == "balanced" else None
    gamma = focal_gamma if kind == "focal" else 0.0

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        logits = outputs["logits"].float()
        weight = None if weights is None else weights.to(logits.device)
        if multi_label:
            losses = binary_losses(logits, labels.to(logits.dtype), weight, label_smoothing, gamma)
        else:
            losses = class_losses(logits, labels, weight, label_smoothing, gamma)
        if kind == "ordinal":
            losses = losses + ordinal_losses(logits, labels)
        return losses.mean() if num_items_in_batch is None else losses.sum() / num_items_in_batch

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


def class_losses(
    logits_BC: Tensor, labels_B: Tensor, weight_C: Tensor | None, smoothing: float, gamma: float
) -> Tensor:
    """Return the cross entropy of each row, (B,), weighted, smoothed, and focal where gamma is above 0."""
    losses = F.cross_entropy(logits_BC, labels_B, weight=weight_C, label_smoothing=smoothing, reduction="none")
    right_B = F.softmax(logits_BC, dim=-1).gather(1, labels_B[:, None])[:, 0]
    return losses if gamma == 0 else losses * (1 - right_B) ** gamma


def binary_losses(
    logits_BC: Tensor, targets_BC: Tensor, weight_C: Tensor | None, smoothing: float, gamma: float
) -> Tensor:
    """Return the binary cross entropy of each row and label, (B, C), as `class_losses` does."""
    smoothed = targets_BC * (1 - smoothing) + smoothing / 2
    losses = F.binary_cross_entropy_with_logits(logits_BC, smoothed, pos_weight=weight_C, reduction="none")
    right_BC = torch.where(targets_BC > 0.5, logits_BC, -logits_BC).sigmoid()
    return losses if gamma == 0 else losses * (1 - right_BC) ** gamma


def ordinal_losses(logits_BC: Tensor, labels_B: Tensor) -> Tensor:
    """Return the squared earth mover's distance of each row from its right class (Hou et al., 2016), (B,).

    It is added to the cross entropy, so that a wrong answer costs more the farther it is off.
    """
    reached_BC = F.softmax(logits_BC, dim=-1).cumsum(dim=-1)
    wanted_BC = (torch.arange(logits_BC.shape[1], device=labels_B.device) >= labels_B[:, None]).to(reached_BC.dtype)
    return (reached_BC - wanted_BC).square().sum(dim=-1)
