"""How far the kernels of the grouped attention are from plain products in double precision.

Rows of 1,500 tokens, 777 and 1, with random weights; an error is the norm of the difference over the norm, of the
outputs and of the gradients of the features and of every weight together. Plain products of that type stand beside.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig

from hf_selfattn import SelfAttnConfig
from hf_selfattn.hub.summary import table
from hf_selfattn.modeling.attention_selfattn import GroupedAttentionHead, head_masks

LENGTHS = (1500, 777, 1)
WIDTH = 384
CASES = ((64, 32), (128, 32), (256, 32), (100, 32), (64, 112))  # width of a block, and of a head
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LARGEST_OF_SINGLE = 1e-5


def head_of(block_size: int, head_dim: int, dtype: torch.dtype) -> GroupedAttentionHead:
    """Return a head whose weights are numbers of a type."""
    backbone = BertConfig(hidden_size=WIDTH, num_attention_heads=12)
    head = GroupedAttentionHead(SelfAttnConfig(backbone_config=backbone, block_size=block_size, head_dim=head_dim))
    torch.nn.init.normal_(head.metric_scale, mean=2.0)
    head.prototypes.copy_(F.normalize(torch.randn_like(head.prototypes), dim=-1))
    return head.to(dtype)


def results(
    head: GroupedAttentionHead, implementation: str, features: Tensor, towards: Tensor, lengths: Tensor
) -> list[Tensor]:
    """Return the outputs of real tokens, and the gradients of features and weights, in double precision."""
    head.config._attn_implementation = implementation
    features = features.detach().requires_grad_()
    output, _ = head(features, head_masks(head.config, features, lengths))
    is_real = torch.arange(features.shape[1], device=features.device) < lengths[:, None]
    found = torch.autograd.grad((output * towards)[is_real].sum(), [features, *head.parameters()])
    return [x.detach().double() for x in (output[is_real], torch.cat([x.flatten() for x in found]))]


def errors_of(block_size: int, head_dim: int, name: str) -> dict[str, Any]:
    """Return the errors of kernels and of plain products with one type."""
    dtype = DTYPES[name]
    head = head_of(block_size, head_dim, dtype)
    lengths = torch.tensor(LENGTHS)
    features = torch.randn(len(LENGTHS), max(LENGTHS), WIDTH, dtype=dtype)
    towards = torch.randn_like(features)
    found = {
        kind: results(head, told, features, towards, lengths)
        for kind, told in (("kernels", "sdpa"), ("plain", "eager"))
    }
    exact = results(head.double(), "eager", features.double(), towards.double(), lengths)
    row: dict[str, Any] = {"dtype": name, "block_size": block_size, "head_dim": head_dim}
    for kind, own in found.items():
        row[kind] = [float((x - y).norm() / y.norm()) for x, y in zip(own, exact, strict=True)]
    most = [LARGEST_OF_SINGLE] * 2 if name == "float32" else row["plain"]
    row["holds"] = all(error <= limit for error, limit in zip(row["kernels"], most, strict=True))
    return row


def errors() -> list[dict[str, Any]]:
    """Return the errors of all cases, and print them."""
    rows = [errors_of(*case, name) for name in DTYPES for case in CASES]
    cells = [["type", "block", "head", "kernels: output", "gradients", "plain: output", "gradients", ""]]
    for row in rows:
        figures = [f"{error:.1e}" for kind in ("kernels", "plain") for error in row[kind]]
        verdict = "" if row["holds"] else "TOO LARGE"
        cells.append([row["dtype"], str(row["block_size"]), str(row["head_dim"]), *figures, verdict])
    print(table(cells), flush=True)
    return rows
