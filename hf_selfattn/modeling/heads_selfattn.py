# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""Everything between backbone and task head: layer mix, the two attentions, and their learned weighted sum.

Shape suffixes: B rows, N tokens, D features, H heads, K blocks, W tokens of a block, G groups.
"""

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention_selfattn import GroupedAttentionHead, HeadMasks, SelfAttentionHead, head_masks, takes_packed_rows
from .configuration_selfattn import SelfAttnConfig
from .subsequences_selfattn import first_tokens, pack, row_starts, unpack

LONGEST_SPAN = 20  # tokens that `masked_layers` hides at most


@dataclass
class HeadsOutput:
    """What `SelfAttnHeads` returns; the lists have one entry per head layer and are empty unless asked for."""

    features: Tensor  # (B, N, D) the weighted sum
    group_ids: tuple[Tensor, ...]  # (B, H, N) the group of each token in each head
    group_probs: tuple[Tensor, ...]  # (B, H, N, G) softmax of the similarity to each group
    summary_attentions: tuple[Tensor, ...]  # (B, H, N, K) attention of each token to the summary of each block
    fusion_weights: tuple[Tensor, ...]  # (2,) weights of the self-attention and of the grouped attention

    def as_fields(self, inverse_BN: Tensor | None) -> dict[str, tuple[Tensor, ...]]:
        """Return the fields that a model's output takes over, their tokens in the order of the input."""
        per_token = {
            "group_ids": self.group_ids,
            "group_probs": self.group_probs,
            "summary_attentions": self.summary_attentions,
        }
        if inverse_BN is not None:
            for name, layers in per_token.items():
                per_token[name] = tuple(
                    layer.take_along_dim(inverse_BN[:, None] if layer.dim() == 3 else inverse_BN[:, None, :, None], 2)
                    for layer in layers
                )
        return {**per_token, "fusion_weights": self.fusion_weights}


def build_norm(config: SelfAttnConfig) -> nn.Module:
    """Return the normalisation layer that the configuration names."""
    kind = {"layernorm": nn.LayerNorm, "rmsnorm": nn.RMSNorm}[config.norm_type]
    return kind(config.hidden_size, eps=config.norm_eps)


def normed(norm: nn.Module, x: Tensor) -> Tensor:
    """Return normalised features, in the type of the weights: PEFT casts those of frozen heads, but no features."""
    return norm(x.to(cast(Tensor, norm.weight).dtype))


class ConvolutionHead(nn.Module):
    """What stands just before and after a token, in its order: the convolution of Conformer (Gulati et al., 2020).

    Shape: (B, N, D) -> (B, N, D).
    """

    def __init__(self, config: SelfAttnConfig):
        super().__init__()
        width = config.hidden_size
        self.gate = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, config.convolution_width, padding="same", groups=width)
        self.output = nn.Linear(width, width)

    def forward(self, features_BND: Tensor, masks: HeadMasks) -> Tensor:
        is_real_BN1 = first_tokens(masks.lengths_B, features_BND.shape[1])[..., None]
        gated_BND = F.glu(self.gate(features_BND), dim=-1).masked_fill(~is_real_BN1, 0)
        return self.output(F.silu(self.depthwise(gated_BND.transpose(1, 2)).transpose(1, 2)))


class SelfAttnLayer(GradientCheckpointingLayer):
    """Self-attention, grouped attention on its result, and the weighted sum `x + w_self * a + w_group * g`.

    Where there is a convolution, its result is added to what both attentions read, with a learned weight, too.
    """

    def __init__(self, config: SelfAttnConfig):
        super().__init__()
        self.config = config
        self.self_attention = SelfAttentionHead(config) if config.num_self_attention_heads else None
        self.grouped_attention = GroupedAttentionHead(config) if config.num_grouped_attention_heads else None
        self.self_norm = build_norm(config) if self.self_attention else None
        self.grouped_norm = build_norm(config) if self.grouped_attention else None
        self.convolution = ConvolutionHead(config) if config.convolution_width else None
        self.convolution_norm = build_norm(config) if self.convolution else None
        self.dropout = nn.Dropout(config.head_dropout)
        weight_kind = nn.Buffer if config.fusion == "fixed" else nn.Parameter
        self.fusion_weight = weight_kind(torch.empty(2))
        self.convolution_weight = weight_kind(torch.empty(1)) if self.convolution else None

    def reset_weights(self) -> None:
        """Fill what the layer holds itself, unless it was loaded."""
        init.constant_(self.fusion_weight, self.config.fusion_init)
        if self.convolution_weight is not None:
            init.constant_(self.convolution_weight, self.config.fusion_init)

    def convolved(self, features_BND: Tensor, masks: HeadMasks) -> Tensor:
        """Return what the attentions read: the features and, where there is one, the convolution of them."""
        if self.convolution is None or self.convolution_norm is None:
            return features_BND
        c = self.convolution(normed(self.convolution_norm, features_BND), masks)
        return features_BND + self.convolution_weight * self.dropout(c)

    def forward(
        self, features_BND: Tensor, masks: HeadMasks, output_attentions: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        x = y = self.convolved(features_BND, masks)
        record: tuple[Tensor, ...] = ()
        if self.self_attention is not None and self.self_norm is not None:
            a = self.self_attention(normed(self.self_norm, x), masks)
            y = y + self.fusion_weight[0] * self.dropout(a)
            x = x + a
        if self.grouped_attention is not None and self.grouped_norm is not None:
            g, record = self.grouped_attention(normed(self.grouped_norm, x), masks, output_attentions)
            y = y + self.fusion_weight[1] * self.dropout(g)
        return y, record

    def unit_metric(self, features_BND: Tensor, masks: HeadMasks) -> Tensor:
        """Return the vectors (B, N, E), of length 1, in which the grouped attention compares tokens."""
        x, grouped = self.convolved(features_BND, masks), cast(GroupedAttentionHead, self.grouped_attention)
        if self.self_attention is not None and self.self_norm is not None:
            x = x + self.self_attention(normed(self.self_norm, x), masks)
        return grouped.unit_metric(normed(cast(nn.Module, self.grouped_norm), x))


def build_layer_projection(config: SelfAttnConfig) -> nn.ModuleList | None:
    """Return what brings narrower layers to the width of the heads, or None where all are as wide."""
    widths = config.layer_widths or []
    if all(width == config.hidden_size for width in widths):
        return None
    return nn.ModuleList(
        nn.Identity() if width == config.hidden_size else nn.Linear(width, config.hidden_size, bias=False)
        for width in widths
    )


class SelfAttnHeads(nn.Module):
    """Everything that stands on the backbone's features: layer mix, attention layers and fusion weights.

    Several hidden layers are mixed with learned weights that start equal (Peters et al., 2018), each layer multiplied
    by a number of its own, `layer_scale`. Layers narrower than the last one, such as the first stages of a
    convolutional network, are projected to its width before (`layer_projection`). The mixed features are standardised:
    `feature_mean` (D,) is taken off and the rest multiplied by the number `feature_scale`. They are 1, 0 and 1 until a
    pass over data sets them. Encoders give all tokens a large common part, along which a linear head swings as it
    learns (Ethayarajh, 2019; Mu and Viswanath, 2018).

    It is one module with one `forward`, so PEFT can train and save it whole (`modules_to_save`).
    """

    weight = None  # when PEFT merges, it reads the `weight` of each module that it saved, even of one that has none

    def __init__(self, config: SelfAttnConfig):
        super().__init__()
        self.config = config
        mixes = config.num_mixed_layers > 1
        self.layer_weight = nn.Parameter(torch.empty(config.num_mixed_layers)) if mixes else None
        self.layer_scale = nn.Buffer(torch.ones(config.num_mixed_layers)) if mixes else None
        self.layer_projection = build_layer_projection(config)
        self.feature_mean = nn.Buffer(torch.zeros(config.hidden_size))
        self.feature_scale = nn.Buffer(torch.ones(()))
        has_attention = config.num_self_attention_heads or config.num_grouped_attention_heads
        has_attention = has_attention or config.convolution_width
        num_layers = config.num_head_layers if has_attention else 0  # fusion weights of nothing would get no gradient
        self.layers = nn.ModuleList(SelfAttnLayer(config) for _ in range(num_layers))

    def reset_weights(self) -> None:
        """Fill what the heads hold themselves, unless it was loaded."""
        init.zeros_(self.feature_mean)
        init.ones_(self.feature_scale)
        if self.layer_weight is not None and self.layer_scale is not None:
            init.constant_(self.layer_weight, 1 / len(self.layer_weight))
            init.ones_(self.layer_scale)
        for projection in self.layer_projection or ():
            if isinstance(projection, nn.Linear):  # what is projected stays as large as it was
                init.normal_(projection.weight, std=projection.in_features**-0.5)

    def forward(
        self, hidden_states: tuple[Tensor, ...], lengths_B: Tensor | None = None, output_attentions: bool = False
    ) -> HeadsOutput:
        """Mix the hidden layers, (B, N, D) each, of right-padded rows and apply the attention layers.

        Args:
            lengths_B: number of real tokens of each row, or None where no token is padding.
            output_attentions: also return groups, group probabilities, summary attentions and fusion weights.
        """
        if self.training and self.config.spec_augment:
            hidden_states = masked_layers(hidden_states, lengths_B)
        return self.attend(self.standardised(hidden_states), lengths_B, output_attentions)

    def attend(self, features: Tensor, lengths_B: Tensor | None, output_attentions: bool = False) -> HeadsOutput:
        """Apply the attention layers to features (B, N, D) of right-padded rows, such as regions of images."""
        masks, places = head_masks(self.config, features, lengths_B), None
        B, N, _ = features.shape
        if lengths_B is not None and len(self.layers) > 0 and takes_packed_rows(self.config, masks):
            features, places = pack(features, first_tokens(lengths_B, N))
            masks = replace(masks, row_starts=row_starts(lengths_B))
        records = []
        for layer in self.layers:
            features, record = layer(features, masks, output_attentions)
            records.append(record)
        if places is not None:
            features = unpack(features, places, B, N)
        if not output_attentions:
            return HeadsOutput(features, (), (), (), ())
        has_groups = self.config.num_grouped_attention_heads > 0
        group_ids, group_probs, summary_attentions = zip(*records, strict=True) if has_groups else ((), (), ())
        fusion_weights = tuple(cast(Tensor, layer.fusion_weight) for layer in self.layers)
        return HeadsOutput(features, group_ids, group_probs, summary_attentions, fusion_weights)

    def unit_metric(self, hidden_states: tuple[Tensor, ...], lengths_B: Tensor | None, layer: int) -> Tensor:
        """Return the vectors (B, N, E) in which the grouped attention of an attention layer compares tokens."""
        features = self.standardised(hidden_states)
        masks = head_masks(self.config, features, lengths_B)
        for before in self.layers[:layer]:
            features, _ = before(features, masks)
        return cast(SelfAttnLayer, self.layers[layer]).unit_metric(features, masks)

    def standardised(self, hidden_states: tuple[Tensor, ...]) -> Tensor:
        """Return (B, N, D) what the first attention layer reads."""
        return (self.mixed(hidden_states) - self.feature_mean) * self.feature_scale

    def mixed(self, hidden_states: tuple[Tensor, ...]) -> Tensor:
        """Return (B, N, D) the weighted sum of the hidden layers."""
        if self.layer_weight is None or self.layer_scale is None:
            return hidden_states[-1]
        weights_L = self.layer_weight * self.layer_scale
        layers = self.projected(hidden_states)
        return cast(Tensor, sum(weight * x for weight, x in zip(weights_L, layers, strict=True)))

    def projected(self, hidden_states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return hidden layers, (B, N, D) each, of which a narrower one fills the first channels, all D wide."""
        if self.layer_projection is None:
            return hidden_states
        layers = []
        for projection, x in zip(self.layer_projection, hidden_states, strict=True):
            if isinstance(projection, nn.Linear):
                x = projection(x[..., : projection.in_features].to(projection.weight.dtype))
            layers.append(x)
        return tuple(layers)


def masked_layers(hidden_states: tuple[Tensor, ...], lengths_B: Tensor | None) -> tuple[Tensor, ...]:
    """Return hidden layers with spans of tokens and of channels at 0, as SpecAugment masks (Park et al., 2019).

    Of each row two spans of at most `LONGEST_SPAN` tokens and a quarter of it, and two of at most a tenth of the
    channels. 0 is no mean, so heads can tell what is masked.
    """
    B, N, D = hidden_states[-1].shape
    sizes_B = torch.full((B,), N, device=hidden_states[-1].device) if lengths_B is None else lengths_B
    tokens_BN = random_spans(sizes_B, (sizes_B / 4).clamp(max=LONGEST_SPAN), N)
    channels_BD = random_spans(torch.full_like(sizes_B, D), torch.full_like(sizes_B, D) / 10, D)
    is_masked_BND = tokens_BN[:, :, None] | channels_BD[:, None]
    return tuple(layer.masked_fill(is_masked_BND[..., : layer.shape[-1]], 0) for layer in hidden_states)


def random_spans(sizes_B: Tensor, longest_B: Tensor, width: int) -> Tensor:
    """Return (B, width), True in two random spans of each row, of any length up to the longest."""
    length_B2, place_B2 = torch.rand(2, len(sizes_B), 2, device=sizes_B.device)
    length_B2 = length_B2 * longest_B[:, None]
    start_B2 = place_B2 * (sizes_B[:, None] - length_B2)
    position_N = torch.arange(width, device=sizes_B.device)
    is_inside_B2N = (position_N >= start_B2[..., None]) & (position_N < (start_B2 + length_B2)[..., None])
    return is_inside_B2N.any(dim=1)


def mean_of_tokens(features_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
    """Return the mean of the real tokens, (B, D)."""
    if mask_BN is None:
        return features_BND.mean(dim=1)
    is_real_BN1 = mask_BN.bool()[..., None]
    total_BD = features_BND.masked_fill(~is_real_BN1, 0).sum(dim=1)
    return total_BD / is_real_BN1.sum(dim=1).clamp(min=1).to(total_BD.dtype)


def first_token(features_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
    """Return the features of the first real token, (B, D)."""
    if mask_BN is None:
        return features_BND[:, 0]
    first_B11 = mask_BN.bool().long().argmax(dim=1)[:, None, None]
    return features_BND.take_along_dim(first_B11, dim=1)[:, 0]


class PooledClassifier(nn.Module):
    """A linear classifier on the mean of the tokens or on the first token: (B, N, D) -> (B, C)."""

    weight = None  # when PEFT merges, it reads the `weight` of each module that it saved, even of one that has none

    def __init__(self, config: SelfAttnConfig):
        super().__init__()
        self.config = config
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.linear = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, features_BND: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        return self.linear(self.dropout(self.pooled(features_BND, mask_BN)))

    def pooled(self, features_BND: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        """Return (B, D) what the linear layer reads."""
        pool = {"cls": first_token, "mean": mean_of_tokens}[self.config.pooling]
        return pool(features_BND, mask_BN)

    @torch.no_grad()
    def start_from(self, weight_CD: Tensor, bias_C: Tensor) -> None:
        """Answer as a linear model of `pooled` does."""
        self.linear.weight.copy_(weight_CD)
        self.linear.bias.copy_(bias_C)

    def contributions(self, features_BND: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        """Return what each token adds to the logit of each class, (B, C, N); the bias is what is left."""
        is_read_BN = features_BND.new_ones(features_BND.shape[:2]) if mask_BN is None else mask_BN.bool().float()
        if self.config.pooling == "cls":
            is_read_BN = is_read_BN * (is_read_BN.cumsum(dim=1) == 1)
        weights_BN1 = (is_read_BN / is_read_BN.sum(dim=1, keepdim=True))[..., None]
        return (F.linear(features_BND, self.linear.weight) * weights_BN1).transpose(1, 2)


class ClassQueryClassifier(nn.Module):
    """Each class reads the sequence by a learned query of its own, and all of them by a generic one.

    A token has one vote for each class; the logit of a class is the mean of the votes under its own attention plus
    the mean of the generic votes under the generic attention. With all queries at 0, where they start, every mean is
    over all tokens and the classifier is a linear one on mean pooling. After class attention in image transformers
    (Touvron et al., 2021) and multi-head attention pooling.

    Shape: (B, N, D) -> (B, C).
    """

    weight = None  # when PEFT merges, it reads the `weight` of each module that it saved, even of one that has none

    def __init__(self, config: SelfAttnConfig):
        super().__init__()
        self.config = config
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.query = nn.Parameter(torch.empty(config.num_labels + 1, config.hidden_size))
        self.vote = nn.Linear(config.hidden_size, config.num_labels)
        self.generic_vote = nn.Linear(config.hidden_size, config.num_labels, bias=False)

    def reset_weights(self) -> None:
        """Fill what the classifier holds itself, unless it was loaded."""
        init.zeros_(self.query)

    def forward(self, features_BND: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        features_BND = self.dropout(features_BND)
        attention_BQN = self.attention(features_BND, mask_BN)
        own_BC = (attention_BQN[:, :-1] * self.vote(features_BND).transpose(1, 2)).sum(dim=-1)
        generic_BD = (attention_BQN[:, -1:] @ features_BND)[:, 0]
        return own_BC + self.generic_vote(generic_BD)

    def pooled(self, features_BND: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        """Return (B, D) what the votes read where all queries are at 0."""
        return mean_of_tokens(features_BND, mask_BN)

    @torch.no_grad()
    def start_from(self, weight_CD: Tensor, bias_C: Tensor) -> None:
        """Answer as a linear model of `pooled` does, until the queries learn: both votes are half of it."""
        self.vote.weight.copy_(weight_CD / 2)
        self.generic_vote.weight.copy_(weight_CD / 2)
        self.vote.bias.copy_(bias_C)
        self.query.zero_()

    def attention(self, features_BND: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        """Return the attention (B, C + 1, N) of each class's query to the tokens, and of the generic one."""
        attention_BQN = F.linear(features_BND, self.query).transpose(1, 2) * self.config.hidden_size**-0.5
        if mask_BN is not None:
            is_padding_B1N = ~mask_BN.bool()[:, None]
            attention_BQN = attention_BQN.masked_fill(is_padding_B1N, torch.finfo(attention_BQN.dtype).min)
        return F.softmax(attention_BQN, dim=-1, dtype=torch.float32).to(features_BND.dtype)

    def contributions(self, features_BND: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        """Return what each token adds to the logit of each class, (B, C, N); the bias is what is left."""
        attention_BQN = self.attention(features_BND, mask_BN)
        votes_BCN = F.linear(features_BND, self.vote.weight).transpose(1, 2)
        return attention_BQN[:, :-1] * votes_BCN + attention_BQN[:, -1:] * self.generic_vote(features_BND).transpose(
            1, 2
        )


def build_sequence_classifier(config: SelfAttnConfig) -> nn.Module:
    """Return the classifier that the configuration's `pooling` names."""
    return ClassQueryClassifier(config) if config.pooling == "class_query" else PooledClassifier(config)
