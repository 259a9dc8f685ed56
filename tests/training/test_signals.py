"""Two runs in one folder, and the signals that clusters send: nothing is lost, and each is said in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from runs import settings, text_arguments
from safetensors.torch import load_file
from warm_python import warm_python

from hf_selfattn import run
from hf_selfattn.files import locked

ROOT = Path(__file__).parents[2]


def start(given: dict[str, Any], python: str = sys.executable) -> subprocess.Popen[str]:
    """The recipe as a user types it, in a process of its own."""
    words = [python, "recipes/text_classification.py", *(f"{k}={json.dumps(v)}" for k, v in given.items())]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(words, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, **pipes)


def wait_for(pattern: str, folder: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not list(folder.glob(pattern)):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.02)


def test_a_lock_is_held_by_one_and_gone_with_it(tmp_path: Path) -> None:
    with locked(tmp_path / "a/_lock") as before:
        assert before is None
        with pytest.raises(ValueError, match=rf"is in use by process {os.getpid()} on "), locked(tmp_path / "a/_lock"):
            pass
    assert not (tmp_path / "a/_lock").exists()
    (tmp_path / "a/_lock").write_text("process 1234567 on elsewhere")
    with locked(tmp_path / "a/_lock") as before:
        assert before == "process 1234567 on elsewhere"


def test_a_lock_that_a_killed_run_left_is_taken_over_and_said(
    tiny_backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = settings(tiny_backbone, tmp_path, num_train_epochs=1)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/_lock").write_text("process 1234567 on elsewhere")
    run(text_arguments(given))
    assert "was in use by process 1234567 on elsewhere, which is gone" in capsys.readouterr().out
    assert not (tmp_path / "run/_lock").exists()


@pytest.mark.slow
def test_two_runs_at_once_and_signals_in_the_middle(tiny_backbone: str, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    run(text_arguments(settings(tiny_backbone, tmp_path / "whole", num_train_epochs=10)))
    given = settings(tiny_backbone, tmp_path, num_train_epochs=10)
    first = start(given)
    wait_for("run/checkpoint-*", tmp_path, first)
    first.send_signal(signal.SIGSTOP)  # it trains no further meanwhile, and holds its folder
    second = start(given, warm_python())
    said = second.communicate(timeout=100)[0]
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 1 and f"is in use by process {first.pid} on " in said and "Traceback" not in said

    ends_by("SIGTERM", first)
    seen = {path.name for path in tmp_path.glob("run/checkpoint-*")}
    third = start(given, warm_python())
    while seen >= {path.name for path in tmp_path.glob("run/checkpoint-*")}:
        assert third.poll() is None, third.communicate()[0]
        time.sleep(0.02)
    ends_by("SIGUSR1", third)
    state = run(text_arguments(given))["run_state"]
    assert state["starts"] == 3 and state["interruptions"] == 2
    assert 0 < state["resumed_from"][0] < state["resumed_from"][1]
    mine, whole = (load_file(folder / "run/model.safetensors") for folder in (tmp_path, tmp_path / "whole"))
    assert all(mine[key].equal(whole[key]) for key in whole)


def ends_by(name: str, process: subprocess.Popen[str]) -> None:
    """Send a signal, and see the process save a checkpoint and end with that signal's status."""
    process.send_signal(signal.Signals[name])
    said = process.communicate(timeout=100)[0]
    assert process.returncode == 128 + signal.Signals[name], said
    assert f"{name}: a checkpoint is saved at the end of this step" in said and "Traceback" not in said


@pytest.mark.slow
def test_a_grace_period_ends_a_step_that_takes_too_long(tiny_backbone: str, tmp_path: Path) -> None:
    given = settings(tiny_backbone, tmp_path, num_train_epochs=10, gradient_accumulation_steps=1)
    process = start({**given, "grace_seconds": 1e-4}, warm_python())
    wait_for("run/checkpoint-*", tmp_path, process)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=100)[0]
    assert process.returncode == 143 and "Traceback" not in said, said
    assert run(text_arguments(given))["run_state"]["starts"] == 2
