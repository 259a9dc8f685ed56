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
"""Which attention the two heads compute with, by what the model was told, the device and the size of the input."""

from importlib.util import find_spec

import torch
from torch import Tensor, nn

FLEX = "flex_attention"
HALF_TYPES = (torch.float16, torch.bfloat16)


def is_flash(implementation: str) -> bool:
    """Return whether Transformers takes a name for FlashAttention's, from its package or from a kernel of the hub.

    Args:
        implementation: name of an attention.
    """
    return "flash" in implementation


def has_flex_kernels(device: torch.device) -> bool:
    """Return whether FlexAttention is one kernel on a device, forward and backward, and not a plain product.

    Its kernels are in Triton and made for NVIDIA's Ampere (compute capability 8.0) and later. A model that is compiled
    has compiled kernels anyway, and its compiler cannot look for them.

    Args:
        device: of the features.
    """
    if device.type not in ("cuda", "xpu"):
        return False
    if torch.compiler.is_compiling():
        return True
    has_triton = find_spec("triton") is not None
    return has_triton and (device.type == "xpu" or torch.cuda.get_device_capability(device) >= (8, 0))


def choose_window_attention(implementation: str, device: torch.device, dtype: torch.dtype) -> str:
    """Return the attention inside the windows of the self-attention.

    It is the one that the model was told, with two exceptions. FlashAttention has kernels for half precision only,
    and an exported program has neither it nor FlexAttention: then it is PyTorch's own, which gives the same.

    Args:
        implementation: what the model was told.
        device: of the features.
        dtype: in which attention is computed.
    """
    if torch.compiler.is_exporting() and (implementation == FLEX or is_flash(implementation)):
        return "sdpa"
    if is_flash(implementation) and dtype not in HALF_TYPES:
        return "sdpa"
    return choose_flex(device, dtype) if implementation == FLEX else implementation


def choose_grouped_attention(
    implementation: str, device: torch.device, dtype: torch.dtype, num_blocks: int, block_size: int
) -> str:
    """Return the attention of the grouped head, whose means need a bias of the logits.

    - "eager", or any other attention that takes a bias, is taken as it is.
    - FlashAttention takes no bias: it is FlexAttention where that has kernels, else PyTorch's own.
    - "sdpa", which is also what a model is told by default, is FlexAttention where that has kernels and a row has more
      blocks than a block has tokens. PyTorch's kernel wants the K means copied to every block, K * K in all. Up to
      there these are fewer than the tokens themselves, `K * K <= K * W`; beyond they are most of the memory and grow
      with the square of the length. Both compute the same logits. While the whole model is compiled it stays "sdpa".

    Args:
        implementation: what the model was told.
        device: of the features.
        dtype: in which attention is computed.
        num_blocks: K.
        block_size: W.
    """
    if torch.compiler.is_exporting():
        return "sdpa" if implementation == FLEX or is_flash(implementation) else implementation
    if implementation == FLEX:
        return choose_flex(device, dtype)
    is_long = implementation == "sdpa" and not torch.compiler.is_compiling() and num_blocks > block_size
    if is_long or is_flash(implementation):
        return choose_flex(device, dtype) if has_flex_kernels(device) else "sdpa"
    return implementation


def choose_flex(device: torch.device, dtype: torch.dtype) -> str:
    """Return FlexAttention, or PyTorch's own for double precision on a device, which the kernels do not compute.

    Args:
        device: of the features.
        dtype: in which attention is computed.
    """
    return "sdpa" if dtype == torch.float64 and device.type != "cpu" else FLEX


def attention_dtype(features: Tensor) -> torch.dtype:
    """Return the type in which attention is computed: that of mixed precision, where it is on.

    Args:
        features: that the heads read.
    """
    kind = features.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else features.dtype


def refuse_gradients_of_flex(implementation: str, module: nn.Module) -> None:
    """Raise an error where FlexAttention would have to compute gradients on a CPU.

    Args:
        implementation: what the model was told.
        module: that attends.

    Raises:
        ValueError: if a weight of the module gets a gradient, and it is on a CPU.
    """
    if implementation != FLEX or not torch.is_grad_enabled() or torch.compiler.is_exporting():
        return
    if any(parameter.requires_grad and parameter.device.type == "cpu" for parameter in module.parameters()):
        raise ValueError(
            "attn_implementation='flex_attention' computes no gradients on a CPU. Predict inside torch.no_grad(), or "
            "train with model.set_attn_implementation('sdpa')."
        )
