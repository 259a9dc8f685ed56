# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""Grouped attention on a GPU by the Triton kernels of `triton_kernels_selfattn.py`, with its gradients.

Three kernels and a sort compute the forward pass, five the backward pass, which computes the weights again. Sums over
the tokens of a row are those of its parts, one of a program, so that they come out the same in every run. Each pass is
one operator of PyTorch, so a compiler sees one node and no kernel.

Shape suffixes: those of `triton_kernels_selfattn.py`, T tokens of all B rows, padding between them among these, and
F = B * H.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .grouping_selfattn import LEVELS
from .subsequences_selfattn import ceil_div
from .triton_kernels_selfattn import (
    attention_kernel,
    covariance_gradients_kernel,
    key_gradients_kernel,
    keys_kernel,
    mean_gradients_kernel,
    means_kernel,
    metric_gradients_kernel,
    query_gradients_kernel,
)

# Of products of numbers in single precision: nearly all of it, and what is enough where inputs are of a half type.
SINGLE_PRECISION, HALF_PRECISION = "tf32x3", "tf32"
# The code that travels with a checkpoint is imported once for each, and two operators cannot share a name.
NAMESPACE = __name__.replace(".", "_")
NARROWEST, WIDEST = 16, 64  # tiles of vectors: what a matrix unit multiplies at least, and a program holds at most
FEWEST_BLOCKS, MOST_PROGRAMS = 8, 64  # of a program, and of a row and head, in the sum of the covariance
FEWEST_PLACES, MOST_PARTS = 1024, 16  # likewise in sums over queries


@dataclass(frozen=True)
class Launch:
    """The sizes of one call, as the kernels take them."""

    rows: int
    tokens: int  # of the longest row
    heads: int
    head_dim: int
    group_dim: int
    block_size: int
    precision: str

    @classmethod
    def of(cls, projected_THP: Tensor, metric_TU: Tensor, order_BHN: Tensor, block_size: int) -> "Launch":
        """Return the sizes of a call."""
        B, H, N = order_BHN.shape
        U = metric_TU.shape[-1]
        precision = SINGLE_PRECISION if projected_THP.dtype == torch.float32 else HALF_PRECISION
        return cls(B, N, H, (projected_THP.shape[-1] - U) // 3, U, block_size, precision)

    @property
    def blocks(self) -> int:
        """Return the number of blocks of a row."""
        return ceil_div(self.tokens, self.block_size)

    @property
    def width(self) -> int:
        """Return the columns of a key, filled up."""
        return power_of_two(self.head_dim + self.group_dim)

    @property
    def widest(self) -> int:
        """Return the widest tile: half of it for wide keys, and for numbers of four bytes, so that programs fit."""
        halvings = (self.width > 64) + (self.precision != HALF_PRECISION)
        return max(NARROWEST, WIDEST >> halvings)

    @property
    def tile(self) -> int:
        """Return how many tokens a program holds at once."""
        return min(power_of_two(self.block_size), self.widest)

    @property
    def means_tile(self) -> int:
        """Return how many means a program holds at once."""
        return min(power_of_two(self.blocks), self.widest)

    @property
    def places_of_program(self) -> int:
        """Return over how many queries a program adds up, whole tiles."""
        return ceil_div(max(FEWEST_PLACES, ceil_div(self.tokens, MOST_PARTS)), self.tile) * self.tile

    @property
    def blocks_of_program(self) -> int:
        """Return over how many blocks a program adds up."""
        return max(FEWEST_BLOCKS, ceil_div(self.blocks, MOST_PROGRAMS))

    def options(self, *names: str) -> dict[str, Any]:
        """Return the sizes that a kernel is compiled for, some by name besides those that all take."""
        options = {
            "W": self.block_size,
            "MEANS": self.means_tile,
            "SCALING": self.head_dim**-0.5,
            "PRECISION": self.precision,
        }
        common = {"E": self.head_dim, "U": self.group_dim, "H": self.heads, "D": self.width, "TILE": self.tile}
        return {**common, **{name: options[name] for name in names}, "num_warps": 4 if self.width <= 64 else 8}


def power_of_two(number: int) -> int:
    """Return the next power of 2, at least that of the narrowest tile."""
    return max(NARROWEST, 1 << (number - 1).bit_length())


def singles(like: Tensor, *shape: int) -> Tensor:
    """Return room for numbers in single precision."""
    return like.new_empty(shape, dtype=torch.float32)


def total(parts: Tensor) -> Tensor:
    """Return the sum over the second dimension; of one part it is that part, without a launch."""
    return parts.sum(dim=1) if parts.shape[1] > 1 else parts[:, 0]


def grouped_attention(
    projected_THP: Tensor,
    metric_TU: Tensor,
    metric_scale_H: Tensor,
    prototypes_HGU: Tensor,
    rows: tuple[Tensor, Tensor],
    num_tokens: int,
    block_size: int,
) -> Tensor:
    """Return what grouped attention gives each token, (T, H, V), zeros at padding.

    Args:
        projected_THP: queries and keys, E wide, and values, E + U wide, of which the last column is not read.
        metric_TU: the vectors in which tokens are compared, of any length.
        rows: where each row begins, and behind them the end of the last, (B + 1); and how many tokens of it are
            real, (B).
        num_tokens: N, of the longest row.
    """
    keys_BHN = group_keys(metric_TU.detach(), prototypes_HGU, *rows, num_tokens)
    order_BHN = torch.sort(keys_BHN, dim=-1, stable=True).indices
    return attend_in_order(projected_THP, metric_TU, metric_scale_H, order_BHN, *rows, block_size)[0]


@torch.library.custom_op(f"{NAMESPACE}::group_keys", mutates_args=())
def group_keys(
    metric_TU: Tensor, prototypes_HGU: Tensor, starts: Tensor, lengths_B: Tensor, num_tokens: int
) -> Tensor:
    """Return (B, H, N) the group of each token and its level in it, by which tokens are sorted; padding comes last."""
    B, U, N = len(lengths_B), metric_TU.shape[-1], num_tokens
    H, G, _ = prototypes_HGU.shape
    keys_BHN = metric_TU.new_empty((B, H, N), dtype=torch.int32)
    sizes = {"H": H, "G": G, "U": U, "D": power_of_two(U), "GROUPS": power_of_two(G), "LEVELS": LEVELS}
    with torch.cuda.device_of(metric_TU):
        keys_kernel[(B * ceil_div(N, WIDEST),)](
            metric_TU.contiguous(), prototypes_HGU.contiguous(), starts, lengths_B, keys_BHN, N, **sizes, TILE=WIDEST
        )
    return keys_BHN


@group_keys.register_fake
def fake_keys(metric_TU: Tensor, prototypes_HGU: Tensor, starts: Tensor, lengths_B: Tensor, num_tokens: int) -> Tensor:
    """Return the shape of the keys."""
    return metric_TU.new_empty((len(lengths_B), prototypes_HGU.shape[0], num_tokens), dtype=torch.int32)


@torch.library.custom_op(f"{NAMESPACE}::attend_in_order", mutates_args=())
def attend_in_order(
    projected_THP: Tensor,
    metric_TU: Tensor,
    metric_scale_H: Tensor,
    order_BHN: Tensor,
    starts: Tensor,
    lengths_B: Tensor,
    block_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the results (T, H, V), and what their gradients need.

    These are for each place of the order the logarithm, of base 2, of the sum of its exponentials and the attention
    to means, both (B, H, N), and of each row and head the means (F, K, 2, D) of keys and of values and the covariances
    (F, 2, D, D) of keys with keys and with values.
    """
    projected_THP, metric_TU = projected_THP.contiguous(), metric_TU.contiguous()
    launch = Launch.of(projected_THP, metric_TU, order_BHN, block_size)
    B, N, H, K, D = launch.rows, launch.tokens, launch.heads, launch.blocks, launch.width
    parts = ceil_div(K, launch.blocks_of_program)
    inputs, rows = (projected_THP, metric_TU), (order_BHN, starts, lengths_B)
    attended = projected_THP.new_empty(len(projected_THP), H, launch.head_dim + launch.group_dim - 1)
    log_sums, far_shares = (singles(projected_THP, B, H, N) for _ in range(2))
    means = projected_THP.new_empty(B * H, K, 2, D)
    covariance = singles(projected_THP, B * H, parts, 2, D, D)
    with torch.cuda.device_of(projected_THP):
        means_kernel[(B * H * parts,)](
            *inputs, *rows, means, covariance, N, K, launch.blocks_of_program,
            **launch.options("W", "SCALING", "PRECISION"),
        )  # fmt: skip
        covariance = total(covariance)
        attention_kernel[(B * H * K * ceil_div(block_size, launch.tile),)](
            *inputs, metric_scale_H, *rows, means, covariance, attended, log_sums, far_shares, N, K,
            **launch.options("W", "MEANS", "SCALING", "PRECISION"),
        )  # fmt: skip
    return attended, log_sums, far_shares, means, covariance


@attend_in_order.register_fake
def fake_attention(
    projected_THP: Tensor,
    metric_TU: Tensor,
    metric_scale_H: Tensor,
    order_BHN: Tensor,
    starts: Tensor,
    lengths_B: Tensor,
    block_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the shapes of `attend_in_order`."""
    (T, H, P), (B, _, N) = projected_THP.shape, order_BHN.shape
    U = metric_TU.shape[-1]
    D = power_of_two((P - U) // 3 + U)
    attended = projected_THP.new_empty(T, H, (P - U) // 3 + U - 1)
    log_sums, far_shares = (singles(projected_THP, B, H, N) for _ in range(2))
    means = projected_THP.new_empty(B * H, ceil_div(N, block_size), 2, D)
    return attended, log_sums, far_shares, means, singles(projected_THP, B * H, 2, D, D)


@torch.library.custom_op(f"{NAMESPACE}::attention_gradients", mutates_args=())
def attention_gradients(
    gradient_THV: Tensor,
    projected_THP: Tensor,
    metric_TU: Tensor,
    metric_scale_H: Tensor,
    order_BHN: Tensor,
    starts: Tensor,
    lengths_B: Tensor,
    attended_THV: Tensor,
    log_sums_BHN: Tensor,
    far_shares_BHN: Tensor,
    means: Tensor,
    covariance: Tensor,
    block_size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of projections, metric and scales, of the first result of `attend_in_order`."""
    gradient_THV = gradient_THV.contiguous()
    projected_THP, metric_TU = projected_THP.contiguous(), metric_TU.contiguous()
    launch = Launch.of(projected_THP, metric_TU, order_BHN, block_size)
    T, B, N, H, K, D = len(projected_THP), launch.rows, launch.tokens, launch.heads, launch.blocks, launch.width
    inputs = (gradient_THV, projected_THP, metric_TU, metric_scale_H, order_BHN, starts, lengths_B)
    to_projected, to_metric = torch.empty_like(projected_THP), torch.empty_like(metric_TU)
    to_units = singles(projected_THP, T, H, 2, launch.group_dim)
    deltas, slopes, far_weights = (singles(projected_THP, B, H, N) for _ in range(3))
    places = launch.places_of_program
    parts, tiles = ceil_div(N, places), B * H * K * ceil_div(block_size, launch.tile)
    to_means = singles(projected_THP, B * H, parts, K, 2, D)
    to_covariance = singles(projected_THP, B * H, parts, 2, D, D)
    to_scale = singles(projected_THP, ceil_div(T, WIDEST), H)
    with torch.cuda.device_of(projected_THP):
        query_gradients_kernel[(tiles,)](
            *inputs, attended_THV, log_sums_BHN, far_shares_BHN, means, covariance,
            to_projected, to_units, deltas, slopes, far_weights, N, K,
            **launch.options("W", "MEANS", "SCALING", "PRECISION"),
        )  # fmt: skip
        mean_gradients_kernel[(B * H * parts * ceil_div(K, launch.means_tile),)](
            *inputs, means, log_sums_BHN, deltas, slopes, to_means, N, K, places,
            **launch.options("W", "MEANS", "SCALING"),
        )  # fmt: skip
        covariance_gradients_kernel[(B * H * parts,)](
            *inputs, slopes, far_weights, to_covariance, N, places, **launch.options("SCALING", "PRECISION")
        )
        key_gradients_kernel[(tiles,)](
            *inputs, log_sums_BHN, deltas, total(to_means), total(to_covariance), to_projected, to_units, N, K,
            **launch.options("W", "SCALING", "PRECISION"),
        )  # fmt: skip
        metric_gradients_kernel[(len(to_scale),)](
            metric_TU, metric_scale_H, to_units, to_metric, to_scale, T,
            **{**launch.options(), "D": power_of_two(launch.group_dim), "TILE": WIDEST},
        )  # fmt: skip
    return to_projected, to_metric, to_scale.sum(dim=0).to(metric_scale_H.dtype)


@attention_gradients.register_fake
def fake_gradients(
    gradient_THV: Tensor,
    projected_THP: Tensor,
    metric_TU: Tensor,
    metric_scale_H: Tensor,
    *saved: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the shapes of the gradients."""
    return torch.empty_like(projected_THP), torch.empty_like(metric_TU), torch.empty_like(metric_scale_H)


def save_for_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keep what the gradients are computed from."""
    *tensors, ctx.block_size = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, *output)


def gradients(ctx: Any, gradient: Tensor | None, *others: Any) -> tuple[Tensor | None, ...]:
    """Return the gradients of the inputs of `attend_in_order`."""
    if gradient is None:
        return (None,) * 7
    return *attention_gradients(gradient, *ctx.saved_tensors, ctx.block_size), *(None,) * 4


attend_in_order.register_autograd(gradients, setup_context=save_for_gradients)
