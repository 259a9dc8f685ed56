"""Every family, task and tuning of text, images and sound: trained, saved, pushed, and pulled in new processes."""

from __future__ import annotations

from pathlib import Path

import field_round_trips
import image_round_trips
import pytest
import round_trips
import sound_round_trips
from hub_server import client_environment, run_with_hub
from hub_state import USER, Hub
from tiny_images import IMAGE_BACKBONES
from warm_python import warm_python

SUPPORT = Path(__file__).parents[1] / "support"


def test_the_author_is_the_user_of_the_hub_and_no_case_is_missing() -> None:
    assert round_trips.USER == field_round_trips.USER == USER
    assert len(list(round_trips.cases())) == 6 * 4 * 3
    assert len(list(image_round_trips.image_cases())) == len(IMAGE_BACKBONES) * 3
    assert len(list(sound_round_trips.sound_cases())) == 6 * 2 * 3


@pytest.mark.slow
@pytest.mark.parametrize("script", ["round_trips", "sound_round_trips", *image_round_trips.TASKS])
def test_every_model_comes_back_from_the_hub(script: str, hub: Hub, tmp_path: Path) -> None:
    """The caches of the processes that pull are empty; one of them has the package, the other remote code alone."""
    task = [script] if script in image_round_trips.TASKS else []
    command = [warm_python(), str(SUPPORT / f"{'image_round_trips' if task else script}.py")]
    run_with_hub([*command, "author", str(tmp_path), *task], hub, tmp_path / "author", timeout=600)
    for where in ("local", "remote"):
        home = tmp_path / where
        assert client_environment(hub, home)["HF_HOME"] == str(home) and not home.exists()
        pull = [*command, "reader", str(tmp_path), *task, where]
        run_with_hub(pull, hub, home, package=where == "local", timeout=600)
