"""A million short rows through `predict`, undisturbed, killed ten times and by two processes:

`python -m benchmarks.speed.predict_rows`

The model is tiny and random, so that reading, writing and going on count. Memory is the resident set of the process,
looked at from outside while it works. Written to `benchmarks/results/predict_rows.json`.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, BertConfig

from hf_selfattn import PredictArguments, SelfAttnConfig, SelfAttnForSequenceClassification, predict
from hf_selfattn.files import digest_of
from hf_selfattn.hub.results import environment
from hf_selfattn.hub.summary import table

from ..records import DATA, RESULTS, write_results

ROWS, KILLS, SEED, BLOCK = 1_000_000, 10, 0, 2000
LOOKS = (50_000, 100_000, 200_000, 400_000, 600_000, 800_000, 950_000)
WORDS = "the market profit of bank said shares rose in oil trade year a quarter fell company and dollar".split()


def prepare(folder: Path, rows: int) -> None:
    """Write a tiny random model and rows of one to twelve words."""
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(DATA / "minilm", model_max_length=10**30)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    heads = {
        "head_dim": 8,
        "group_dim": 8,
        "num_groups": 4,
        "num_self_attention_heads": 2,
        "num_grouped_attention_heads": 2,
    }
    frame = {"prefix_token_ids": [tokenizer.cls_token_id], "suffix_token_ids": [tokenizer.sep_token_id]}
    config = SelfAttnConfig(backbone_config=BertConfig(**sizes), num_labels=3, **heads, **frame)
    model = SelfAttnForSequenceClassification(config)
    torch.nn.init.normal_(model.classifier.query)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    chance = random.Random(SEED)
    with (folder / "rows.csv").open("w") as file:
        file.write("number,text\n")
        file.writelines(f"{n},{' '.join(chance.choices(WORDS, k=chance.randint(1, 12)))}\n" for n in range(rows))


def command(folder: Path, output: str, processes: int = 1) -> list[str]:
    """Return the command that answers the rows."""
    launcher = [sys.executable] if processes == 1 else [str(Path(sys.executable).parent / "torchrun"), "--standalone"]
    launcher += [] if processes == 1 else ["--nproc_per_node", str(processes)]
    return [*launcher, "-m", "benchmarks.speed.predict_rows", str(folder), output]


def resident(process: int) -> float:
    """Return the resident set of a process in MiB."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096 / 2**20


def undisturbed(folder: Path) -> tuple[float, list[dict[str, float]]]:
    """Answer the rows; return the seconds, and the memory after some numbers of rows."""
    began, seen = time.monotonic(), []
    process = subprocess.Popen(command(folder, "whole.csv"), stdout=subprocess.DEVNULL)
    while process.poll() is None:
        time.sleep(0.05)
        rows = BLOCK * len([*(folder / "whole.csv.parts").glob("0*")])
        if len(seen) < len(LOOKS) and rows >= LOOKS[len(seen)]:
            seen.append({"rows": LOOKS[len(seen)], "mebibytes": resident(process.pid)})
    if process.returncode:
        raise SystemExit("the undisturbed run failed")
    return time.monotonic() - began, seen


def killed(folder: Path, seconds: float) -> int:
    """Answer the rows, killed at random moments; return how often it was."""
    chance, kills = random.Random(SEED), 0
    while kills < KILLS:
        process = subprocess.Popen(command(folder, "killed.csv"), stdout=subprocess.DEVNULL)
        try:
            process.wait(timeout=chance.uniform(5, 8 + seconds / KILLS))
            return kills
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    subprocess.run(command(folder, "killed.csv"), check=True, stdout=subprocess.DEVNULL)
    return kills


def main() -> None:
    if len(sys.argv) == 3:
        torch.set_num_threads(1)
        folder = Path(sys.argv[1])
        names = {
            "model": str(folder / "model"),
            "input": str(folder / "rows.csv"),
            "output": str(folder / sys.argv[2]),
        }
        predict(PredictArguments(**names, block_rows=BLOCK))
        return
    with tempfile.TemporaryDirectory() as place:
        record = measure(Path(place))
    write_results(RESULTS / "predict_rows.json", record)
    print(table([["rows", "MiB"], *([f"{look['rows']:,}", f"{look['mebibytes']:.0f}"] for look in record["memory"])]))
    print({name: value for name, value in record.items() if name not in ("memory", "environment")})


def measure(folder: Path) -> dict[str, Any]:
    """Return seconds, memory and whether all outputs are the same."""
    prepare(folder, ROWS)
    seconds, memory = undisturbed(folder)
    lines = (folder / "whole.csv").read_text().splitlines()[1:]
    digest = digest_of(folder / "whole.csv")
    kills = killed(folder, seconds)
    began = time.monotonic()
    subprocess.run(command(folder, "two.csv", processes=2), check=True, stdout=subprocess.DEVNULL)
    return {
        "command": "python -m benchmarks.speed.predict_rows",
        "seed": SEED,
        "environment": environment(),
        "rows": ROWS,
        "answered": len(lines),
        "in_order": [int(line.split(",", 1)[0]) for line in lines] == list(range(ROWS)),
        "seconds": seconds,
        "memory": memory,
        "kills": kills,
        "same_after_kills": digest_of(folder / "killed.csv") == digest,
        "seconds_of_two_processes": time.monotonic() - began,
        "same_of_two_processes": digest_of(folder / "two.csv") == digest,
    }


if __name__ == "__main__":
    main()
