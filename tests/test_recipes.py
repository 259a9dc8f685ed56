"""The recipes as a user types them: real backbone, real data, one and two processes, killed and continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import fetch, first_layers
from safetensors.torch import load_file
from tiny_models import BACKBONES, tiny_wordpiece
from transformers import AutoModel
from warm_python import warm_environment, warm_launcher, warm_python

ROOT = Path(__file__).parent.parent
DATA = ROOT / ".data"
ROWS = {"train": 160, "validation": 41, "test": 61}  # odd numbers, so that two processes share them unevenly

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The first layers of a backbone and the first rows of the movie-review splits."""
    fetch("minilm", "vader")
    folder = tmp_path_factory.mktemp("reviews")
    settings = {"model": first_layers(folder / "minilm")}
    for split, count in ROWS.items():
        lines = (DATA / f"vader/movies-polarity-{split}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / f"{split}.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
        settings[split] = str(folder / f"{split}.jsonl")
    return settings


def command(*launcher: str, **settings: Any) -> list[str]:
    words = [f"{key}={value}" for key, value in settings.items()]
    return [*launcher, "recipes/text_classification.py", *words]


def environment(**changes: str) -> dict[str, str]:
    return warm_environment(HF_HUB_OFFLINE="1", **changes)


def results_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def outputs_of(folder: Path) -> list[Any]:
    lines = (folder / "predictions-test.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["output"] for line in lines]


def test_a_csv_that_nobody_prepared(reviews: dict[str, str], tmp_path: Path) -> None:
    """One command, no network: the proxy leads nowhere and the hub is closed."""
    rows = [json.loads(line) for line in Path(reviews["train"]).read_text(encoding="utf-8").splitlines()]
    table = "text,label\r\n" + "".join('"{}",{}\r\n'.format(r["text"].replace('"', '""'), r["label"]) for r in rows)
    (tmp_path / "reviews.csv").write_text(table, encoding="utf-8")
    nowhere = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    words = command(
        warm_python(),
        model=reviews["model"],
        train=tmp_path / "reviews.csv",
        output_dir=tmp_path / "run",
        num_train_epochs=3,
    )
    subprocess.run(words, cwd=ROOT, check=True, env=environment(**nowhere), timeout=300)
    results = results_of(tmp_path / "run")
    assert results["label_names"] == ["negative", "positive"]
    assert results["splits"]["validation"]["scores"]["accuracy"]["value"] > 0.5
    assert "tfidf" in results["baseline"]


def test_two_processes_answer_as_one(reviews: dict[str, str], tmp_path: Path) -> None:
    """The same batch of 16 rows on one process, on one in four steps, and on two."""
    shared = {
        **reviews,
        "max_steps": 6,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "train_sampling_strategy": "sequential",
        "baseline": False,
        "bf16": False,
        "seed": 0,
        "backbone": "{hidden_dropout_prob: 0.0}",
        "heads": "{classifier_dropout: 0.0}",
    }
    launch = [*warm_launcher("accelerate"), "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    ways = {
        "one": (command(warm_python(), **shared, per_device_train_batch_size=16), {}),
        "steps": (
            command(warm_python(), **shared, per_device_train_batch_size=4, gradient_accumulation_steps=4),
            {},
        ),
        "two": (command(*launch, **shared, per_device_train_batch_size=8), {"ACCELERATE_USE_CPU": "true"}),
    }
    found = {}
    for name, (words, changes) in ways.items():
        words.append(f"output_dir={tmp_path / name}")
        subprocess.run(words, cwd=ROOT, check=True, env=environment(**changes), timeout=300)
        found[name] = results_of(tmp_path / name)
        assert len(outputs_of(tmp_path / name)) == ROWS["test"]
    assert [found[name]["training"]["processes"] for name in ways] == [1, 1, 2]
    for name in ("steps", "two"):
        for mine, theirs in zip(outputs_of(tmp_path / "one"), outputs_of(tmp_path / name), strict=True):
            assert mine == pytest.approx(theirs, abs=1e-4)


def kill_and_go_on(words: list[str], folder: Path) -> str:
    """Start a command, kill it after its first checkpoint, and start it again; return what it prints."""
    process = subprocess.Popen(words, cwd=ROOT, env=environment(), start_new_session=True)
    deadline = time.monotonic() + 240
    while not list(folder.glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None and time.monotonic() < deadline, "no checkpoint was written in time"
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "results.json").exists()
    again = subprocess.run(words, cwd=ROOT, check=True, env=environment(), timeout=300, capture_output=True, text=True)
    return again.stdout


def test_a_killed_run_goes_on_with_the_same_command(reviews: dict[str, str], tmp_path: Path) -> None:
    settings = {**reviews, "num_train_epochs": 3, "baseline": False, "seed": 0}
    whole = command(warm_python(), **settings, output_dir=tmp_path / "whole")
    subprocess.run(whole, cwd=ROOT, check=True, env=environment(), timeout=300)
    said = kill_and_go_on(command(sys.executable, **settings, output_dir=tmp_path / "killed"), tmp_path / "killed")
    assert outputs_of(tmp_path / "killed") == outputs_of(tmp_path / "whole"), said
    assert results_of(tmp_path / "killed")["training"]["steps"] == results_of(tmp_path / "whole")["training"]["steps"]


@pytest.mark.parametrize("decoding", ["viterbi", "crf"])
def test_a_killed_tagger_has_the_weights_of_a_whole_run(tmp_path: Path, decoding: str) -> None:
    AutoModel.from_config(BACKBONES["bert"]).save_pretrained(tmp_path / "backbone")
    tiny_wordpiece().save_pretrained(tmp_path / "backbone")
    sentences = [f"w{n}ab B-PER\nw{n + 9}-w9 I-PER\nw{n + 1}c O\nw{n + 2}. B-LOC\n" for n in range(5, 65)]
    for split, part in {"train": sentences[:48], "validation": sentences[48:54], "test": sentences[54:]}.items():
        (tmp_path / f"{split}.txt").write_text("\n".join(part), encoding="utf-8")
    python = sys.executable if decoding == "viterbi" else warm_python()  # with a hash seed of its own, or not
    words = [python, "recipes/ner.py", f"model={tmp_path / 'backbone'}", f"heads.decoding={decoding}"]
    words += [f"{split}={tmp_path / split}.txt" for split in ROWS]
    words += ["num_train_epochs=5", "per_device_train_batch_size=2", "learning_rate=0.003", "seed=0", "bf16=false"]
    words += ["heads.head_dim=8", "heads.block_size=8", "heads.subsequence_stride=4"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(
        [warm_python(), *words[1:], f"output_dir={whole}"], cwd=ROOT, check=True, env=environment(), timeout=300
    )
    said = kill_and_go_on([*words, f"output_dir={killed}"], killed)
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, killed))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one), said
    for name in ("predictions-test.jsonl", "predictions-validation.jsonl"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()


def test_a_mistake_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    words = command(warm_python(), model="m", output_dir=tmp_path, lerning_rate=1)
    answer = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=100)
    assert answer.returncode == 1 and "Did you mean 'learning_rate'" in answer.stderr
    assert "Traceback" not in answer.stderr
