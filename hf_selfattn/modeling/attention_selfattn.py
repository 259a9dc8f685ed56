# Copyright 2026 The hf_selfattn authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The two attention heads and their learned weighted sum, on the features of any backbone.

Shape suffixes: B rows, N tokens, D features, H heads, K blocks, W tokens of a block, G groups, E width of a head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .blocks_selfattn import attend_in_two_sortings, permute_tokens
from .codebook_selfattn import follow_tokens, hard_codes
from .configuration_selfattn import SelfAttnConfig
from .far_field_selfattn import Blocks, Means, block_means, far_field_slope
from .grouping_selfattn import (
    block_counts,
    group_similarity,
    is_one_block,
    near_and_far_bias,
    sort_by_group,
    window_bias,
)
from .subsequences_selfattn import ceil_div


@dataclass
class HeadMasks:
    """What both heads need to know of the padding, made once for all layers.

    Attributes:
        lengths_B: number of real tokens of each right-padded row.
        window_bias: additive mask of the self-attention, (B, K, W) over its windows, or None where nothing is masked.
        block_bias: additive mask of the grouped attention, (B, K, W + K) over near and far field.
    """

    lengths_B: Tensor
    window_bias: Tensor | None
    block_bias: Tensor


@dataclass
class HeadsOutput:
    """What `SelfAttnHeads` returns; the lists have one entry per head layer and are empty unless asked for.

    Attributes:
        features: (B, N, D) the weighted sum.
        group_ids: (B, H, N) the group of each token in each head.
        group_probs: (B, H, N, G) softmax of the similarity to each group.
        summary_attentions: (B, H, N, K) attention of each token to the summary of each block.
        fusion_weights: (2,) or (2, D) weights of the self-attention and of the grouped attention.
    """

    features: Tensor
    group_ids: tuple[Tensor, ...]
    group_probs: tuple[Tensor, ...]
    summary_attentions: tuple[Tensor, ...]
    fusion_weights: tuple[Tensor, ...]

    def as_fields(self, inverse_BN: Tensor | None) -> dict[str, tuple[Tensor, ...]]:
        """Return the fields that a model's output takes over, their tokens in the order of the input.

        Args:
            inverse_BN: the place of each token of the input, or None where the order is the same.
        """
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


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[Tensor, Tensor]:
    """Attend with plain matrix products; the attention weights are returned.

    Args:
        module: the attention head.
        query: (B, H, Q, E).
        key: (B, H, K, E).
        value: (B, H, K, E).
        attention_mask: additive mask that broadcasts to (B, H, Q, K), or None.
        scaling: factor of the logits.
        dropout: share of the weights set to 0 in training.
    """
    logits = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        logits = logits + attention_mask
    weights = F.softmax(logits, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def window_width(window: int, num_tokens: int) -> int:
    """Return the width of the self-attention's windows; an exported program has one for inputs of any length.

    Args:
        window: the longest window.
        num_tokens: N, the padded length.
    """
    return window if torch.compiler.is_exporting() else min(window, num_tokens)


class SelfAttentionHead(nn.Module):
    """Multi-head attention inside consecutive windows of the features.

    Shape: (B, N, D) -> (B, N, D). A text of up to `attention_window` tokens is one window: full attention.
    """

    def __init__(self, config: SelfAttnConfig):
        super().__init__()
        self.config = config
        self.num_heads = config.num_self_attention_heads
        self.head_dim = config.head_dim
        self.window = config.attention_window
        self.is_causal = False
        width = self.num_heads * self.head_dim
        self.qkv = nn.Linear(config.hidden_size, 3 * width)
        self.output = nn.Linear(width, config.hidden_size)

    def forward(self, features_BND: Tensor, masks: HeadMasks) -> Tensor:
        B, N, _ = features_BND.shape
        W = window_width(self.window, N)
        K = ceil_div(N, W)
        qkv = F.pad(self.qkv(features_BND), (0, 0, 0, K * W - N))
        qkv = qkv.view(B * K, W, 3, self.num_heads, self.head_dim).transpose(1, 3)  # (B * K, H, 3, W, E)
        bias = None
        if masks.window_bias is not None:
            bias = masks.window_bias.reshape(-1, 1, 1, W).to(qkv.dtype)
        attend: Callable[..., tuple[Tensor, Tensor]] = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attended, _ = attend(
            self, qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], bias, scaling=self.head_dim**-0.5, dropout=0.0
        )
        return self.output(attended.reshape(B, -1, self.num_heads * self.head_dim)[:, :N])


class GroupedAttentionHead(nn.Module):
    """Attention across the whole input, precise inside a similarity group and summarised outside it.

    The tokens are sorted by their most similar prototype, those of one by how near they are to it, and cut into equal
    blocks. In one softmax each token attends
    to the tokens of its own block (near field) and to the mean key and value of every other block (far field), as in
    the fast multipole method (Greengard and Rokhlin, 1987); grouping by similarity follows the Reformer (Kitaev et
    al., 2020) and the Routing Transformer (Roy et al., 2021). The logits have the term `metric_scale * u_i . u_j`,
    through which the similarity space u learns from the task. With two sortings each head has two independent sets of
    prototypes, as the hash rounds of the Reformer, and a token attends to its own block in either sorting.

    With `far_field="linear"` the mean values have a correction that is linear in the query (`far_field_slope`): the
    dipole beside the monopole. What it needs is how much attention falls on the means, which a column of ones beside
    their values, and of zeros beside the tokens', brings out of the same softmax.

    Shape: (B, N, D) -> (B, N, D).
    """

    def __init__(self, config: SelfAttnConfig):
        super().__init__()
        self.config = config
        self.num_heads = config.num_grouped_attention_heads
        self.head_dim = config.head_dim
        self.is_linear = config.far_field == "linear"
        # Values, with the column of the far field, are as wide as the keys with their metric part: attention kernels
        # want one width.
        self.value_dim = config.head_dim + config.group_dim - self.is_linear
        self.block_size = config.block_size
        self.num_sortings = config.num_sortings
        self.temperature = config.group_temperature
        self.is_causal = False
        self.qkv = nn.Linear(config.hidden_size, self.num_heads * (2 * self.head_dim + self.value_dim))
        self.metric = nn.Linear(config.hidden_size, config.group_dim, bias=False)
        self.metric_scale = nn.Parameter(torch.ones(self.num_heads))
        num_codebooks = config.num_sortings * self.num_heads  # first all heads of the first sorting
        self.prototypes = nn.Buffer(torch.empty(num_codebooks, config.num_groups, config.group_dim))
        follows = config.codebook == "ema"
        self.prototype_counts = nn.Buffer(torch.zeros(num_codebooks, config.num_groups)) if follows else None
        self.output = nn.Linear(self.num_heads * self.value_dim, config.hidden_size)

    def forward(
        self, features_BND: Tensor, masks: HeadMasks, output_attentions: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        B, N, _ = features_BND.shape
        H, W = self.num_heads, self.block_size
        num_blocks = ceil_div(N, W)
        num_sortings = 1 if is_one_block(num_blocks) else self.num_sortings  # one holds every token in any order
        metric_BNE = self.unit_metric(features_BND)
        prototypes = self.prototypes[: num_sortings * H]
        similarity = group_similarity(metric_BNE, prototypes)
        groups, order, inverse = sort_by_group(similarity, masks.lengths_B, self.config.group_order)
        group_probs = F.softmax(similarity[:, :H] / self.temperature, dim=-1) if output_attentions else None
        metric_BNHE = metric_BNE[:, :, None]
        if self.config.metric_code == "hard":
            metric_BNHE = hard_codes(metric_BNE, prototypes[:H], groups[:, :H])
        places = F.pad(order.transpose(1, 2), (0, 0, 0, num_blocks * W - N))
        inverse = inverse.transpose(1, 2)

        projected = self.qkv(features_BND).unflatten(-1, (H, -1))
        first, *second = (self._sorted_blocks(projected, metric_BNHE, part) for part in places.split(H, dim=-1))
        means = None if is_one_block(num_blocks) else self._means(first, masks.lengths_B)
        summary: Tensor | None = None
        if second and means is not None:
            near_bias, scaling = masks.block_bias[..., :W], self.head_dim**-0.5
            attended, summary = attend_in_two_sortings(
                first, second[0], means, places, inverse, masks.lengths_B, near_bias, scaling
            )
            if self.is_linear:
                in_order = permute_tokens(attended, places[..., :H])
                in_order = self._corrected(in_order, first, means, masks.lengths_B)
                attended = permute_tokens(in_order, inverse[..., :H])
        else:
            attended, weights = self._attend(first, means, masks)
            if self.is_linear:
                attended = self._corrected(attended, first, means, masks.lengths_B)
            attended = permute_tokens(attended, inverse)
            if output_attentions:
                summary = self._summaries(weights, inverse)
        output_BND = self.output(attended.flatten(2))
        if self.training and self.prototype_counts is not None:
            is_real_BN = torch.arange(N, device=features_BND.device) < masks.lengths_B[:, None]
            # Of both sortings, even where one was needed: processes add up, and others may have longer rows.
            all_groups = group_similarity(metric_BNE, self.prototypes).argmax(dim=-1)
            follow_tokens(self.prototypes, self.prototype_counts, metric_BNE, all_groups, is_real_BN)
        if summary is None or group_probs is None:
            return output_BND, ()
        return output_BND, (groups[:, :H], group_probs, summary.transpose(1, 2))

    def unit_metric(self, features_BND: Tensor) -> Tensor:
        """Return the vectors (B, N, E), of length 1, in which tokens are compared.

        Args:
            features_BND: the features that the head reads.
        """
        return F.normalize(self.metric(features_BND), dim=-1)

    def _summaries(self, weights: Tensor, inverse_BNH: Tensor) -> Tensor:
        """Return the part of the weights (B * K, H, W, W + K) that falls on summaries, (B, N, H, K) in token order."""
        B, N, H = inverse_BNH.shape
        num_blocks = len(weights) // B
        if num_blocks == 1:  # the own block is no summary
            return weights.new_zeros(B, N, H, 1)
        summary = weights[..., self.block_size :].transpose(1, 2).reshape(B, -1, H, num_blocks)
        return permute_tokens(summary, inverse_BNH)

    def _sorted_blocks(self, projected_BNHE: Tensor, metric_BNHE: Tensor, places_BMH: Tensor) -> Blocks:
        """Return queries, keys and values in sorted blocks, each (B, K, W, H, E), with the metric in the logits."""
        W = self.block_size
        projected = permute_tokens(projected_BNHE, places_BMH).unflatten(1, (-1, W))
        metric = permute_tokens(metric_BNHE, places_BMH).unflatten(1, (-1, W))
        query, key, value = projected.split([self.head_dim, self.head_dim, self.value_dim], dim=-1)
        scale = (self.metric_scale * self.head_dim**0.5)[:, None].to(metric.dtype)
        value = F.pad(value, (0, 1)) if self.is_linear else value
        return torch.cat([query, metric * scale], dim=-1), torch.cat([key, metric], dim=-1), value

    def _corrected(self, attended_BMHE: Tensor, blocks: Blocks, means: Means | None, lengths_B: Tensor) -> Tensor:
        """Return the output of sorted tokens without the column of the far field, and with its linear term."""
        attended_BMHV, far_share_BMH1 = attended_BMHE.split([self.value_dim, 1], dim=-1)
        if means is None:
            return attended_BMHV
        slope_BMHV = far_field_slope(blocks, means[0], lengths_B, self.head_dim**-0.5)
        return torch.addcmul(attended_BMHV, far_share_BMH1, slope_BMHV)

    def _means(self, blocks: Blocks, lengths_B: Tensor) -> Means:
        """Return the mean key and the mean value of each block, the column of the far field 1."""
        key, value = (block_means(x, lengths_B) for x in blocks[1:])
        return key, F.pad(value[..., :-1], (0, 1), value=1.0) if self.is_linear else value

    def _attend(self, blocks: Blocks, means: Means | None, masks: HeadMasks) -> tuple[Tensor, Tensor]:
        """Attend to the own block and the summaries of the others; return (B, K * W, H, E) and the weights."""
        query, key, value = blocks
        B, K, W, H, E = query.shape
        if means is not None:
            key, value = (
                torch.cat([x, mean[:, None].expand(-1, K, -1, -1, -1)], dim=2)
                for x, mean in zip((key, value), means, strict=True)
            )
        bias = masks.block_bias.to(query.dtype).flatten(0, 1)[:, None, None]
        attend: Callable[..., tuple[Tensor, Tensor]] = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        query, key, value = (x.flatten(0, 1).transpose(1, 2) for x in (query, key, value))
        attended, weights = attend(self, query, key, value, bias, scaling=self.head_dim**-0.5, dropout=0.0)
        return attended.view(B, K * W, H, E), weights


def build_norm(config: SelfAttnConfig) -> nn.Module:
    """Return the normalisation layer that the configuration names.

    Args:
        config: configuration of the heads.
    """
    kind = {"layernorm": nn.LayerNorm, "rmsnorm": nn.RMSNorm}[config.norm_type]
    return kind(config.hidden_size, eps=config.norm_eps)


class SelfAttnLayer(GradientCheckpointingLayer):
    """Self-attention, grouped attention on its result, and the weighted sum `x + w_self * a + w_group * g`."""

    def __init__(self, config: SelfAttnConfig):
        super().__init__()
        self.config = config
        self.self_attention = SelfAttentionHead(config) if config.num_self_attention_heads else None
        self.grouped_attention = GroupedAttentionHead(config) if config.num_grouped_attention_heads else None
        self.self_norm = build_norm(config) if self._normalise_before and self.self_attention else None
        self.grouped_norm = build_norm(config) if self._normalise_before and self.grouped_attention else None
        self.output_norm = None if self._normalise_before else build_norm(config)
        self.dropout = nn.Dropout(config.head_dropout)
        shape = (2, config.hidden_size) if config.fusion == "channel" else (2,)
        weight = torch.empty(shape)
        self.fusion_weight = nn.Buffer(weight) if config.fusion == "fixed" else nn.Parameter(weight)

    @property
    def _normalise_before(self) -> bool:
        return self.config.norm_position == "pre"

    def forward(
        self, features_BND: Tensor, masks: HeadMasks, output_attentions: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        x, y = features_BND, features_BND
        record: tuple[Tensor, ...] = ()
        if self.self_attention is not None:
            a = self.self_attention(x if self.self_norm is None else self.self_norm(x), masks)
            y = y + self.fusion_weight[0] * self.dropout(a)
            x = x + a
        if self.grouped_attention is not None:
            g, record = self.grouped_attention(
                x if self.grouped_norm is None else self.grouped_norm(x), masks, output_attentions
            )
            y = y + self.fusion_weight[1] * self.dropout(g)
        return (y if self.output_norm is None else self.output_norm(y)), record


class SelfAttnHeads(nn.Module):
    """Everything that stands on the backbone's features: layer mix, attention layers and fusion weights.

    The mixed features are standardised: `feature_mean` (D,) is taken off and the rest multiplied by the number
    `feature_scale`. They are 0 and 1 until a pass over data sets them. Encoders give all tokens a large common part,
    along which a linear head swings as it learns (Ethayarajh, 2019; Mu and Viswanath, 2018).

    It is one module with one `forward`, so PEFT can train and save it whole (`modules_to_save`).
    """

    weight = None  # when PEFT merges, it reads the `weight` of each module that it saved, even of one that has none

    def __init__(self, config: SelfAttnConfig):
        super().__init__()
        self.config = config
        self.layer_weight = nn.Parameter(torch.empty(config.num_mixed_layers)) if config.num_mixed_layers > 1 else None
        self.feature_mean = nn.Buffer(torch.zeros(config.hidden_size))
        self.feature_scale = nn.Buffer(torch.ones(()))
        has_attention = config.num_self_attention_heads or config.num_grouped_attention_heads
        num_layers = config.num_head_layers if has_attention else 0  # fusion weights of nothing would get no gradient
        self.layers = nn.ModuleList(SelfAttnLayer(config) for _ in range(num_layers))

    def forward(
        self,
        hidden_states: tuple[Tensor, ...],
        lengths_B: Tensor | None = None,
        output_attentions: bool = False,
    ) -> HeadsOutput:
        """Mix the hidden layers and apply the attention layers.

        Args:
            hidden_states: `num_mixed_layers` tensors (B, N, D) of right-padded rows.
            lengths_B: number of real tokens of each row, or None where no token is padding.
            output_attentions: also return groups, group probabilities, summary attentions and fusion weights.
        """
        features = (self.mixed(hidden_states) - self.feature_mean) * self.feature_scale
        masks = self._masks(features, lengths_B)
        records = []
        for layer in self.layers:
            features, record = layer(features, masks, output_attentions)
            records.append(record)
        if not output_attentions:
            return HeadsOutput(features, (), (), (), ())
        has_groups = self.config.num_grouped_attention_heads > 0
        group_ids, group_probs, summary_attentions = zip(*records, strict=True) if has_groups else ((), (), ())
        fusion_weights = tuple(cast(Tensor, layer.fusion_weight) for layer in self.layers)
        return HeadsOutput(features, group_ids, group_probs, summary_attentions, fusion_weights)

    def mixed(self, hidden_states: tuple[Tensor, ...]) -> Tensor:
        """Return (B, N, D) the weighted sum of the hidden layers.

        Args:
            hidden_states: `num_mixed_layers` tensors (B, N, D).
        """
        if self.layer_weight is None:
            return hidden_states[-1]
        return cast(Tensor, sum(weight * x for weight, x in zip(self.layer_weight, hidden_states, strict=True)))

    def _masks(self, features_BND: Tensor, lengths_B: Tensor | None) -> HeadMasks:
        B, N, _ = features_BND.shape
        W = window_width(self.config.attention_window, N)
        nothing_masked = lengths_B is None and N % W == 0
        if lengths_B is None:
            lengths_B = torch.full((B,), N, device=features_BND.device)
        dtype = features_BND.dtype
        window_counts = block_counts(lengths_B, ceil_div(N, W), W)
        block_size = self.config.block_size
        counts = block_counts(lengths_B, ceil_div(N, block_size), block_size)
        return HeadMasks(
            lengths_B=lengths_B,
            window_bias=None if nothing_masked else window_bias(window_counts, W, dtype),
            block_bias=near_and_far_bias(counts, block_size, dtype),
        )
