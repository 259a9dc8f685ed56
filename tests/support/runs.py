"""Rows and arguments of tiny runs, and trainings that end in the middle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import tiny_text
from transformers import Trainer, TrainerCallback

from hf_selfattn import NerArguments, RunArguments, TextClassificationArguments, build_arguments

HEADS = {"head_dim": 8, "group_dim": 8, "num_groups": 4, "block_size": 8, "subsequence_stride": 4}
QUICK = {"num_train_epochs": 1, "per_device_train_batch_size": 4, "bf16": False, "disable_tqdm": True, "seed": 0}
LABELS = ("left", "right", "up")


def text_arguments(settings: dict[str, Any]) -> TextClassificationArguments:
    """Arguments of a text classification."""
    return build_arguments(settings, TextClassificationArguments)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rows_of(problem: str, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows whose label shows in the first word; every fifth text is longer than the backbone's window."""
    labels: dict[str, list[Any]] = {
        "single_label_classification": [*LABELS],
        "multi_label_classification": [["a"], ["b", "c"], []],
        "regression": [0.25, 1.25, 2.25],
        "ordinal": ["0", "1", "2"],
    }
    return [
        {
            "text": f"w{10 + i % 3} " + tiny_text(70 if i % 5 == 0 else 4 + i % 7, seed=1000 * seed + i),
            "label": labels[problem][i % 3],
        }
        for i in range(count)
    ]


def write_sentences(path: Path, count: int, seed: int) -> str:
    """A file of documents of three sentences of words with tags, of several tokens each."""
    random = np.random.default_rng(seed)
    lines = []
    for i in range(count):
        lines += ["-DOCSTART- O", ""] if i % 3 == 0 else []
        for number in random.integers(10, 75, random.integers(2, 15)):
            lines += [f"w{number}ab B-PER", f"w{number}-w9 I-PER"] if number % 3 == 0 else [f"w{number}c O"]
        lines.append("")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def settings(
    backbone: str, folder: Path, kind: str = "single_label_classification", /, **changes: Any
) -> dict[str, Any]:
    """Settings of a short text classification, whose validation split is made of train."""
    return {
        "model": backbone,
        "output_dir": str(folder / "run"),
        "train": write_rows(folder / "train.jsonl", rows_of(kind, 48)),
        "test": write_rows(folder / "test.jsonl", rows_of(kind, 17, seed=1)),
        "heads": HEADS,
        "baseline": False,
        **QUICK,
        **changes,
    }


def probe_arguments(
    backbone: str, folder: Path, kind: type[RunArguments] = TextClassificationArguments, /, **changes: Any
) -> Any:
    """Arguments of a probe of two epochs, on rows of text or of tagged words."""
    if kind is NerArguments:
        files = {name: write_sentences(folder / f"{name}.txt", *size) for name, size in SIZES.items()}
    else:
        files = {
            name: write_rows(folder / f"{name}.jsonl", rows_of("single_label_classification", *size))
            for name, size in SIZES.items()
        }
    own = {} if kind is NerArguments else {"baseline": False}
    given = {
        "model": backbone,
        "output_dir": str(folder / "run"),
        **files,
        "tuning": "probe",
        "feature_cache": str(folder / "features"),
        "feature_dtype": "float32",
        "heads": HEADS,
        **own,
        **QUICK,
        "num_train_epochs": 2,
        **changes,
    }
    return build_arguments(given, kind)


SIZES = {"train": (30, 0), "validation": (12, 1), "test": (10, 2)}  # rows and seed


class Stopped(BaseException):
    """Ends a training, as it were: nothing catches it, as nothing catches SIGKILL."""


class Stopper(TrainerCallback):
    """Ends the trainings that it watches after so many steps, or before an epoch begins; it counts over all of them.

    Args:
        steps: that are made.
        epochs: that are made, each with its evaluation and its checkpoint.
        trainings: that are made.
    """

    def __init__(self, steps: int = -1, epochs: int = -1, trainings: int = -1) -> None:
        self.steps, self.epochs, self.trainings = steps, epochs, trainings

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainings == 0:
            raise Stopped
        self.trainings -= 1

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.epochs == 0:
            raise Stopped
        self.epochs -= 1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps -= 1
        if self.steps == 0:
            raise Stopped


def with_callback(patch: pytest.MonkeyPatch, callback: TrainerCallback) -> None:
    """Let every training tell a callback, too."""
    train = Trainer.train

    def watched(trainer: Trainer, **options: Any) -> Any:
        trainer.add_callback(callback)
        return train(trainer, **options)

    patch.setattr(Trainer, "train", watched)


@contextmanager
def stopped_after(**counts: int) -> Iterator[None]:
    """See that what is trained inside ends after so many steps, epochs or trainings, as `Stopper` counts them."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        with_callback(patch, Stopper(**counts))
        yield
