"""Trackers through `Trainer`'s own `report_to`: what is asked for is written, and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from runs import text_arguments
from tiny_models import tiny_text
from transformers import Trainer

from hf_selfattn import run


def settings(backbone: str, folder: Path, **changes: Any) -> dict[str, Any]:
    rows = ({"text": f"w{10 + i % 2} {tiny_text(4, seed=i)}", "label": "ab"[i % 2]} for i in range(24))
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "model": backbone,
        "output_dir": str(folder / "run"),
        "train": str(folder / "train.jsonl"),
        "heads": {"head_dim": 8},
        "baseline": False,
        "num_train_epochs": 1,
        "bf16": False,
        "disable_tqdm": True,
        **changes,
    }


def test_tensorboard_gets_the_losses_and_scores(tiny_backbone: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    run(text_arguments(settings(tiny_backbone, tmp_path, report_to="tensorboard")))
    files = list((tmp_path / "run").rglob("events.out.tfevents.*"))
    assert files
    written = b"".join(path.read_bytes() for path in files)
    assert b"train/loss" in written and b"eval/macro_f1" in written


def test_no_tracker_is_the_silent_default(
    tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Trainer] = []
    train = Trainer.train

    def recorded(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        made.append(self)
        return train(self, *args, **kwargs)

    monkeypatch.setattr("transformers.Trainer.train", recorded)
    monkeypatch.chdir(tmp_path)
    run(text_arguments(settings(tiny_backbone, tmp_path)))
    assert made[0].args.report_to == []
    callbacks = {type(callback).__name__ for callback in made[0].callback_handler.callbacks}
    assert callbacks <= {"DefaultFlowCallback", "GroupedByLength", "LowerLoss", "Progress", "Watch"}
    names = {name.lower() for _, folders, files in os.walk(tmp_path) for name in (*folders, *files)}
    assert not any(word in name for name in names for word in ("tfevents", "wandb", "trackio", "mlruns"))
    said = "".join(capsys.readouterr()).lower()
    assert not any(word in said for word in ("tensorboard", "wandb", "trackio", "mlflow"))
