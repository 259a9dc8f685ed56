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
"""Prefix tuning (Li and Liang, 2021): learned keys and values (`past_key_values`) before the tokens of each window."""

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache


def past_length(past_key_values: Cache | None) -> int:
    """Return P, the number of learned keys.

    Args:
        past_key_values: learned keys and values, or None.
    """
    return 0 if past_key_values is None else past_key_values.get_seq_length()


def mask_of_tokens(attention_mask: Tensor | None, values: Tensor, past_key_values: Cache | None) -> Tensor | None:
    """Return the mask (B, T) of the tokens alone; PEFT gives one (B, P + T) that begins with the learned keys.

    Args:
        attention_mask: (B, T) or (B, P + T), or None.
        values: (B, T) ids or (B, T, D) embeddings.
        past_key_values: P learned keys and values of each row, or None.
    """
    if attention_mask is None or past_key_values is None:
        return attention_mask
    P = past_length(past_key_values)
    return attention_mask[:, P:] if attention_mask.shape[1] == P + values.shape[1] else attention_mask


def past_of_rows(past_key_values: Cache | None, rows: Tensor) -> Cache | None:
    """Return the learned keys and values of some rows, of a row as often as it is named.

    Args:
        past_key_values: learned keys and values of B rows, or None.
        rows: indices into B.
    """
    if past_key_values is None:
        return None
    return DynamicCache([(layer.keys[rows], layer.values[rows]) for layer in past_key_values.layers])


def past_options(
    backbone: nn.Module, past_key_values: Cache, mask_BT: Tensor | None, values: Tensor
) -> dict[str, Any]:
    """Return what the backbone is given to read learned keys and values: themselves and a mask (B, P + T).

    Args:
        backbone: the backbone.
        past_key_values: P learned keys and values of each row; they are not changed.
        mask_BT: True at real tokens, or None.
        values: (B, T) ids or (B, T, D) embeddings.

    Raises:
        ValueError: if the backbone reads no keys and values from outside.
    """
    if "past_key_values" not in signature(backbone.forward).parameters:
        raise ValueError(
            f"The backbone {type(backbone).__name__} reads no past_key_values, which prefix tuning needs. Take "
            "another method of PEFT, such as LoRA or prompt tuning, or a backbone such as BERT, RoBERTa or ELECTRA."
        )
    B, T = values.shape[:2]
    if mask_BT is None:
        mask_BT = torch.ones(B, T, dtype=torch.bool, device=values.device)
    every_row = torch.arange(B, device=values.device)  # a backbone appends its own keys to what it is given
    mask = nn.functional.pad(mask_BT.long(), (past_length(past_key_values), 0), value=1)
    return {"past_key_values": past_of_rows(past_key_values, every_row), "attention_mask": mask}


__all__ = ["mask_of_tokens", "past_length", "past_of_rows", "past_options"]
