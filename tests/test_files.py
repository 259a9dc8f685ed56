"""A file is there whole or not at all, whatever happens while it is written."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hf_selfattn.files
from hf_selfattn.files import delete, link, read_json, sync, whole_or_nothing, write_json, write_text


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "made/on the way/a.json"
    for content in ({"x": "ü"}, [1, 2.5, None]):
        write_json(path, content)
        assert read_json(path) == content
    write_text(path, "ü\n")
    assert path.read_bytes() == "ü\n".encode()
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    with pytest.raises(RuntimeError), whole_or_nothing(tmp_path / "a.json") as side:
        side.write_text("half")
        raise RuntimeError
    with pytest.raises(FileNotFoundError), whole_or_nothing(tmp_path / "a.json"):
        pass  # nothing was written
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.json'"), whole_or_nothing(tmp_path / "a.json"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert read_json(tmp_path / "a.json") == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def run_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Run code with the module alone, which starts faster than the package."""
    code = f"import os, signal, sys\nfrom pathlib import Path\nfrom files import *\n{code}"
    environment = {**os.environ, "PYTHONPATH": str(Path(hf_selfattn.files.__file__).parent)}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment, text=True)


def test_a_killed_process_leaves_what_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    killed = run_python(
        """
with whole_or_nothing(Path(sys.argv[1])) as side:
    side.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
""",
        str(tmp_path / "a.txt"),
    )
    assert killed.wait(timeout=100) == -signal.SIGKILL
    assert (tmp_path / "a.txt").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", f".a.txt.{killed.pid}"}
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_reader_never_sees_half_of_what_two_processes_write(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    code = "for n in range(40): write_json(Path(sys.argv[1]), [sys.argv[2]] * 20_000)"
    writers = [run_python(code, str(path), name) for name in ("a", "b")]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if path.is_file():
            content = json.loads(path.read_text())
            assert len(content) == 20_000 and len(set(content)) == 1
            seen.add(content[0])
    assert [writer.returncode for writer in writers] == [0, 0] and seen
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is waited for and renamed, in order: names of files and folders, and pairs of names."""
    found: list[Any] = []
    fsync, rename = os.fsync, Path.replace

    def record_sync(descriptor: int) -> None:
        found.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def record_rename(self: Path, target: Path) -> Path:
        found.append((self.name, target.name))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(Path, "replace", record_rename)
    return found


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the names of open files in /proc")


@needs_linux
def test_the_disk_is_waited_for_before_and_after_the_rename(tmp_path: Path, steps: list[Any]) -> None:
    write_text(tmp_path / "a.txt", "text")
    side = f".a.txt.{os.getpid()}"
    assert steps == [side, (side, "a.txt"), tmp_path.name]


@needs_linux
def test_all_of_a_folder_is_waited_for(tmp_path: Path, steps: list[Any]) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    for name in ("a/b/1", "a/2", "3"):
        (tmp_path / name).touch()
    sync(tmp_path)
    assert sorted(steps) == sorted(["1", "2", "3", "a", "b", tmp_path.name])
    assert steps[-1] == tmp_path.name


@pytest.mark.parametrize("has_links", [True, False])
def test_a_second_name_outlives_the_first(has_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_text("text")
    link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").samefile(tmp_path / "b") == has_links
    delete(tmp_path / "a")
    assert (tmp_path / "b").read_text() == "text"


def test_files_and_folders_are_deleted(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/1").touch()
    (tmp_path / "2").touch()
    delete(tmp_path / "a")
    delete(tmp_path / "2")
    assert not list(tmp_path.iterdir())


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON .* Delete it to start the run anew"):
        read_json(tmp_path / "a.json")
