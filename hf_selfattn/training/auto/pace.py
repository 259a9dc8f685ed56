"""How long `tuning: auto` takes: measured on a few batches before it starts, and how many candidates that allows."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from torch import Tensor

from ...arguments import RunArguments
from ...machine import is_main
from ...tasks import Task
from ..feature_cache import features_of, on_device
from ..phases import ONE_PHASE, phase_trainer, with_arguments
from ..setup import Prepared
from ..trainer import RecipeTrainer
from .race import BATCH_SIZE, epochs_of_run, trainings_in_race

BATCHES, REPEATS = 2, 2
# Candidates and what belongs to them may take this share of LoRA's time: they are as many as fit, within limits.
SHARE_OF_LORA, FEWEST, MOST = 0.3, 3, 16
SHARE_OF_MINUTES = 1 / 3  # the same of `budget_minutes`
LEAST_OF_MINUTES = 1 / 3  # of `budget_minutes`, what is left to LoRA in any case
SHARE_OF_TRIAL = 0.45  # of a whole training, since most candidates are stopped early
EVALUATION = 1 / 3  # of what a training step of as many rows takes


@dataclass(frozen=True)
class Pace:
    """Seconds."""

    backbone: float  # for a row
    heads: float  # of a training step on kept features, for a row
    lora: float  # of a training step with adapters, for a row
    start: float  # until a training begins


@dataclass(frozen=True)
class Outlook:
    """What `tuning: auto` is going to do, and the seconds of each part."""

    trials: int
    features: float
    candidates: float
    probe: float
    tuning: float  # of the backbone

    @property
    def seconds(self) -> float:
        """Of all parts."""
        return self.features + self.candidates + self.probe + self.tuning

    def __str__(self) -> str:
        minutes = [value / 60 for value in (self.features, self.candidates, self.probe, self.tuning)]
        return (
            f"tuning=auto takes about {self.seconds / 60:.1f} minutes: features {minutes[0]:.1f}, {self.trials} "
            f"candidates {minutes[1]:.1f}, the best of them {minutes[2]:.1f}, tuning of the backbone {minutes[3]:.1f}."
        )


def measure(task: Task[Any], prepared: Prepared, folder: Path) -> Pace:
    """Return the pace of each part of a training, from a few batches of rows of all lengths."""
    probe = with_arguments(task, **{**ONE_PHASE, "tuning": "probe"}, feature_cache=False, budget_minutes=None)
    lora = with_arguments(task, **ONE_PHASE, budget_minutes=None)
    started = time.perf_counter()
    trainer = phase_trainer(probe, prepared, folder, first_pass=False)
    start = time.perf_counter() - started
    batches = batches_of(trainer, task.inputs(prepared.processor).columns)
    names = trainer.model.base_model.input_names

    def read(batch: dict[str, Any]) -> list[Tensor]:
        inputs = {name: values for name, values in batch.items() if name in names}
        return features_of(trainer.plain, on_device(inputs, trainer.args.device))

    raw = [trainer.data_collator(rows) for rows in batches]
    kept = [
        trainer.data_collator([{**row, "features": own} for row, own in zip(rows, read(batch), strict=True)])
        for rows, batch in zip(batches, raw, strict=True)
    ]
    backbone, heads = seconds_of_row(read, raw), seconds_of_row(step_in(trainer), kept)
    tuning = seconds_of_row(step_in(phase_trainer(lora, prepared, folder, first_pass=False)), raw)
    if is_main():
        shutil.rmtree(folder, ignore_errors=True)
    return Pace(backbone, heads, tuning, start)


def step_in(trainer: RecipeTrainer) -> Callable[[dict[str, Any]], float]:
    """Return what makes a training step, but for the optimizer's part of it."""
    model = trainer.accelerator.prepare(trainer.model).train()

    def step(batch: dict[str, Any]) -> float:
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(model, on_device(batch, trainer.args.device))
        trainer.accelerator.backward(loss)
        return float(loss.detach())

    return step


def batches_of(trainer: RecipeTrainer, columns: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Return random training rows in batches, those of like length together."""
    rows = trainer.train_dataset
    count = min(len(rows), BATCH_SIZE * BATCHES)
    drawn = np.random.default_rng(0).permutation(len(rows))[:count].tolist()
    drawn.sort(key=rows["length"][:].__getitem__)
    read = {*columns, "labels", *signature(trainer.model.forward).parameters}
    names = [name for name in rows.column_names if name in read]
    taken = [{name: rows[number][name] for name in names} for number in drawn]
    return [taken[first : first + BATCH_SIZE] for first in range(0, count, BATCH_SIZE)]


def seconds_of_row(step: Callable[[dict[str, Any]], Any], batches: Sequence[dict[str, Any]]) -> float:
    """Return what a step takes for a row, once it is warm: of each batch, since kernels are made for its shape."""
    seconds, rows = 0.0, 0
    for batch in batches:
        times = []
        for _ in range(1 + REPEATS):
            started = time.perf_counter()
            step(dict(batch))
            times.append(time.perf_counter() - started)
        seconds, rows = seconds + min(times[1:]), rows + len(batch["labels"])
    return seconds / rows


def outlook(
    arguments: RunArguments, pace: Pace, rows: int, kept_rows: int, evaluated: int, folds: int, ways: int
) -> Outlook:
    """Return how many candidates are tried, and how long each part takes.

    Args:
        rows: of train.
        kept_rows: of train, whose features are kept.
        evaluated: rows of validation.
        folds: of a cross-validation, or 0; LoRA is trained on each of them, too.
        ways: to train the backbone, that are compared.
    """
    processes = PartialState().num_processes
    epochs = epochs_of_run(arguments, rows)
    lora = pace.start + epochs * (rows + evaluated * EVALUATION) * pace.lora / processes
    heads = epochs_of_run(arguments, kept_rows) * (kept_rows + evaluated * EVALUATION) * pace.heads / processes
    probe, features = pace.start + heads, (kept_rows + evaluated) * pace.backbone / processes
    trial = SHARE_OF_TRIAL * folds * probe if folds else pace.start + SHARE_OF_TRIAL * heads
    tuning = lora * (1 + folds if folds else trainings_in_race(arguments, rows, ways))
    room = SHARE_OF_LORA * lora * (1 + folds)
    if arguments.budget_minutes is not None:
        room = min(room, SHARE_OF_MINUTES * 60 * arguments.budget_minutes)
    trials = min(max(int((room - features - probe) / trial), FEWEST), MOST)
    if (minutes := arguments.budget_minutes) is not None:
        left = 60 * minutes - features - probe - trials * trial
        tuning = min(tuning, max(left, 60 * minutes * LEAST_OF_MINUTES))
    return Outlook(trials, features, trials * trial, probe, tuning)
