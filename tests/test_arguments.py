from __future__ import annotations

import runpy
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from runs import text_arguments

from hf_selfattn import (
    AudioClassificationArguments,
    ImageClassificationArguments,
    NerArguments,
    ObjectDetectionArguments,
    RunArguments,
    SentimentArguments,
    SpeechRecognitionArguments,
    TextClassificationArguments,
    parse_arguments,
)
from hf_selfattn.settings import read_yaml

RECIPES = Path(__file__).parents[1] / "recipes"
KINDS: dict[str, type[RunArguments]] = {
    "text_classification": TextClassificationArguments,
    "sentiment": SentimentArguments,
    "ner": NerArguments,
    "image_classification": ImageClassificationArguments,
    "object_detection": ObjectDetectionArguments,
    "audio_classification": AudioClassificationArguments,
    "speech_recognition": SpeechRecognitionArguments,
}


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_later_words_win_over_the_file(tmp_path: Path) -> None:
    settings = write(
        tmp_path / "a.yaml", "model: bert\noutput_dir: runs/a\nlearning_rate: 1e-3\nheads: {num_groups: 4}\n"
    )
    words = [settings, "output_dir=runs/b", "--num_train_epochs", "2", "--deduplicate", "heads.block_size=32"]
    arguments = parse_arguments(
        [*words, "--label-column=stars", "label_names=[bad, good]"], TextClassificationArguments
    )
    assert arguments.model == "bert" and arguments.output_dir == "runs/b"
    assert arguments.options == {"learning_rate": 1e-3, "num_train_epochs": 2}
    assert arguments.heads == {"num_groups": 4, "block_size": 32}
    assert arguments.deduplicate and arguments.label_column == "stars"
    assert arguments.label_names == ["bad", "good"]


def test_values_come_in_their_types() -> None:
    words = ["model=m", "output_dir=o", "probe_epochs=1", "tuning=probe+lora", "heads_learning_rate=1e-3", "seeds=2"]
    words += ["train=[a.csv, b.csv]", "feature_cache=no", "text_column=2024"]
    arguments = parse_arguments(words, TextClassificationArguments)
    assert isinstance(arguments.probe_epochs, float) and arguments.heads_learning_rate == 1e-3
    assert arguments.train == ["a.csv", "b.csv"] and arguments.feature_cache is False and arguments.seeds == 2
    assert arguments.text_column == "2024"


def test_every_option_of_trainer_is_taken() -> None:
    arguments = text_arguments({"model": "m", "output_dir": "o", "gradient_accumulation_steps": 4, "seed": 3})
    assert arguments.options == {"gradient_accumulation_steps": 4, "seed": 3}


TEXTS = [
    "no",
    "NO",
    "1",
    "007",
    "1e3",
    "true",
    "2026-11-27",
    "my #2.csv",
    "[final] a.csv",
    "a: b",
    "@x",
    "*.csv",
    "a,b",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_taken_as_written(tmp_path: Path, text: str) -> None:
    names = ["output_dir", "train", "text_column", "label_column", "test_files.other", "run_name"]
    words = ["model=m", *(f"{name}={text}" for name in names), f"label_names=[{text.replace(',', ';')!r}, no]"]
    plain = {"label_names": f"[{text}, NO]"} if text.isalnum() else {}
    settings = write(tmp_path / "a.yaml", "".join(f"{name}: {value}\n" for name, value in plain.items()))
    arguments = parse_arguments(words + ([settings] if plain else []), TextClassificationArguments)
    assert [arguments.output_dir, arguments.train, arguments.text_column, arguments.label_column] == [text] * 4
    assert arguments.test_files == {"other": text} and arguments.options == {"run_name": text}
    assert arguments.label_names == ([text, "NO"] if plain else [text.replace(",", ";"), "no"])


def test_other_values_are_those_of_yaml(tmp_path: Path) -> None:
    words = ["model='m'", 'output_dir="o"', "train=[a.csv, 1.csv]", "revision=null", "heads={block_size: 8, a: no}"]
    words += ["heads.num_groups=4", "calibrate=no", "bf16=yes", "feature_cache=off", "learning_rate=1e-3", "seed=3"]
    words += ["sweep.learning_rate=[1e-3, .5]", "sweep.class_weights=[balanced, null]"]
    words += ["weight_decay=1", "logging_steps=.1"]
    arguments = parse_arguments([*words, "label_column=[rude, threat]"], TextClassificationArguments)
    assert [arguments.model, arguments.output_dir, arguments.revision] == ["m", "o", None]
    assert arguments.train == ["a.csv", "1.csv"] and arguments.label_column == ["rude", "threat"]
    assert arguments.heads == {"block_size": 8, "a": "no", "num_groups": 4}
    assert arguments.calibrate is False and arguments.feature_cache is False
    assert arguments.sweep == {"learning_rate": [0.001, 0.5], "class_weights": ["balanced", None]}
    wanted = {"bf16": True, "learning_rate": 0.001, "seed": 3, "weight_decay": 1, "logging_steps": 0.1}
    assert arguments.options == wanted
    path = tmp_path / "a.yaml"
    write(path, "a: no\nb: true\nc: 2026-11-27\nd: '1'\ne: 1e-3\nf: 7\ng:\n")
    values = {"a": "no", "b": True, "c": "2026-11-27", "d": "1", "e": 0.001, "f": 7, "g": None}
    assert read_yaml(path) == values


def test_no_is_a_strategy_and_not_false() -> None:
    arguments = parse_arguments(
        ["model=m", "output_dir=o", "eval_strategy=no", "save_strategy=no", "tf32=no"], TextClassificationArguments
    )
    assert arguments.options == {"eval_strategy": "no", "save_strategy": "no", "tf32": False}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=m", "output_dir=o", "lerning_rate=1"], "no argument 'lerning_rate'. Did you mean 'learning_rate'"),
        (["model=m", "output_dir=o", "zzzzzz=1"], "The arguments are: "),
        (["output_dir=o"], "'model' is missing"),
        (["model=m"], "'output_dir' is missing"),
        (
            ["model=m", "output_dir=o", "tuning=loar"],
            "tuning='loar' must be 'probe' or 'lora' or 'probe+lora' or 'full'",
        ),
        (["model=m", "output_dir=o", "deduplicate=7"], "deduplicate=7 must be bool"),
        (["model=m", "output_dir=o", "validation_fraction=x"], "validation_fraction='x' must be float"),
        (
            ["model=m", "output_dir=o", "early_stopping_patience=yes"],
            "patience='yes' must be int",
        ),
        (["model=m", "output_dir=o", "label_names=good"], "label_names='good' must be list"),
        (["model=m", "output_dir=o", "heads_learning_rate=[1]"], "must be float"),
        (
            ["model=m", "output_dir=o", "layer_decay=0.9"],
            "'layer_decay'. It was measured and left. Give learning_rate",
        ),
        (["model=m", "output_dir=o", "learning_rate=fast"], "learning_rate='fast' is no number"),
        (["model=m", "output_dir=o", "heads=[1]"], "heads=[1] must be dict"),
        (["model=m", "model.a=1"], "reaches inside 'model'"),
        (["model=m", "stray"], "Cannot read the argument 'stray'"),
        (["no.yaml"], "There is no settings file no.yaml"),
        (["model=m", "output_dir=o", "heads={a: }}"], "not valid YAML"),
    ],
)
def test_a_mistake_is_named(words: list[str], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_arguments(words, TextClassificationArguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [("- a\n- b\n", "holds list"), ("a: [1\n", "is not valid YAML")])
def test_a_bad_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "bad.yaml", text)
    with pytest.raises(ValueError, match="bad.yaml") as caught:
        parse_arguments([path], TextClassificationArguments)
    assert message in str(caught.value)


def test_places_do_not_decide_the_outcome() -> None:
    first, second = (text_arguments({"model": "m", "output_dir": name}) for name in "ab")
    assert first.without_places() == second.without_places()
    assert first.without_places() != text_arguments({"model": "n", "output_dir": "a"}).without_places()


def said_by(recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a recipe prints, or its error, before it ends the program."""
    monkeypatch.setattr("sys.argv", [f"{recipe}.py", *words])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(RECIPES / f"{recipe}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    return printed if caught.value.code in (None, 0) else str(caught.value.code)


def names_of(kind: type[RunArguments]) -> set[str]:
    return {item.name for item in fields(kind)} - {"options"}


@pytest.mark.parametrize("recipe", KINDS)
def test_help_shows_the_arguments_of_the_task_and_no_other(
    recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = said_by(recipe, monkeypatch, capsys, "--help")
    shown = {line.split()[0].removeprefix("--").strip(",") for line in said.splitlines() if line.startswith("  --")}
    assert shown == names_of(KINDS[recipe])
    assert f"usage: {recipe}.py [SETTINGS.yaml ...] [KEY=VALUE ...]" in said


def test_help_says_what_an_argument_means_and_its_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entities = " ".join(said_by("ner", monkeypatch, capsys, "-h").split())
    assert "--context {sentence,document} the model reads a `sentence` at a time" in entities
    assert "(type: Literal['sentence', 'document'], default: sentence)" in entities
    assert "share of the training rows that becomes the validation split" in entities and "default: 0.1)" in entities
    for name in ("label_column", "folds", "neutral_band", "lexicon", "streaming", "class_weights"):
        assert f"--{name}" not in entities
    for recipe, default in (("text_classification", True), ("sentiment", False)):
        said = " ".join(said_by(recipe, monkeypatch, capsys, "-h").split())
        assert f"on a few training rows. (type: bool, default: {default})" in said


@pytest.mark.parametrize(
    ("recipe", "word", "message"),
    [
        ("ner", "contxt=document", "There is no argument 'contxt'. Did you mean 'context'?"),
        ("ner", "lerning_rate=1", "Did you mean 'learning_rate'?"),
        ("ner", "neutral_band=1", "There is no argument 'neutral_band'."),
        ("sentiment", "neutral_bnd=1", "Did you mean 'neutral_band'?"),
        ("text_classification", "neutral_band=1", "There is no argument 'neutral_band'."),
        ("text_classification", "layer_decay=0.9", "It was measured and left. Give learning_rate and"),
        ("text_classification", "focal_gamma=2", "It was measured and left. Give class_weights=balanced."),
        ("text_classification", "loss=ordinal", "There is no argument 'loss'. It was measured and left. The problem"),
    ],
)
def test_a_recipe_ends_with_one_line_on_a_mistake(
    recipe: str, word: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = said_by(recipe, monkeypatch, capsys, "model=m", "output_dir=o", word)
    assert message in said and "\n" not in said.strip()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prediction_loss_only", True),
        ("batch_eval_metrics", True),
        ("eval_do_concat_batches", False),
        ("remove_unused_columns", False),
        ("dataloader_drop_last", True),
        ("metric_for_best_model", "nonsense"),
    ],
)
def test_options_that_cannot_work_here_are_refused(kind: type[RunArguments], name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}={value} cannot be: "):
        parse_arguments(["model=m", "output_dir=o", f"{name}={value}"], kind)
