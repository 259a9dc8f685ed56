"""Kill one training after another at random moments, give the command again, and compare the weights at the end.

python tests/support/kills.py FOLDER KILLS SEED
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from runs import text_arguments
from safetensors.torch import load_file
from tiny_models import BACKBONES, tiny_text, tiny_tokenizer
from transformers import AutoModel, AutoModelForSequenceClassification

from hf_selfattn import run
from hf_selfattn.training.checkpoints import checkpoints_of, fault_of

LABELS = ("left", "right", "up")
SHARED: dict[str, Any] = {
    "heads": {"head_dim": 8, "group_dim": 8, "num_groups": 4, "block_size": 8, "subsequence_stride": 4},
    "baseline": False,
    "bf16": False,
    "disable_tqdm": True,
    "seed": 0,
    "per_device_train_batch_size": 4,
}
EVERY_FIVE = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 5, "save_steps": 5}
# Kinds of training: checkpoints at the ends of epochs and inside of them, a late end and an early one.
TRAININGS: tuple[dict[str, Any], ...] = (
    {"tuning": "lora", "num_train_epochs": 3, "sample_tokens": 24},
    {"tuning": "full", "num_train_epochs": 3, "early_stopping_patience": 2, **EVERY_FIVE},
    {"tuning": "probe+lora", "num_train_epochs": 2},
    {"tuning": "lora", "max_steps": 17, "gradient_accumulation_steps": 2, **EVERY_FIVE},
)
# Moments that chance would seldom hit: a part of the path of a file that is opened, renamed or deleted, and how often
# at most it is before the kill.
MOMENTS = {
    "arguments.json": 3,
    "/_writing/": 60,
    "_outdated": 4,
    "/.saving/": 30,
    "README.md": 2,
    "results.json": 2,
    "heads.safetensors": 2,
}
FORK = get_context("fork")  # a start costs a second, not ten


def prepare(folder: Path) -> dict[str, Any]:
    """Write a tiny backbone and rows, and return the settings of a training but its folder."""
    torch.manual_seed(0)
    AutoModel.from_config(BACKBONES["bert"]).save_pretrained(folder / "backbone")
    tiny_tokenizer().save_pretrained(folder / "backbone")
    for split, count, seed in (("train", 40, 0), ("validation", 13, 1), ("test", 13, 2)):
        rows = [
            {
                "text": f"w{10 + i % 3} " + tiny_text(40 if i % 5 == 0 else 4 + i % 7, 100 * seed + i),
                "label": LABELS[i % 3],
            }
            for i in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "validation", "test")}
    return {"model": str(folder / "backbone"), "feature_cache": str(folder / "features"), **files, **SHARED}


def in_child(function: Callable[..., Any], *arguments: Any, patience: float = 300) -> int:
    """Call a function in a process of its own, kill that after some seconds, and return its exit code."""
    process = FORK.Process(target=quietly, args=(function, *arguments))
    process.start()
    process.join(patience)
    process.kill()
    process.join()
    return process.exitcode or 0


def quietly(function: Callable[..., Any], *arguments: Any) -> None:
    """Call a function whose outputs go nowhere, but errors."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    torch.set_num_threads(1)
    function(*arguments)


def train(settings: dict[str, Any], moment: str, count: int) -> None:
    """Train, and kill this process when it touches such a file for the nth time."""
    left, folder = count, settings["output_dir"]

    def hook(event: str, values: tuple[Any, ...]) -> None:
        nonlocal left
        if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            paths = [os.fspath(value) for value in values if isinstance(value, str | os.PathLike)]
            left -= any(str(path).startswith(folder) and moment in str(path) for path in paths)
            if count and left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    run(text_arguments(settings))


def check(folder: Path) -> None:
    """Open what looks like a checkpoint or a model."""
    for checkpoint in checkpoints_of(folder):
        wrong = fault_of(checkpoint)
        if wrong:
            raise ValueError(f"{checkpoint}: {wrong}")
        if (checkpoint / "config.json").is_file():
            AutoModelForSequenceClassification.from_pretrained(checkpoint)
        torch.load(checkpoint / "optimizer.pt", weights_only=True)
    if (folder / "config.json").is_file():
        AutoModelForSequenceClassification.from_pretrained(folder)


def main(folder: Path, kills: int, seed: int) -> None:
    gc.freeze()  # none of the children looks for garbage in what is imported
    chance, settings = random.Random(seed), prepare(folder)
    wholes, seconds = [], []
    for number, training in enumerate(TRAININGS):
        began = time.monotonic()
        wholes.append(folder / f"whole-{number}")
        if in_child(train, {**settings, **training, "output_dir": str(wholes[-1])}, "", 0):
            raise SystemExit(f"training {number} fails undisturbed")
        seconds.append(time.monotonic() - began)
    done, finished = 0, 0
    while done < kills or finished < len(TRAININGS):
        number = finished % len(TRAININGS)
        place = folder / f"killed-{finished}"
        given = {**settings, **TRAININGS[number], "output_dir": str(place)}
        quota = -(-(kills - done) // max(len(TRAININGS) - finished, 1))  # kills of this training
        for _ in range(quota):
            if chance.random() < 0.5:
                moment, most = chance.choice(list(MOMENTS.items()))
                code = in_child(train, given, moment, chance.randint(1, most))
                when = f"at {moment!r}"
            else:
                after = chance.uniform(0, seconds[number])
                code = in_child(train, given, "", 0, patience=after)
                when = f"after {after:.2f} s"
            there = [path.name for path in checkpoints_of(place)]
            print(f"training {number} {when}: exit {code}; {there}", flush=True)
            if code not in (0, -signal.SIGKILL):
                raise SystemExit(f"training {number} failed {when}")
            done += code == -signal.SIGKILL
            if in_child(check, place):
                raise SystemExit(f"something in {place} does not open, killed {when}")
            if code == 0:
                break
        if in_child(train, given, "", 0):
            raise SystemExit(f"training {number} does not go on")
        compare(wholes[number], place)
        finished += 1
    print(f"{done} kills, {finished} trainings end with the same weights and answers")


def compare(whole: Path, killed: Path) -> None:
    """See that two trainings ended with the same weights and answers."""
    one, other = (load_file(place / "model.safetensors") for place in (whole, killed))
    if one.keys() != other.keys() or not all(torch.equal(one[name], other[name]) for name in one):
        raise SystemExit(f"{killed} has other weights than {whole}")
    for name in ("predictions-test.jsonl", "predictions-validation.jsonl"):
        if (whole / name).read_bytes() != (killed / name).read_bytes():
            raise SystemExit(f"{killed} answers otherwise than {whole}")
    steps = [json.loads((place / "results.json").read_text())["training"]["steps"] for place in (whole, killed)]
    if steps[0] != steps[1]:
        raise SystemExit(f"{killed} made {steps[1]} steps instead of {steps[0]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
