"""`Trainer` as a run sets it up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from torch.utils.data import IterableDataset
from transformers import (
    EarlyStoppingCallback,
    PreTrainedConfig,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import has_length

from ..adapters import base_model
from ..arguments import TuningArguments
from ..machine import has_bf16
from ..metrics import LOWER_IS_BETTER
from ..metrics.baselines import LinearModel
from ..tasks import Task, say
from ..tasks.backbone import Inputs
from ..tasks.evaluation import order_by_length
from .budget import LEAST_EPOCHS, TimeBudget, default_epochs
from .feature_cache import CachedFeatures, default_folder, feature_collator
from .first_pass import classifier_inputs, fit_codebooks, standardise_features, start_linear
from .optimizer import grouped_optimizer
from .progress import show_progress
from .sampler import Excerpts, length_grouped
from .trainer import RecipeTrainer

ROWS_TO_STANDARDISE = 64
LEARNING_RATE = {"probe": 1e-3, "lora": 1e-3, "probe+lora": 1e-3, "full": 5e-5}
# The rate of adapters is that of a backbone this wide; at 768 one run in three never learned with it, and did with a
# quarter (benchmarks/LOG.md), which is what LoRA's paper takes there (Hu et al., 2021: 5e-4 at half of our scale).
WIDTH = 384
GROUPED = "group_by_length"


@dataclass(frozen=True)
class Prepared:
    """What every phase of a training reads."""

    data: Any  # checked, with the splits train and validation
    encoded: dict[str, Any]  # the splits as the model reads them
    processor: Any  # the backbone's: its tokenizer, or what makes tensors of images
    backbone_config: PreTrainedConfig  # as the backbone was trained
    kept_layers: int | None = None  # of kept features; None: those that the model mixes


def build_trainer(
    task: Task[Any], prepared: Prepared, model: torch.nn.Module, output_dir: Path, has_fresh_heads: bool = True
) -> RecipeTrainer:
    """Return the `Trainer` of a phase."""
    arguments, data, encoded, processor = task.arguments, prepared.data, prepared.encoded, prepared.processor
    num_rows = len(encoded["train"]) if has_length(encoded["train"]) else None
    config = base_model(model).config
    width = getattr(config, "hidden_size", WIDTH)  # a stock network of convolutions has none
    options, groups = training_arguments(task, data, output_dir, width, num_rows)
    train, validation = encoded["train"], encoded["validation"]
    inputs = task.inputs(processor)
    cache, record = cached_features(arguments, encoded, inputs, num_layers=prepared.kept_layers), None
    if cache is not None:
        record = cache.prepare(model, options.device)
        train, validation = cache.rows["train"], cache.rows["validation"]
    callbacks: list[TrainerCallback] = []
    if arguments.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=arguments.early_stopping_patience))
    if arguments.budget_minutes is not None:
        callbacks.append(TimeBudget(arguments.budget_minutes))
    if arguments.sample_tokens:
        excerpts = excerpts_of(task, data, model)
        train = excerpts.of(train)
        callbacks.append(excerpts)
    given = task.trainer_options(data, encoded, options, processor)
    trainer = RecipeTrainer(
        model=model,
        args=options,
        make_optimizer=lambda model: grouped_optimizer(model, options, task),
        sampler=length_grouped(train, options) if groups else None,
        eval_dataset=validation.select(order_by_length(encoded["validation"])),
        processing_class=processor,
        **{
            "train_dataset": train,
            **given,
            "callbacks": [*callbacks, *given.get("callbacks", [])],
            "data_collator": feature_collator(given["data_collator"], getattr(config, "num_mixed_layers", 1)),
        },
    )
    trainer.feature_record, trainer.watch.grace = record, arguments.grace_seconds
    show_progress(trainer)
    if has_fresh_heads:
        rows = some_rows(train, inputs.columns, options.seed)
        if arguments.standardise:
            standardise_features(model, rows, trainer.data_collator)
        fit_codebooks(model, rows, trainer.data_collator)
    if has_fresh_heads and arguments.linear_start:
        splits = {"train": train, "validation": validation}
        start_linear(model, linear_start(task, data, model, splits, inputs.columns, trainer.data_collator))
    return trainer


def linear_start(
    task: Task[Any], data: Any, model: torch.nn.Module, splits: dict[str, Any], columns: Sequence[str], collate: Any
) -> LinearModel:
    """Return the linear model of what the fresh classifier reads."""
    if not has_length(splits["train"]):
        raise ValueError("linear_start=true reads all rows of train at once, and streaming=true none. Leave one out.")
    features = {}
    for name, split in splits.items():
        names = [column for column in (*columns, "features") if column in split.column_names]
        features[name] = classifier_inputs(model, split.select_columns(names), collate)
    return task.linear_start(data, features)


def cached_features(
    arguments: TuningArguments,
    encoded: dict[str, Dataset],
    inputs: Inputs,
    splits: Sequence[str] = ("train", "validation"),
    num_layers: int | None = None,
) -> CachedFeatures | None:
    """Return what keeps the features of some splits, or None where the backbone runs in every step."""
    if not arguments.caches_features:
        return None
    folder = Path(arguments.feature_cache) if isinstance(arguments.feature_cache, str) else default_folder()
    kept = {name: encoded[name] for name in splits}
    return CachedFeatures(kept, inputs, folder, arguments.feature_dtype, num_layers)


def some_rows(split: Any, columns: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """Return what the model reads of a few random rows, the same in every process; of a stream the first ones."""
    if isinstance(split, IterableDataset):
        return list(islice(split, ROWS_TO_STANDARDISE))
    order = np.random.default_rng(seed).permutation(len(split))[:ROWS_TO_STANDARDISE].tolist()
    names = [name for name in (*columns, "features") if name in split.column_names]
    return [{name: row[name] for name in names} for row in map(split.__getitem__, order)]


def excerpts_of(task: Task[Any], data: Any, model: torch.nn.Module) -> Excerpts:
    """Return what samples the long texts of train."""
    length = task.arguments.sample_tokens
    if "text_pair" in data.splits["train"].column_names:
        raise ValueError(f"sample_tokens={length}, but the rows are text pairs. Set sample_tokens=0.")
    config = base_model(model).config
    return Excerpts(length, len(config.prefix_token_ids), len(config.suffix_token_ids), seed=task.arguments.seed)


def default_learning_rate(tuning: str, width: int) -> float:
    """Return the learning rate of a run that names none; that of adapters falls with the square of the width."""
    return LEARNING_RATE[tuning] * (min(1.0, WIDTH / width) ** 2 if tuning == "lora" else 1.0)


def epochs_of(num_rows: int, options: dict[str, Any]) -> int:
    """Return how often a run that does not say it reads its rows, and say why these are more than usual."""
    update = options["per_device_train_batch_size"] * options.get("gradient_accumulation_steps", 1)
    epochs = default_epochs(num_rows, update * PartialState().num_processes)
    if epochs > LEAST_EPOCHS:
        say(f"{num_rows:,} training rows are few: {epochs} epochs. Set num_train_epochs for another number.")
    return epochs


def training_arguments(
    task: Task[Any], data: Any, output_dir: Path, width: int = WIDTH, num_rows: int | None = None
) -> tuple[TrainingArguments, bool]:
    """Return the options of `Trainer`, the user's before the defaults, and whether rows of like length come together.

    The epochs follow the number of training rows. `Trainer` would put the rows of the evaluation in another order,
    too: it is told of a random one instead.
    """
    arguments = task.arguments
    metric = arguments.selection_metric or task.selection_metric(data)
    if metric not in (known := {"loss", *task.metrics(data)}):
        raise ValueError(f"selection_metric={metric!r} is unknown; it is one of {', '.join(sorted(known))}.")
    defaults: dict[str, Any] = {
        "learning_rate": default_learning_rate(arguments.tuning, width),
        "num_train_epochs": LEAST_EPOCHS,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 32,
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "bf16": has_bf16() and not arguments.options.get("fp16"),
        "use_cpu": not torch.accelerator.is_available(),
        "train_sampling_strategy": GROUPED,
        "length_column_name": "length",
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "restore_callback_states_from_checkpoint": True,  # the patience of early stopping
        "metric_for_best_model": metric,
        "greater_is_better": metric not in {"loss", *LOWER_IS_BETTER},
        "logging_steps": 0.05,
        "include_num_input_tokens_seen": "non_padding",
        "report_to": "none",
        "label_names": ["labels"],
        "hub_strategy": "end",
    }
    told = {**task.training_defaults(), **arguments.options}
    options = {**defaults, **told}
    if num_rows and not told.keys() & {"num_train_epochs", "max_steps"}:
        options["num_train_epochs"] = epochs_of(num_rows, options)
    groups = options["train_sampling_strategy"] == GROUPED
    options["train_sampling_strategy"] = "random" if groups else options["train_sampling_strategy"]
    # The result is pushed when it is scored and saved; `Trainer` pushes checkpoints only, and saves its arguments.
    options["push_to_hub"] = bool(options.get("push_to_hub")) and options["hub_strategy"] != "end"
    options.pop("hub_token", None)
    return TrainingArguments(output_dir=str(output_dir), **options), groups
