"""`evaluate` gives the scores that the training gave, and says what it cannot read."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from runs import settings, text_arguments, write_rows, write_sentences
from warm_python import warm_environment, warm_launcher

from hf_selfattn import EvaluateArguments, NerArguments, PredictArguments, build_arguments, evaluate, predict, run


def words_only(value: Any) -> Any:
    """The scores as numbers that differ by rounding only."""
    return pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression"])
def test_scores_of_texts_are_those_of_the_training(problem: str, wordpiece: str, tmp_path: Path) -> None:
    given = settings(wordpiece, tmp_path, problem, problem=problem, tuning="full")
    trained = run(text_arguments(given))
    found = evaluate(
        EvaluateArguments(model=given["output_dir"], input=given["test"], output=str(tmp_path / "scores.json"))
    )
    before, after = trained["splits"]["test"], found["splits"]["test"]
    assert after["rows"] == before["rows"] == 17 and after["fingerprint"] == before["fingerprint"]
    assert after["scores"].keys() == before["scores"].keys()
    for metric, score in after["scores"].items():
        assert score == words_only(before["scores"][metric]), metric
    assert json.loads((tmp_path / "scores.json").read_text())["splits"] == found["splits"]
    assert ("abstention" in trained) == (problem != "regression")
    options = {"model": given["output_dir"], "input": given["test"], "prefix": "my_", "abstain": 0.99}
    if problem == "regression":
        with pytest.raises(ValueError, match="needs one probability for each row"):
            predict(PredictArguments(**options, output=str(tmp_path / "answers.jsonl")))
    else:
        unsure_below(0.99, options, trained["abstention"], tmp_path / "answers.jsonl")


def unsure_below(least: float, options: dict[str, Any], record: dict[str, Any], output: Path) -> None:
    predict(PredictArguments(**options, output=str(output)))
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    unsure = [row["my_label"] in ("unsure", ["unsure"]) for row in rows]
    assert unsure == [row["my_probability"] < least for row in rows] and any(unsure)
    assert len(record["answered"]) == 101 and record["answered"][0] == record["rows"]


@pytest.mark.slow
def test_two_processes_score_as_one(wordpiece: str, tmp_path: Path) -> None:
    given = settings(wordpiece, tmp_path, tuning="probe", num_train_epochs=1)
    run(text_arguments(given))
    output = tmp_path / "scores.json"
    words = ["-m", "hf_selfattn", "evaluate", given["output_dir"], f"input={given['test']}", f"output={output}"]
    launcher = [*warm_launcher("torchrun"), "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*launcher, *words], env=warm_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    alone = evaluate(EvaluateArguments(model=given["output_dir"], input=given["test"]))["splits"]["test"]
    found = json.loads(output.read_text())["splits"]["test"]
    assert found["rows"] == alone["rows"] == 17 and found["fingerprint"] == alone["fingerprint"]
    assert found["scores"].keys() == alone["scores"].keys()
    assert all(score == words_only(alone["scores"][metric]) for metric, score in found["scores"].items())


@pytest.mark.parametrize("context", ["sentence", "document"])
def test_scores_of_tags_are_those_of_the_training(context: str, wordpiece: str, tmp_path: Path) -> None:
    files = {
        name: write_sentences(tmp_path / f"{name}.conll", 24, seed) for seed, name in enumerate(("train", "test"))
    }
    given = settings(wordpiece, tmp_path, context=context, **files)
    del given["baseline"]
    trained = run(build_arguments({**given, "num_train_epochs": 3}, NerArguments))
    found = evaluate(EvaluateArguments(model=given["output_dir"], input=files["test"]))
    before, after = trained["splits"]["test"], found["splits"]["test"]
    assert after["scores"]["f1"]["value"] > 0 and after["words"] == before["words"]
    for metric, score in after["scores"].items():
        assert score == words_only(before["scores"][metric]), metric
    assert after["errors"]["kinds"] == before["errors"]["kinds"]


def test_a_label_that_the_model_does_not_have_is_named(wordpiece: str, tmp_path: Path) -> None:
    given = settings(wordpiece, tmp_path, tuning="probe", num_train_epochs=1)
    run(text_arguments(given))
    rows = [{"text": "w5 w6", "label": "left"}, {"text": "w5 w6", "label": "down"}]
    path = write_rows(tmp_path / "other.jsonl", rows)
    with pytest.raises(
        ValueError, match=r"(?s)'down'.*other.jsonl:2.*Known labels: \['left', 'right', 'up'\]"
    ) as caught:
        evaluate(EvaluateArguments(model=given["output_dir"], input=path))
    assert "label_names" not in str(caught.value) and "on_bad_row='drop'" in str(caught.value)
    Dataset.from_list(rows[:1]).save_to_disk(tmp_path / "data")
    of_data_set = evaluate(EvaluateArguments(model=given["output_dir"], dataset=str(tmp_path / "data")))
    assert of_data_set["splits"]["test"]["rows"] == 1
    dropped = evaluate(EvaluateArguments(model=given["output_dir"], input=path, on_bad_row="drop"))
    assert dropped["splits"]["test"]["rows"] == 1
    with pytest.raises(ValueError, match="tag_column='ner' says nothing to a model of text-classification"):
        evaluate(EvaluateArguments(model=given["output_dir"], input=path, tag_column="ner"))
    with pytest.raises(ValueError, match="exactly one of input"):
        EvaluateArguments(model=given["output_dir"])
    with pytest.raises(ValueError, match="no standard input: write the rows to a file"):
        EvaluateArguments(model=given["output_dir"], input="-")


def test_columns_of_the_training_that_rows_do_not_have_are_found_anew(wordpiece: str, tmp_path: Path) -> None:
    files = {
        name: write_sentences(tmp_path / f"{name}.conll", 24, seed) for seed, name in enumerate(("train", "test"))
    }
    columns = {"token_column": "0", "tag_column": "-1"}
    given = {**settings(wordpiece, tmp_path, **files, **columns), "num_train_epochs": 1}
    del given["baseline"]
    run(build_arguments(given, NerArguments))
    rows = [{"id": number, "text": "w5 w6", "label": [[0, 2, "PER"]]} for number in range(3)]
    path = write_rows(tmp_path / "doccano.jsonl", rows)
    found = evaluate(EvaluateArguments(model=given["output_dir"], input=path))
    assert found["splits"]["test"]["rows"] == 3
    assert evaluate(EvaluateArguments(model=given["output_dir"], input=files["test"]))["splits"]["test"]["rows"]
