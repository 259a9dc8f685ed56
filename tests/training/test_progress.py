from __future__ import annotations

import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from runs import text_arguments
from tiny_models import tiny_text
from transformers import Trainer, TrainingArguments
from transformers.utils import logging
from warm_python import warm_environment, warm_python

from hf_selfattn import run
from hf_selfattn.training.progress import Line, Progress, duration, show_progress

ROOT = Path(__file__).parents[2]
STEP = r"step \d+ of 12, epoch [\d.]+, loss [\d.]+, [\d,]+ tokens/s, 0:\d\d:\d\d left"
LOGGED = [f"step {number} of 12" for number in (3, 6, 9, 12)]


@pytest.fixture
def bars() -> Any:
    """The bars of the libraries as they were before the test."""
    yield
    datasets.enable_progress_bars()
    logging.enable_progress_bar()


def settings(backbone: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """A run of 12 steps on rows of 4 to 9 words; the words tell nothing."""
    paths = {}
    for number, (split, count) in enumerate((("train", 24), ("validation", 9), ("test", 7))):
        texts = [tiny_text(2 + i % 6, 100 * number + i) for i in range(count)]
        rows = [{"text": text, "label": "no" if i % 2 else "yes"} for i, text in enumerate(texts)]
        paths[split] = folder / f"{split}.jsonl"
        paths[split].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "model": backbone,
        "output_dir": str(folder / "run"),
        **{split: str(path) for split, path in paths.items()},
        "heads": {"head_dim": 8, "group_dim": 8, "num_groups": 4, "block_size": 8, "subsequence_stride": 4},
        "baseline": False,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 5,
        "logging_steps": 3,
        "bf16": False,
        "seed": 0,
        **changes,
    }


def test_off_a_terminal_there_are_plain_lines(
    tiny_backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], bars: None
) -> None:
    results = run(text_arguments(settings(tiny_backbone, tmp_path)))
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert "\r" not in printed.err and "{'" not in printed.err + printed.out and "it/s]" not in printed.err
    assert any(re.match(r"40 rows tokenised in [\d.]+ s \(train 24, validation 9, test 7\)", line) for line in lines)
    assert sum(line.startswith("step ") and " of " in line for line in lines) == 4
    assert [line.split(",")[0] for line in lines if re.fullmatch(STEP, line)] == LOGGED
    (evaluated,) = (line for line in lines if "evaluated: loss" in line)
    assert evaluated.startswith("step 12 evaluated: loss ") and "accuracy " in evaluated and "runtime" not in evaluated
    assert sum(line.startswith("12 steps in 0:0") and line.endswith("tokens/s") for line in lines) == 1
    words = [len(json.loads(row)["text"].split()) + 2 for row in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert results["training"]["history"][-1]["num_input_tokens_seen"] == sum(words)  # padding is not counted


def test_on_a_terminal_one_line_is_written_over(
    tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bars: None
) -> None:
    monkeypatch.setattr("hf_selfattn.training.progress.SECONDS_BETWEEN_LOOKS", 0.0)
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    read: list[bytes] = []

    def drain() -> None:
        while chunk := os.read(master, 4096):
            read.append(chunk)
            if b"THE END" in chunk:
                return

    reader = threading.Thread(target=drain)
    reader.start()
    with os.fdopen(slave, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        run(text_arguments(settings(tiny_backbone, tmp_path)))
        terminal.write("THE END")
        terminal.flush()
        reader.join(timeout=30)
    lines = b"".join(read).decode().split("\n")
    (live,) = (line for line in lines if "evaluating: batch 1 of 2" in line and "step 3 of 12" in line)
    shown = [text.strip() for text in live.split("\r") if text.strip()]
    steps = [text for text in shown if text.startswith("step ") and " of " in text]
    assert [int(text.split()[1]) for text in steps] == list(range(1, 13))  # all of them on one line
    assert all(re.fullmatch(STEP, text) for text in steps[3:])
    assert shown[-1].startswith("step 12 evaluated: loss ")
    assert not any("{'" in line for line in lines)
    assert any("tokenising" in line and "100%" in line for line in lines)  # the bar of Datasets


def test_a_line_is_cleared_before_another_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    line = Line(is_live=True)
    line.show("half of it")
    line.show("too early")
    line.write("done")
    assert capsys.readouterr().err == f"half of it\r{' ' * 10}\rdone\n"
    line.show("x" * 5000)
    assert len(capsys.readouterr().err) < 500
    quiet = Line(is_live=False)
    quiet.show("nobody sees it")
    quiet.write("a line")
    assert capsys.readouterr().err == "a line\n"


@pytest.mark.parametrize("disable_tqdm", [True, False])
def test_only_the_display_of_trainer_is_replaced(tmp_path: Path, disable_tqdm: bool) -> None:
    options = TrainingArguments(output_dir=str(tmp_path), disable_tqdm=disable_tqdm, use_cpu=True, report_to="none")
    trainer = Trainer(model=torch.nn.Linear(1, 1), args=options)
    before = [type(callback).__name__ for callback in trainer.callback_handler.callbacks]
    show_progress(trainer)
    after = [type(callback) for callback in trainer.callback_handler.callbacks]
    assert [kind.__name__ for kind in after] == [*before[:-1], "Progress"]
    show_progress(trainer)
    assert [type(callback) for callback in trainer.callback_handler.callbacks].count(Progress) == 1


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0.2, 75, 3675)] == ["0:00:00", "0:01:15", "1:01:15"]


@pytest.mark.slow
def test_two_processes_write_each_line_once(tiny_backbone: str, tmp_path: Path) -> None:
    given = settings(tiny_backbone, tmp_path, per_device_train_batch_size=1)
    given["heads"] = json.dumps(given["heads"])
    words = [f"{name}={value}" for name, value in given.items()]
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "recipes/text_classification.py"]
    cpu = warm_environment(ACCELERATE_USE_CPU="true")
    done = subprocess.run(
        [warm_python(), *launch, *words], cwd=ROOT, env=cpu, check=True, timeout=300, capture_output=True, text=True
    )
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["training"]["processes"] == 2
    lines = done.stderr.splitlines()
    assert sum("rows tokenised" in line for line in lines) == 1
    assert [line.split(",")[0] for line in lines if re.fullmatch(STEP, line)] == LOGGED
    assert sum("evaluated: loss" in line for line in lines) == 1
    words_read = [len(json.loads(row)["text"].split()) + 2 for row in Path(given["train"]).read_text().splitlines()]
    assert results["training"]["history"][-1]["num_input_tokens_seen"] == sum(words_read)  # those of both processes
