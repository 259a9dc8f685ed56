"""Fused against plain attention in training on a CPU: `python -m benchmarks.speed.attention_cpu`.

One layer of MiniLM's shape (12 heads of 32) on 2,048 tokens in rows of T, one thread; CPU milliseconds, the best of
five interleaved repeats. Written to `benchmarks/results/attention_cpu.json`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_selfattn.hub.results import environment
from hf_selfattn.hub.summary import table
from hf_selfattn.modeling.attention_selfattn import eager_attention_forward

from ..records import RESULTS, write_results

HEADS, WIDTH, TOKENS, REPEATS = 12, 32, 2048, 5


def fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def plain(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    return eager_attention_forward(nn.Identity(), query, key, value, mask, WIDTH**-0.5)[0].transpose(1, 2)


def measure(attend: Callable[..., Tensor], length: int, dtype: torch.dtype) -> tuple[float, float]:
    """Return CPU milliseconds of forward and backward."""
    rows = TOKENS // length
    inputs = [torch.randn(rows, length, HEADS, WIDTH, dtype=dtype).transpose(1, 2).requires_grad_() for _ in range(3)]
    towards = torch.randn(rows, HEADS, length, WIDTH, dtype=dtype)
    started = time.process_time()
    attended = attend(*inputs, torch.zeros(rows, 1, 1, length, dtype=dtype))
    middle = time.process_time()
    attended.backward(towards)
    return 1e3 * (middle - started), 1e3 * (time.process_time() - middle)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for length in (32, 128, 256, 512):
        for dtype in (torch.float32, torch.bfloat16):
            times = [(measure(fused, length, dtype), measure(plain, length, dtype)) for _ in range(REPEATS)]
            best = {name: [min(t[i][j] for t in times) for j in (0, 1)] for i, name in enumerate(("fused", "plain"))}
            rows.append({"length": length, "dtype": str(dtype).removeprefix("torch."), **best})
    command = "python -m benchmarks.speed.attention_cpu"
    record = {"command": command, "seed": 0, "repeats": REPEATS, "environment": environment(), "rows": rows}
    write_results(RESULTS / "attention_cpu.json", record)
    cells = [
        [str(row["length"]), row["dtype"], *(f"{value:.1f}" for name in ("fused", "plain") for value in row[name])]
        for row in rows
    ]
    print(table([["tokens", "type", "fused fwd", "bwd", "plain fwd", "bwd"], *cells]))


if __name__ == "__main__":
    main()
