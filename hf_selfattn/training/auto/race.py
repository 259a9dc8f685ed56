"""Ways to train side by side: short trainings of each, and a long one of what is ahead on validation then."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from ...arguments import RunArguments
from ...files import read_json, write_json
from ...machine import from_main, is_main
from ...tasks import Task, say
from ..budget import LEAST_EPOCHS, default_epochs
from ..contrastive.phase import ROWS_OF_STEP, fit_all_phases
from ..phases import ONE_PHASE, Fitted, with_arguments
from ..resume import read_run_state, write_run_state
from ..search import FAILURES
from ..setup import WIDTH, Prepared

# Of a whole training, what a short and a long one read; the rate of both falls to 0, so that either may be the best.
SHORT_SHARE, LONG_SHARE = 1 / 3, 2 / 3
RACE_FILE, SHORT = "race.json", ", short"
KEPT = ("best_metric", "seconds", "cpu_seconds")  # of a short training
# Of full tuning with a backbone as wide as `WIDTH`; it falls as that of adapters does. At this one our study has it.
FULL_RATE = 2e-4
BATCH_SIZE = 16


@dataclass(frozen=True)
class Way:
    """The task with the arguments of a short and of a long training; the only way needs no short one."""

    long: Task[Any]
    short: Task[Any] | None = None


def ways_to_train(task: Task[Any], prepared: Prepared, minutes: float | None = None) -> dict[str, Way]:
    """Return the ways that are open: LoRA alone where the user has settled how it trains, otherwise full tuning, too.

    Where rows have one class each there is a third one: heads on a backbone that learned to tell the classes apart.

    Args:
        task: with the heads that were chosen.
        minutes: that all of it may take.
    """
    if is_lora_alone(task.arguments):
        return {"lora": Way(with_arguments(task, **ONE_PHASE, budget_minutes=minutes))}
    width = getattr(prepared.backbone_config, "hidden_size", None) or WIDTH
    rate = {"learning_rate": FULL_RATE * min(1.0, WIDTH / width) ** 2}
    rows, parts = len(prepared.encoded["train"]), shares_of(task.arguments)
    names = ["lora", "full", *(["contrastive"] if has_classes(task, prepared) else [])]
    made: dict[str, dict[str, Task[Any]]] = {name: {} for name in names}
    for part, share in parts.items():
        own = None if minutes is None else minutes * share / (parts["long"] + len(names) * parts["short"])
        length = length_of(task.arguments, rows, share)
        options = {**task.arguments.options, **length}
        probe = {"tuning": "probe", "linear_start": True, "options": task.arguments.options}
        lora = made["lora"][part] = with_arguments(task, **ONE_PHASE, options=options, budget_minutes=own)
        made["full"][part] = with_arguments(lora, tuning="full", options={**options, **rate})
        if "contrastive" in made:
            made["contrastive"][part] = with_arguments(lora, **probe, contrastive_steps=steps_of(length, rows))
    return {name: Way(**parts) for name, parts in made.items()}


def is_lora_alone(arguments: RunArguments) -> bool:
    """Return whether the backbone trains by LoRA alone, since the user has said how it trains."""
    return "learning_rate" in arguments.options or bool(arguments.lora)


def has_classes(task: Task[Any], prepared: Prepared) -> bool:
    """Return whether rows have one class each, so that the backbone can learn to tell them apart."""
    labels = task.classes(prepared.data)
    return labels is not None and len(np.unique(labels)) > 1


def length_of(arguments: RunArguments, rows: int, share: float) -> dict[str, int | float]:
    """Return the options that let a training read a share of what a run reads; a long one reads no less than usual."""
    if arguments.options.get("max_steps", -1) > 0:
        return {"max_steps": max(1, round(arguments.options["max_steps"] * share))}
    epochs = epochs_of_run(arguments, rows)
    if share == 1:
        return {"num_train_epochs": epochs}
    least = LEAST_EPOCHS if share > SHORT_SHARE else 1
    return {"num_train_epochs": max(least, round(epochs * share))}


def shares_of(arguments: RunArguments) -> dict[str, float]:
    """Return which share of a whole training a short and a long one are."""
    return {"short": SHORT_SHARE, "long": 1.0 if is_settled(arguments) else LONG_SHARE}


def trainings_in_race(arguments: RunArguments, rows: int, ways: int) -> float:
    """Return how many whole trainings take as long as a short one of each way and a long one."""
    if is_lora_alone(arguments):
        return 1.0
    lengths = {part: length_of(arguments, rows, share) for part, share in shares_of(arguments).items()}
    if "max_steps" in lengths["long"]:
        return shares_of(arguments)["long"] + ways * SHORT_SHARE
    epochs = {part: length["num_train_epochs"] for part, length in lengths.items()}
    return (ways * epochs["short"] + epochs["long"]) / epochs_of_run(arguments, rows)


def steps_of(length: Mapping[str, int | float], rows: int) -> int:
    """Return the steps of a contrastive phase that reads as many rows as a training of such a length."""
    if "max_steps" in length:
        return max(1, round(length["max_steps"] * BATCH_SIZE / ROWS_OF_STEP))
    update: int = ROWS_OF_STEP * PartialState().num_processes
    return math.ceil(length["num_train_epochs"] * rows / update)


def race(
    ways: Mapping[str, Way], prepared: Prepared, folder: Path, more_is_better: bool, keeps_length: bool = False
) -> tuple[str, Fitted]:
    """Train each way briefly, the best one for long, and return name and training of the best of all on validation.

    A way that cannot be trained, as where the memory is too small for it, is left out; scores are written at once.

    Args:
        keeps_length: whether the user said how long a training is, so that a short one is not kept.
    """
    path = folder / RACE_FILE
    done: dict[str, dict[str, float] | None] = from_main(lambda: read_json(path) if path.is_file() else {})
    shorts = {name + SHORT: way.short for name, way in ways.items() if way.short is not None}
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
    fitted = fit_all_phases(ways[name].long, prepared, folder / name)
    if known and known[best] > sign * fitted.record["best_metric"] and not keeps_length:
        say(f"{name}, trained for long: {fitted.record['best_metric']:.4f}")
        opened = fit_all_phases(shorts[best], prepared, folder / best)
        name, fitted = best, replace(opened, record={**opened.record, **(done[best] or {})})
    for other in (*ways, *shorts):
        if other != name and is_main():
            shutil.rmtree(folder / other, ignore_errors=True)
    return name, fitted


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
        record = fit_all_phases(task, prepared, folder).record
    except FAILURES as error:
        say(f"{folder.name} is left out: {error}")
        return None
    state = read_run_state(folder)
    state.starts -= 1  # that its model is opened again is no new start
    write_run_state(folder, state)
    return {key: record[key] for key in KEPT}
