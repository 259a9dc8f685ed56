"""FlashAttention's functions as Transformers calls them, on a CPU that has no such kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import modeling_flash_attention_utils


class FakeFlash:
    """The functions of the package `flash_attn`, as Transformers calls them; each sequence attends to itself."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def whole(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        """Rows of one length, (B, S, H, E)."""
        self.lengths += [query.shape[1]] * len(query)
        return torch.stack([self.attend(*row, **options) for row in zip(query, key, value, strict=True)])

    def packed(self, query: Tensor, key: Tensor, value: Tensor, cu_seqlens_q: Tensor, **options: Any) -> Tensor:
        """All tokens of all rows, (S, H, E)."""
        torch.testing.assert_close(options.pop("cu_seqlens_k"), cu_seqlens_q)
        lengths = cu_seqlens_q.diff().tolist()
        self.lengths += lengths
        assert options.pop("max_seqlen_q") == options.pop("max_seqlen_k") == max(lengths)
        parts = zip(*(x.split(lengths) for x in (query, key, value)), strict=True)
        return torch.cat([self.attend(*part, **options) for part in parts])

    @staticmethod
    def attend(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        assert query.dtype == key.dtype == value.dtype == torch.bfloat16, "kernels compute in half precision only"
        assert not options["causal"] and not options.get("dropout_p")
        query, key, value = (x.transpose(0, 1).float() for x in (query, key, value))
        attended = F.scaled_dot_product_attention(query, key, value, scale=options["softmax_scale"])
        return attended.transpose(0, 1).bfloat16()


def fake_flash(monkeypatch: pytest.MonkeyPatch) -> FakeFlash:
    """Transformers' own way to FlashAttention, with kernels that a CPU has."""
    utils, kernels = modeling_flash_attention_utils, FakeFlash()

    def options_of(causal: str = "is_causal", **given: Any) -> dict[str, Any]:
        given = {"causal": given.pop("is_causal"), **given}
        return {
            name: given[name] for name in ("causal", "softmax_scale", "max_seqlen_q", "max_seqlen_k") if name in given
        }

    functions = (kernels.whole, kernels.packed, None, utils._pad_input, utils._unpad_input)
    monkeypatch.setattr(utils, "lazy_import_flash_attention", lambda *_, **__: (functions, (options_of, None)))
    return kernels
