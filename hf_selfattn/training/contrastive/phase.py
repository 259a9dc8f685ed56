"""Carry out the contrastive phase, and the phases after it."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from torch import Tensor
from transformers import PreTrainedModel, set_seed

from ...cpu_attention import use_fast_attention
from ...machine import from_main
from ...metrics.inputs import Array
from ...tasks import Task, say
from ...tasks.backbone import is_tuned
from ..budget import TimeBudget
from ..checkpoints import checkpoints_of
from ..phases import Fitted, fit_phases, read_weights, training_record, with_arguments, write_weights
from ..progress import Stopwatch, show_progress
from ..resume import fit
from ..sampler import RoundsOfClasses
from ..setup import Prepared, excerpts_of, training_arguments
from ..trainer import RecipeTrainer
from .loss import ContrastiveModel

FOLDER, WEIGHTS_FILE = "contrastive", "backbone.safetensors"
CHECKPOINTS = 4
SHARE_OF_MINUTES = 2 / 3  # of `budget_minutes`, at most
FEW_ROWS, FEW_STEPS = 16, 20  # of a class, and what it takes then; so it was measured (benchmarks/results)
ROWS_OF_STEP = 32  # of each process
# What differs from the phases after it; nothing is chosen on the validation split.
OPTIONS = {
    "learning_rate": 5e-5,
    "per_device_train_batch_size": ROWS_OF_STEP,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 1,
    "eval_strategy": "no",
    "save_strategy": "steps",
    "load_best_model_at_end": False,
    "include_num_input_tokens_seen": "no",
    "push_to_hub": False,
}


def fit_all_phases(task: Task[Any], prepared: Prepared, output_dir: Path) -> Fitted:
    """Train as the arguments say, from the backbone that a contrastive phase leaves, where they ask for one."""
    if not task.arguments.contrastive_steps:
        return fit_phases(task, prepared, output_dir)
    # The last layer is made for these classes now; on the four that a probe mixes it did worse (benchmarks/LOG.md).
    heads = {} if is_tuned(task.arguments) else {"num_mixed_layers": 1}
    contrasted = with_arguments(task, heads={**heads, **task.arguments.heads})
    contrasted.backbone, first = contrasted_backbone(task, prepared, output_dir / FOLDER)
    if (minutes := task.arguments.budget_minutes) is not None:
        contrasted.arguments.budget_minutes = max(minutes - first["seconds"] / 60, (1 - SHARE_OF_MINUTES) * minutes)
    fitted = fit_phases(contrasted, prepared, output_dir)
    later = {name: value for name, value in fitted.record.items() if name != "history"}
    phases = {FOLDER: first, **fitted.record.get("phases", {task.arguments.tuning: later})}
    took = {name: first[name] + fitted.record[name] for name in ("seconds", "cpu_seconds")}
    return replace(fitted, record={**fitted.record, **took, "phases": phases})


def advice(task: Task[Any], data: Any) -> list[str]:
    """Return what a run whose classes have few rows is told of this phase, if it does without."""
    labels = task.classes(data)
    if labels is None or not len(labels) or task.arguments.contrastive_steps:
        return []
    rows = int(np.median(np.unique(labels, return_counts=True)[1]))
    probe = "" if task.arguments.tuning == "probe" else " tuning=probe"
    said = f"Most classes have {rows} rows or fewer: contrastive_steps={FEW_STEPS}{probe} may do better."
    return [said] if rows <= FEW_ROWS else []


def contrasted_backbone(task: Task[Any], prepared: Prepared, folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Carry out the phase, unless that is done, and return the backbone's weights by name and how it went."""
    path = folder / WEIGHTS_FILE
    if not from_main(path.is_file):
        say("A phase before: the backbone learns to tell the classes of rows apart.")
        fitted = fit_contrastive(task, prepared, folder)
        if PartialState().is_main_process:
            backbone = fitted.trainer.plain.model.base_model.backbone
            weights = {name: value.cpu().contiguous() for name, value in backbone.state_dict().items()}
            write_weights(path, weights, {**fitted.record, "run_state": asdict(fitted.run_state)})
            for checkpoint in checkpoints_of(folder):
                shutil.rmtree(checkpoint)
        PartialState().wait_for_everyone()
    return read_weights(path)


def fit_contrastive(task: Task[Any], prepared: Prepared, folder: Path) -> Fitted:
    """Train the whole backbone to the end of the phase.

    Raises:
        ValueError: if the rows of the task are not of one class each, or all of the same one.
    """
    labels, steps = task.classes(prepared.data), task.arguments.contrastive_steps
    if labels is None or len(np.unique(labels)) < 2:
        raise ValueError(f"contrastive_steps={steps} needs rows of one class each, and two classes. Leave it out.")

    def build(options: dict[str, Any]) -> RecipeTrainer:
        of_these = with_arguments(task, tuning="full", probe_epochs=None, probe_learning_rate=None, options=options)
        set_seed(of_these.arguments.seed)
        model = of_these.build_model(prepared.data, prepared.backbone_config)
        trainer = contrastive_trainer(of_these, prepared, model, labels, folder)
        if trainer.args.bf16 and trainer.args.device.type == "cpu":
            use_fast_attention(model)
        return trainer

    watch = Stopwatch()
    own = {"max_steps": steps, "save_steps": -(-steps // CHECKPOINTS)}
    trainer, run_state = fit(build, {**task.arguments.options, **OPTIONS, **own}, folder)
    return Fitted(trainer, run_state, training_record(trainer, watch))


def contrastive_trainer(
    task: Task[Any], prepared: Prepared, model: PreTrainedModel, labels: Array, folder: Path
) -> RecipeTrainer:
    """Return the `Trainer` of the phase.

    Args:
        labels: (N,) class of each row of train.
    """
    options, _ = training_arguments(task, prepared.data, folder)
    options.remove_unused_columns = False  # the model takes what it reads out of a batch
    given = task.trainer_options(prepared.data, prepared.encoded, options, prepared.processor)
    train, callbacks = given.get("train_dataset", prepared.encoded["train"]), given.get("callbacks", [])
    if task.arguments.sample_tokens:
        excerpts = excerpts_of(task, prepared.data, model)
        train, callbacks = excerpts.of(train), [*callbacks, excerpts]
    update = options.train_batch_size * options.gradient_accumulation_steps * options.world_size
    trainer = RecipeTrainer(
        model=ContrastiveModel(model),
        args=options,
        sampler=RoundsOfClasses(labels, update, options.seed),
        train_dataset=train,
        data_collator=given["data_collator"],
        callbacks=callbacks,
    )
    if (minutes := task.arguments.budget_minutes) is not None:
        trainer.add_callback(TimeBudget(SHARE_OF_MINUTES * minutes))
    trainer.watch.grace = task.arguments.grace_seconds
    show_progress(trainer)
    return trainer
