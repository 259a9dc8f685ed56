"""Our recipe beside the stock head, `Trainer` and PEFT: `python -m benchmarks.speed.training`.

MiniLM with LoRA on rows of Reuters R8; `Trainer` drives every contestant. Short trainings take
turns in one process, one thread each; a figure is the ratio of the two in the same round, over all rounds. Times are
CPU time of the process (the greater of two processes), because the machine is shared; wall time stands beside it.

- `equal`: rows cut and padded to 128 tokens, 16 a batch, bfloat16, LoRA on queries and values: heads against no heads,
  in one process and in two.
  `stock` is as Transformers opens it, `stock_fast` has our attention kernel and no dropout inside attention, as the
  recipe has.
- `defaults`: whole rows, the recipe as it is against `Trainer` as it is (float32, 8 random rows a batch, texts cut at
  512 tokens) and `LoraConfig` as it is.
- `inference`: forward pass of 16 x 128 tokens, float32.
- `memory`: peak of a process that trains on `equal`, each contestant in a process of its own.

Written to `benchmarks/results/training.json`; `--part NAME` measures that part alone and keeps the others.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from peft import LoraConfig, TaskType, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging

from hf_selfattn import TextClassificationArguments, build_arguments
from hf_selfattn.adapters import base_model
from hf_selfattn.cpu_attention import use_fast_attention
from hf_selfattn.data import ClassificationData
from hf_selfattn.files import read_json, write_json
from hf_selfattn.hub.results import environment
from hf_selfattn.machine import has_bf16, join_processes
from hf_selfattn.tasks import task_of
from hf_selfattn.tasks.backbone import open_backbone
from hf_selfattn.training.setup import Prepared, build_trainer

from ..records import DATA, RESULTS, read_results, write_results

TARGET = RESULTS / "training.json"
INPUTS = ["input_ids", "token_type_ids", "attention_mask"]
LENGTH, LABELS, SEED = 128, 8, 0
ROUNDS, STEPS = 7, 4
DEFAULT_ROUNDS, DEFAULT_ROWS = 3, 64
QUIET = {
    "logging_strategy": "no",
    "eval_strategy": "no",
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "include_num_input_tokens_seen": "non_padding",
    "use_cpu": True,
    "seed": SEED,
}


class Clock(TrainerCallback):
    """Time and tokens at the beginning of the training and at the end of each step."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float, int]] = []

    def on_train_begin(self, *arguments: Any, **kwargs: Any) -> None:
        self.on_step_end(*arguments)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.marks.append((time.process_time(), time.perf_counter(), state.num_input_tokens_seen))

    def record(self, rows_a_step: int, processes: int, warm_up: int) -> dict[str, float]:
        """Return rows and tokens a second after the steps of a warm-up; CPU time is that of the busiest process."""
        (cpu, wall, tokens), (cpu_end, wall_end, tokens_end) = self.marks[warm_up], self.marks[-1]
        seconds = max(gather_object([cpu_end - cpu])) if processes > 1 else cpu_end - cpu
        rows = rows_a_step * processes * (len(self.marks) - 1 - warm_up)
        counted = tokens_end - tokens
        return {
            "samples_per_cpu_second": rows / seconds,
            "tokens_per_cpu_second": counted / seconds,
            "samples_per_second": rows / (wall_end - wall),
            "tokens_per_second": counted / (wall_end - wall),
        }


def recipe(**changes: Any) -> TextClassificationArguments:
    """Return the arguments of our recipe on R8."""
    files = {name: str(DATA / "r8" / f"{name}.jsonl") for name in ("train", "validation", "test")}
    settings = {"model": str(DATA / "minilm"), "output_dir": tempfile.mkdtemp(), "standardise": False, **files}
    settings |= {"load_best_model_at_end": False, **QUIET, **changes}
    return build_arguments(settings, TextClassificationArguments)


def ours(arguments: TextClassificationArguments, data: ClassificationData, tokens: Dataset) -> Trainer:
    """Return the `Trainer` of the recipe on the given rows."""
    backbone_config, tokenizer = open_backbone(arguments)
    task = task_of(arguments)
    model = task.build_model(data, backbone_config)
    prepared = Prepared(data, {"train": tokens, "validation": tokens}, tokenizer, backbone_config)
    trainer = build_trainer(task, prepared, model, Path(arguments.output_dir))
    if trainer.args.bf16:
        use_fast_attention(base_model(model))
    return trainer


def stock(tokens: Dataset, lora: dict[str, Any], model_options: dict[str, Any], **options: Any) -> Trainer:
    """Return `Trainer` on the stock head of Transformers with LoRA of PEFT."""
    folder = str(DATA / "minilm")
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=LABELS, **model_options)
    if model_options:
        use_fast_attention(model)
    adapted = get_peft_model(model, LoraConfig(task_type=TaskType.SEQ_CLS, **lora))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    arguments = TrainingArguments(output_dir=tempfile.mkdtemp(), learning_rate=1e-3, **{**QUIET, **options})
    return Trainer(model=adapted, args=arguments, train_dataset=tokens, processing_class=tokenizer)


def take_turns(contestants: dict[str, Callable[[], Trainer]], rounds: int, warm_up: int) -> list[dict[str, Any]]:
    """Train all contestants once in every round, in an order that is turned round by round."""
    record = []
    for number in range(rounds):
        names = list(contestants)
        names = names if number % 2 == 0 else names[::-1]
        measured = {}
        for name in names:
            set_seed(SEED + number)
            clock, trainer = Clock(), contestants[name]()
            trainer.add_callback(clock)
            trainer.train()
            measured[name] = clock.record(trainer.args.train_batch_size, trainer.args.world_size, warm_up)
        record.append(measured)
    return record


def load() -> tuple[ClassificationData, Dataset]:
    """Return R8 and its tokenised training rows, whole."""
    arguments = recipe()
    join_processes(arguments.options.get("use_cpu"))
    with PartialState().main_process_first():
        data = task_of(arguments).load()
        _, tokenizer = open_backbone(arguments)
        tokenizer.model_max_length = int(1e30)
        return data, task_of(arguments).encode(data, tokenizer)["train"].shuffle(SEED)


def cut(tokens: Dataset, length: int) -> Dataset:
    """Return the first tokens of each row, its closing special token kept."""

    def shorten(row: dict[str, Any]) -> dict[str, Any]:
        if row["length"] <= length:
            return row
        kept = {name: row[name][: length - 1] + row[name][-1:] for name in INPUTS}
        return {**row, **kept, "length": length}

    return tokens.map(shorten)


def equal_contestants() -> dict[str, Callable[[], Trainer]]:
    """Return what builds heads and no heads: same rows, batches, precision and padding."""
    data, tokens = load()
    rows = cut(tokens.select(range(512)), LENGTH)
    options = {
        "per_device_train_batch_size": 16,
        "max_steps": STEPS + 1,
        "bf16": has_bf16(),
        "weight_decay": 0.01,
        "warmup_steps": 0.1,
        "train_sampling_strategy": "random",
    }
    lora = {"r": 16, "lora_alpha": 32, "target_modules": ["query", "value"]}
    ours_options = {**options, "lora": {"target_modules": lora["target_modules"]}}

    def padded(trainer: Trainer) -> Trainer:
        trainer.data_collator = DataCollatorWithPadding(trainer.processing_class, "max_length", LENGTH)
        return trainer

    return {
        "ours": lambda: padded(ours(recipe(**ours_options), data, rows)),
        "stock": lambda: padded(stock(rows, lora, {}, **options)),
        "stock_fast": lambda: padded(stock(rows, lora, {"attention_probs_dropout_prob": 0.0}, **options)),
    }


def equal() -> list[dict[str, Any]]:
    """Measure heads against no heads."""
    return take_turns(equal_contestants(), ROUNDS, warm_up=1)


def defaults() -> list[dict[str, Any]]:
    """Measure the recipe as it is against `Trainer` and PEFT as they are, an epoch of some rows a round."""
    data, tokens = load()
    rows = tokens.select(range(DEFAULT_ROWS))
    cut_rows = cut(rows, 512)
    contestants = {
        "ours": lambda: ours(recipe(num_train_epochs=1), data, rows),
        "stock": lambda: stock(cut_rows, {}, {}, num_train_epochs=1),
    }
    return take_turns(contestants, DEFAULT_ROUNDS, warm_up=0)  # grouped by length, the longest rows come first


def inference() -> list[dict[str, Any]]:
    """Measure CPU seconds of a forward pass, rows of 97 to 128 tokens."""
    arguments = recipe()
    data, tokens = load()
    rows = cut(tokens.filter(lambda row: row["length"] >= 96).select(range(16)), LENGTH).select_columns(INPUTS)
    backbone_config, tokenizer = open_backbone(arguments)
    batch = DataCollatorWithPadding(tokenizer, "max_length", LENGTH)(list(rows))
    models = {
        "ours": base_model(task_of(recipe(tuning="full")).build_model(data, backbone_config)),
        "stock": AutoModelForSequenceClassification.from_pretrained(arguments.model, num_labels=LABELS),
    }
    record = []
    with torch.no_grad():
        for model in models.values():
            model.eval()(**batch)
        for _ in range(15):
            measured = {}
            for name, model in models.items():
                started = time.process_time()
                model(**batch)
                measured[name] = {"cpu_seconds": time.process_time() - started}
            record.append(measured)
    return record


def memory(name: str) -> float:
    """Return MiB that the process of a contestant holds at most in a few steps of `equal`."""
    take_turns({name: equal_contestants()[name]}, rounds=1, warm_up=1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


MEASURES: dict[str, Callable[[], Any]] = {
    "equal": equal,
    "equal_two_processes": equal,
    "defaults": defaults,
    "inference": inference,
    **{f"memory_{name}": partial(memory, name) for name in ("ours", "stock", "stock_fast")},
}


def measure(part: str) -> Any:
    """Measure a part in processes of its own and return what they found."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2"] if part == "equal_two_processes" else []
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "measured.json"
        words = ["-m", "benchmarks.speed.training", "--part", part, "--write", str(target)]
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, *launcher, *words], env=one_thread, check=True)
        return read_json(target)


def ratios(rounds: list[dict[str, Any]], ours_name: str, other: str, figure: str) -> dict[str, float]:
    """Return the median of ours / other over the rounds, its least and its greatest value."""
    values = sorted(one[ours_name][figure] / one[other][figure] for one in rounds)
    return {"median": statistics.median(values), "least": values[0], "greatest": values[-1]}


def summarise(parts: dict[str, Any]) -> dict[str, Any]:
    """Return the ratios that the parts show, ours over each other contestant."""
    summary: dict[str, Any] = {}
    for part, rounds in parts.items():
        if part.startswith("memory"):
            continue
        for other in rounds[0].keys() - {"ours"}:
            for figure in rounds[0]["ours"]:
                summary[f"{part}: {figure}, ours / {other}"] = ratios(rounds, "ours", other, figure)
    for other in ("stock", "stock_fast"):
        if {"memory_ours", f"memory_{other}"} <= parts.keys():
            summary[f"memory: MiB, ours / {other}"] = {"median": parts["memory_ours"] / parts[f"memory_{other}"]}
    return dict(sorted(summary.items()))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=MEASURES)
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    if given.write:
        torch.set_num_threads(1)
        logging.set_verbosity_error()
        measured = MEASURES[given.part]()
        if PartialState().is_main_process:
            write_json(given.write, measured)
        return
    for part in [given.part] if given.part else MEASURES:
        measured = measure(part)
        record = read_results(TARGET) if TARGET.is_file() else {"parts": {}}
        record["parts"][part] = measured
        record |= {"command": "python -m benchmarks.speed.training", "seed": SEED, "environment": environment()}
        record["summary"] = summarise(record["parts"])
        write_results(TARGET, record)
    cells = [[name, *(f"{value:.3f}" for value in ratio.values())] for name, ratio in record["summary"].items()]
    print("\n".join("  ".join(cell) for cell in cells))


if __name__ == "__main__":
    main()
