"""One attention layer against full attention and its peers: `python -m benchmarks.speed.attention`.

Each layer is measured with its projections, D = 384. Time is CPU time on one thread: the least of several repeats, in
which all layers take turns in one process. Memory is what one forward pass, or forward and backward, adds to the
resident memory of a process of its own at most. The limit of the grouped layer is what its own products (backward:
twice the forward's) would take at the rate of a product (N, 384) x (384, 448) measured in the same turns. Written to
`benchmarks/results/attention.json` and `.png`; a choice of lengths, layers or types is only printed.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from hf_selfattn.hub.results import environment
from hf_selfattn.hub.summary import table

from ..records import RESULTS, write_results
from .attention_layers import LAYERS, WIDTH, GroupedAttention, Layer, build_layer

LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PRODUCT_WIDTH = 448
MMAP_THRESHOLD = -3  # of `mallopt`
LONGEST_OF_ALL = 4096  # layers that are slower than full attention here are not measured at greater lengths


def repeats(num_tokens: int) -> int:
    """Return how often each layer takes its turn."""
    return 5 if num_tokens <= LONGEST_OF_ALL else 2


def seconds(action: Callable[[], object]) -> float:
    """Return the CPU time of one call."""
    started = time.process_time()
    action()
    return time.process_time() - started


def passes(call: Layer, num_tokens: int, dtype: torch.dtype) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return the forward pass, and forward and backward in one, on random features."""
    features = torch.randn(1, num_tokens, WIDTH, dtype=dtype)
    towards = torch.randn_like(features)

    def forward() -> None:
        with torch.no_grad():
            call(features)

    def forward_and_backward() -> None:
        call(features.clone().requires_grad_()).backward(towards)

    return forward, forward_and_backward


def peak_mebibytes(name: str, num_tokens: int, dtype: str) -> tuple[float, float] | str:
    """Return the memory that a layer takes forward, and forward and backward; or why it cannot be measured."""

    libc = ctypes.CDLL(None)
    libc.mallopt(MMAP_THRESHOLD, 2**16)  # so that a tensor takes memory of its own, and gives it back
    try:
        _, call = build_layer(name, num_tokens, DTYPES[dtype])
        steps = passes(call, num_tokens, DTYPES[dtype])
        libc.malloc_trim(0)
        forward, both = (added_at_most(step) for step in steps)
    except (ImportError, RuntimeError) as error:  # a package that is missing, or that cannot take the type
        return str(error)
    return forward, both


def added_at_most(action: Callable[[], object]) -> float:
    """Return what a call adds to this process's memory at its peak, in MiB (Linux)."""

    def resident(name: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return float(next(line for line in lines if line.startswith(name)).split()[1]) / 1024

    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    action()
    return resident("VmHWM") - before


def measure_memory(names: list[str], num_tokens: int, dtype: str) -> dict[str, Any]:
    """Return the memory of each layer, each in a process of its own, or why it cannot be measured."""
    found: dict[str, Any] = {}
    for name in names:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
            try:
                found[name] = pool.submit(peak_mebibytes, name, num_tokens, dtype).result()
            except BrokenProcessPool:
                found[name] = f"its process was killed at {num_tokens} tokens: out of memory"
    return found


def measure_times(names: list[str], num_tokens: int, dtype: str, turns: int) -> dict[str, list[float]]:
    """Return the least CPU seconds of each layer, forward and forward and backward, and of the product."""
    torch_dtype = DTYPES[dtype]
    left, right = (
        torch.randn(num_tokens, WIDTH, dtype=torch_dtype),
        torch.randn(PRODUCT_WIDTH, WIDTH, dtype=torch_dtype),
    )
    actions: dict[str, tuple[Callable[[], object], ...]] = {"product": (lambda: F.linear(left, right),)}
    for name in names:
        actions[name] = passes(build_layer(name, num_tokens, torch_dtype)[1], num_tokens, torch_dtype)
    least = {name: [float("inf")] * len(steps) for name, steps in actions.items()}
    for _ in range(turns):
        for name, steps in actions.items():
            for place, step in enumerate(steps):
                least[name][place] = min(least[name][place], seconds(step))
    return least


def rows_of(num_tokens: int, dtype: str, names: list[str], memory: dict[str, Any], turns: int) -> list[dict[str, Any]]:
    """Return one row of figures for each layer, or why there is none."""
    runs = [name for name in names if not isinstance(memory[name], str)]
    times = measure_times(runs, num_tokens, dtype, turns)
    rate = 2 * num_tokens * WIDTH * PRODUCT_WIDTH / times["product"][0]
    rows = []
    for name in names:
        row: dict[str, Any] = {"layer": name, "tokens": num_tokens, "dtype": dtype}
        if name not in runs:
            rows.append({**row, "left_out": memory[name]})
            continue
        row["seconds"], row["mebibytes"] = times[name], memory[name]
        row["faster_than_full"] = [full / own for full, own in zip(times["full"], times[name], strict=True)]
        layer = build_layer(name, num_tokens, torch.float32)[0]
        if isinstance(layer, GroupedAttention):
            limit = layer.flops(num_tokens) / rate
            row["product_gigaflops"] = rate / 1e9
            row["share_of_limit"] = [limit / times[name][0], 3 * limit / times[name][1]]
        rows.append(row)
    return rows


def slower_than_full(rows: list[dict[str, Any]]) -> set[str]:
    """Return the layers that full attention outruns in forward and backward, in any row."""
    return {row["layer"] for row in rows if "seconds" in row and max(row["faster_than_full"]) < 1}


def cells_of(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return the rows as a table's cells."""
    header = ["layer", "tokens", "dtype", "ms fwd", "fwd+bwd", "faster fwd", "fwd+bwd", "MiB fwd", "fwd+bwd", "limit"]
    cells = [header]
    for row in rows:
        name = [row["layer"], str(row["tokens"]), row["dtype"]]
        if "left_out" in row:
            cells.append([*name, "left out", *[""] * 6])
            continue
        limit = " ".join(f"{share:.2f}" for share in row.get("share_of_limit", ()))
        figures = [f"{1e3 * s:.1f}" for s in row["seconds"]] + [f"{ratio:.1f}" for ratio in row["faster_than_full"]]
        cells.append([*name, *figures, *(f"{size:.0f}" for size in row["mebibytes"]), limit])
    return cells


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw time against length in single precision, both axes logarithmic."""
    from matplotlib import pyplot

    figure, panes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharex=True)
    for place, (pane, title) in enumerate(zip(panes, ("forward", "forward and backward"), strict=True)):
        for name in LAYERS:
            own = [row for row in rows if row["layer"] == name and row["dtype"] == "float32" and "seconds" in row]
            style = {"linewidth": 2.5} if name in ("full", "grouped") else {"linewidth": 1, "alpha": 0.7}
            times = [1e3 * row["seconds"][place] for row in own]
            pane.loglog([row["tokens"] for row in own], times, marker=".", label=name, **style)
        pane.set(title=title, xlabel="tokens", ylabel="CPU milliseconds, one thread")
        pane.set_xticks(LENGTHS, [str(length) for length in LENGTHS], minor=False)
        pane.grid(alpha=0.3)
    panes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=75, bbox_inches="tight", pil_kwargs={"optimize": True})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short inputs, few turns, nothing written")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS), help="`full` is always measured")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    names = list(dict.fromkeys(["full", *arguments.layers]))
    rows: list[dict[str, Any]] = []
    lengths = arguments.lengths if not arguments.quick else (512,)
    for num_tokens in lengths:
        for dtype in arguments.dtypes:
            slow = slower_than_full([row for row in rows if row["tokens"] == LONGEST_OF_ALL])
            measured = [name for name in names if num_tokens <= LONGEST_OF_ALL or name not in slow]
            turns = 1 if arguments.quick else repeats(num_tokens)
            memory = measure_memory(measured, num_tokens, dtype)
            found = rows_of(num_tokens, dtype, measured, memory, turns)
            print(table(cells_of(found)), flush=True)
            rows += found
    for name, reason in {row["layer"]: row["left_out"] for row in rows if "left_out" in row}.items():
        print(f"{name} was left out: {reason}")
    whole = names == list(LAYERS) and tuple(arguments.lengths) == LENGTHS and arguments.dtypes == list(DTYPES)
    if arguments.quick or not whole:
        return
    record = {
        "command": "python -m benchmarks.speed.attention",
        "seed": 0,
        "repeats": {str(num_tokens): repeats(num_tokens) for num_tokens in LENGTHS},
        "environment": environment(),
        "rows": rows,
    }
    write_results(RESULTS / "attention.json", record)
    draw(rows, RESULTS / "attention.png")


if __name__ == "__main__":
    main()
