"""What probe tuning costs beside LoRA: `python -m benchmarks.speed.probe`.

CoNLL-2003, a sentence at a time, MiniLM, one process, one thread, CPU time. The features of a random quarter of train
are kept, once in float16 and once in bfloat16. Then an epoch of probe tuning on them (64 sentences a batch), one of
our LoRA recipe and one of the stock token classifier with LoRA (16 a batch, on 256 sentences of train) take turns.
Times are scaled by tokens to the whole of train, and a ratio is that of the same round. `whole` is three epochs, and
for the probe the features of train, too; evaluations are left out. All train in bfloat16 where the processor has it.

Written to `benchmarks/results/probe.json`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import Trainer, TrainerCallback, set_seed
from transformers.utils import logging

from hf_selfattn import NerArguments, build_arguments
from hf_selfattn.adapters import base_model
from hf_selfattn.cpu_attention import use_fast_attention
from hf_selfattn.hub.results import environment
from hf_selfattn.machine import has_bf16
from hf_selfattn.tasks import task_of
from hf_selfattn.training.phases import build_model, prepare
from hf_selfattn.training.setup import Prepared, build_trainer, cached_features

from ..peers.stock import StockNerArguments
from ..records import DATA, RESULTS, write_results

SEED, ROUNDS, EPOCHS = 0, 2, 3
CACHED_ROWS, LORA_ROWS, PROBE_BATCH, LORA_BATCH = 3510, 256, 64, 16
KINDS = {"probe": NerArguments, "lora": NerArguments, "stock": StockNerArguments}


def settings(folder: str, **changes: Any) -> dict[str, Any]:
    """Return the settings of the recipe, for one epoch without evaluations."""
    return {
        "model": str(DATA / "minilm"),
        "output_dir": tempfile.mkdtemp(dir=folder),
        **{split: str(DATA / f"conll2003/{split}.txt") for split in ("train", "validation")},
        "feature_cache": f"{folder}/features",
        "num_train_epochs": 1,
        **{name: "no" for name in ("eval_strategy", "save_strategy", "logging_strategy")},
        "load_best_model_at_end": False,
        "disable_tqdm": True,
        "seed": SEED,
        **changes,
    }


class Clock(TrainerCallback):
    """CPU time at the beginning of the training and after its last step."""

    def on_train_begin(self, *arguments: Any, **options: Any) -> None:
        self.begin = time.process_time()

    def on_step_end(self, *arguments: Any, **options: Any) -> None:
        self.seconds = time.process_time() - self.begin


def some(tokens: dict[str, Dataset], rows: int, seed: int) -> dict[str, Dataset]:
    """Return random rows of train, and a few of validation."""
    train = tokens["train"].shuffle(seed).select(range(rows)).flatten_indices()
    return {"train": train, "validation": tokens["validation"].select(range(32))}


def keep_features(prepared: Prepared, folder: str, dtype: str) -> float:
    """Keep the features of the rows and return the CPU seconds for a token."""
    arguments = build_arguments(settings(folder, tuning="probe", feature_dtype=dtype), kind=NerArguments)
    task = task_of(arguments)
    model, inputs = build_model(task, prepared, None), task.inputs(prepared.processor)
    cache = cached_features(arguments, prepared.encoded, inputs)
    started = time.process_time()
    cache.prepare(model, "cpu")
    return (time.process_time() - started) / sum(cache.lengths)


def train(name: str, prepared: Prepared, folder: str, **changes: Any) -> float:
    """Train an epoch and return the CPU seconds for a token."""
    arguments = build_arguments(settings(folder, **changes), kind=KINDS[name])
    set_seed(SEED)
    task = task_of(arguments)
    model = build_model(task, prepared, None)
    trainer: Trainer = build_trainer(task, prepared, model, Path(arguments.output_dir))
    if trainer.args.bf16:
        use_fast_attention(base_model(model))
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    return clock.seconds / sum(prepared.encoded["train"]["length"][:])


def measure(folder: str) -> dict[str, Any]:
    """Return CPU seconds over the whole of train: of each cache, and of an epoch of each contestant in each round."""
    ours = build_arguments(settings(folder), kind=NerArguments)
    data = task_of(ours).load()
    whole = prepare(task_of(ours), data)
    stock = prepare(task_of(build_arguments(settings(folder), kind=StockNerArguments)), data)
    tokens = sum(whole.tokens["train"]["length"][:])
    kept = replace(whole, tokens=some(whole.tokens, CACHED_ROWS, SEED))
    record: dict[str, Any] = {"tokens": tokens, "rows": len(whole.tokens["train"])}
    record["cache"] = {dtype: tokens * keep_features(kept, folder, dtype) for dtype in ("float16", "bfloat16")}
    record["rounds"] = []
    for number in range(ROUNDS):
        lora = {"tuning": "lora", "per_device_train_batch_size": LORA_BATCH}
        ours_lora = {**lora, "lora": {"target_modules": ["query", "value"]}}  # as the stock model's
        few = {"lora": replace(whole, tokens=some(whole.tokens, LORA_ROWS, number))}
        few["stock"] = replace(stock, tokens=some(stock.tokens, LORA_ROWS, number))
        probe = {"tuning": "probe", "feature_dtype": "bfloat16", "per_device_train_batch_size": PROBE_BATCH}
        turns = {
            "lora": lambda few=few, lora=ours_lora: train("lora", few["lora"], folder, **lora),
            "probe": lambda probe=probe: train("probe", kept, folder, **probe),
            "stock": lambda few=few, lora=lora: train("stock", few["stock"], folder, **lora),
        }
        names = list(turns) if number % 2 == 0 else list(turns)[::-1]
        record["rounds"].append({name: tokens * turns[name]() for name in names})
    return record


def summarise(record: dict[str, Any]) -> dict[str, float]:
    """Return the ratios that are wanted: medians over the rounds."""
    summary = {}
    for other in ("lora", "stock"):
        rounds = record["rounds"]
        summary[f"epoch, probe / {other}"] = statistics.median(one["probe"] / one[other] for one in rounds)
        for dtype, cache in record["cache"].items():
            shares = [(cache + EPOCHS * one["probe"]) / (EPOCHS * one[other]) for one in rounds]
            summary[f"whole, features in {dtype}, probe / {other}"] = statistics.median(shares)
    return summary


def main() -> None:
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        record = measure(folder)
    record = {
        "command": "python -m benchmarks.speed.probe",
        "seed": SEED,
        "bf16": has_bf16(),
        "batches": {"probe": PROBE_BATCH, "lora": LORA_BATCH, "stock": LORA_BATCH},
        "measured_rows": {"cache": CACHED_ROWS, "probe": CACHED_ROWS, "lora": LORA_ROWS, "stock": LORA_ROWS},
        "cpu_seconds": record,
        "summary": summarise(record),
        "environment": environment(),
    }
    write_results(RESULTS / "probe.json", record)
    for name, value in record["summary"].items():
        print(f"{name}: {value:.3f}")


if __name__ == "__main__":
    main()
