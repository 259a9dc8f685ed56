"""The command `hf-selfattn`: help, exit codes, and what each command hands on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from runs import HEADS, QUICK, rows_of, write_rows, write_sentences

import hf_selfattn
from hf_selfattn import NerArguments, RunArguments, TextClassificationArguments, parse_arguments
from hf_selfattn.__main__ import COMMANDS, OF_TASKS, main
from hf_selfattn.files import read_json, write_json
from hf_selfattn.hub import push
from hf_selfattn.launch import LaunchFilesArguments, write_launch_files

ROOT = Path(__file__).parents[1]


def typed(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, output and errors of a command line."""
    try:
        main(words)
        code: Any = 0
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    if isinstance(code, str):  # Python prints it and ends with 1
        return 1, said.out, said.err + code
    return code or 0, said.out, said.err


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["train", "--help"]])
def test_the_help_names_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = typed(*words, capsys=capsys)
    assert code == 0 and all(f"\n  {name} " in said for name in [*OF_TASKS, *COMMANDS])
    assert all(len(line) <= 100 for line in said.splitlines())


@pytest.mark.parametrize(
    ("name", "option"), [("serve", "--max_body"), ("push", "--create_pr"), ("export", "--folder")]
)
def test_a_command_lists_its_options(name: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = typed(name, "--help", capsys=capsys)
    assert code == 0 and f"usage: hf-selfattn {name}" in said and f"{option} " in said
    assert "TrainingArguments" not in said


@pytest.mark.parametrize(
    "task",
    [
        *("text-classification", "sentiment", "ner", "token-classification"),
        *("image-classification", "object-detection", "audio-classification", "speech-recognition"),
    ],
)
def test_a_task_lists_its_options(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = typed("train", task, "--help", capsys=capsys)
    assert code == 0 and f"usage: hf-selfattn train {task}" in said and "--on_bad_row" in said


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("--version", capsys=capsys) == (0, f"hf-selfattn {hf_selfattn.__version__}\n", "")


WRONG = {
    "trian": "no command 'trian'; there are .* Did you mean 'train'",
    "train": "needs a task: text-classification, sentiment, ner, image-classification, object-detection, audio-class",
    "train nre": "no task 'nre'; there are .* Did you mean 'ner'",
    "train ner lerning_rate=1": "no argument 'lerning_rate'. Did you mean 'learning_rate'",
    "check ner train=a.conll": "'model' is missing",
    "serve": "'model' is missing",
    "predict input=a.csv output=b.csv": "'model' is missing",
    "predict m input=a.csv": "'output' is missing",
    "predict m output=b.csv": "exactly one of input=",
    "evaluate m": "exactly one of input=",
    "report": "'runs' is missing",
    "serve a b": "Cannot read the argument 'b'",
    "serve a prot=1": "no argument 'prot'. Did you mean 'port'",
    "serve a port=x": "port='x' must be int",
    "serve a timeout=0": "timeout=0.0 must be above 0",
    "push a": "'repo_id' is missing",
    "serve no.yaml": "no settings file no.yaml",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_usage_is_one_line_and_the_code_2(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, errors = typed(*words.split(), capsys=capsys)
    assert code == 2 and not said and errors.count("\n") == 1
    assert re.search(WRONG[words], errors), errors


FAULTS = {
    "train ner model=m output_dir=o train=nothing.csv": "no file matches 'nothing.csv'",
    "export nothing out": "'nothing' cannot be opened",
    "push nothing me/it": "nothing holds no finished run",
    "serve nothing port=0": "'nothing' cannot be opened",
}


@pytest.mark.parametrize("words", FAULTS)
def test_a_fault_is_said_and_the_code_1(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, errors = typed(*words.split(), capsys=capsys)
    assert code == 1 and FAULTS[words] in errors and "Traceback" not in errors


def test_nothing_asked_is_a_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = typed(capsys=capsys)
    assert code == 2 and said.startswith("usage: ")


def test_check_and_train_a_settings_file_that_new_wrote(
    tmp_path: Path, tiny_backbone: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "my rows.jsonl", rows_of("single_label_classification", 48))
    words = ["text-classification", f"model={tiny_backbone}", "train=my rows.jsonl", "path=mine.yaml", "seed=3"]
    code, said, _ = typed("new", *words, capsys=capsys)
    assert code == 0 and "hf-selfattn train text-classification mine.yaml" in said
    code, _, errors = typed("new", *words, capsys=capsys)
    assert code == 1 and "mine.yaml exists and stays as it is" in errors
    code, said, _ = typed("check", "text-classification", "mine.yaml", capsys=capsys)
    assert code == 0 and "train: 48 rows" in said and "A run would stop" not in said
    heads = [f"heads.{name}={value}" for name, value in HEADS.items()]
    quick = [f"{name}={value}" for name, value in {**QUICK, "baseline": False, "output_dir": "run"}.items()]
    code, said, errors = typed("train", "text-classification", "mine.yaml", *heads, *quick, capsys=capsys)
    assert code == 0, errors
    assert read_json(tmp_path / "run/results.json")["label_names"] == ["left", "right", "up"]


def settings_of(path: Path, kind: type[RunArguments]) -> Any:
    assert all(line.startswith("#") or ":" in line for line in path.read_text(encoding="utf-8").splitlines() if line)
    return parse_arguments([str(path)], kind)


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_new_writes_what_the_data_says(
    problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "a.jsonl", [{"review": r["text"], "stars": r["label"]} for r in rows_of(problem, 30)])
    code, _, errors = typed("new", "text-classification", "train=a.jsonl", "heads.num_groups=4", capsys=capsys)
    assert code == 0, errors
    found = settings_of(tmp_path / "text-classification.yaml", TextClassificationArguments)
    assert (found.text_column, found.label_column, found.problem) == ("review", "stars", problem)
    assert found.label_names == (None if problem == "regression" else ["a", "b", "c"])
    assert found.heads == {"num_groups": 4} and found.model.startswith("sentence-transformers/")
    written = (tmp_path / "text-classification.yaml").read_text(encoding="utf-8")
    assert "# `error`, or `drop` to leave bad rows out and count them.\n# on_bad_row: error\n" in written


@pytest.mark.parametrize("form", ["columns", "spans"])
def test_new_writes_what_a_tagger_needs(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if form == "columns":
        train = write_sentences(tmp_path / "train.conll", 12, 0)
    else:
        row = {"body": "Anna sleeps", "marks": [{"start": 0, "end": 4, "label": "PER"}]}
        train = write_rows(tmp_path / "train.jsonl", [row] * 5)
    given = [f"train={train}"] + ["text_column=body", "span_column=marks"] * (form == "spans")
    code, _, errors = typed("new", "ner", *given, capsys=capsys)
    assert code == 0, errors
    found = settings_of(tmp_path / "ner.yaml", NerArguments)
    assert found.entity_types == ["PER"]
    assert (found.token_column, found.tag_column, found.span_column) == (
        ("0", "1", None) if form == "columns" else (None, None, "marks")
    )
    code, said, errors = typed("check", "ner", "ner.yaml", "model=nothing", capsys=capsys)
    assert code == 1 and "'nothing' cannot be opened" in errors


def test_push_hands_on_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.json", "results.json"):
        write_json(tmp_path / name, {})
    monkeypatch.setattr(push, "open_repository", lambda target: target)
    monkeypatch.setattr(push, "push", lambda folder, target: f"{folder.name} to {target}")
    code, said, errors = typed("push", str(tmp_path), "me/it", "private=true", "--predictions", capsys=capsys)
    assert code == 0, errors
    assert f"Pushed to {tmp_path.name}" in said and "repo_id='me/it', private=True" in said
    assert "predictions=True" in said


def test_launch_files_are_written_and_yours_are_kept(tmp_path: Path) -> None:
    arguments = LaunchFilesArguments(str(tmp_path / "launch"))
    paths = write_launch_files(arguments)
    assert len(paths) == 6 and {path.parent for path in paths} == {tmp_path / "launch"}
    paths[0].write_text("num_processes: 4\n", encoding="utf-8")
    write_launch_files(arguments)
    assert paths[0].read_text(encoding="utf-8") == "num_processes: 4\n"
    assert paths[1].read_text(encoding="utf-8").startswith("# ")


@pytest.mark.slow
def test_the_module_is_a_command_of_its_own(tmp_path: Path) -> None:
    """In a process, where no one has imported anything, and nothing is trained or read by a mistake."""
    words = [sys.executable, "-m", "hf_selfattn", "serve", "nothing"]
    done = subprocess.run(words, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "\nerror: The model 'nothing' cannot be opened" in f"\n{done.stderr}"
