# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""The losses of the task heads, and the labels that their scores predict."""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import logging

from .configuration_selfattn import SelfAttnConfig
from .crf_selfattn import LinearChainCRF

logger = logging.get_logger(__name__)


def mean_loss(losses: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor:
    """Return the mean of losses, over the whole batch where gradients are accumulated or several processes train."""
    count = (labels != -100).sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
    return losses.sum() / count.clamp(min=1)  # 0 where no label is


def problem_type_of(config: SelfAttnConfig, labels: Tensor) -> str:
    """Return the configured problem type, or the one that the labels show."""
    if config.problem_type is not None:
        return config.problem_type
    if config.num_labels == 1:
        return "regression"
    is_multi_label = labels.is_floating_point() or labels.dim() > 1
    return "multi_label_classification" if is_multi_label else "single_label_classification"


def sequence_loss(
    config: SelfAttnConfig, logits_BC: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None
) -> Tensor:
    """Return the loss of a sequence classifier, of labels as `forward` documents them."""
    problem_type = problem_type_of(config, labels)
    if problem_type == "single_label_classification":
        labels = labels.flatten()
        return mean_loss(F.cross_entropy(logits_BC, labels, reduction="none"), labels, num_items_in_batch)
    if labels.numel() != logits_BC.numel():
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}, but {problem_type} with num_labels={config.num_labels} needs "
            f"{tuple(logits_BC.shape)}: one number per row and label."
        )
    targets = labels.to(logits_BC.dtype).view_as(logits_BC)
    criterion = F.mse_loss if problem_type == "regression" else F.binary_cross_entropy_with_logits
    losses = criterion(logits_BC, targets, reduction="none").masked_fill(targets == -100, 0)
    return mean_loss(losses, targets, num_items_in_batch)


def labels_of_scores(config: SelfAttnConfig, logits_BC: Tensor) -> Tensor:
    """Return class numbers (B,), 0 and 1 (B, C) by the thresholds of a multi-label problem, or numbers."""
    if config.problem_type == "regression" or config.num_labels == 1:
        return logits_BC.squeeze(-1)
    if config.problem_type != "multi_label_classification":
        return logits_BC.argmax(dim=-1)
    probabilities = logits_BC.float().sigmoid()
    passed = probabilities >= torch.tensor(config.thresholds or [0.5], device=logits_BC.device)
    best = F.one_hot(probabilities.argmax(dim=-1), config.num_labels).bool()
    none_passed = ~passed.any(dim=-1, keepdim=True) & config.top_one_if_none
    return (passed | (best & none_passed)).long()


def tag_losses(logits_BTC: Tensor, labels_BT: Tensor, crf: LinearChainCRF | None, smoothing: float) -> Tensor:
    """Return the losses of a tagger: of each row with a CRF, or of each token."""
    if crf is not None:
        return crf(logits_BTC, labels_BT, labels_BT != -100)
    scores, labels = logits_BTC.flatten(0, 1), labels_BT.flatten()
    return F.cross_entropy(scores, labels, reduction="none", label_smoothing=smoothing)


def loss_is_outside(labels: Tensor | None, num_items_in_batch: Tensor | int | None) -> bool:
    """Return whether `Trainer` computes the loss, of logits that must be the scores that are trained; say so."""
    outside = labels is None and num_items_in_batch is not None
    if outside and not torch.compiler.is_compiling():
        logger.warning_once(
            "label_smoothing_factor and compute_loss_func read logits, so in evaluation these are not decoded. Set "
            "model.label_smoothing instead to have decoded ones."
        )
    return outside
