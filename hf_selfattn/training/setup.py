"""`Trainer` as a recipe sets it up."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    EarlyStoppingCallback,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
)

from ..adapters import base_model
from ..arguments import NerArguments, RecipeArguments
from ..metrics import LOWER_IS_BETTER
from ..tasks.preparation import seed_of
from ..tasks.streaming import STREAM_OPTIONS, ShuffledStream
from ..tasks.task import Task
from ..tasks.text_classification import CLASSIFICATION
from ..tasks.token_classification import TAGGING
from .feature_cache import CachedFeatures, default_folder, feature_collator
from .first_pass import fit_codebooks
from .optimizer import grouped_optimizer
from .progress import show_progress
from .sampler import Excerpts
from .standardisation import standardise_features
from .trainer import RecipeTrainer

# The task that arguments of a kind belong to; a kind without a line belongs to that of its parent class.
TASKS: dict[type[RecipeArguments], Task] = {RecipeArguments: CLASSIFICATION, NerArguments: TAGGING}
ROWS_TO_STANDARDISE = 64
LEARNING_RATE = {"probe": 1e-3, "lora": 1e-3, "probe+lora": 1e-3, "full": 5e-5}
# The rate of adapters is that of a backbone this wide; at 768 one run in three never learned with it, and did with a
# quarter (benchmarks/LOG.md), which is what LoRA's paper takes there (Hu et al., 2021: 5e-4 at half of our scale).
WIDTH = 384


def task_of(arguments: RecipeArguments) -> Task:
    """Return the task of `TASKS` that arguments of their kind belong to."""
    return next(TASKS[kind] for kind in type(arguments).__mro__ if kind in TASKS)


def build_trainer(
    arguments: RecipeArguments,
    data: Any,
    tokens: dict[str, Dataset],
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    output_dir: Path,
    has_fresh_heads: bool = True,
) -> RecipeTrainer:
    """Return the `Trainer` of a run."""
    options = training_arguments(arguments, data, output_dir, base_model(model).config.hidden_size)
    train, validation = tokens["train"], tokens["validation"]
    cache, record = cached_features(arguments, tokens, tokenizer), None
    if cache is not None:
        record = cache.prepare(model, options.device)
        train, validation = cache.rows["train"], cache.rows["validation"]
    callbacks: list[TrainerCallback] = []
    if arguments.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=arguments.early_stopping_patience))
    if arguments.sample_tokens:
        excerpts = excerpts_of(arguments, data, model)
        train = excerpts.of(train)
        callbacks.append(excerpts)
    trainer = RecipeTrainer(
        model=model,
        args=options,
        make_optimizer=lambda model: grouped_optimizer(model, options, arguments),
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
        callbacks=callbacks,
        **task_options(arguments, data, tokens, options, tokenizer),
    )
    trainer.feature_record = record
    show_progress(trainer)
    if has_fresh_heads:
        prepare_heads(arguments, model, some_rows(train, tokenizer, options.seed), trainer.data_collator)
    return trainer


def prepare_heads(
    arguments: RecipeArguments, model: torch.nn.Module, rows: list[dict[str, Any]], collate: Any
) -> None:
    """Make the first passes over data: scale of the features, prototypes of the groups."""
    if arguments.standardise:
        standardise_features(model, rows, collate)
    fit_codebooks(model, rows, collate)


def cached_features(
    arguments: RecipeArguments, tokens: dict[str, Dataset], tokenizer: PreTrainedTokenizerBase
) -> CachedFeatures | None:
    """Return what keeps the features of train and validation, or None where the backbone runs in every step."""
    if not arguments.caches_features:
        return None
    folder = Path(arguments.feature_cache) if isinstance(arguments.feature_cache, str) else default_folder()
    splits = {name: tokens[name] for name in ("train", "validation")}
    return CachedFeatures(splits, tokenizer, folder, arguments.feature_dtype)


def task_options(
    arguments: RecipeArguments,
    data: Any,
    tokens: dict[str, Dataset],
    options: TrainingArguments,
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, Any]:
    """Return loss, collator and metrics of the task for `Trainer`; the collator pads features, too."""
    given = task_of(arguments).trainer_options(arguments, data, tokens, options, tokenizer)
    return {**given, "data_collator": feature_collator(given["data_collator"])}


def some_rows(tokens: Any, tokenizer: PreTrainedTokenizerBase, seed: int) -> list[dict[str, Any]]:
    """Return what the model reads of a few random rows, the same in every process; of a stream the first ones."""
    if isinstance(tokens, ShuffledStream):
        return list(islice(tokens, ROWS_TO_STANDARDISE))
    order = np.random.default_rng(seed).permutation(len(tokens))[:ROWS_TO_STANDARDISE].tolist()
    names = [name for name in (*tokenizer.model_input_names, "features") if name in tokens.column_names]
    return [{name: row[name] for name in names} for row in map(tokens.__getitem__, order)]


def excerpts_of(arguments: RecipeArguments, data: Any, model: torch.nn.Module) -> Excerpts:
    """Return what samples the long texts of train.

    Raises:
        ValueError: for text pairs, where an excerpt could lose one of the two.
    """
    if "text_pair" in data.splits["train"].column_names:
        raise ValueError(f"sample_tokens={arguments.sample_tokens}, but the rows are text pairs. Set sample_tokens=0.")
    config = base_model(model).config
    special = len(config.prefix_token_ids), len(config.suffix_token_ids)
    return Excerpts(arguments.sample_tokens, *special, seed=seed_of(arguments))


def default_learning_rate(tuning: str, width: int) -> float:
    """Return the learning rate of a run that names none; that of adapters falls with the square of the width."""
    return LEARNING_RATE[tuning] * (min(1.0, WIDTH / width) ** 2 if tuning == "lora" else 1.0)


def training_arguments(
    arguments: RecipeArguments, data: Any, output_dir: Path, width: int = WIDTH
) -> TrainingArguments:
    """Return the options of `Trainer`: the recipe's defaults, then what the user set.

    Raises:
        ValueError: if the validation split has no such metric as is to pick the checkpoint.
    """
    task = task_of(arguments)
    metric = arguments.selection_metric or task.selection_metric(data)
    if metric not in (known := {"loss", *task.metrics(data)}):
        raise ValueError(f"selection_metric={metric!r} is unknown; it is one of {', '.join(sorted(known))}.")
    defaults: dict[str, Any] = {
        "learning_rate": default_learning_rate(arguments.tuning, width),
        "num_train_epochs": 3,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 32,
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "bf16": has_bf16(),
        "use_cpu": not torch.accelerator.is_available(),
        "train_sampling_strategy": "group_by_length",
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
        "include_for_metrics": ["inputs"] if task.metrics_see_inputs else [],
        "hub_strategy": "end",
    }
    options = {**defaults, **(STREAM_OPTIONS if arguments.streaming else {}), **arguments.options}
    # The result is pushed when it is scored and saved; `Trainer` pushes checkpoints only, and saves its arguments.
    options["push_to_hub"] = bool(options.get("push_to_hub")) and options["hub_strategy"] != "end"
    options.pop("hub_token", None)
    return TrainingArguments(output_dir=str(output_dir), **options)


def has_bf16() -> bool:
    """Return whether the machine multiplies bfloat16 matrices in hardware."""
    if torch.accelerator.is_available():
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
