"""Six families, four tasks, three tunings: trained, saved, pushed, and pulled in new processes with empty caches."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_server import client_environment, run_with_hub
from hub_state import USER, Hub
from round_trips import USER as AUTHOR
from round_trips import cases
from warm_python import warm_python

SCRIPT = str(Path(__file__).parents[1] / "support/round_trips.py")


@pytest.mark.slow
def test_every_kind_of_checkpoint_comes_back_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    assert AUTHOR == USER and len(list(cases())) == 6 * 4 * 3
    run_with_hub([warm_python(), SCRIPT, "author", str(tmp_path)], hub, tmp_path / "author", timeout=600)
    for where in ("local", "remote"):
        home = tmp_path / where
        assert client_environment(hub, home)["HF_HOME"] == str(home) and not home.exists(), "an empty cache"
        command = [warm_python(), SCRIPT, "reader", str(tmp_path), where]
        run_with_hub(command, hub, home, package=where == "local", timeout=600)
