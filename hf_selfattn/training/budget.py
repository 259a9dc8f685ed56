"""How long a run trains: by its rows where the user does not say it, and within the minutes that it is given."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainingArguments, get_scheduler
from transformers.trainer_callback import ExportableState

from ..machine import from_main
from ..tasks import say

# Three epochs are what a large data set needs; a small one is read until so many updates are made (benchmarks/LOG.md).
LEAST_EPOCHS, MOST_EPOCHS, LEAST_UPDATES = 3, 20, 375
STEPS_TO_KNOW_THE_PACE = 20
# An evaluation reads about a tenth of the rows that an epoch trains on, each at a third of the cost.
EVALUATION_OF_EPOCH = 1 / 30


def default_epochs(rows: int, rows_of_update: int) -> int:
    """Return how often a run that is not told reads its rows."""
    updates = math.ceil(rows / rows_of_update)
    return min(MOST_EPOCHS, max(LEAST_EPOCHS, math.ceil(LEAST_UPDATES / updates)))


class TimeBudget(TrainerCallback, ExportableState):
    """Lets a training, its evaluations on the validation split included, end within some minutes.

    Steps are planned anew when the pace is known, and after every evaluation; the learning rate follows the plan, so
    that it has fallen to its end when the time is up. A checkpoint keeps the plan and the time that was spent.

    Args:
        minutes: that the training may take.
    """

    def __init__(self, minutes: float):
        self.minutes = minutes
        self.spent, self.started = 0.0, time.monotonic()  # seconds until this start, and its beginning
        self.evaluations: list[float] = []  # seconds of each since this start
        self.steps = self.planned = self.first_step = 0

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"args": {"minutes": self.minutes}, "attributes": {"spent": self.elapsed(), "steps": self.steps}}

    def elapsed(self) -> float:
        """Return the seconds that training took until now, in all starts."""
        return self.spent + time.monotonic() - self.started

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = self.marked = time.monotonic()
        self.first_step, self.planned = state.global_step, state.max_steps
        if self.steps:
            self.let_end(self.steps, args, state, kwargs["lr_scheduler"])

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        self.marked = time.monotonic()
        if state.global_step - self.first_step == STEPS_TO_KNOW_THE_PACE:
            self.plan(args, state, kwargs["lr_scheduler"])

    def on_evaluate(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        self.evaluations.append(time.monotonic() - self.marked)
        if state.global_step > self.first_step:
            self.plan(args, state, kwargs["lr_scheduler"])

    def plan(self, args: TrainingArguments, state: Any, scheduler: Any) -> None:
        """Plan the steps that are left: as many as fit, and no more than there were without a budget."""
        steps = from_main(lambda: self.steps_that_fit(state))
        if steps < min(self.steps or self.planned, self.planned):
            say(f"{steps:,} of {self.planned:,} steps fit at this pace into {self.minutes:.1f} minutes.")
        if steps != state.max_steps:
            self.let_end(steps, args, state, scheduler)

    def steps_that_fit(self, state: Any) -> int:
        """Return the steps of a training that ends in time."""
        done, seconds = state.global_step - self.first_step, time.monotonic() - self.started
        pace = (seconds - sum(self.evaluations)) / done
        updates = self.planned / max(state.num_train_epochs, 1)
        last = self.evaluations[-1] if self.evaluations else pace * updates * EVALUATION_OF_EPOCH
        each = sum(self.evaluations) / done if self.evaluations else last / updates
        left = self.minutes * 60 - self.elapsed() - last
        fits = int(state.global_step) + max(int(left / (pace + each)), 0)
        return min(self.planned, fits)

    def let_end(self, steps: int, args: TrainingArguments, state: Any, scheduler: Any) -> None:
        """Let the training end after so many steps, and the learning rate with it."""
        state.max_steps = self.steps = steps
        scheduler = getattr(scheduler, "scheduler", scheduler)  # inside of that of accelerate
        if isinstance(scheduler, LambdaLR):  # others look at losses, or belong to DeepSpeed
            scheduler.lr_lambdas = [decay_of(args, steps)] * len(scheduler.lr_lambdas)


def decay_of(args: TrainingArguments, steps: int) -> Callable[[int], float]:
    """Return the factor of the learning rate at each step of a training of so many."""
    stand_in, warmup = SGD([torch.zeros(1)]), args.get_warmup_steps(steps)
    made = get_scheduler(args.lr_scheduler_type, stand_in, warmup, steps, args.lr_scheduler_kwargs)
    factor: Callable[[int], float] = made.lr_lambdas[0]
    return factor
