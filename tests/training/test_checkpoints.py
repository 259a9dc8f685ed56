"""Which checkpoint is whole, and what happens to one that is not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import LABELS, Stopped, rows_of, settings, stopped_after, text_arguments, with_callback, write_rows
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback

from hf_selfattn import run
from hf_selfattn.hub.summary import story
from hf_selfattn.training.checkpoints import (
    CHECKSUMS_FILE,
    checkpoints_of,
    clear_unfinished,
    drop_checkpoints,
    fault_of,
    newest_whole,
    put_checkpoint,
)


def checkpoint(folder: Path, step: int, best: int | None = None) -> Path:
    """A checkpoint of two files."""
    side = folder / "_writing" / f"checkpoint-{step}"
    (side / "deep").mkdir(parents=True)
    (side / "deep/weights.safetensors").write_bytes(bytes(range(200)))
    (side / "trainer_state.json").write_text(json.dumps({"best_global_step": best}))
    put_checkpoint(side, folder / side.name)
    return folder / side.name


def truncated(path: Path) -> None:
    (path / "deep/weights.safetensors").write_bytes(bytes(range(100)))


def emptied(path: Path) -> None:
    (path / "deep/weights.safetensors").write_bytes(b"")


def flipped(path: Path) -> None:
    (path / "deep/weights.safetensors").write_bytes(bytes([1, *range(1, 200)]))


def without_state(path: Path) -> None:
    (path / "trainer_state.json").unlink()


def without_checksums(path: Path) -> None:
    (path / CHECKSUMS_FILE).unlink()


def garbage(path: Path) -> None:
    (path / CHECKSUMS_FILE).write_text("{{{")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncated, "deep/weights.safetensors has 100 bytes instead of 200"),
        (emptied, "deep/weights.safetensors has 0 bytes instead of 200"),
        (flipped, "deep/weights.safetensors has another content than was written"),
        (without_state, "trainer_state.json is missing"),
        (without_checksums, "checksums.json is missing or not valid JSON"),
        (garbage, "checksums.json is missing or not valid JSON"),
    ],
)
def test_the_newest_whole_one_is_taken_and_others_are_set_aside(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    older, newer = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    assert newest_whole(tmp_path, needs_best=True) == (newer, [])
    spoil(newer)
    assert newest_whole(tmp_path, needs_best=True) == (
        older,
        [f"checkpoint-10: {message}; kept as _corrupt-checkpoint-10"],
    )
    assert (tmp_path / "_corrupt-checkpoint-10").is_dir() and checkpoints_of(tmp_path) == [older]
    again = checkpoint(tmp_path, 10)
    spoil(again)
    assert newest_whole(tmp_path, needs_best=True)[0] == older
    assert (tmp_path / "_corrupt-checkpoint-10-2").is_dir()
    spoil(older)
    assert newest_whole(tmp_path, needs_best=True)[0] is None


def test_a_checkpoint_needs_the_best_one_that_it_names(tmp_path: Path) -> None:
    first, best, newest = checkpoint(tmp_path, 10, 10), checkpoint(tmp_path, 20, 20), checkpoint(tmp_path, 30, 20)
    truncated(best)
    assert newest_whole(tmp_path, needs_best=False) == (newest, [])
    found, skipped = newest_whole(tmp_path, needs_best=True)
    assert found == first and len(skipped) == 2
    assert "checkpoint-30: the best checkpoint until then was checkpoint-20, and deep/weights" in skipped[0]


def test_the_oldest_are_dropped_but_the_best(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        checkpoint(tmp_path, step)
    drop_checkpoints(tmp_path, None, best_step=5)
    assert len(checkpoints_of(tmp_path)) == 4
    drop_checkpoints(tmp_path, 2, best_step=5)
    assert [path.name for path in checkpoints_of(tmp_path)] == ["checkpoint-20", "checkpoint-5"]
    drop_checkpoints(tmp_path, 1, best_step=5)
    assert len(checkpoints_of(tmp_path)) == 2  # the newest and the best
    assert not list(tmp_path.glob("_outdated*"))


def test_what_was_half_written_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    kept = checkpoint(tmp_path, 5)
    for name in ("_writing", "_outdated-checkpoint-1", "_corrupt-checkpoint-2", "_mine"):
        (tmp_path / name).mkdir(exist_ok=True)
    clear_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["_corrupt-checkpoint-2", "_mine", kept.name]


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda number: (synced.append(os.readlink(f"/proc/self/fd/{number}")), real(number))[1]
    )
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("the system does not tell which file a descriptor is")
    path = checkpoint(tmp_path, 5)
    before = [name for name in synced if "_writing" in name]
    assert {Path(name).name for name in before} >= {"weights.safetensors", "trainer_state.json", "deep", path.name}
    assert synced[-1] == str(tmp_path)
    assert fault_of(path) is None


def test_a_corrupt_newest_checkpoint_costs_an_epoch_and_no_more(
    tiny_backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "whole").mkdir()
    changes = {"num_train_epochs": 3, "save_total_limit": 3, "per_device_train_batch_size": 8}
    whole = run(text_arguments(settings(tiny_backbone, tmp_path / "whole", **changes)))
    given = settings(tiny_backbone, tmp_path, **changes)
    with stopped_after(steps=13):
        run(text_arguments(given))
    older, newer = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))[::-1]
    assert (newer, older) == ("checkpoint-12", "checkpoint-6")
    (tmp_path / "run" / newer / "optimizer.pt").write_bytes(b"")
    capsys.readouterr()
    results = run(text_arguments(given))
    said = capsys.readouterr().out
    assert "Not whole, and passed over: checkpoint-12: optimizer.pt has 0 bytes" in said
    assert "Training goes on from checkpoint-6." in said
    state = results["run_state"]
    assert state["starts"] == 2 and state["resumed_from"] == [6] and len(state["skipped"]) == 1
    assert "started 2 times (resumed from step 6); 1 corrupt checkpoint" in story(state)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole/run", "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (tmp_path / "run/_corrupt-checkpoint-12").is_dir()
    assert whole["run_state"]["starts"] == 1 and not story(whole["run_state"])


def test_without_a_whole_checkpoint_training_begins_anew_and_says_so(
    tiny_backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = settings(tiny_backbone, tmp_path, num_train_epochs=2, per_device_train_batch_size=16)
    with stopped_after(steps=4):
        run(text_arguments(given))
    for path in checkpoints_of(tmp_path / "run"):
        (path / "rng_state.pth").unlink()
    results = run(text_arguments(given))
    assert "No checkpoint is whole: training begins anew." in capsys.readouterr().out
    assert results["run_state"]["resumed_from"] == [0] and results["training"]["steps"] == 6


class Steps(TrainerCallback):
    """Counts the steps of all trainings."""

    def __init__(self) -> None:
        self.count = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.count += 1


STREAM = {"streaming": True, "max_steps": 6, "num_train_epochs": 1, "label_names": [*LABELS]}


@pytest.mark.parametrize(
    "changes",
    [{}, {"tuning": "full", "early_stopping_patience": 1, "num_train_epochs": 9, "learning_rate": 0.0}, STREAM],
    ids=["to its end", "early", "on a stream"],
)
def test_a_training_that_ended_is_scored_and_not_trained_again(
    changes: dict[str, Any], tiny_backbone: str, tmp_path: Path
) -> None:
    """The process ended between the last step and the results."""

    def end(*_: Any, **__: Any) -> None:
        raise Stopped

    (tmp_path / "whole").mkdir()
    rows = write_rows(tmp_path / "rows.jsonl", rows_of("single_label_classification", 12, seed=3))
    changes = {"num_train_epochs": 2, "per_device_train_batch_size": 16, "validation": rows, **changes}
    whole = run(text_arguments(settings(tiny_backbone, tmp_path / "whole", **changes)))
    given = settings(tiny_backbone, tmp_path, **changes)
    steps = Steps()
    with pytest.MonkeyPatch.context() as patch:
        with_callback(patch, steps)
        patch.setattr(Trainer, "predict", end)
        with pytest.raises(Stopped):
            run(text_arguments(given))
        assert steps.count == whole["training"]["steps"] > 1
        patch.undo()
        with_callback(patch, steps)
        results = run(text_arguments(given))
    assert steps.count == results["training"]["steps"] == whole["training"]["steps"], "no step was made again"
    assert results["run_state"]["resumed_from"] == [whole["training"]["steps"]]
    for name in ("best_step", "best_metric"):
        assert results["training"][name] == whole["training"][name]
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole/run", "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_folder_that_was_moved_keeps_its_best_checkpoint(tiny_backbone: str, tmp_path: Path) -> None:
    changes = {"num_train_epochs": 2, "per_device_train_batch_size": 16, "learning_rate": 0.5}
    (tmp_path / "whole").mkdir()
    whole = run(text_arguments(settings(tiny_backbone, tmp_path / "whole", **changes)))
    given = settings(tiny_backbone, tmp_path, **changes)
    with stopped_after(steps=5):
        run(text_arguments(given))
    shutil.move(tmp_path / "run", tmp_path / "moved")
    results = run(text_arguments({**given, "output_dir": str(tmp_path / "moved")}))
    assert results["training"]["best_step"] == whole["training"]["best_step"]
    assert results["splits"]["test"]["scores"] == whole["splits"]["test"]["scores"]
