"""What the README says is true: its commands run, its code runs, its numbers are those of the results files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS for line in block.splitlines() if kind == "bash"]
# `make demo` has a test of its own below; `make test` is what runs this.
ELSEWHERE = {"make demo", "make test"}


def run(*words: str, cwd: Path = ROOT, timeout: int = 600) -> subprocess.CompletedProcess[str]:
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        words, cwd=cwd, env={**os.environ, "PATH": here}, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def test_numbers_come_from_the_results_files() -> None:
    run(sys.executable, "-m", "benchmarks.quality.tables", "--check")


def test_every_command_is_tested() -> None:
    assert ELSEWHERE <= set(COMMANDS)
    assert len(COMMANDS) > len(ELSEWHERE)


def copy_first_rows(target: Path, rows: int = 200) -> None:
    """Lay out the data that the commands name, of each file so many rows: the demo's test reads whole files."""
    (target / "vader").mkdir(parents=True)
    (target / "minilm").symlink_to(ROOT / ".data/minilm")
    for source in (ROOT / ".data/vader").glob("*.jsonl"):
        lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
        (target / "vader" / source.name).write_text("".join(lines[:rows]), encoding="utf-8")


@pytest.mark.slow
def test_commands_and_code_of_the_readme(tmp_path: Path) -> None:
    run(sys.executable, "benchmarks/fetch.py", "minilm", "vader")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    copy_first_rows(tmp_path / ".data")
    for command in COMMANDS:
        if command not in ELSEWHERE:
            run(*command.split(), cwd=tmp_path)
    assert (tmp_path / "runs/mine/results.json").is_file() and (tmp_path / "runs/launched/results.json").is_file()
    for kind, block in BLOCKS:
        if kind == "python":
            run(sys.executable, "-c", block, cwd=tmp_path)


@pytest.mark.slow
def test_the_demo_script(tmp_path: Path) -> None:
    """What `make demo` runs after installing: trains, reopens, answers; run again, it trains nothing."""
    run(sys.executable, "benchmarks/fetch.py", "minilm", "vader")
    for name in ("recipes", ".data"):
        (tmp_path / name).symlink_to(ROOT / name)
    first = run(sys.executable, "recipes/demo.py", cwd=tmp_path, timeout=900).stdout
    assert re.search(r"Test accuracy 0\.8\d\d \[0\.\d+, 0\.\d+\] on 2014 sentences", first), first[-2000:]
    lengths = [int(found) for found in re.findall(r"(\d+) tokens: ", first)]
    assert len(lengths) == 3 and max(lengths) > 2000
    assert re.search(r"TF-IDF with logistic regression 0\.\d+ \[", first)
    again = run(sys.executable, "recipes/demo.py", cwd=tmp_path, timeout=120).stdout
    assert "nothing to train" in again
