"""What a run answers to faults from outside, and that it goes on from there."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import settings, text_arguments, with_callback
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback
from warm_python import warm_launcher, warm_python

from hf_selfattn import run
from hf_selfattn.training.checkpoints import checkpoints_of, fault_of
from hf_selfattn.training.faults import faults_explained, smaller_batch

ROOT = Path(__file__).parents[2]


def run_of(given: dict[str, Any]) -> dict[str, Any]:
    return run(text_arguments(given))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "run/model.safetensors")


def whole_run(backbone: str, folder: Path, **changes: Any) -> dict[str, torch.Tensor]:
    """The weights of the same training, undisturbed."""
    (folder / "whole").mkdir()
    run_of(settings(backbone, folder / "whole", **changes))
    return weights_of(folder / "whole")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def loss_that_breaks(patch: pytest.MonkeyPatch, step: int, value: float) -> None:
    """Let the loss of a step be another one."""
    whole = Trainer.compute_loss

    def broken(trainer: Trainer, *args: Any, **kwargs: Any) -> Any:
        loss = whole(trainer, *args, **kwargs)
        return loss * value if torch.is_grad_enabled() and trainer.state.global_step + 1 == step else loss

    patch.setattr(Trainer, "compute_loss", broken)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_step(
    value: float, tiny_backbone: str, tmp_path: Path
) -> None:
    given = settings(tiny_backbone, tmp_path, tuning="full", per_device_train_batch_size=8)
    with pytest.MonkeyPatch.context() as patch:
        loss_that_breaks(patch, 4, value)
        with pytest.raises(ValueError, match="not finite at step 4; its batch has 8 rows of up to") as caught:
            run_of(given)
    rows = str(caught.value).partition(": rows ")[2].partition(" of train")[0].split(", ")
    assert len(rows) == 8 and len({*rows}) == 8 and all(0 <= int(row) < 48 for row in rows)
    last = tmp_path / "run/checkpoint-3"
    assert str(last) in str(caught.value) and "lower learning_rate" in str(caught.value)
    assert fault_of(last) is None
    assert all(weights.isfinite().all() for weights in load_file(last / "model.safetensors").values())
    assert run_of(given)["run_state"]["resumed_from"] == [3]


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(tiny_backbone: str, tmp_path: Path) -> None:
    def spoil(trainer: Any, model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = whole(trainer, model, *args, **kwargs)
        if trainer.state.global_step == 2:
            next(p for p in model.parameters() if p.grad is not None).grad.view(-1)[0] = float("nan")
        return loss

    whole = Trainer.training_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "training_step", spoil)
        with pytest.raises(ValueError, match="gradient is not finite at step 3"):
            run_of(settings(tiny_backbone, tmp_path, tuning="full"))
    kept = load_file(tmp_path / "run/checkpoint-2/model.safetensors")
    assert all(weights.isfinite().all() for weights in kept.values())


def small_memory(patch: pytest.MonkeyPatch, rows: int, error: Exception) -> None:
    """Let training, and evaluation, have room for so many rows."""
    whole = Trainer.compute_loss

    def compute_loss(trainer: Trainer, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if len(inputs["input_ids"]) > rows:
            raise error
        return whole(trainer, model, inputs, *args, **kwargs)

    patch.setattr(Trainer, "compute_loss", compute_loss)


MEMORY_ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: 8 bytes"),
]


@pytest.mark.parametrize("error", MEMORY_ERRORS, ids=["accelerator", "cpu"])
def test_out_of_memory_says_the_numbers(error: Exception, tiny_backbone: str, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        small_memory(patch, 4, error)
        with pytest.raises(ValueError, match="Out of memory at step 1 with per_device_train_batch_size=8") as caught:
            run_of(settings(tiny_backbone, tmp_path, per_device_train_batch_size=8))
    assert "its batch has 8 rows of up to 7" in str(caught.value) and "auto_find_batch_size=true" in str(caught.value)


def test_out_of_memory_halves_the_batch_and_the_outcome_stays(
    tiny_backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"per_device_train_batch_size": 8, "per_device_eval_batch_size": 4, "tuning": "full"}
    given = settings(tiny_backbone, tmp_path, **sizes) | {"backbone": {"hidden_dropout_prob": 0.0}}
    given["heads"] = {**given["heads"], "classifier_dropout": 0.0}
    with pytest.MonkeyPatch.context() as patch:
        small_memory(patch, 2, MEMORY_ERRORS[0])
        results = run_of({**given, "auto_find_batch_size": True})
    assert results["run_state"]["smaller_batches"] == [
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        {"per_device_eval_batch_size": 2},
    ]
    assert "Out of memory: per_device_train_batch_size=4" in capsys.readouterr().out
    (tmp_path / "whole").mkdir()
    whole = run_of({**given, "output_dir": str(tmp_path / "whole/run")})
    assert results["training"]["steps"] == whole["training"]["steps"]
    mine, theirs = weights_of(tmp_path), weights_of(tmp_path / "whole")
    assert all(torch.allclose(mine[name], theirs[name], atol=1e-4) for name in mine)
    assert "out of memory, gone on with" in (tmp_path / "run/README.md").read_text()


@pytest.mark.parametrize(
    ("batch", "expected"), [(16, (8, 2)), (15, (5, 3)), (7, (1, 7)), (1, None)], ids=["even", "odd", "prime", "one"]
)
def test_a_smaller_batch_has_the_same_sum(batch: int, expected: tuple[int, int] | None) -> None:
    options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 1}
    smaller = smaller_batch(options, in_training=True)
    assert (smaller and tuple(smaller.values())) == expected


class CtrlC(TrainerCallback):
    """Presses Ctrl-C in the middle of a step."""

    def __init__(self, step: int, times: int = 1) -> None:
        self.step, self.times = step, times

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)


@pytest.mark.parametrize("step", [8, 11], ids=["within an epoch", "at its end"])
def test_ctrl_c_saves_and_the_same_command_goes_on(step: int, tiny_backbone: str, tmp_path: Path) -> None:
    changes = {"num_train_epochs": 2, "sample_tokens": 24}
    expected = whole_run(tiny_backbone, tmp_path, **changes)
    given = settings(tiny_backbone, tmp_path, **changes)
    before = signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch:
        with_callback(patch, CtrlC(step))
        with pytest.raises(SystemExit) as caught, faults_explained():
            run_of(given)
    assert caught.value.code == 130 and signal.getsignal(signal.SIGINT) == before
    assert checkpoints_of(tmp_path / "run")[0].name == f"checkpoint-{step}"
    state = run_of(given)["run_state"]
    assert (state["starts"], state["resumed_from"], state["interruptions"]) == (2, [step], 1)
    assert equal(weights_of(tmp_path), expected)


def test_a_second_ctrl_c_stops_at_once(tiny_backbone: str, tmp_path: Path) -> None:
    given = settings(tiny_backbone, tmp_path)
    before = signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch:
        with_callback(patch, CtrlC(3, times=2))
        with pytest.raises(KeyboardInterrupt):
            run_of(given)
    assert not checkpoints_of(tmp_path / "run") and signal.getsignal(signal.SIGINT) == before


class FullDisk(TrainerCallback):
    """Lets no file grow beyond a size after a number of steps."""

    def __init__(self, step: int, size: int) -> None:
        self.step, self.size = step, size

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))


def test_a_full_disk_leaves_the_checkpoint_before_and_the_run_goes_on(tiny_backbone: str, tmp_path: Path) -> None:
    changes = {"num_train_epochs": 2, "tuning": "full"}
    expected = whole_run(tiny_backbone, tmp_path, **changes)
    given = settings(tiny_backbone, tmp_path, **changes)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:
        with_callback(patch, FullDisk(20, 40_000))
        try:
            with pytest.raises(ValueError, match="checkpoint-22 cannot be written") as caught:
                run_of(given)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "MiB are free there" in str(caught.value) and "The same command goes on" in str(caught.value)
    assert [path.name for path in checkpoints_of(tmp_path / "run")] == ["checkpoint-11"]
    assert not (tmp_path / "run/_writing").exists()
    assert run_of(given)["run_state"]["resumed_from"] == [11]
    assert equal(weights_of(tmp_path), expected)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "model.safetensors"), "model.safetensors.*Free some space"),
        (RuntimeError("Io error: No space left on device (os error 28)"), "Free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "/runs"), "/runs.*Choose a place"),
        (MemoryError(), "Out of memory"),
        (ImportError("Serving needs uvicorn: pip install uvicorn"), "error: Serving needs uvicorn"),
    ],
)
def test_a_fault_of_the_machine_is_one_message(error: Exception, message: str) -> None:
    with pytest.raises(SystemExit, match=message), faults_explained():
        raise error
    with pytest.raises(KeyError), faults_explained():
        raise KeyError("ours")


def test_a_folder_that_takes_nothing_is_said(tiny_backbone: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    given = {**settings(tiny_backbone, tmp_path), "output_dir": str(tmp_path / "file/run")}
    with pytest.raises(SystemExit, match="Cannot write .*file/run.* Choose a place that can be written to"):
        with faults_explained():
            run_of(given)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_claim_that_was_killed_half_way_is_no_other_run(tiny_backbone: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.arguments.json.4711").write_text("{")
    assert run_of(settings(tiny_backbone, tmp_path))["run_state"]["starts"] == 1


def launched(given: dict[str, Any], *launcher: str, python: str = sys.executable) -> subprocess.Popen[str]:
    words = [*launcher, "recipes/text_classification.py", *(f"{key}={json.dumps(v)}" for key, v in given.items())]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHON_EXEC": python}
    return subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(path: str, folder: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not list(folder.glob(path)):
        assert process.poll() is None and time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.05)


TWO = ["launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
TWO += ["--dynamo_backend", "no"]


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that a launcher started."""
    return [int(number) for number in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.slow
def test_ctrl_c_ends_the_command_with_130(tiny_backbone: str, tmp_path: Path) -> None:
    given = settings(tiny_backbone, tmp_path, num_train_epochs=400)
    process = launched(given, warm_python())
    wait_for("run/checkpoint-*", tmp_path, process)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=100)[0]
    assert process.returncode == 130 and "Traceback" not in said
    assert "a checkpoint is saved at the end of this step" in said and "The same command goes on" in said


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the workers in /proc")
def test_a_worker_that_dies_ends_all(tiny_backbone: str, tmp_path: Path) -> None:
    given = settings(tiny_backbone, tmp_path, num_train_epochs=400)
    process = launched(given, str(Path(sys.executable).with_name("accelerate")), *TWO)
    wait_for("run/checkpoint-*", tmp_path, process)
    first, second = workers_of(process)
    os.kill(second, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0 and not Path(f"/proc/{first}").exists()
    assert all(fault_of(path) is None for path in checkpoints_of(tmp_path / "run"))


@pytest.mark.slow
def test_two_processes_save_at_ctrl_c_and_go_on(tiny_backbone: str, tmp_path: Path) -> None:
    given = settings(tiny_backbone, tmp_path, num_train_epochs=3)
    two = [*warm_launcher("accelerate"), *TWO]
    process = launched({**given, "output_dir": str(tmp_path / "whole/run")}, *two, python=warm_python())
    assert process.communicate(timeout=200) and process.returncode == 0
    process = launched(given, *two, python=warm_python())
    wait_for("run/checkpoint-*", tmp_path, process)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=100)[0]
    assert process.returncode != 0, said
    process = launched(given, *two, python=warm_python())
    said = process.communicate(timeout=200)[0]
    assert process.returncode == 0, said
    results, whole = (json.loads((tmp_path / part / "results.json").read_text()) for part in ("run", "whole/run"))
    state = results["run_state"]
    assert state["starts"] == 2 and state["interruptions"] == 1
    assert losses_of(results) == losses_of(whole), "other rows, or another random state"
    assert equal(weights_of(tmp_path), weights_of(tmp_path / "whole"))


def losses_of(results: dict[str, Any]) -> dict[int, float]:
    return {entry["step"]: entry["loss"] for entry in results["training"]["history"] if "loss" in entry}


@pytest.mark.slow
def test_random_kills_of_one_training(tmp_path: Path) -> None:
    """The same with 20 kills: python tests/support/kills.py FOLDER 20 SEED."""
    words = [warm_python(), "tests/support/kills.py", str(tmp_path), "5", "0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests/support")])}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "end with the same weights and answers" in done.stdout, done.stdout + done.stderr
