"""Train a model to its end, from the newest whole checkpoint, with a smaller batch where the memory asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils.memory import clear_device_cache
from transformers import TrainerState, TrainingArguments

from ..files import read_json, write_json
from ..hub.results import RUN_STATE_FILE
from ..machine import from_main
from ..tasks import say
from .checkpoints import STATE_FILE, clear_unfinished, ended, newest_whole, step_of
from .faults import GO_ON, batch_in_words, first_line, is_out_of_memory, smaller_batch
from .trainer import RecipeTrainer


@dataclass
class RunState:
    """What happened to a run; it is written at once and outlives the process."""

    starts: int = 0  # how often the command was given until training was done
    resumed_from: list[int] = field(default_factory=list)  # the step that each later start went on from, or 0
    interruptions: int = 0  # how often Ctrl-C, or another signal, ended it
    skipped: list[str] = field(default_factory=list)  # checkpoints that were not whole, and why
    smaller_batches: list[dict[str, int]] = field(default_factory=list)  # what a too small memory changed

    def options(self) -> dict[str, int]:
        """Return the options of the training that were changed because the memory was too small."""
        return {name: value for record in self.smaller_batches for name, value in record.items()}


def read_run_state(folder: Path) -> RunState:
    """Return what happened to a run until now."""
    path = folder / RUN_STATE_FILE
    return RunState(**read_json(path)) if path.is_file() else RunState()


def write_run_state(folder: Path, state: RunState) -> None:
    """Write what happened to a run, on the main process."""
    if PartialState().is_main_process:
        write_json(folder / RUN_STATE_FILE, asdict(state))


def fit(
    build: Callable[[dict[str, Any]], RecipeTrainer], options: Mapping[str, Any], output_dir: Path
) -> tuple[RecipeTrainer, RunState]:
    """Train to the end, and return the `Trainer` and what happened on the way.

    Args:
        build: makes a fresh model and its `Trainer` with such options of `TrainingArguments`.
    """
    state = from_main(lambda: started(output_dir))
    while True:
        trainer = build({**options, **state.options(), "auto_find_batch_size": False})
        smaller = train_to_end(trainer, state, output_dir, bool(options.get("auto_find_batch_size")))
        if smaller is None:
            return trainer, state
        state.smaller_batches.append(smaller)
        write_run_state(output_dir, state)
        say("Out of memory: " + ", ".join(f"{name}={value}" for name, value in smaller.items()) + " from here on.")
        if PartialState().num_processes > 1:  # the others wait for this one inside of a step
            raise ValueError(f"A process was out of memory, and the batch is smaller from here on. {GO_ON}.")
        del trainer
        clear_device_cache(garbage_collection=True)


def started(output_dir: Path) -> RunState:
    """Return what happened to a run until now, this start included."""
    clear_unfinished(output_dir)
    state = read_run_state(output_dir)
    state.starts += 1
    write_run_state(output_dir, state)
    return state


def train_to_end(trainer: RecipeTrainer, state: RunState, output_dir: Path, may_shrink: bool) -> dict[str, int] | None:
    """Train to the end and return None, or the options of a smaller batch where the memory was too small."""
    checkpoint = resume_point(trainer, state, output_dir)
    if checkpoint is not None:
        keep_steps(trainer.args, checkpoint)
        if ended(checkpoint):
            trainer.train_nothing_more()
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        return None
    except KeyboardInterrupt:
        state.interruptions += 1
        write_run_state(output_dir, state)
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        smaller = smaller_batch(vars(trainer.args), trainer.model.training)
        if smaller is None or not may_shrink:
            raise ValueError(out_of_memory(trainer, first_line(error))) from error
        return smaller
    finally:
        trainer.watch.release()


def keep_steps(args: TrainingArguments, checkpoint: Path) -> None:
    """Give steps that are shares of the training the numbers that they had, or `Trainer` warns that they differ."""
    state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
    for name in ("logging_steps", "eval_steps", "save_steps"):
        if 0 < (getattr(args, name) or 0) < 1:
            setattr(args, name, getattr(state, name))


def resume_point(trainer: RecipeTrainer, state: RunState, output_dir: Path) -> Path | None:
    """Return the checkpoint that training goes on from, or None where there is none, and say which are passed over."""
    checkpoint, skipped = from_main(lambda: newest_whole(output_dir, trainer.args.load_best_model_at_end))
    for line in skipped:
        say(f"Not whole, and passed over: {line}.")
    if skipped:
        say(
            f"Training goes on from {checkpoint.name}."
            if checkpoint
            else "No checkpoint is whole: training begins anew."
        )
    state.skipped += skipped
    if state.starts > len(state.resumed_from) + 1:
        state.resumed_from.append(step_of(checkpoint) if checkpoint else 0)
    write_run_state(output_dir, state)
    return checkpoint


def out_of_memory(trainer: RecipeTrainer, reason: str) -> str:
    """Return what the memory was too small for, and what to set."""
    options, step = trainer.args, trainer.state.global_step + 1
    if not trainer.model.training:
        return (
            f"Out of memory in the evaluation after step {step - 1} with "
            f"per_device_eval_batch_size={options.per_device_eval_batch_size} ({reason}). Set "
            "auto_find_batch_size=true to halve it, or bf16=true."
        )
    return (
        f"Out of memory at step {step} with per_device_train_batch_size={options.per_device_train_batch_size}; "
        f"{batch_in_words(trainer.last_batch)} ({reason}). Set auto_find_batch_size=true: the batch is halved and "
        "gradient_accumulation_steps doubled, so that a step sees as many rows. activation_checkpointing=true, "
        "bf16=true or, for long texts, sample_tokens=512 need less memory, too."
    )
