"""Time and peak memory of one long text through MiniLM with heads: `python -m benchmarks.speed.long_input`.

Each length runs in a process of its own, on one thread; the memory is the process's peak less what it held before the
forward pass, the time is CPU time. Written to `benchmarks/results/long_input.json`.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time

import torch

from hf_selfattn import SelfAttnForSequenceClassification
from hf_selfattn.hub.results import environment
from hf_selfattn.hub.summary import table

from ..records import DATA, RESULTS, write_results

BACKBONE = DATA / "minilm"
LENGTHS = (2048, 4096, 8192, 16384)
REPEATS = 3


def measure(num_tokens: int) -> dict[str, float]:
    """Return seconds (median of the repeats) and mebibytes of a forward pass over one text."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = SelfAttnForSequenceClassification.from_backbone(str(BACKBONE), num_labels=4)
    words = torch.randint(1000, model.config.vocab_size, (1, num_tokens - 2))
    input_ids = torch.cat([torch.tensor([[101]]), words, torch.tensor([[102]])], dim=1)
    seconds = []
    with torch.no_grad():
        model(input_ids[:, -256:])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(REPEATS):
            started = time.process_time()
            model(input_ids)
            seconds.append(time.process_time() - started)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"tokens": num_tokens, "seconds": statistics.median(seconds), "mebibytes": (after - before) / 1024}


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]))))
        return
    rows = []
    for length in LENGTHS:
        command = [sys.executable, "-m", "benchmarks.speed.long_input", str(length)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(answer.stdout.splitlines()[-1]))
    record = {
        "command": "python -m benchmarks.speed.long_input",
        "seed": 0,
        "repeats": REPEATS,
        "environment": environment(),
        "rows": rows,
    }
    write_results(RESULTS / "long_input.json", record)
    cells = [
        [str(r["tokens"]), f"{r['seconds']:.2f}", f"{1e6 * r['seconds'] / r['tokens']:.0f}", f"{r['mebibytes']:.0f}"]
        for r in rows
    ]
    print(table([["tokens", "seconds", "µs a token", "MiB"], *cells]))


if __name__ == "__main__":
    main()
