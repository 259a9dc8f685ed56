"""Six families of sound backbones, two kinds of models, three tunings: pushed, and pulled in new processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from field_round_trips import USER as AUTHOR
from hub_server import run_with_hub
from hub_state import USER, Hub
from sound_round_trips import FAMILIES, sound_cases
from warm_python import warm_python

SCRIPT = str(Path(__file__).parents[1] / "support/sound_round_trips.py")


@pytest.mark.slow
def test_every_model_of_sound_comes_back_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    assert AUTHOR == USER and len(list(sound_cases())) == len(FAMILIES) * 2 * 3
    run_with_hub([warm_python(), SCRIPT, "author", str(tmp_path)], hub, tmp_path / "author", timeout=600)
    for where in ("local", "remote"):
        command = [warm_python(), SCRIPT, "reader", str(tmp_path), where]
        run_with_hub(command, hub, tmp_path / where, package=where == "local", timeout=600)
