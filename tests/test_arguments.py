from __future__ import annotations

from pathlib import Path

import pytest
from runs import text_arguments

from hf_selfattn import TextClassificationArguments, parse_arguments


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


def test_every_option_of_trainer_is_taken() -> None:
    arguments = text_arguments({"model": "m", "output_dir": "o", "gradient_accumulation_steps": 4, "seed": 3})
    assert arguments.options == {"gradient_accumulation_steps": 4, "seed": 3}


def test_no_is_a_strategy_and_not_false() -> None:
    arguments = parse_arguments(
        ["model=m", "output_dir=o", "eval_strategy=no", "save_strategy=no", "tf32=no"], TextClassificationArguments
    )
    assert arguments.options == {"eval_strategy": "no", "save_strategy": "no", "tf32": False}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=m", "output_dir=o", "lerning_rate=1"], "no argument 'lerning_rate'. Did you mean 'learning_rate'"),
        (["model=m", "output_dir=o", "zzzzzz=1"], "The recipe's own arguments: "),
        (["output_dir=o"], "'model' is missing"),
        (["model=m"], "'output_dir' is missing"),
        (
            ["model=m", "output_dir=o", "tuning=loar"],
            "tuning='loar' is unknown; it is 'probe' or 'lora' or 'probe+lora' or 'full'",
        ),
        (["model=m", "output_dir=o", "deduplicate=7"], "deduplicate=7 is int; it must be bool"),
        (["model=m", "output_dir=o", "validation_fraction=x"], "validation_fraction='x' is no number"),
        (["model=m", "output_dir=o", "early_stopping_patience=yes"], "must be int"),
        (["model=m", "output_dir=o", "learning_rate=fast"], "learning_rate='fast' is no number"),
        (["model=m", "output_dir=o", "heads=[1]"], "heads=[1] is list; it must be dict"),
        (["model=m", "model.a=1"], "reaches inside 'model'"),
        (["model=m", "stray"], "Cannot read the argument 'stray'"),
        (["no.yaml"], "There is no settings file no.yaml"),
        (["model=[1"], "not valid YAML"),
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
