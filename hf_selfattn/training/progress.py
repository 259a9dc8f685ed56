"""What a run shows of itself while it works: one line on a terminal, plain lines elsewhere, the main process alone."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import datasets
from accelerate import PartialState
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from transformers.trainer_utils import has_length
from transformers.utils import logging

SECONDS_BETWEEN_LOOKS = 0.1  # a terminal is written to no more often
SECONDS_BETWEEN_LINES = 30.0  # an evaluation says how far it is, where there is no terminal
NOT_METRICS = ("_runtime", "_per_second", "_model_preparation_time", "epoch", "num_input_tokens_seen")


class Line:
    """The line of a terminal that is written over, or nothing elsewhere; lines that stay are written in both.

    Args:
        is_live: whether there is a line to write over. Where it is not given, whether stderr is a terminal.
    """

    def __init__(self, is_live: bool | None = None) -> None:
        self.is_live = sys.stderr.isatty() if is_live is None else is_live
        self.width = 0
        self.shown_at = -float("inf")

    def show(self, text: str) -> None:
        """Write over the line of a terminal, unless that was done a moment ago."""
        if not self.is_live or time.monotonic() - self.shown_at < SECONDS_BETWEEN_LOOKS:
            return
        self.clear()
        text = text[: shutil.get_terminal_size().columns - 1]
        self.shown_at, self.width = time.monotonic(), len(text)
        print(text, end="", file=sys.stderr, flush=True)

    def write(self, text: str) -> None:
        """Write a line that stays."""
        self.clear()
        self.shown_at = -float("inf")
        print(text, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Empty the line of a terminal."""
        if self.width:
            print(f"\r{' ' * self.width}\r", end="", file=sys.stderr, flush=True)
        self.width = 0


class Progress(TrainerCallback):
    """Steps with loss, throughput and time left, and the outcome of each evaluation.

    The throughput counts tokens that are no padding, in all processes together, over the time of the training steps;
    the time left is that of the steps that are left, with evaluations as frequent as they were so far.
    """

    def __init__(self, line: Line) -> None:
        self.line = line
        self.loss: float | None = None
        self.batches = 0
        self._start(0, 0)

    def _start(self, step: int, tokens: int) -> None:
        self.first_step, self.first_tokens = step, tokens
        self.started = self.marked = self.spoke_at = time.monotonic()
        self.training = 0.0  # seconds

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.loss = None
        self._start(state.global_step, state.num_input_tokens_seen)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.monotonic()
        self.training += now - self.marked
        self.marked = now
        if state.is_world_process_zero:
            self.line.show(self.step_text(state))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.marked = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs is None or "loss" not in logs:
            return
        self.loss = logs["loss"]
        if state.is_world_process_zero and not self.line.is_live:
            self.line.write(self.step_text(state))

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        if self.batches == 0:
            self.spoke_at = time.monotonic()
        self.batches += 1
        if not state.is_world_process_zero:
            return
        total = f" of {len(eval_dataloader):,}" if has_length(eval_dataloader) else ""
        text = f"evaluating: batch {self.batches:,}{total}"
        self.line.show(text)
        if not self.line.is_live and time.monotonic() - self.spoke_at >= SECONDS_BETWEEN_LINES:
            self.spoke_at = time.monotonic()
            self.line.write(text)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        self.batches, self.marked = 0, time.monotonic()
        if state.is_world_process_zero:
            self.line.write(f"step {state.global_step:,} evaluated: {metrics_text(metrics or {})}")

    def on_predict(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.batches = 0
        self.line.clear()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            steps, seconds = state.global_step - self.first_step, time.monotonic() - self.started
            self.line.write(", ".join([f"{steps:,} steps in {duration(seconds)}", *self.throughput(state)]))

    def step_text(self, state: Any) -> str:
        """Return how far the training is."""
        done, left = state.global_step - self.first_step, state.max_steps - state.global_step
        parts = [f"step {state.global_step:,} of {state.max_steps:,}"]
        parts += [] if state.epoch is None else [f"epoch {state.epoch:.2f}"]
        parts += [] if self.loss is None else [f"loss {self.loss:.4g}"]
        parts += self.throughput(state)
        parts += [f"{duration((time.monotonic() - self.started) / done * left)} left"] if done else []
        return ", ".join(parts)

    def throughput(self, state: Any) -> list[str]:
        """Return tokens a second that are no padding, or nothing where they are not counted."""
        tokens = state.num_input_tokens_seen - self.first_tokens
        return [f"{tokens / self.training:,.0f} tokens/s"] if tokens and self.training else []


def show_progress(trainer: Trainer) -> Trainer:
    """Let a `Trainer` show its progress in our way, instead of the bars or dictionaries of Transformers.

    A notebook keeps the table that Transformers shows there. With `disable_tqdm` there are plain lines on a terminal,
    too.
    """
    if trainer.pop_callback(ProgressCallback) or trainer.pop_callback(PrinterCallback):
        trainer.add_callback(Progress(Line(False if trainer.args.disable_tqdm else None)))
    return trainer


def hide_bars() -> None:
    """Hide the bars of the libraries where no one could read them: off a terminal, and on other processes."""
    if not (sys.stderr.isatty() and PartialState().is_main_process):
        datasets.disable_progress_bars()
        logging.disable_progress_bar()


@contextmanager
def encoding(splits: Mapping[str, Any], done: str) -> Iterator[None]:
    """Say what was done to how many rows, and how fast; on a terminal the bar of Datasets shows it meanwhile."""
    started = time.monotonic()
    yield
    seconds = time.monotonic() - started
    rows = {name: len(split) for name, split in splits.items() if has_length(split)}
    if PartialState().is_main_process:
        of_each = ", ".join(f"{name} {count:,}" for name, count in rows.items())
        Line().write(f"{sum(rows.values()):,} rows {done} in {seconds:.1f} s ({of_each})")


def metrics_text(metrics: Mapping[str, float]) -> str:
    """Return the metrics of an evaluation in one line."""
    shown = {name.removeprefix("eval_"): value for name, value in metrics.items() if not name.endswith(NOT_METRICS)}
    return ", ".join(f"{name} {value:.4g}" for name, value in shown.items())


def duration(seconds: float) -> str:
    """Return a time as hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


class Stopwatch:
    """Counts from where it is made.

    Processor time stays what it is on a machine that others use, too; it adds up the threads of this process.
    """

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def record(self) -> dict[str, float]:
        """Return `seconds` on the clock and `cpu_seconds` of this process."""
        return {"seconds": time.perf_counter() - self.wall, "cpu_seconds": time.process_time() - self.cpu}
