"""What Triton's interpreter gets wrong of bfloat16, put right: it cuts numbers off, and multiplies their bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def mend_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Round to the nearest number, as a GPU does, and multiply numbers."""
    cast, dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot

    def rounded(self: Any, handle: Any, dtype: Any) -> Any:
        if (handle.dtype.scalar, dtype.scalar) != (tl.float32, tl.bfloat16):
            return cast(self, handle, dtype)
        numbers = torch.from_numpy(np.ascontiguousarray(handle.data)).to(torch.bfloat16)
        return TensorHandle(numbers.view(torch.uint16).numpy(), dtype.scalar)

    def wide(self: Any, handle: Any) -> Any:
        return cast(self, handle, tl.float32) if handle.dtype.scalar == tl.bfloat16 else handle

    def product(self: Any, one: Any, other: Any, *options: Any) -> Any:
        return dot(self, wide(self, one), wide(self, other), *options)

    monkeypatch.setattr(InterpreterBuilder, "cast_impl", rounded)
    monkeypatch.setattr(InterpreterBuilder, "create_dot", product)
