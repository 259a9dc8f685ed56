"""LoRA and full tuning side by side: both train a third of the way, and what is ahead on validation goes on."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ...files import read_json, write_json
from ...machine import from_main, is_main
from ...tasks import Task, say
from ..phases import ONE_PHASE, Fitted, fit_phase, with_arguments
from ..resume import read_run_state, write_run_state
from ..search import FAILURES
from ..setup import WIDTH, Prepared

SHARE_OF_RACE = 1 / 3
RACE_FILE = "race.json"
# Of full tuning with a backbone as wide as `WIDTH`; it falls as that of adapters does. At this one our study has it.
FULL_RATE = 2e-4


class Paused(Exception):
    """A training has come to a checkpoint from which it may go on."""

    def __init__(self, score: float):
        super().__init__(score)
        self.score = score


class Pause(TrainerCallback):
    """Ends a training at the first checkpoint after a share of its steps."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= SHARE_OF_RACE * state.max_steps and state.best_metric is not None:
            raise Paused(state.best_metric)


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
    left = None if minutes is None else minutes / (1 + SHARE_OF_RACE)
    return {name: with_arguments(way, budget_minutes=left) for name, way in both.items()}


def race(ways: Mapping[str, Task[Any]], prepared: Prepared, folder: Path, more_is_better: bool) -> tuple[str, Fitted]:
    """Train each way until a third of its steps, the best one to its end, and return its name and the training.

    A way that cannot be trained, as where the memory is too small for it, is left out; scores are written at once.
    """
    path = folder / RACE_FILE
    scores: dict[str, float | None] = from_main(lambda: read_json(path) if path.is_file() else {})
    for name, task in ways.items() if len(ways) > 1 else ():
        if name not in scores:
            scores[name] = begun_score(task, prepared, folder / name)
            if is_main():
                write_json(path, scores)
            say(f"{name}, a third of the way: {scores[name]}")
    known = {name: score for name, score in scores.items() if score is not None}
    best = next(iter(ways))
    if known:
        best = (max if more_is_better else min)(known, key=known.__getitem__)
    for name in ways:
        if name != best and is_main():
            shutil.rmtree(folder / name, ignore_errors=True)
    return best, fit_phase(ways[best], prepared, folder / best)


def begun_score(task: Task[Any], prepared: Prepared, folder: Path) -> float | None:
    """Return the score at the first checkpoint after a third of a training, or None where it cannot be trained."""
    try:
        return float(fit_phase(task, prepared, folder, callbacks=[Pause()]).record["best_metric"])
    except Paused as paused:
        state = read_run_state(folder)
        state.starts -= 1  # what follows is no new start
        write_run_state(folder, state)
        return paused.score
    except FAILURES as error:
        say(f"tuning={task.arguments.tuning} is left out: {error}")
        return None
