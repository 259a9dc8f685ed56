"""What happened to a run on its way: starts, interruptions, checkpoints passed over, batches halved."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from accelerate import PartialState

from ..files import read_json, write_json
from ..hub.results import RUN_STATE_FILE


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
