"""Twelve families of image backbones, three tunings: pushed, and pulled in new processes with empty caches."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_server import run_with_hub
from hub_state import USER, Hub
from image_round_trips import TASKS, image_cases
from image_round_trips import USER as AUTHOR
from tiny_images import IMAGE_BACKBONES
from warm_python import warm_python

SCRIPT = str(Path(__file__).parents[1] / "support/image_round_trips.py")


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_model_comes_back_from_the_hub(task: str, hub: Hub, tmp_path: Path) -> None:
    assert AUTHOR == USER and len(list(image_cases())) == len(IMAGE_BACKBONES) * 3
    run_with_hub([warm_python(), SCRIPT, "author", str(tmp_path), task], hub, tmp_path / "author", timeout=600)
    for where in ("local", "remote"):
        command = [warm_python(), SCRIPT, "reader", str(tmp_path), task, where]
        run_with_hub(command, hub, tmp_path / where, package=where == "local", timeout=600)
