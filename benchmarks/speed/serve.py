"""What batching in the server is worth: `python -m benchmarks.speed.serve`.

A MiniLM classifier of two labels (fresh heads: their speed is that of trained ones) is served by a process with one
thread, and a second process asks for one short review at a time with 32 clients, each on a connection of its own. In
turns the server answers requests that arrive together at once (`batched`, as it does), or one after the other
(`one by one`). Three rounds; rates and times are medians over them.

Written to `benchmarks/results/serve.json`.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from transformers import AutoTokenizer
from transformers.utils import logging

from hf_selfattn import SelfAttnForSequenceClassification
from hf_selfattn.hub.results import environment

from ..records import DATA, RESULTS, ROOT, write_results

CLIENTS, REQUESTS, ROUNDS, SEED = 32, 400, 3, 0
MODES: dict[str, list[str]] = {
    "batched": [],
    "one by one": ["batch_tokens=1", "window=0"],
}  # a batch has one request at least
FIGURES = ("requests_per_second", "p50_ms", "p99_ms")


def save_model(folder: str) -> None:
    """Save a classifier with fresh heads."""
    tokenizer = AutoTokenizer.from_pretrained(DATA / "minilm")
    model = SelfAttnForSequenceClassification.from_backbone(str(DATA / "minilm"), num_labels=2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measure(folder: str, texts: list[str], options: list[str]) -> dict[str, Any]:
    """Serve the model, ask it, end it, and return what the clients saw."""
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, "-m", "hf_selfattn", "serve", folder, "port=0", "drain=0", *options]
    server = subprocess.Popen(words, cwd=ROOT, env=one_thread, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        found = re.search(r"127\.0\.0\.1:(\d+)", server.stdout.readline())
        if found is None:
            raise RuntimeError("The server did not start.")
        words = [sys.executable, "-m", "benchmarks.speed.load", found[1], str(CLIENTS), str(REQUESTS)]
        done = subprocess.run(words, cwd=ROOT, input="\n".join(texts), capture_output=True, text=True, check=True)
    finally:
        server.terminate()
        server.wait()
    outcome: dict[str, Any] = json.loads(done.stdout)
    if outcome["statuses"] != {"200": REQUESTS}:
        raise RuntimeError(f"Not every request was answered: {outcome['statuses']}")
    return outcome


def main() -> None:
    logging.set_verbosity_error()
    rows = (DATA / "vader/movies-polarity-test.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(row)["text"] for row in rows[:REQUESTS]]
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder)
        for number in range(ROUNDS):
            order = list(MODES)[:: 1 if number % 2 == 0 else -1]
            rounds.append({mode: measure(folder, texts, MODES[mode]) for mode in order})
            print(json.dumps(rounds[-1]))
    summary = {
        mode: {name: statistics.median(one[mode][name] for one in rounds) for name in FIGURES} for mode in MODES
    }
    ratios = [one["batched"]["requests_per_second"] / one["one by one"]["requests_per_second"] for one in rounds]
    record = {
        "command": "python -m benchmarks.speed.serve",
        "seed": SEED,
        "clients": CLIENTS,
        "requests": REQUESTS,
        "rounds": rounds,
        "summary": {**summary, "batched / one by one": statistics.median(ratios)},
        "environment": environment(),
    }
    write_results(RESULTS / "serve.json", record)
    print(json.dumps(record["summary"], indent=1))


if __name__ == "__main__":
    main()
