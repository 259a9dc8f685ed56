"""The grouped attention on a GPU against full attention: `python -m benchmarks.speed.attention_gpu`.

Everything that a claim about a GPU needs, in one run that is meant to fit into ten minutes; `--parts` leaves some out.

- `exact`: the kernels against plain products in double precision, forward and gradients (`gpu_errors.py`).
- `layers`: one layer in bfloat16, projections included (D = 384), at 32,768 tokens or more in a batch: full attention
  with 12 heads of 32 and 4 of 96 by PyTorch's fused kernel, grouped attention by this package's kernels, as it is
  computed without them, and by FlexAttention. Time is that of the device between two events, the median of repeats in
  which all layers take turns; also as a CUDA graph, which costs no launches. Memory is what a pass allocates at most.
- `limit`, in the rows of our kernels: the projections and the sort, measured, and the bytes that the kernels must move
  at the bandwidth of a copy; `share` is that over the time of the forward pass as a graph.
- `steps`: training steps of models with stock heads, ours and heads of full attention (`gpu_steps.py`).

Written to `benchmarks/results/attention_gpu.json`, parts that were left out as they were.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from hf_selfattn.hub.results import environment
from hf_selfattn.hub.summary import table
from hf_selfattn.modeling import attention_selfattn
from hf_selfattn.modeling.attention_selfattn import KERNEL_SWITCH

from ..records import RESULTS, read_results, write_results
from .attention_layers import WIDTH, FullAttention, GroupedAttention
from .gpu_errors import errors
from .gpu_steps import training_steps

os.environ[KERNEL_SWITCH] = "1"
TARGET = RESULTS / "attention_gpu.json"
SHAPES = ((64, 512), (32, 1024), (16, 2048), (8, 4096), (2, 16384), (1, 65536))
REPEATS, WARM_UP = 15, 3  # the first call compiles
FULL, KERNELS, BEFORE = ("full, 12 x 32", "full, 4 x 96"), "grouped", "grouped, without our kernels"
Step = Callable[[], object]


class WithoutKernels(GroupedAttention):
    """The grouped attention as it is computed where our kernels are not."""

    def forward(self, x: Tensor) -> Tensor:
        with mock.patch.object(attention_selfattn, "has_triton_kernels", return_value=False):
            return super().forward(x)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    FULL[0]: FullAttention,
    FULL[1]: lambda: FullAttention(heads=4, head_dim=96),
    KERNELS: lambda: GroupedAttention(implementation="sdpa"),
    "grouped, blocks of 128": lambda: GroupedAttention(implementation="sdpa", block_size=128),
    "grouped, blocks of 256": lambda: GroupedAttention(implementation="sdpa", block_size=256),
    BEFORE: lambda: WithoutKernels(implementation="sdpa"),
    "grouped, FlexAttention": lambda: GroupedAttention(implementation="flex_attention"),
}


def milliseconds(action: Step) -> float:
    """Return the time of the device for one call."""
    started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    started.record()
    action()
    ended.record()
    torch.cuda.synchronize()
    return float(started.elapsed_time(ended))


def median_seconds(action: Step) -> float:
    """Return the median time of the device over repeats, in seconds."""
    for _ in range(WARM_UP):
        action()
    return statistics.median(milliseconds(action) for _ in range(REPEATS)) / 1e3


def mebibytes(action: Step) -> float:
    """Return the memory that a call allocates at most."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    action()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def passes(layer: nn.Module, rows: int, num_tokens: int) -> tuple[Step, Step]:
    """Return the forward pass of a layer, and forward and backward in one, on random features."""
    features = torch.randn(rows, num_tokens, WIDTH, dtype=torch.bfloat16, requires_grad=True)
    towards = torch.randn_like(features)
    variables = [features, *(x for x in layer.parameters() if x.requires_grad)]

    def forward() -> Tensor:
        with torch.no_grad():
            output: Tensor = layer(features)
        return output

    def forward_and_backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(layer(features), variables, towards)

    return forward, forward_and_backward


def as_graph(action: Step) -> Step:
    """Return a call captured as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            action()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        action()
    return graph.replay


@contextmanager
def left_out(row: dict[str, Any]) -> Iterator[None]:
    """Record why something could not be measured: too little memory, or a capture that PyTorch refuses."""
    try:
        yield
    except RuntimeError as error:
        row["left_out"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def rows_of(rows: int, num_tokens: int) -> list[dict[str, Any]]:
    """Return one row of figures for each layer, or why there is none."""
    steps: dict[str, list[Step]] = {}
    found: dict[str, dict[str, Any]] = {}
    for name, build in LAYERS.items():
        found[name] = {"layer": name, "rows": rows, "tokens": num_tokens, "dtype": "bfloat16"}
        both = passes(build().to(torch.bfloat16), rows, num_tokens)
        with left_out(found[name]):
            for step in [*both] * WARM_UP:
                step()
            found[name]["mebibytes"] = [mebibytes(step) for step in both]
            steps[name] = [*both]
            steps[name] += [as_graph(step) for step in both]
    times: dict[str, list[list[float]]] = {name: [[] for _ in own] for name, own in steps.items()}
    for _ in range(REPEATS):
        for name, own in steps.items():
            for place, step in enumerate(own):
                times[name][place].append(milliseconds(step))
    for name, figures in times.items():
        seconds = [statistics.median(values) / 1e3 for values in figures]
        found[name] |= {"seconds": seconds[:2], "graph_seconds": seconds[2:]}
    add_ratios(found)
    found[KERNELS]["limit"] = limit_of(rows, num_tokens, found[KERNELS].get("graph_seconds") or [])
    return list(found.values())


def add_ratios(found: dict[str, dict[str, Any]]) -> None:
    """Add how many times as fast as the faster full attention each layer is."""
    for name in ("seconds", "graph_seconds"):
        best = [
            min(times) for times in zip(*(found[full][name] for full in FULL if found[full].get(name)), strict=True)
        ]
        ratio = "faster_than_full" if name == "seconds" else "graph_faster_than_full"
        for row in found.values():
            if row.get(name):
                row[ratio] = [full / own for full, own in zip(best, row[name], strict=True)]


def limit_of(rows: int, num_tokens: int, graph_seconds: list[float]) -> dict[str, float]:
    """Return what the forward pass cannot be faster than, and what share of its time that is."""
    layer = GroupedAttention(implementation="sdpa").to(torch.bfloat16)
    head, B, N = layer.head, rows, num_tokens
    H, E, U = head.num_heads, head.head_dim, head.prototypes.shape[-1]
    features = torch.randn(B, N, WIDTH, dtype=torch.bfloat16)
    attended = torch.randn(B, N, H * head.value_dim, dtype=torch.bfloat16)
    keys = torch.randint(64 * 1024, (B, H, N), dtype=torch.int32)
    large = torch.empty(2**29, dtype=torch.bfloat16)

    def projections() -> None:
        with torch.no_grad():
            head.qkv(features), head.metric(features), head.output(attended)

    parts = {
        "projections": median_seconds(as_graph(projections)),
        "sort": median_seconds(as_graph(lambda: torch.sort(keys, dim=-1, stable=True))),
        "bandwidth": 2 * large.nbytes / median_seconds(large.clone),
    }
    # Keys: metric in, an integer out. Means: order, keys and values in. Attention: order, all projections and the
    # metric in, results and two numbers out.
    per_token = 2 * U + H * (4 + 8 + 2 * (2 * E + U) + 8 + 2 * (3 * E + 2 * U) + 2 * head.value_dim + 8)
    parts["bytes"] = float(B * N * per_token)
    parts["seconds"] = parts["projections"] + parts["sort"] + parts["bytes"] / parts["bandwidth"]
    if graph_seconds:
        parts["share"] = parts["seconds"] / graph_seconds[0]
    return parts


def cells_of(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return the rows as a table's cells: milliseconds and, against the faster full attention, ratios."""
    cells = [["layer", "rows x tokens", "ms", "as graph", "times as fast", "as graph", "MiB", "limit"]]
    for row in rows:
        name = [row["layer"], f"{row['rows']} x {row['tokens']:,}"]
        if "seconds" not in row:
            cells.append([*name, row["left_out"][:60], *[""] * 5])
            continue
        columns = [" / ".join(f"{1e3 * s:.3f}" for s in row[key]) for key in ("seconds", "graph_seconds")]
        for key in ("faster_than_full", "graph_faster_than_full"):
            columns.append(" / ".join(f"{ratio:.2f}" for ratio in row.get(key) or ()))
        share = row.get("limit", {}).get("share")
        memory = " / ".join(f"{size:.0f}" for size in row["mebibytes"])
        cells.append([*name, *columns, memory, "" if share is None else f"{share:.2f}"])
    return cells


def layers() -> list[dict[str, Any]]:
    """Measure all layers at all sizes."""
    rows = []
    for shape in SHAPES:
        found = rows_of(*shape)
        print(table(cells_of(found)), flush=True)
        rows += found
    return rows


PARTS: dict[str, tuple[str, Callable[[], list[dict[str, Any]]]]] = {
    "exact": ("errors", errors),
    "layers": ("rows", layers),
    "steps": ("steps", training_steps),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parts = parser.parse_args().parts
    if not torch.cuda.is_available():
        raise SystemExit("attention_gpu.py needs a GPU with CUDA; on a CPU use attention.py.")
    torch.set_default_device("cuda")
    torch.manual_seed(0)
    record = {"command": "python -m benchmarks.speed.attention_gpu", "seed": 0, "repeats": REPEATS}
    kept = read_results(TARGET) if TARGET.exists() else {}
    for part in parts:
        name, measure = PARTS[part]
        kept = {**kept, **record, "environment": environment(), name: measure()}
        write_results(TARGET, kept)  # after each part: the machine may be taken back


if __name__ == "__main__":
    main()
