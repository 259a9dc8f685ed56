"""Checkpoints of a training: written aside, synced and renamed, and read again only where they are whole."""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..files import sync, sync_folder, write_json

CHECKSUMS_FILE = "checksums.json"
STATE_FILE = "trainer_state.json"
# `Trainer` pushes no file whose name begins so.
WRITING, OUTDATED, CORRUPT = "_writing", "_outdated", "_corrupt"
BLOCK = 2**20


def checkpoint_name(step: int) -> str:
    """Return the name of the folder of a checkpoint, as `Trainer` gives it."""
    return f"checkpoint-{step}"


def checkpoints_of(folder: Path) -> list[Path]:
    """Return the folders of the checkpoints of a run, the newest first."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """Return the step that a checkpoint was written after."""
    return int(checkpoint.name.rpartition("-")[2])


def put_checkpoint(side: Path, checkpoint: Path) -> None:
    """Give a checkpoint that was written aside its checksums and its place.

    Everything is on the disk before the one rename that gives it its name: a folder of that name is whole, whenever
    the process is killed or the machine loses power.
    """
    write_json(side / CHECKSUMS_FILE, {name: checksum(side / name) for name in files_of(side)})
    sync(side)
    outdated = checkpoint.with_name(f"{OUTDATED}-{checkpoint.name}")
    shutil.rmtree(outdated, ignore_errors=True)
    if checkpoint.exists():
        checkpoint.rename(outdated)
    side.rename(checkpoint)
    sync_folder(checkpoint.parent)
    shutil.rmtree(outdated, ignore_errors=True)


def drop_checkpoints(folder: Path, limit: int | None, best_step: int | None) -> None:
    """Delete the oldest checkpoints of a run above a limit, if there is one; the newest and the best stay.

    Each is renamed before it is deleted: a folder with the name of a checkpoint never holds half of one.
    """
    if not limit:
        return
    found = checkpoints_of(folder)
    droppable = [path for path in found[1:] if step_of(path) != best_step]
    surplus = len(found) - limit
    for path in droppable[::-1][: max(surplus, 0)]:
        outdated = path.rename(path.with_name(f"{OUTDATED}-{path.name}"))
        shutil.rmtree(outdated)


def clear_unfinished(folder: Path) -> None:
    """Delete what a process that was killed left half-written or half-deleted."""
    for pattern in (WRITING, f"{OUTDATED}-checkpoint-*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path)


def newest_whole(folder: Path, needs_best: bool) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint that is whole, and what is wrong with each newer one, which is set aside.

    With `needs_best` the best checkpoint that it speaks of must be whole, too.
    """
    skipped: list[str] = []
    for checkpoint in checkpoints_of(folder):
        wrong = fault_of(checkpoint)
        if wrong is None and needs_best:
            wrong = fault_of_best(checkpoint)
        if wrong is None:
            return checkpoint, skipped
        skipped.append(f"{checkpoint.name}: {wrong}; kept as {set_aside(checkpoint).name}")
    return None, skipped


def fault_of(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None where it is whole."""
    recorded = json_of(checkpoint / CHECKSUMS_FILE)
    if recorded is None:
        return f"{CHECKSUMS_FILE} is missing or not valid JSON"
    for name, expected in recorded.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size:,} bytes instead of {expected['bytes']:,}"
        if checksum(path) != expected:
            return f"{name} has another content than was written"
    return None


def fault_of_best(checkpoint: Path) -> str | None:
    """Return what is wrong with the best checkpoint until a whole one, or None."""
    best = (json_of(checkpoint / STATE_FILE) or {}).get("best_global_step")
    if best is None or best == step_of(checkpoint):
        return None
    path = checkpoint.with_name(checkpoint_name(best))
    wrong = fault_of(path) if path.is_dir() else "the folder is missing"
    return wrong and f"the best checkpoint until then was {path.name}, and {wrong}"


def ended(checkpoint: Path) -> bool:
    """Return whether training was to end with a checkpoint, by its last step or by early stopping."""
    callbacks = (json_of(checkpoint / STATE_FILE) or {}).get("stateful_callbacks", {})
    return bool(callbacks.get("TrainerControl", {}).get("args", {}).get("should_training_stop"))


def set_aside(checkpoint: Path) -> Path:
    """Rename a checkpoint so that nothing reads or deletes it, and return its new place."""
    names = (f"{CORRUPT}-{checkpoint.name}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 1000))))
    return checkpoint.rename(next(path for path in map(checkpoint.with_name, names) if not path.exists()))


def json_of(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file, or None where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def checksum(path: Path) -> dict[str, int]:
    """Return size and CRC-32 of a file."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            crc = zlib.crc32(block, crc)
    return {"bytes": path.stat().st_size, "crc32": crc}


def files_of(folder: Path) -> Iterator[str]:
    """Yield the files in a folder and below it, by their paths inside."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix()
