"""What happened to a run on its way: starts, interruptions, checkpoints passed over, batches halved."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState

from .results import read_json, write_json

RUN_STATE_FILE = "run_state.json"


@dataclass
class RunState:
    """What happened to a run; it is written at once and outlives the process.

    Args:
        starts: how often the command was given until training was done.
        resumed_from: the step of the checkpoint that each later start went on from; 0 where there was none.
        interruptions: how often Ctrl-C ended it.
        skipped: checkpoints that were not whole, and why.
        smaller_batches: options that were changed because the memory was too small, one record each time.
    """

    starts: int = 0
    resumed_from: list[int] = field(default_factory=list)
    interruptions: int = 0
    skipped: list[str] = field(default_factory=list)
    smaller_batches: list[dict[str, int]] = field(default_factory=list)

    def options(self) -> dict[str, int]:
        """Return the options of the training that were changed because the memory was too small."""
        return {name: value for record in self.smaller_batches for name, value in record.items()}


def read_run_state(folder: Path) -> RunState:
    """Return what happened to a run until now.

    Raises:
        ValueError: if the record does not parse.
    """
    path = folder / RUN_STATE_FILE
    return RunState(**read_json(path)) if path.is_file() else RunState()


def write_run_state(folder: Path, state: RunState) -> None:
    """Write what happened to a run, on the main process."""
    if PartialState().is_main_process:
        write_json(folder / RUN_STATE_FILE, asdict(state))


def story(state: dict[str, Any] | None) -> str:
    """Return what happened to a run in one line, or nothing where it went through at once."""
    if not state:
        return ""
    parts = []
    if state["starts"] > 1:
        steps = ", ".join(f"{step:,}" for step in state["resumed_from"])
        parts.append(f"started {state['starts']} times (resumed from step {steps})")
    if state["interruptions"]:
        parts.append(f"interrupted by Ctrl-C {state['interruptions']} times")
    if state["skipped"]:
        parts.append(f"{len(state['skipped'])} corrupt checkpoints passed over")
    changed = RunState(**state).options()
    if changed:
        parts.append("out of memory, gone on with " + ", ".join(f"{name}={value}" for name, value in changed.items()))
    return f"The run was {'; '.join(parts)}." if parts else ""
