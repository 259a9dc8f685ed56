"""Writing that is there whole or not at all, whenever the process is killed or the machine loses power.

Everything stands on one order: write under a side name, wait for the disk, rename, wait for the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

try:
    import fcntl
except ImportError:  # a system without such locks
    fcntl = None  # type: ignore[assignment]


@contextmanager
def whole_or_nothing(path: Path) -> Iterator[Path]:
    """Yield a side name to write a file to; it takes the place of `path` in one rename when all went well.

    Several processes may write the same file: the last one to end wins. A process that is killed leaves
    `.NAME.PROCESS`, which nothing reads.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    side = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield side
        sync(side)
        side.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # a full disk does not say of which file
            error.filename = str(path)
        raise
    finally:
        side.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with whole_or_nothing(path) as side:
        side.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; an error names one that does not parse."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}). Delete it to start the run anew.") from error


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Wait until a file, or a folder and everything in it, is on the disk."""
    if path.is_dir():
        for inside in sorted(path.iterdir()):
            sync(inside)
        sync_folder(path)
    else:
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link(source: Path, target: Path) -> None:
    """Give a file that is on the disk a second name, or copy it where the file system has no second names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        sync(target)


def delete(path: Path) -> None:
    """Delete a file, or a folder with all in it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextmanager
def locked(path: Path) -> Iterator[str | None]:
    """Hold a lock file, which is gone with the process that holds it; yield who held it and is gone, or None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        before = holder_of(file)
        if not lock_now(file):
            raise ValueError(f"{path.parent} is in use by {before or 'another process'}. Wait for it, or end it.")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield before
        finally:
            path.unlink(missing_ok=True)


def holder_of(file: TextIO) -> str | None:
    """Return what a lock file says of the process that wrote it."""
    file.seek(0)
    return file.read().strip() or None


def lock_now(file: TextIO) -> bool:
    """Lock an open file unless another process has; where the system has no such locks, all get it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
