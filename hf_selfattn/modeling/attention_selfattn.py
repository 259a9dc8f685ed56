# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""The two attentions of the heads, and which kernel computes them.

Shape suffixes: B rows, N tokens, D features, H heads, K blocks, W tokens of a block, G groups, E width of a head.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_selfattn import SelfAttnConfig
from .flex_selfattn import attend_in_blocks, attention_dtype
from .grouping_selfattn import (
    Blocks,
    Means,
    block_counts,
    block_means,
    far_field_slope,
    group_probabilities,
    group_similarity,
    is_one_block,
    near_and_far_bias,
    permute_tokens,
    sort_by_group,
    window_bias,
)
from .subsequences_selfattn import ceil_div

FLEX = "flex_attention"
KERNEL_SWITCH = "HF_SELFATTN_KERNELS"  # of the environment: no GPU has run our kernels yet, so they are asked for
KERNELS = "triton"  # those of `triton_selfattn.py`, for the grouped head
HALF_TYPES = (torch.float16, torch.bfloat16)
WIDEST_KEY, NARROWEST_BLOCK = 128, 16  # that these kernels take
COPIED_AT_ONCE = 2**23  # numbers


@dataclass
class HeadMasks:
    """What both heads need to know of the padding, made once for all layers."""

    lengths_B: Tensor  # number of real tokens of each right-padded row
    window_bias: Tensor | None  # additive mask of the windows, (B, K, W), or None where nothing is masked
    block_bias: Tensor | None  # that of near and far field, (B, K, W + K), or None where kernels know the padding
    window_attention: str  # of `choose_window_attention`
    grouped_attention: str  # of `choose_grouped_attention`
    num_tokens: int  # of the longest row
    row_starts: Tensor | None = None  # of packed rows: where each begins, and behind them the end of the last, (B + 1)


def head_masks(config: SelfAttnConfig, features_BND: Tensor, lengths_B: Tensor | None) -> HeadMasks:
    """Return what both heads need to know of the padding."""
    B, N, _ = features_BND.shape
    device, dtype = features_BND.device, features_BND.dtype
    window, block_size = window_width(config.attention_window, N), window_width(config.block_size, N)
    nothing_masked = lengths_B is None and N % window == 0
    if lengths_B is None:
        lengths_B = torch.full((B,), N, device=device)
    num_blocks = ceil_div(N, block_size)
    told = config._attn_implementation or "eager"  # None where no model told it
    key_width = config.head_dim + config.group_dim
    grouped = choose_grouped_attention(told, device, attention_dtype(features_BND), num_blocks, block_size, key_width)
    window_mask = block_mask = None
    if not nothing_masked:
        window_mask = window_bias(block_counts(lengths_B, ceil_div(N, window), window), window, dtype)
    if grouped not in (FLEX, KERNELS):
        block_mask = near_and_far_bias(block_counts(lengths_B, num_blocks, block_size), block_size, dtype)
    return HeadMasks(
        lengths_B=lengths_B,
        window_bias=window_mask,
        block_bias=block_mask,
        window_attention=choose_window_attention(told, device, attention_dtype(features_BND)),
        grouped_attention=grouped,
        num_tokens=N,
    )


def takes_packed_rows(config: SelfAttnConfig, masks: HeadMasks) -> bool:
    """Return whether the attentions read rows with no padding between them, by kernels that know where rows begin."""
    if torch.compiler.is_compiling() or not asks_for_kernels():  # their size stands in the data, no shape of a graph
        return False
    windows = config.num_self_attention_heads == 0 or is_flash(masks.window_attention)
    return windows and (config.num_grouped_attention_heads == 0 or masks.grouped_attention == KERNELS)


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
    """Attend with plain matrix products, of (B, H, Q, E) and (B, H, K, E); the attention weights are returned."""
    logits = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        logits = logits + attention_mask
    weights = F.softmax(logits, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def window_width(window: int, num_tokens: int) -> int:
    """Return the width of windows or blocks; an exported program has one for inputs of any length."""
    return window if torch.compiler.is_exporting() else min(window, num_tokens)


def first_prototypes(shape: Sequence[int]) -> Tensor:
    """Return random directions (H, G, E), the same in every model, as a buffer is to be before data set it."""
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(0), device="cpu", dtype=torch.float32)
    return F.normalize(numbers, dim=-1)


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
        if masks.row_starts is not None:
            return self.output(self._in_packed_windows(features_BND, masks.row_starts, masks))
        W = window_width(self.window, N)
        K = ceil_div(N, W)
        qkv = F.pad(self.qkv(features_BND), (0, 0, 0, K * W - N))
        qkv = qkv.view(B * K, W, 3, self.num_heads, self.head_dim).transpose(1, 3)  # (B * K, H, 3, W, E)
        if masks.window_attention == FLEX:
            query, key, value = (x.transpose(1, 2).reshape(B, K * W, -1, self.head_dim) for x in qkv.unbind(dim=2))
            attended = attend_in_blocks(query, key, value, None, masks.lengths_B, W, self.head_dim**-0.5)
            return self.output(attended.flatten(2)[:, :N])
        bias = None
        if masks.window_bias is not None:
            bias = masks.window_bias.reshape(-1, 1, 1, W).to(qkv.dtype)
            if is_flash(masks.window_attention):
                bias = bias[:, 0, 0] == 0  # FlashAttention wants which keys are real
        attend: Callable[..., tuple[Tensor, Tensor]] = ALL_ATTENTION_FUNCTIONS.get_interface(
            masks.window_attention, eager_attention_forward
        )
        attended, _ = attend(
            self, qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], bias, scaling=self.head_dim**-0.5, dropout=0.0
        )
        return self.output(attended.reshape(B, -1, self.num_heads * self.head_dim)[:, :N])

    def _in_packed_windows(self, features_1TD: Tensor, row_starts: Tensor, masks: HeadMasks) -> Tensor:
        """Attend inside the windows of packed rows by FlashAttention: (1, T, H * E)."""
        W = window_width(self.window, masks.num_tokens)
        ends_K = torch.arange(W, masks.num_tokens + W, W, device=row_starts.device)
        ends_BK = row_starts[:-1, None] + torch.minimum(ends_K, masks.lengths_B[:, None])  # short rows have empty ones
        bounds = F.pad(ends_BK.flatten(), (1, 0)).int()
        query, key, value = self.qkv(features_1TD).unflatten(-1, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4)
        packing = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": W, "max_length_k": W}
        attend: Callable[..., tuple[Tensor, Tensor]] = ALL_ATTENTION_FUNCTIONS[masks.window_attention]
        attended, _ = attend(self, query, key, value, None, scaling=self.head_dim**-0.5, dropout=0.0, **packing)
        return attended.flatten(2)


class GroupedAttentionHead(nn.Module):
    """Attention across the whole input, precise inside a similarity group and summarised outside it.

    The tokens are sorted by their most similar prototype, those of one by how near they are to it, and cut into equal
    blocks. In one softmax each token attends to the tokens of its own block (near field) and to the mean key and value
    of every other block (far field), as in the fast multipole method (Greengard and Rokhlin, 1987); grouping by
    similarity follows the Reformer (Kitaev et al., 2020) and the Routing Transformer (Roy et al., 2021). The logits
    have the term `metric_scale * u_i . u_j`, through which the similarity space u learns from the task. An input that
    fits into one block is read in full, unsorted.

    The mean values have a correction that is linear in the query (`far_field_slope`): the dipole beside the monopole.
    What it needs is how much attention falls on the means, which a column of ones beside their values, and of zeros
    beside the tokens', brings out of the same softmax.

    Shape: (B, N, D) -> (B, N, D).
    """

    def __init__(self, config: SelfAttnConfig):
        super().__init__()
        self.config = config
        self.num_heads = config.num_grouped_attention_heads
        self.head_dim = config.head_dim
        # Values are as wide as the keys with their metric part: attention kernels want one width. The last column
        # belongs to the linear far field; it is projected all the same, since a product of 444 columns takes half as
        # long again as one of 448.
        projected_dim = config.head_dim + config.group_dim
        self.value_dim = projected_dim - 1
        self.block_size = config.block_size
        self.is_causal = False
        self.qkv = nn.Linear(config.hidden_size, self.num_heads * (2 * self.head_dim + projected_dim))
        self.metric = nn.Linear(config.hidden_size, config.group_dim, bias=False)
        self.metric_scale = nn.Parameter(torch.ones(self.num_heads))
        shape = (self.num_heads, config.num_groups, config.group_dim)
        self.prototypes = nn.Buffer(first_prototypes(shape).to(torch.get_default_device()))
        self.output = nn.Linear(self.num_heads * self.value_dim, config.hidden_size)

    def reset_weights(self) -> None:
        """Fill what the head holds itself, unless it was loaded."""
        init.ones_(self.metric_scale)
        torch.randn_like(self.prototypes)  # they were drawn here once: a seed goes on giving the weights that it gave
        init.copy_(self.prototypes, first_prototypes(self.prototypes.shape))

    def forward(
        self, features_BND: Tensor, masks: HeadMasks, output_attentions: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        if masks.grouped_attention == KERNELS:
            return self.output(self._by_kernels(features_BND, masks).flatten(2)), ()
        N = features_BND.shape[1]
        metric_BNE = self.unit_metric(features_BND)
        attend = self._in_one_block if is_one_block(ceil_div(N, self.block_size)) else self._in_sorted_blocks
        attended, record = attend(features_BND, metric_BNE, masks, output_attentions)
        return self.output(attended.flatten(2)), record

    def _by_kernels(self, features_BND: Tensor, masks: HeadMasks) -> Tensor:
        """Attend as in sorted blocks: (B, N, H, E)."""
        from .triton_selfattn import grouped_attention  # needs Triton, which CPUs can do without

        B, N, _ = features_BND.shape
        starts = masks.row_starts
        if starts is None:
            starts = torch.arange(B + 1, device=features_BND.device) * N
        projected = self.qkv(features_BND).flatten(0, 1).unflatten(-1, (self.num_heads, -1))
        attended = grouped_attention(
            projected,
            self.metric(features_BND).flatten(0, 1),
            self.metric_scale,
            self.prototypes,
            (starts, masks.lengths_B),
            masks.num_tokens,
            self.block_size,
        )
        return attended.unflatten(0, (B, N))

    def _in_one_block(
        self, features_BND: Tensor, metric_BNE: Tensor, masks: HeadMasks, output_attentions: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Attend to every token; one block holds them all in any order, so they are not sorted."""
        B, N, _ = features_BND.shape
        H = self.num_heads
        metric_BNHE = metric_BNE[:, :, None].expand(-1, -1, H, -1)
        record: tuple[Tensor, ...] = ()
        if output_attentions:  # there is no other block
            similarity = group_similarity(metric_BNE, self.prototypes)
            record = (similarity.argmax(dim=-1), group_probabilities(similarity), metric_BNE.new_zeros(B, H, N, 1))
        projected = self.qkv(features_BND).unflatten(-1, (H, -1))
        attended, _ = self._attend(self._blocks(projected[:, None], metric_BNHE[:, None]), None, masks)
        return attended[..., : self.value_dim], record

    def _in_sorted_blocks(
        self, features_BND: Tensor, metric_BNE: Tensor, masks: HeadMasks, output_attentions: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Attend to the own block and to the summaries of the others."""
        N, H, W = features_BND.shape[1], self.num_heads, self.block_size
        similarity = group_similarity(metric_BNE, self.prototypes)
        groups, order, inverse = sort_by_group(similarity, masks.lengths_B)
        places = F.pad(order.transpose(1, 2), (0, 0, 0, ceil_div(N, W) * W - N))
        inverse = inverse.transpose(1, 2)

        projected = self.qkv(features_BND).unflatten(-1, (H, -1))
        blocks = self._sorted_blocks(projected, metric_BNE[:, :, None], places)
        means = self._means(blocks, masks.lengths_B)
        attended, weights = self._attend(blocks, means, masks)
        attended = permute_tokens(self._corrected(attended, blocks, means, masks.lengths_B), inverse)
        if not output_attentions:
            return attended, ()
        summary = self._summaries(cast(Tensor, weights), inverse)
        return attended, (groups, group_probabilities(similarity), summary.transpose(1, 2))

    def unit_metric(self, features_BND: Tensor) -> Tensor:
        """Return the vectors (B, N, E), of length 1, in which tokens are compared."""
        return F.normalize(self.metric(features_BND), dim=-1)

    def _summaries(self, weights: Tensor, inverse_BNH: Tensor) -> Tensor:
        """Return the last K of the weights (B * K, H, W, M), which fall on summaries: (B, N, H, K) in token order."""
        B, _, H = inverse_BNH.shape
        num_blocks = len(weights) // B
        summary = weights[..., -num_blocks:].transpose(1, 2).reshape(B, -1, H, num_blocks)
        return permute_tokens(summary, inverse_BNH)

    def _sorted_blocks(self, projected_BNHE: Tensor, metric_BNHE: Tensor, places_BMH: Tensor) -> Blocks:
        """Return queries, keys and values in sorted blocks, each (B, K, W, H, E), with the metric in the logits."""
        sorted_tokens = (permute_tokens(x, places_BMH) for x in (projected_BNHE, metric_BNHE))
        return self._blocks(*(x.unflatten(1, (-1, self.block_size)) for x in sorted_tokens))

    def _blocks(self, projected: Tensor, metric: Tensor) -> Blocks:
        """Return queries, keys and values, each (B, K, W, H, E), of projections and metric in blocks."""
        E = self.head_dim
        query, key, value = projected.split([E, E, projected.shape[-1] - 2 * E], dim=-1)
        scale = (self.metric_scale * self.head_dim**0.5)[:, None].to(metric.dtype)
        value = F.pad(value[..., :-1], (0, 1))
        return torch.cat([query, metric * scale], dim=-1), torch.cat([key, metric], dim=-1), value

    def _corrected(self, attended_BMHE: Tensor, blocks: Blocks, means: Means, lengths_B: Tensor) -> Tensor:
        """Return the output of sorted tokens without the column of the far field, and with its linear term."""
        attended_BMHV, far_share_BMH1 = attended_BMHE.split([self.value_dim, 1], dim=-1)
        shift_BMHV, damping_BMH1 = far_field_slope(blocks, means[0], lengths_B, self.head_dim**-0.5, self.value_dim)
        corrected = torch.addcmul(attended_BMHV.to(shift_BMHV.dtype), far_share_BMH1 * damping_BMH1, shift_BMHV)
        return corrected.to(attended_BMHE.dtype)

    def _means(self, blocks: Blocks, lengths_B: Tensor) -> Means:
        """Return the mean key and the mean value of each block, the column of the far field 1."""
        key, value = (block_means(x, lengths_B) for x in blocks[1:])
        return key, F.pad(value[..., :-1], (0, 1), value=1.0)

    def _attend(self, blocks: Blocks, means: Means | None, masks: HeadMasks) -> tuple[Tensor, Tensor | None]:
        """Attend to the own block and the summaries of the others; return (B, K * W, H, E) and the weights."""
        query, key, value = blocks
        B, K, W, H, E = query.shape
        scaling = self.head_dim**-0.5
        if masks.block_bias is None:
            query, key, value = (x.flatten(1, 2) for x in blocks)
            return attend_in_blocks(query, key, value, means, masks.lengths_B, W, scaling), None
        attend: Callable[..., tuple[Tensor, Tensor]] = ALL_ATTENTION_FUNCTIONS.get_interface(
            masks.grouped_attention, eager_attention_forward
        )
        bias_BK11 = masks.block_bias[:, :, None, None].to(query.dtype)
        at_once = blocks_at_once(means) if masks.grouped_attention == "sdpa" else None
        if at_once is None:
            inputs = with_means(blocks, means)
            attended, weights = attend(self, *inputs, bias_BK11.flatten(0, 1), scaling=scaling, dropout=0.0)
            return attended.view(B, K * W, H, E), weights
        parts = []
        for some in (slice(start, start + at_once) for start in range(0, K, at_once)):
            inputs = with_means((query[:, some], key[:, some], value[:, some]), means)
            attended, _ = attend(self, *inputs, bias_BK11[:, some].flatten(0, 1), scaling=scaling, dropout=0.0)
            parts.append(attended.view(B, -1, H, E))
        return torch.cat(parts, dim=1), None


def with_means(blocks: Blocks, means: Means | None) -> Blocks:
    """Return queries, keys and values (B * K, H, W, E) of blocks, beside whose keys and values stand the means."""
    query, key, value = blocks
    if means is not None:
        key, value = (
            torch.cat([x, mean[:, None].expand(-1, x.shape[1], -1, -1, -1)], dim=2)
            for x, mean in zip((key, value), means, strict=True)
        )
    query, key, value = (x.flatten(0, 1).transpose(1, 2) for x in (query, key, value))
    return query, key, value


def blocks_at_once(means: Means | None) -> int | None:
    """Return how many blocks are computed together, or None for all: PyTorch's kernel wants all means for each.

    Without gradients, which would keep all copies, memory stays linear in the tokens so.
    """
    if means is None or torch.compiler.is_compiling() or torch.is_grad_enabled():
        return None
    at_once = max(1, COPIED_AT_ONCE // sum(mean.numel() for mean in means))
    return at_once if at_once < means[0].shape[1] else None


def is_flash(implementation: str) -> bool:
    """Return whether Transformers takes a name for FlashAttention's, from its package or from a kernel of the hub."""
    return "flash" in implementation


def has_flex_kernels(device: torch.device) -> bool:
    """Return whether FlexAttention is one kernel on a device: one of Triton, for NVIDIA's Ampere (8.0) and later."""
    if device.type not in ("cuda", "xpu"):
        return False
    if torch.compiler.is_compiling():  # which cannot look for kernels, and makes its own
        return True
    has_triton = find_spec("triton") is not None
    return has_triton and (device.type == "xpu" or torch.cuda.get_device_capability(device) >= (8, 0))


@torch.compiler.assume_constant_result
def has_triton_kernels(device: torch.device) -> bool:
    """Return whether a device runs `triton_selfattn.py`: one of NVIDIA's, and Triton is there."""
    return device.type == "cuda" and runs_triton(device)


def asks_for_kernels() -> bool:
    """Return whether the user wants what no GPU has run yet: our kernels, and packed rows."""
    return os.environ.get(KERNEL_SWITCH) == "1"


@cache
def runs_triton(device: torch.device) -> bool:
    """Return whether Triton is there, asked for, and a CUDA device is NVIDIA's Ampere (8.0) or later."""
    is_nvidia = torch.version.cuda is not None and find_spec("triton") is not None
    return asks_for_kernels() and is_nvidia and torch.cuda.get_device_capability(device) >= (8, 0)


def choose_window_attention(implementation: str, device: torch.device, dtype: torch.dtype) -> str:
    """Return the attention inside the windows, the one that the model was told where it can be had, else PyTorch's."""
    if torch.compiler.is_exporting() and (implementation == FLEX or is_flash(implementation)):
        return "sdpa"
    if is_flash(implementation) and dtype not in HALF_TYPES:  # for which alone it has kernels
        return "sdpa"
    return choose_flex(device, dtype) if implementation == FLEX else implementation


def choose_grouped_attention(
    implementation: str, device: torch.device, dtype: torch.dtype, num_blocks: int, block_size: int, key_width: int
) -> str:
    """Return the attention of the grouped head, whose means need a bias of the logits.

    - "sdpa", a model's default, is this package's own kernels where `KERNEL_SWITCH` asks for them and they apply: on a
      GPU, for rows of several blocks.
      Elsewhere it is FlexAttention where that has kernels and a row has more blocks than a block has tokens: PyTorch's
      kernel wants the K means copied to every block, K * K in all, which are most of the memory beyond that. All
      compute the same logits. While the whole model is compiled it is not FlexAttention.
    - FlashAttention takes no bias: it is our kernels, else FlexAttention where that has kernels, else PyTorch's own.
    - "flex_attention", "eager", or any other attention that takes a bias, is taken as it is.
    """
    if torch.compiler.is_exporting():
        return "sdpa" if implementation == FLEX or is_flash(implementation) else implementation
    if implementation == FLEX:
        return choose_flex(device, dtype)
    if implementation != "sdpa" and not is_flash(implementation):
        return implementation
    if kernels_apply(dtype, num_blocks, block_size, key_width) and has_triton_kernels(device):
        return KERNELS
    is_long = not torch.compiler.is_compiling() and num_blocks > block_size
    if is_long or is_flash(implementation):
        return choose_flex(device, dtype) if has_flex_kernels(device) else "sdpa"
    return implementation


def kernels_apply(dtype: torch.dtype, num_blocks: int, block_size: int, key_width: int) -> bool:
    """Return whether `triton_selfattn.py` computes inputs of a type and of some sizes; one block has no means."""
    fits = block_size >= NARROWEST_BLOCK and key_width <= WIDEST_KEY
    return fits and num_blocks > 1 and dtype in (torch.float32, *HALF_TYPES)


def choose_flex(device: torch.device, dtype: torch.dtype) -> str:
    """Return FlexAttention, or PyTorch's own for double precision on a device, which the kernels do not compute."""
    return "sdpa" if dtype == torch.float64 and device.type != "cpu" else FLEX


def refuse_gradients_of_flex(implementation: str, module: nn.Module) -> None:
    """Raise an error where FlexAttention would have to compute gradients on a CPU."""
    if implementation != FLEX or not torch.is_grad_enabled() or torch.compiler.is_exporting():
        return
    if any(parameter.requires_grad and parameter.device.type == "cpu" for parameter in module.parameters()):
        raise ValueError(
            "attn_implementation='flex_attention' computes no gradients on a CPU. Predict inside torch.no_grad(), or "
            "train with model.set_attn_implementation('sdpa')."
        )
