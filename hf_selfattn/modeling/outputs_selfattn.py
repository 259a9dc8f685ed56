# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""What the models return: losses, the labels that scores predict, and which outputs the caller wants."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.utils import ModelOutput, auto_docstring, logging

from .attention_selfattn import refuse_gradients_of_flex
from .configuration_selfattn import SelfAttnConfig

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


def loss_is_outside(labels: Tensor | None, num_items_in_batch: Tensor | int | None) -> bool:
    """Return whether `Trainer` computes the loss, of logits that must be the scores that are trained; say so."""
    outside = labels is None and num_items_in_batch is not None
    if outside and not torch.compiler.is_compiling():
        logger.warning_once(
            "label_smoothing_factor and compute_loss_func read logits, so in evaluation these are not decoded. Set "
            "model.label_smoothing instead to have decoded ones."
        )
    return outside


# What the documentation of several outputs and models says.
OF_HEADS = r"""
group_ids (`tuple(torch.LongTensor)`, *optional*):
    For each head layer, the group of each token, `(batch_size, heads, sequence_length)`.
group_probs (`tuple(torch.FloatTensor)`, *optional*):
    For each head layer, the probability of each group, `(batch_size, heads, sequence_length, groups)`.
summary_attentions (`tuple(torch.FloatTensor)`, *optional*):
    For each head layer, the attention of each token to the summary of each block,
    `(batch_size, heads, sequence_length, blocks)`.
fusion_weights (`tuple(torch.FloatTensor)`, *optional*):
    For each head layer, the weights of the self-attention and of the grouped attention.
"""
OF_BACKBONE = r"""
hidden_states (`tuple(torch.FloatTensor)`, *optional*):
    The backbone's hidden states, merged where the input was split; None for layers that were not asked for.
attentions (`tuple(torch.FloatTensor)`, *optional*):
    The backbone's attentions; where the input was split, one entry of the batch per window.
"""
CLASSES = r"""
labels (`torch.Tensor`, *optional*):
    `(batch_size,)` class numbers, `(batch_size, num_labels)` 0 and 1 for multi-label classification, or
    `(batch_size,)` numbers for regression.
"""
NUM_ITEMS = r"""
num_items_in_batch (`torch.Tensor` or `int`, *optional*):
    Number of labels that share one update, as `Trainer` counts them.
"""
FEATURES = r"""
features (`torch.Tensor` of shape `(batch_size, sequence_length, num_mixed_layers, hidden_size)`, *optional*):
    The backbone's features of this input, as computed before: the backbone is not run, and `hidden_states` are these
    alone.
"""
PAST = r"""
past_key_values (`~transformers.Cache`, *optional*):
    Keys and values before those of the input, in each window: the prefixes of prefix tuning.
"""
WORDS = r"""
word_starts (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
    1 at the first token of each word, 0 elsewhere. Where it is not given, words begin at every token that the
    tokenizer does not mark as the continuation of one.
labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
    Class numbers at the first token of each word; -100 where a token has no label.
"""
FEATURE_MASK = r"""
feature_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
    1 at real places of `features`, 0 at padding.
"""
SUM = r"""
last_hidden_state (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`):
    The weighted sum of the backbone's features, the self-attention and the grouped attention.
"""
SCORES = r"""
loss (`torch.FloatTensor`, *optional*):
    The loss, where labels were given.
logits (`torch.FloatTensor`):
    `(batch_size, num_labels)` for sequences, `(batch_size, sequence_length, num_labels)` for tokens.
"""


@auto_docstring(custom_args=SUM + OF_BACKBONE + OF_HEADS)
@dataclass
class SelfAttnModelOutput(ModelOutput):
    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    group_ids: tuple[torch.Tensor, ...] | None = None
    group_probs: tuple[torch.Tensor, ...] | None = None
    summary_attentions: tuple[torch.Tensor, ...] | None = None
    fusion_weights: tuple[torch.Tensor, ...] | None = None


@auto_docstring(custom_args=SCORES + OF_BACKBONE + OF_HEADS)
@dataclass
class SelfAttnClassifierOutput(ModelOutput):
    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    group_ids: tuple[torch.Tensor, ...] | None = None
    group_probs: tuple[torch.Tensor, ...] | None = None
    summary_attentions: tuple[torch.Tensor, ...] | None = None
    fusion_weights: tuple[torch.Tensor, ...] | None = None


def without_features(outputs: SelfAttnModelOutput) -> dict[str, Any]:
    """Return the fields of a model output that a task model passes on."""
    return {name: value for name, value in outputs.items() if name != "last_hidden_state"}


def classified(
    model: PreTrainedModel,
    outputs: SelfAttnModelOutput,
    mask_BT: Tensor | None,
    labels: Tensor | None,
    num_items_in_batch: Tensor | int | None,
) -> SelfAttnClassifierOutput:
    """Return loss and calibrated logits of whole inputs, of their features and of which of these are real."""
    if model.training and labels is not None:
        model.config.forget_calibration()
    logits = model.classifier(outputs.last_hidden_state, mask_BT) / model.config.temperature
    loss = None if labels is None else sequence_loss(model.config, logits.float(), labels, num_items_in_batch)
    return SelfAttnClassifierOutput(loss=loss, logits=logits, **without_features(outputs))


def wanted_outputs(model: PreTrainedModel, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return which optional outputs the caller of a model wants: all, none, or the hidden states of some layers."""
    want = {}
    for name in ("output_attentions", "output_hidden_states"):
        asked = kwargs.pop(name, None)
        want[name] = getattr(model.config, name) if asked is None else asked
    if unknown := {name for name, value in kwargs.items() if value is not None}:
        raise ValueError(
            f"{type(model).__name__} does not read {sorted(unknown)}. It takes "
            f"{', '.join(model.base_model.input_names)}, "
            "output_attentions, output_hidden_states, return_dict, and of tokens position_ids that only count them."
        )
    if want["output_attentions"] and not returns_weights(model):
        logger.warning_once(
            f"attn_implementation={model.config._attn_implementation!r} computes no attention weights: what is "
            "returned of them is empty. Load the model with attn_implementation='eager', or call "
            "model.set_attn_implementation('eager')."
        )
    refuse_gradients_of_flex(model.config._attn_implementation, model.base_model.heads)
    return want


def returns_weights(model: PreTrainedModel) -> bool:
    """Return whether a model's attention returns its weights."""
    # Nothing is dispatched here: the user is told which attention returns weights. trf-ignore: TRF051
    return bool(model.config._attn_implementation == "eager")


def wanted_layers(layers: tuple[torch.Tensor, ...], wanted: bool | list[int]) -> tuple[torch.Tensor | None, ...]:
    """Return hidden states: all of them, or None for those that are not in a list of places."""
    if isinstance(wanted, bool):
        return layers
    places = {range(len(layers))[place] for place in wanted}
    return tuple(layer if place in places else None for place, layer in enumerate(layers))
