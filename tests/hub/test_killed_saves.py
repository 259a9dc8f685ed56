"""Killed at any moment in which a checkpoint takes its place, the earlier model or the new one opens."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from saves import answer, content, save, tuned
from tiny_models import tiny_tokenizer
from transformers import PreTrainedModel

from hf_selfattn.adapters import merge_adapters
from hf_selfattn.hub.saving import put_in_place, save_model

EVENTS = ("open", "os.link", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "shutil.copyfile")


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


class Killer:
    """Ends the process, as it were, before the nth time that something in a folder is touched."""

    def __init__(self) -> None:
        self.folder, self.left, self.is_on = "", 0, False
        sys.addaudithook(self.look)  # it stays as long as the process

    def look(self, event: str, values: tuple[Any, ...]) -> None:
        if self.is_on and event in EVENTS:
            paths = [str(value) for value in values if isinstance(value, str | os.PathLike)]
            if any(path.startswith(self.folder) for path in paths):
                self.left -= 1
                if self.left < 0:  # what a `finally` still wants to do is not done either
                    raise Killed

    def place(self, side: Path, folder: Path, count: int) -> bool:
        """Put a checkpoint into its place, and return whether that was cut off."""
        self.folder, self.left, self.is_on = str(folder), count, True
        try:
            put_in_place(side, folder)
        except Killed:
            return True
        finally:
            self.is_on = False
        return False


@pytest.fixture(scope="module")
def killer() -> Killer:
    return Killer()


def save_as(kind: str, seed: int, backbone: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Save a model and return what it answers."""
    model = tuned(backbone, seed)
    if kind == "sharded":
        whole = PreTrainedModel.save_pretrained
        with monkeypatch.context() as patch:
            patch.setattr(PreTrainedModel, "save_pretrained", lambda *a, **k: whole(*a, **k, max_shard_size="30KB"))
            save_model(merge_adapters(model), tiny_tokenizer(), folder)
        assert len(list(folder.glob("model-*.safetensors"))) > 1
    else:
        save(model, backbone, folder, kind)
    return answer(folder, backbone, kind)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new"),
    [
        *(("nothing", "whole"), ("nothing", "adapter"), ("whole", "whole"), ("whole", "adapter")),
        *(("adapter", "whole"), ("adapter", "adapter"), ("whole", "sharded"), ("sharded", "adapter")),
    ],
)
def test_the_earlier_model_or_the_new_one_opens(
    old: str, new: str, killer: Killer, tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = save_as(new, 2, tiny_backbone, tmp_path / "new", monkeypatch)
    (tmp_path / "old").mkdir()
    before = None if old == "nothing" else save_as(old, 1, tiny_backbone, tmp_path / "old", monkeypatch)
    (tmp_path / "old/results.json").write_text("{}")
    seen: dict[tuple[Any, ...], bool] = {}
    cut, count = True, 0
    while cut:
        shutil.rmtree(tmp_path / "it", ignore_errors=True)
        shutil.copytree(tmp_path / "old", tmp_path / "it")
        shutil.copytree(tmp_path / "new", tmp_path / "it/.saving")
        cut = killer.place(tmp_path / "it/.saving", tmp_path / "it", count)
        shutil.rmtree(tmp_path / "it/.saving")
        files = content(tmp_path / "it")
        weights = tuple(sorted((n, hash(d)) for n, d in files.items() if "safetensors" in n or n.endswith(".json")))
        if weights not in seen:
            seen[weights] = (tmp_path / "it/config.json").is_file()
            if seen[weights]:
                found = answer(
                    tmp_path / "it", tiny_backbone, "adapter"
                )  # the place is told where none is needed, too
                assert torch.equal(found, after) or before is not None and torch.equal(found, before)
            else:
                assert before is None
        count += 1
    assert torch.equal(found, after) and len(seen) > 3 + 2 * (old != "nothing")
    assert {*files} == {*content(tmp_path / "new"), "results.json"}


def test_a_swap_that_was_cut_off_is_finished_by_the_next_save(
    killer: Killer, tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_as("adapter", 1, tiny_backbone, tmp_path / "it", monkeypatch)
    save_as("whole", 2, tiny_backbone, tmp_path / "it/.saving", monkeypatch)
    for count in range(100):
        cut_off = tmp_path / str(count)
        shutil.copytree(tmp_path / "it", cut_off)
        assert killer.place(cut_off / ".saving", cut_off, count)
        if json.loads((cut_off / "config.json").read_text()).get("transformers_weights"):
            break
    last = save_as("adapter", 3, tiny_backbone, cut_off, monkeypatch)
    assert torch.equal(answer(cut_off, tiny_backbone, "adapter"), last)
    assert not list(cut_off.glob("model*.safetensors*")) and not (cut_off / ".saving").exists()
