"""One attention layer against full attention on a GPU: `python -m benchmarks.speed.attention_gpu`.

The layers of `attention_layers.py`, in bfloat16: full attention with PyTorch's fused kernel, grouped attention as a
model computes it that was told nothing (for long rows with FlexAttention), and with FlexAttention always. Time is that
of the device between two events, the median of several repeats in which all layers take turns. Memory is what one
forward pass, or forward and backward, allocates at most. Written to `benchmarks/results/attention_gpu.json`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from hf_selfattn.hub.results import environment
from hf_selfattn.hub.summary import table

from ..records import RESULTS, write_results
from .attention import cells_of, passes
from .attention_layers import FullAttention, GroupedAttention, InducedAttention

LENGTHS = (1024, 4096, 16384, 65536)
REPEATS, WARM_UP = 10, 3  # the first call compiles
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "full": FullAttention,
    "grouped": lambda: GroupedAttention(implementation="sdpa"),
    "grouped, FlexAttention": lambda: GroupedAttention(implementation="flex_attention"),
    "inducing points": InducedAttention,
}


def milliseconds(action: Callable[[], object]) -> float:
    """Return the time of the device for one call."""
    started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    started.record()
    action()
    ended.record()
    torch.cuda.synchronize()
    return float(started.elapsed_time(ended))


def mebibytes(action: Callable[[], object]) -> float:
    """Return the memory that a call allocates at most."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    action()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def rows_of(num_tokens: int) -> list[dict[str, Any]]:
    """Return one row of figures for each layer, or why there is none."""
    steps: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {}
    left_out: dict[str, str] = {}
    for name, build in LAYERS.items():
        both = passes(build().to(torch.bfloat16), num_tokens, torch.bfloat16)
        try:
            for step in [*both] * WARM_UP:
                step()
            steps[name] = both
        except torch.OutOfMemoryError as error:
            left_out[name] = str(error)
    times: dict[str, list[list[float]]] = {name: [[], []] for name in steps}
    for _ in range(REPEATS):
        for name, both in steps.items():
            for place, step in enumerate(both):
                times[name][place].append(milliseconds(step))
    rows: list[dict[str, Any]] = []
    for name in LAYERS:
        row: dict[str, Any] = {"layer": name, "tokens": num_tokens, "dtype": "bfloat16"}
        if name in left_out:
            rows.append({**row, "left_out": left_out[name]})
            continue
        row["seconds"] = [statistics.median(values) / 1e3 for values in times[name]]
        row["mebibytes"] = [mebibytes(step) for step in steps[name]]
        rows.append(row)
    for row in rows:
        if "seconds" in row:
            row["faster_than_full"] = [a / b for a, b in zip(rows[0]["seconds"], row["seconds"], strict=True)]
    return rows


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("attention_gpu.py needs a GPU with CUDA; on a CPU use attention.py.")
    torch.set_default_device("cuda")
    torch.manual_seed(0)
    rows = []
    for num_tokens in LENGTHS:
        found = rows_of(num_tokens)
        print(table(cells_of(found)), flush=True)
        rows += found
    record = {"command": "python -m benchmarks.speed.attention_gpu", "seed": 0, "repeats": REPEATS}
    write_results(RESULTS / "attention_gpu.json", {**record, "environment": environment(), "rows": rows})


if __name__ == "__main__":
    main()
