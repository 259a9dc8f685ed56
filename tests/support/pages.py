"""What README and the pages of docs/ hold, and the data that their examples name."""

from __future__ import annotations

import csv
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModel, AutoTokenizer
from warm_python import warm_environment, warm_launcher, warm_python

from hf_selfattn.__main__ import main

ROOT = Path(__file__).parents[2]
README, DOCS = ROOT / "README.md", ROOT / "docs"
# What pages name, and where the tests have it.
STAND_INS = {
    "sentence-transformers/all-MiniLM-L6-v2": ".data/minilm",
    "microsoft/resnet-50": ".data/resnet",
    "google/mobilenet_v2_1.0_224": ".data/mobilenetv2",
    "openai/whisper-tiny.en": ".data/whisper",
}


def run(*words: str, cwd: Path = ROOT, timeout: int = 600) -> subprocess.CompletedProcess[str]:
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        words, cwd=cwd, env=warm_environment(PATH=here), capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def fetch(*names: str) -> None:
    """See that models and data sets are in the cache folder."""
    run(warm_python(), "benchmarks/fetch.py", *names)


def type_in(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Carry out a command of a page: ours and recipes in this process, which has imported all that they need."""
    words = shlex.split(command)
    if words[0] == "hf-selfattn":
        main(words[1:])
    elif words[0] == "python":
        monkeypatch.setattr(sys, "argv", words[1:])
        runpy.run_path(words[1], run_name="__main__")
    else:
        launcher = warm_launcher(words[0]) if words[0] in ("accelerate", "torchrun") else words[:1]
        run(*launcher, *words[1:], cwd=Path.cwd())


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of code of a page, with backbones in the folders of the tests."""
    text = page.read_text(encoding="utf-8")
    for name, folder in STAND_INS.items():
        text = text.replace(name, folder)
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    """The commands in the shell blocks of a page, each on one line."""
    return [line for block in blocks(page, "bash") for line in block.replace("\\\n", "").splitlines()]


def copy_first_rows(folder: Path, rows: int, scored: int | None = None) -> None:
    """Lay out so many rows of each file of reviews in a folder, of validation and test `scored`, and train as CSV."""
    (folder / ".data/vader").mkdir(parents=True)
    for source in (ROOT / ".data/vader").glob("*.jsonl"):
        count = rows if source.stem.endswith("train") else scored or rows
        lines = source.read_text(encoding="utf-8").splitlines(keepends=True)[:count]
        (folder / ".data/vader" / source.name).write_text("".join(lines), encoding="utf-8")
    train = (folder / ".data/vader/movies-polarity-train.jsonl").read_text(encoding="utf-8").splitlines()
    with (folder / "reviews.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["text", "label"])
        table.writeheader()
        table.writerows(map(json.loads, train))


def first_layers(folder: Path) -> str:
    """Lay out two layers of MiniLM instead of six, and its tokenizer; `make demo` trains on the whole."""
    source = ROOT / ".data/minilm"
    AutoModel.from_pretrained(source, num_hidden_layers=2).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return str(folder)
