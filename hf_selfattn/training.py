"""Train, evaluate and save: the one place that uses `Trainer`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import (
    EarlyStoppingCallback,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from .adapters import base_model, count_parameters, merge_adapters
from .arguments import NerArguments, RecipeArguments
from .attention_cpu import use_fast_attention, use_fused_attention
from .card import model_card
from .classification_task import CLASSIFICATION
from .data import fingerprint, k_folds
from .evaluation import plain_model
from .metrics import LOWER_IS_BETTER
from .optimizer import layer_decay_optimizer
from .preparation import open_backbone, say, seed_of
from .report import summary
from .results import ARGUMENTS_FILE, RESULTS_FILE, environment, open_run, together, write_json, write_text
from .sampling import Excerpts
from .saving import save_model
from .tagging_task import TAGGING
from .tasks import Task

# A tokenizer that claims no limit makes pipelines pass a text on whole: the model reads any length.
NO_LIMIT = int(1e30)
CARD_FILE = "README.md"
LEARNING_RATE = {"lora": 1e-3, "full": 5e-5}

# The task that arguments of a kind belong to; a kind without a line belongs to that of its parent class.
TASKS: dict[type[RecipeArguments], Task] = {RecipeArguments: CLASSIFICATION, NerArguments: TAGGING}


def run(arguments: RecipeArguments) -> dict[str, Any]:
    """Carry out a recipe and return its results.

    A folder that holds the finished run of the same arguments is read, not trained again; an unfinished one is
    continued from its newest checkpoint.

    Args:
        arguments: the arguments of the recipe.

    Returns:
        The content of `results.json`.

    Raises:
        ValueError: for data, options or an output folder that cannot be used; nothing is lost.
    """
    task = task_of(arguments)
    if arguments.check:
        return task.check(arguments)
    data = task.load(arguments)
    output_dir = Path(arguments.output_dir)
    finished = claim(output_dir, arguments)
    if finished is not None:
        say(f"{output_dir} holds the finished run of these arguments: nothing to train.\n{summary(finished)}")
        return finished
    for note in data.notes:
        say(note)
    if arguments.seeds > 1 or arguments.folds:
        return run_repeats(arguments, data, output_dir)
    return train_and_evaluate(arguments, task.with_validation(arguments, data), output_dir)


def claim(output_dir: Path, arguments: RecipeArguments) -> dict[str, Any] | None:
    """Return the results of the finished run of these arguments, or take the folder for it, the main process first.

    Args:
        output_dir: folder of the run.
        arguments: the arguments of the recipe.

    Raises:
        ValueError: if the folder holds something else.
    """
    with PartialState().main_process_first():
        finished = open_run(output_dir, arguments.without_places())
        if finished is None and PartialState().is_main_process:
            write_json(output_dir / ARGUMENTS_FILE, arguments.without_places())
    return finished


def run_repeats(arguments: RecipeArguments, data: Any, output_dir: Path) -> dict[str, Any]:
    """Carry out the runs of several seeds or folds, each in a folder of its own, and put their scores together.

    Args:
        arguments: the arguments of the recipe.
        data: checked data.
        output_dir: folder of all runs; a run that is finished there is not repeated.
    """
    runs, task = {}, task_of(arguments)
    for name, part, part_data in repeats(arguments, data):
        say(f"\n{name}")
        finished = claim(output_dir / name, part)
        runs[name] = finished or train_and_evaluate(part, task.with_validation(part, part_data), output_dir / name)
    results = together(runs)
    if PartialState().is_main_process:
        write_json(output_dir / RESULTS_FILE, results)
    PartialState().wait_for_everyone()
    say(f"\n{summary(results)}")
    return results


def repeats(arguments: RecipeArguments, data: Any) -> Iterator[tuple[str, RecipeArguments, Any]]:
    """Yield name, arguments and data of each run of several seeds or folds.

    Args:
        arguments: the arguments of the recipe.
        data: checked data.

    Raises:
        ValueError: if both are asked for.
    """
    if arguments.seeds > 1 and arguments.folds:
        raise ValueError(f"seeds={arguments.seeds} and folds={arguments.folds} cannot go together. Leave one out.")
    first = seed_of(arguments)
    if arguments.folds:
        parts = k_folds(data, arguments.folds, first, arguments.group_column)
        for number, part in enumerate(parts):
            yield f"fold-{number}", replace(arguments, folds=0), part
        return
    for seed in range(first, first + arguments.seeds):
        yield f"seed-{seed}", replace(arguments, seeds=1, options={**arguments.options, "seed": seed}), data


def train_and_evaluate(arguments: RecipeArguments, data: Any, output_dir: Path) -> dict[str, Any]:
    """Train on the data, score every evaluation split, save the model and the results.

    Args:
        arguments: the arguments of the recipe.
        data: checked data with the splits train and validation.
        output_dir: folder of the run.
    """
    task = task_of(arguments)
    set_seed(seed_of(arguments))
    backbone_config, tokenizer = open_backbone(arguments)
    tokenizer.model_max_length = NO_LIMIT
    with PartialState().main_process_first():
        tokens = task.tokenise(arguments, data, tokenizer)
    model = task.build_model(arguments, data, backbone_config)
    parameters = count_parameters(model)
    say(f"{parameters['trainable']:,} of {parameters['all']:,} parameters train ({arguments.tuning}).")

    trainer = build_trainer(arguments, data, tokens, model, tokenizer, output_dir)
    if trainer.args.bf16 and trainer.args.device.type == "cpu":
        use_fast_attention(base_model(model))
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(output_dir)))
    seconds = time.perf_counter() - started

    evaluator = final_evaluator(trainer)
    results = {
        "task": task.name,
        "label_names": data.label_names,
        "arguments": arguments.without_places(),
        "seed": seed_of(arguments),
        "notes": data.notes,
        "parameters": parameters,
        "training": training_record(trainer, seconds),
        "environment": environment(),
        "train": {"rows": len(data.splits["train"]), "fingerprint": fingerprint(data.splits["train"])},
        **task.evaluate(arguments, data, tokens, evaluator, output_dir),
    }
    if trainer.is_world_process_zero():
        save_model(plain_model(evaluator), tokenizer, output_dir, tokens["validation"], trainer.data_collator)
        write_text(output_dir / CARD_FILE, model_card(results))
        write_json(output_dir / RESULTS_FILE, results)
    PartialState().wait_for_everyone()
    say(summary(results))
    return results


def task_of(arguments: RecipeArguments) -> Task:
    """Return the task of `TASKS` that arguments of their kind belong to.

    Args:
        arguments: the arguments of the recipe.
    """
    return next(TASKS[kind] for kind in type(arguments).__mro__ if kind in TASKS)


def final_evaluator(trainer: Trainer) -> Trainer:
    """Return a `Trainer` that evaluates the plain model, its adapters merged.

    Args:
        trainer: after training.
    """
    merged = merge_adapters(plain_model(trainer)).eval()
    use_fused_attention(merged)
    only_evaluate = replace(
        trainer.args,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        train_sampling_strategy="random",  # grouping by length reorders evaluation too
    )
    return Trainer(
        model=merged,
        args=only_evaluate,
        data_collator=trainer.data_collator,
        preprocess_logits_for_metrics=trainer.preprocess_logits_for_metrics,
    )


def build_trainer(
    arguments: RecipeArguments,
    data: Any,
    tokens: dict[str, Dataset],
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    output_dir: Path,
) -> Trainer:
    """Return the `Trainer` of a run.

    Args:
        arguments: the arguments of the recipe.
        data: checked data.
        tokens: tokenised splits.
        model: the model that trains.
        tokenizer: its tokenizer.
        output_dir: folder of the run.
    """
    options = training_arguments(arguments, data, output_dir)
    optimizer = None
    if arguments.tuning == "full" and arguments.layer_decay != 1:
        optimizer = layer_decay_optimizer(model, options, arguments.layer_decay)
    train = tokens["train"]
    callbacks: list[TrainerCallback] = []
    if arguments.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=arguments.early_stopping_patience))
    if arguments.sample_tokens:
        excerpts = excerpts_of(arguments, data, model)
        train = excerpts.of(train)
        callbacks.append(excerpts)
    return Trainer(
        model=model,
        args=options,
        optimizers=(optimizer, None),
        train_dataset=train,
        eval_dataset=tokens["validation"],
        processing_class=tokenizer,
        callbacks=callbacks,
        **task_of(arguments).trainer_options(arguments, data, tokens, options, tokenizer),
    )


def excerpts_of(arguments: RecipeArguments, data: Any, model: torch.nn.Module) -> Excerpts:
    """Return what samples the long texts of train.

    Args:
        arguments: the arguments of the recipe.
        data: checked data.
        model: the model that trains.

    Raises:
        ValueError: for text pairs, where an excerpt could lose one of the two.
    """
    if "text_pair" in data.splits["train"].column_names:
        raise ValueError(f"sample_tokens={arguments.sample_tokens}, but the rows are text pairs. Set sample_tokens=0.")
    config = base_model(model).config
    special = len(config.prefix_token_ids), len(config.suffix_token_ids)
    return Excerpts(arguments.sample_tokens, *special, seed=seed_of(arguments))


def training_arguments(arguments: RecipeArguments, data: Any, output_dir: Path) -> TrainingArguments:
    """Return the options of `Trainer`: the recipe's defaults, then what the user set.

    Args:
        arguments: the arguments of the recipe.
        data: checked data.
        output_dir: folder of the run.

    Raises:
        ValueError: if the validation split has no such metric as is to pick the checkpoint.
    """
    task = task_of(arguments)
    metric = arguments.selection_metric or task.selection_metric(data)
    if metric not in (known := {"loss", *task.metrics(data)}):
        raise ValueError(f"selection_metric={metric!r} is unknown; it is one of {', '.join(sorted(known))}.")
    defaults = {
        "learning_rate": LEARNING_RATE[arguments.tuning],
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
        "metric_for_best_model": metric,
        "greater_is_better": metric not in {"loss", *LOWER_IS_BETTER},
        "logging_steps": 0.05,
        "report_to": "none",
        "label_names": ["labels"],
    }
    return TrainingArguments(output_dir=str(output_dir), **{**defaults, **arguments.options})


def has_bf16() -> bool:
    """Return whether the machine multiplies bfloat16 matrices in hardware."""
    if torch.accelerator.is_available():
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def training_record(trainer: Trainer, seconds: float) -> dict[str, Any]:
    """Return how training went.

    Args:
        trainer: after training.
        seconds: wall time of training.
    """
    return {
        "seconds": seconds,
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "best_step": trainer.state.best_global_step,
        "best_metric": trainer.state.best_metric,
        "processes": trainer.args.world_size,
        "device": str(trainer.args.device),
        "bf16": trainer.args.bf16,
        "history": trainer.state.log_history,
    }
