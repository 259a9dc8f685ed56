"""LoRA and full tuning side by side: short trainings of both, and a long one of what is ahead on validation then."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ...arguments import RunArguments
from ...files import read_json, write_json
from ...machine import from_main, is_main
from ...tasks import Task, say
from ..budget import default_epochs
from ..phases import ONE_PHASE, Fitted, fit_phase, with_arguments
from ..resume import read_run_state, write_run_state
from ..search import FAILURES
from ..setup import WIDTH, Prepared

SHARE_OF_RACE = 1 / 3  # of a whole training, what a short one reads; its rate falls to 0, so that it may be the best
RACE_FILE, SHORT = "race.json", ", short"
KEPT = ("best_metric", "seconds", "cpu_seconds")  # of a short training
# Of full tuning with a backbone as wide as `WIDTH`; it falls as that of adapters does. At this one our study has it.
FULL_RATE = 2e-4
BATCH_SIZE = 16


def ways_to_train(task: Task[Any], prepared: Prepared, minutes: float | None = None) -> dict[str, Task[Any]]:
    """Return the task with the arguments of LoRA, and of full tuning unless the user has settled how LoRA trains.

    Args:
        task: with the heads that were chosen.
        minutes: that all of it may take.
    """
    ways = {"lora": with_arguments(task, **ONE_PHASE, budget_minutes=minutes)}
    options = task.arguments.options
    if "learning_rate" in options or task.arguments.lora:
        return ways
    width = getattr(prepared.backbone_config, "hidden_size", None) or WIDTH
    rate = FULL_RATE * min(1.0, WIDTH / width) ** 2
    full = {**ONE_PHASE, "tuning": "full", "options": {**options, "learning_rate": rate}}
    both = {**ways, "full": with_arguments(task, **full)}
    left = None if minutes is None else minutes / (1 + len(both) * SHARE_OF_RACE)
    return {name: with_arguments(way, budget_minutes=left) for name, way in both.items()}


def race(ways: Mapping[str, Task[Any]], prepared: Prepared, folder: Path, more_is_better: bool) -> tuple[str, Fitted]:
    """Train each way briefly, the best one for long, and return name and training of the best of all on validation.

    A way that cannot be trained, as where the memory is too small for it, is left out; scores are written at once.
    """
    path, rows = folder / RACE_FILE, len(prepared.encoded["train"])
    done: dict[str, dict[str, float] | None] = from_main(lambda: read_json(path) if path.is_file() else {})
    shorts = {name + SHORT: short(task, rows) for name, task in ways.items()} if len(ways) > 1 else {}
    for name, task in shorts.items():
        if name not in done:
            done[name] = short_record(task, prepared, folder / name)
            if is_main():
                write_json(path, done)
            if (record := done[name]) is not None:
                say(f"{name}: {record['best_metric']:.4f}")
    sign = 1 if more_is_better else -1
    known = {name: sign * record["best_metric"] for name, record in done.items() if record is not None}
    best = max(known, key=known.__getitem__) if known else next(iter(ways))
    name = best.removesuffix(SHORT)
    fitted = fit_phase(ways[name], prepared, folder / name)
    if known and known[best] > sign * fitted.record["best_metric"] and not is_settled(ways[name].arguments):
        say(f"{name}, trained for long: {fitted.record['best_metric']:.4f}")
        opened = fit_phase(shorts[best], prepared, folder / best)
        name, fitted = best, replace(opened, record={**opened.record, **(done[best] or {})})
    for other in (*ways, *shorts):
        if other != name and is_main():
            shutil.rmtree(folder / other, ignore_errors=True)
    return name, fitted


def short(task: Task[Any], rows: int) -> Task[Any]:
    """Return the task with the arguments of a short training."""
    arguments, options = task.arguments, task.arguments.options
    minutes = None if arguments.budget_minutes is None else arguments.budget_minutes * SHARE_OF_RACE
    if options.get("max_steps", -1) > 0:
        less = {"max_steps": max(1, round(options["max_steps"] * SHARE_OF_RACE))}
    else:
        less = {"num_train_epochs": max(1, round(epochs_of_run(arguments, rows) * SHARE_OF_RACE))}
    return with_arguments(task, options={**options, **less}, budget_minutes=minutes)


def is_settled(arguments: RunArguments) -> bool:
    """Return whether the user said how long a training is."""
    return not {"num_train_epochs", "max_steps"}.isdisjoint(arguments.options)


def epochs_of_run(arguments: RunArguments, rows: int) -> float:
    """Return how often a run reads its rows."""
    options = arguments.options
    update = options.get("per_device_train_batch_size", BATCH_SIZE) * options.get("gradient_accumulation_steps", 1)
    update *= PartialState().num_processes
    if options.get("max_steps", -1) > 0:
        return float(options["max_steps"] * update / rows)
    return float(options.get("num_train_epochs", default_epochs(rows, update)))


def short_record(task: Task[Any], prepared: Prepared, folder: Path) -> dict[str, float] | None:
    """Return best score and time of a training, or None where it cannot be done."""
    try:
        record = fit_phase(task, prepared, folder).record
    except FAILURES as error:
        say(f"tuning={task.arguments.tuning} is left out: {error}")
        return None
    state = read_run_state(folder)
    state.starts -= 1  # that its model is opened again is no new start
    write_run_state(folder, state)
    return {key: record[key] for key in KEPT}
