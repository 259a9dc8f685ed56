"""Faults that a run meets from outside, each told in one message that says what is left and how to go on."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from datasets import Dataset

GO_ON = "The same command goes on where it was"
MOST_ROWS = 8
# What the system says of a place that takes no data, in errors of Python and, as text, of other libraries.
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_WRITING = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}
ROOM_IN_WORDS = ("No space left on device", "Disk quota exceeded", "File too large", "PytorchStreamWriter failed")


class NotFinite(ValueError):
    """Training met a loss or a gradient that is no number."""


@contextmanager
def faults_explained() -> Iterator[None]:
    """End the program with one message and without a traceback at a fault that the user can mend.

    Exit code 1 for a wrong input or a machine that gives too little, 128 and the signal's number (130 for Ctrl-C,
    143 for SIGTERM) where one ended it, 141 where nobody reads the output any more.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        print(f"\nInterrupted. {GO_ON}.", file=sys.stderr, flush=True)
        sys.exit(128 + getattr(error, "number", signal.SIGINT))
    except BrokenPipeError:  # whoever reads the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except ValueError as error:
        sys.exit(f"error: {error}")
    except Exception as error:
        message = explanation(error)
        if message is None:
            raise
        sys.exit(f"error: {message}")


def explanation(error: BaseException) -> str | None:
    """Return what the user can do about an error of the machine, or None for an error of another kind."""
    if is_out_of_memory(error):
        return (
            f"Out of memory ({first_line(error)}). To train, take a smaller per_device_eval_batch_size, or a smaller "
            "per_device_train_batch_size with more gradient_accumulation_steps, in another output_dir."
        )
    if isinstance(error, OSError) and error.errno in NO_ROOM | NO_WRITING:
        place = f" {error.filename}" if error.filename else ""
        said = f"Cannot write{place} ({error.strerror}). Nothing that was there is lost."
        if error.errno in NO_WRITING:
            return f"{said} Choose a place that can be written to."
        return f"{said} Free some space there. {GO_ON}."
    if isinstance(error, ImportError) and "pip install" in str(error):
        return str(error)
    if any(words in str(error) for words in ROOM_IN_WORDS):
        return f"Cannot write ({first_line(error)}). Nothing that was there is lost. Free some space. {GO_ON}."
    return None


def not_written(error: Exception, checkpoint: Path) -> str | None:
    """Return why a checkpoint could not be written and how to go on, or None for an error of another kind."""
    number = error.errno if isinstance(error, OSError) else None
    if number not in NO_ROOM | NO_WRITING and not any(words in str(error) for words in ROOM_IN_WORDS):
        return None
    free = shutil.disk_usage(checkpoint.parent).free / 2**20
    return (
        f"{checkpoint} cannot be written ({first_line(error)}; without it {free:,.0f} MiB are free there). "
        f"Checkpoints before it, if any, are whole. Free some space, or lower save_total_limit. {GO_ON}."
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the memory of the machine or of an accelerator is too small."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and should_reduce_batch_size(error)


def smaller_batch(options: Mapping[str, Any], in_training: bool) -> dict[str, int] | None:
    """Return the options of a training with half the batch and the same outcome, or None where it is one row already.

    In training twice as many batches are added up for each step, so that a step still sees as many rows.
    """
    name = "per_device_train_batch_size" if in_training else "per_device_eval_batch_size"
    batch = int(options[name])
    if batch == 1:
        return None
    if not in_training:
        return {name: batch // 2}
    factor = next(number for number in range(2, batch + 1) if batch % number == 0)
    steps = int(options["gradient_accumulation_steps"])
    return {name: batch // factor, "gradient_accumulation_steps": steps * factor}


def batch_in_words(batch: Mapping[str, Any]) -> str:
    """Return how large a batch is."""
    if (ids := batch.get("input_ids")) is not None:
        return f"its batch has {len(ids)} rows of up to {ids.shape[1]} tokens"
    if (pixels := batch.get("pixel_values")) is not None:
        return f"its batch has {len(pixels)} images of {pixels.shape[-1]} x {pixels.shape[-2]} pixels"
    return "its batch is not known"


def rows_in_words(batch: Mapping[str, Any], train: Any) -> str:
    """Return how large a batch is and, where they can be found, which rows of train it holds."""
    rows = rows_of_batch(batch, train) if "input_ids" in batch and isinstance(train, Dataset) else []
    if not rows:
        return batch_in_words(batch)
    named = ", ".join(map(str, rows[:MOST_ROWS])) + (", …" if len(rows) > MOST_ROWS else "")
    return f"{batch_in_words(batch)}: rows {named} of train, counted from 0"


def rows_of_batch(batch: Mapping[str, Any], train: Dataset) -> list[int]:
    """Return the rows of train whose tokens a batch (B, T) holds, found by comparing them."""
    mask = batch["attention_mask"].bool() if "attention_mask" in batch else torch.ones_like(batch["input_ids"]).bool()
    wanted = {tuple(ids[kept].tolist()) for ids, kept in zip(batch["input_ids"], mask, strict=True)}
    return [number for number, row in enumerate(train) if tuple(row["input_ids"]) in wanted]


def first_line(error: BaseException) -> str:
    """Return what an error says first."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
