"""Columns, problems, label names and every kind of bad row."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, List

from hf_selfattn.data.classification import ClassificationData, prepare_classification
from hf_selfattn.data.formats import ORIGIN
from hf_selfattn.data.labels import LabelScheme, encode_label, label_twins, natural_key
from hf_selfattn.data.load import load_splits


def data_of(labels: list[Any], **options: Any) -> ClassificationData:
    rows = Dataset.from_dict(
        {"text": [f"text {i}" for i in range(len(labels))], "label": labels}, on_mixed_types="use_json"
    )
    return prepare_classification({"train": rows}, **options)


def labels_of(data: ClassificationData, split: str = "train") -> list[Any]:
    return list(data.splits[split]["label"])


def from_files(folder: Path, **files: str) -> dict[str, Dataset]:
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text, encoding="utf-8")
    return load_splits(**{name: folder / f"{name}.csv" for name in files})


DETECTED = {
    "texts": (["pos", "neg", "neutral"], "single_label_classification", ["neg", "neutral", "pos"], [2, 0, 1]),
    "integers": ([10, 2, 1], "single_label_classification", ["1", "2", "10"], [2, 1, 0]),
    "booleans": ([True, False], "single_label_classification", ["False", "True"], [1, 0]),
    "integer texts": (["10", "9", "-1"], "single_label_classification", ["-1", "9", "10"], [2, 1, 0]),
    "leading zeros": (["01", "1", "02"], "single_label_classification", ["01", "1", "02"], [0, 1, 2]),
    "mixed": (["1", 2, "x"], "single_label_classification", ["1", "2", "x"], [0, 1, 2]),
    "whole floats": ([1.0, 0.0], "single_label_classification", ["0", "1"], [1, 0]),
    "whole float texts": (["1.0", "0.0"], "single_label_classification", ["0", "1"], [1, 0]),
    "floats": ([1.0, 0.5], "regression", ["label"], [1.0, 0.5]),
    "float texts": (["1.0", "-.5", "2e-1"], "regression", ["label"], [1.0, -0.5, 0.2]),
    "lists": ([["b", "a"], [], ["a"]], "multi_label_classification", ["a", "b"], [[1, 1], [0, 0], [1, 0]]),
    "integer lists": ([[10], [2, 1]], "multi_label_classification", ["1", "2", "10"], [[0, 0, 1], [1, 1, 0]]),
    "multi-hot": ([[0, 1, 1], [0, 0, 0]], "multi_label_classification", ["0", "1", "2"], [[0, 1, 1], [0, 0, 0]]),
    "float multi-hot": ([[0.0, 1.0], [1.0, 0.0]], "multi_label_classification", ["0", "1"], [[0, 1], [1, 0]]),
    "nan as a name": (["nan", "x"], "single_label_classification", ["nan", "x"], [0, 1]),
}


@pytest.mark.parametrize("case", DETECTED)
def test_the_problem_is_detected_and_said(case: str) -> None:
    values, problem, names, targets = DETECTED[case]
    data = data_of(values)
    assert (data.problem, data.label_names, labels_of(data)) == (problem, names, targets)
    assert any(f"Problem: {problem} (detected: " in note for note in data.notes)


REQUESTED = {
    "floats as classes": ([1.0, 0.5], {"problem": "single_label_classification"}, ["0.5", "1"], [1, 0]),
    "integers as values": ([1, 3], {"problem": "regression"}, ["label"], [1.0, 3.0]),
    "stars": (["5", "1", "4.0"], {"problem": "ordinal"}, ["1", "4", "5"], [2, 0, 1]),
    "sizes": (["S", "L"], {"problem": "ordinal", "label_names": ["S", "M", "L"]}, ["S", "M", "L"], [0, 2]),
    "positions": (["1", "0"], {"label_names": ["neg", "pos"]}, ["neg", "pos"], [1, 0]),
    "order": (["a", "b"], {"label_names": ["b", "a"]}, ["b", "a"], [1, 0]),
    "cells with |": (
        ["a|b", "", "b"],
        {"problem": "multi_label_classification"},
        ["a", "b"],
        [[1, 1], [0, 0], [0, 1]],
    ),
    "cells with ;": (["a, x; b", "b"], {"problem": "multi_label_classification"}, ["a, x", "b"], [[1, 1], [0, 1]]),
    "cells with ,": (["2, 10", "10"], {"problem": "multi_label_classification"}, ["2", "10"], [[1, 1], [0, 1]]),
    "named value": ([1.5, 3.0], {"label_names": ["valence"]}, ["valence"], [1.5, 3.0]),
}


@pytest.mark.parametrize("case", REQUESTED)
def test_options_override_the_detection(case: str) -> None:
    values, options, names, targets = REQUESTED[case]
    data = data_of(values, **options)
    assert (data.label_names, labels_of(data)) == (names, targets)


def test_class_labels_keep_names_and_order_across_splits() -> None:
    train = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}).cast_column("label", ClassLabel(names=["z", "a"]))
    test = Dataset.from_dict({"text": ["c", "d"], "label": [0, 1]}).cast_column("label", ClassLabel(names=["a", "z"]))
    data = prepare_classification(
        {"train": train, "test": test, "plain": Dataset.from_dict({"text": ["e"], "label": ["a"]})}
    )
    assert data.label_names == ["z", "a"]
    assert [labels_of(data, name) for name in data.splits] == [[0, 1], [1, 0], [1]]
    again = prepare_classification(data.splits)
    assert (again.label_names, labels_of(again, "test")) == (data.label_names, [1, 0])


def test_lists_of_class_labels() -> None:
    rows = Dataset.from_dict({"text": ["a", "b"], "labels": [[1], [0, 1]]})
    data = prepare_classification({"train": rows.cast_column("labels", List(ClassLabel(names=["z", "a"])))})
    assert (data.label_names, labels_of(data)) == (["z", "a"], [[0, 1], [1, 1]])


def test_natural_order_and_twins() -> None:
    assert sorted(["item 10", "b", "item 2", "A", "a"], key=natural_key) == ["A", "a", "b", "item 2", "item 10"]
    assert label_twins(["Pos", "neg", "pos ", "POS"]) == [["Pos", "pos ", "POS"]]
    twins = data_of(["Pos", "pos ", "neg"])
    assert twins.label_names == ["neg", "Pos", "pos "]
    assert any("['Pos', 'pos '] look like one label" in note for note in twins.notes)


def test_whole_floats_and_integers_of_two_splits_are_one_label(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "c", "label": 1}\n')
    splits = from_files(tmp_path, train="text,label\na,1.0\nb,0.0\n")
    splits["test"] = load_splits(test=tmp_path / "t.jsonl")["test"]
    assert labels_of(prepare_classification(splits), "test") == [1]


COLUMNS = {
    "well-known": (["Review", "Sentiment"], {}, "Review", None, "Sentiment"),
    "sure before likely": (["text", "body", "label", "score"], {}, "text", None, "label"),
    "pair": (["premise", "hypothesis", "label"], {}, "premise", "hypothesis", "label"),
    "explicit": (["a", "b", "c"], {"text_column": "c", "text_pair_column": "a", "label_column": "b"}, "c", "a", "b"),
    "crossed": (
        ["text", "text_pair", "y"],
        {"text_column": "text_pair", "text_pair_column": "text", "label_column": "y"},
        "text_pair",
        "text",
        "y",
    ),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_columns_are_found(case: str) -> None:
    names, options, text, pair, label = COLUMNS[case]
    data = prepare_classification(
        {"train": Dataset.from_dict({name: [f"{name} 0", f"{name} 1"] for name in names})}, **options
    )
    wanted = {"text": [f"{text} 0", f"{text} 1"], "label": [0, 1], ORIGIN: ["train[0]", "train[1]"]}
    if pair:
        wanted["text_pair"] = [f"{pair} 0", f"{pair} 1"]
    assert data.splits["train"].to_dict() == wanted
    assert data.notes[0].startswith(f"Columns: text '{text}'")


def test_column_errors_list_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.csv:2: no text column .*found: \['a', 'label'\]\. Set text_column="):
        prepare_classification(from_files(tmp_path, train="a,label\nx,y\n"))
    with pytest.raises(
        ValueError, match=r"several columns could be the label \(\['class', 'topic'\]\).*label_column="
    ):
        prepare_classification(from_files(tmp_path, train="text,class,topic\nx,y,z\n"))
    with pytest.raises(
        ValueError, match=r"no column 'lable' \(label_column\); the columns found are \['text', 'label'\]"
    ):
        prepare_classification(from_files(tmp_path, train="text,label\nx,y\n"), label_column="lable")
    with pytest.raises(ValueError, match=r"test \(from .*test\.csv:2\): there is no column 'label'"):
        prepare_classification(from_files(tmp_path, train="text,label\nx,y\n", test="text,class\nx,y\n"))
    with pytest.raises(ValueError, match="must differ"):
        prepare_classification(from_files(tmp_path, train="text,label\nx,y\n"), text_column="label")


# kind: (train.csv, test.csv or None, options, what the error says)
BAD_ROWS: dict[str, tuple[str, str | None, dict[str, Any], str]] = {
    "no label": ("a,x\nb,\nc,y\n", None, {}, r"train: column 'label': no label .*: 1 row\(s\), .*train\.csv:3"),
    "blank label": ("a,x\nb,  \nc,y\n", None, {}, r"no label .*train\.csv:3"),
    "nan among numbers": (
        "a,1\nb,nan\nc,2\n",
        None,
        {},
        r"the label is 'nan', which is no finite number.*train\.csv:3",
    ),
    "nan value": ("a,1.5\nb,nan\nc,2\n", None, {}, r"the label is nan, not a finite number.*train\.csv:3"),
    "infinite value": ("a,1.5\nb,2\nc,-inf\n", None, {}, r"the label is -inf, not a finite number.*train\.csv:4"),
    "no number": ("a,1.5\nb,2\n", "c,good\n", {}, r"test: column 'label': the label is no number .*test\.csv:2"),
    "empty text": (
        'a,x\n"",y\nc,y\n',
        None,
        {},
        r"column 'text': the text is empty or only whitespace: .*train\.csv:3",
    ),
    "whitespace text": ('a,x\n"\u00a0 ",y\nc,y\n', None, {}, r"only whitespace: .*train\.csv:3"),
    "unknown at evaluation": (
        "a,x\nb,y\n",
        "c,x\nd,z\ne,z\n",
        {},
        r"test: column 'label': the label 'z' is not among the 2 known labels: 2 row\(s\), "
        r".*test\.csv:3, .*test\.csv:4",
    ),
    "unknown in train": (
        "a,x\nb,y\nc,q\n",
        None,
        {"label_names": ["x", "y"]},
        r"train: .*the label 'q' .*train\.csv:4",
    ),
    "unknown of many": ("a,x|y\nb,y\n", "c,y|q\n", {"problem": "multi_label_classification"}, r"'q' .*test\.csv:2"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_named_with_file_and_line_or_dropped(tmp_path: Path, case: str) -> None:
    train, test, options, message = BAD_ROWS[case]
    files = {"train": train} if test is None else {"train": train, "test": test}
    splits = from_files(tmp_path, **{name: "text,label\n" + rows for name, rows in files.items()})
    with pytest.raises(ValueError, match=message):
        prepare_classification(splits, **options)
    if case in ("no number", "unknown of many"):  # nothing of test would be left
        with pytest.raises(ValueError, match=r"test: all 1 rows are bad\. test: .*test\.csv:2"):
            prepare_classification(splits, on_bad_row="drop", **options)
        return
    data = prepare_classification(splits, on_bad_row="drop", **options)
    kept = sum(len(split) for split in data.splits.values())
    assert kept == sum(len(split) for split in splits.values()) - (2 if case == "unknown at evaluation" else 1)
    assert any(note.startswith("Dropped ") for note in data.notes)


JSON_ROWS = {
    "null text": ('{"text": null, "label": "x"}', r"column 'text': no text \(null\)", {}),
    "number as text": ('{"text": 5, "label": "x"}', r"column 'text': the text is not a string but int", {}),
    "null label": ('{"text": "a", "label": null}', r"column 'label': no label", {}),
    "list label": ('{"text": "a", "label": ["x"]}', "the label is a list", {"problem": "single_label_classification"}),
}


@pytest.mark.parametrize("case", JSON_ROWS)
def test_a_bad_json_row_is_named_with_file_and_line(tmp_path: Path, case: str) -> None:
    bad, message, options = JSON_ROWS[case]
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n\n' + bad)
    with pytest.raises(ValueError, match=rf"{message}.*a\.jsonl:4"):
        prepare_classification(load_splits(train=path), **options)
    dropped = prepare_classification(load_splits(train=path), on_bad_row="drop", **options)
    assert dropped.splits["train"]["text"][:] == ["a", "b"]


LIST_ROWS = {
    "unknown element": ('["x", "q"]', r"the label 'q' is not among the 2 known labels"),
    "text instead of a list": ('"q"', r"the label 'q' is not among the 2 known labels"),
    "no list at all": ("null", "no label"),
}


@pytest.mark.parametrize("case", LIST_ROWS)
def test_a_bad_list_of_labels_is_named_with_file_and_line(tmp_path: Path, case: str) -> None:
    bad, message = LIST_ROWS[case]
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": ["x"]}\n{"text": "b", "label": ["y", "x"]}\n')
    (tmp_path / "test.jsonl").write_text(f'{{"text": "c", "label": []}}\n{{"text": "d", "label": {bad}}}\n')
    splits = load_splits(train=tmp_path / "train.jsonl", test=tmp_path / "test.jsonl")
    with pytest.raises(ValueError, match=rf"test: column 'label': {message}.*test\.jsonl:2"):
        prepare_classification(splits)


def test_nan_in_json_is_named_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"text": "a", "label": 1.5}\n{"text": "b", "label": NaN}\n{"text": "c", "label": 2.0}\n'
    )
    with pytest.raises(ValueError, match=r"column 'label': .*a\.jsonl:2"):
        prepare_classification(load_splits(train=tmp_path / "a.jsonl"))


def test_parquet_rows_are_named_by_index_and_nan_is_no_label(tmp_path: Path) -> None:
    Dataset.from_dict({"text": ["a", "b", "c"], "label": [1.5, math.nan, 2.0]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"no label .*a\.parquet\[1\]"):
        prepare_classification(load_splits(train=tmp_path / "a.parquet"))


def test_hidden_labels_of_a_hub_test_split() -> None:
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}).cast_column("label", ClassLabel(names=["n", "p"]))
    hidden = Dataset.from_dict({"text": ["a"], "label": [-1]}).cast_column("label", ClassLabel(names=["n", "p"]))
    data = prepare_classification({"train": rows, "validation": rows, "test": hidden})
    assert list(data.splits) == ["train", "validation"]
    assert "test: no row has a label (all are -1 or empty), so it is not scored." in data.notes
    with pytest.raises(ValueError, match=r"validation: column 'label': no label .*validation\[0\]"):
        prepare_classification({"train": rows, "validation": hidden})


def test_minus_one_is_a_label_where_train_has_it(tmp_path: Path) -> None:
    rows = "text,label\na,-1\nb,1\n"
    splits = from_files(tmp_path, train=rows, test="text,label\nc,-1\n")
    assert labels_of(prepare_classification(splits), "test") == [0]
    splits = from_files(tmp_path, train=rows.replace("-1", "0"), test="text,label\nc,-1\nd,1\n")
    with pytest.raises(ValueError, match=r"test: column 'label': the label '-1' .*test\.csv:2"):
        prepare_classification(splits)


def test_all_mistakes_are_listed_at_once(tmp_path: Path) -> None:
    splits = from_files(tmp_path, train='text,label\na,x\n"",y\nb,\n', test="text,label\nc,z\n")
    with pytest.raises(ValueError, match="3 mistake") as caught:
        prepare_classification(splits)
    for part in ("train.csv:3", "train.csv:4", "test.csv:2", "label_names", "on_bad_row='drop'", "['x', 'y']"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ("a,x\nb,x\n", {}, r"one class only: 'x' \(2 rows\)"),
        ("a,1.5\nb,1.5\n", {}, "all 2 labels are 1.5"),
        ("a,x|y\nb,y|x\n", {"problem": "multi_label_classification"}, r"the same labels \['x', 'y'\]"),
    ],
)
def test_one_class_only(tmp_path: Path, rows: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"train\.csv:2.*column 'label': .*{message}"):
        prepare_classification(from_files(tmp_path, train="text,label\n" + rows), **options)


def test_wrong_options_and_empty_splits() -> None:
    for options, message in [
        ({"problem": "sentiment"}, "problem='sentiment' is unknown; it is one of single_label_classification"),
        ({"problem": "ordinal"}, r"the labels \['x', 'y'\] are not numbers.*label_names from the lowest"),
        ({"label_names": ["x", "x"]}, "non-empty, different"),
        ({"problem": "regression", "label_names": ["x", "y"]}, "it takes one name"),
        ({"on_bad_row": "skip"}, "it is 'error' or 'drop'"),
        ({"keep_columns": ["id"]}, r"\['id'\] are not columns of the data; the columns found are \['text', 'label'\]"),
        ({"keep_columns": ["label"]}, r"\['label'\] already are columns"),
    ]:
        with pytest.raises(ValueError, match=message):
            data_of(["x", "y"], **options)
    rows = Dataset.from_dict({"text": ["a", "b"], "label": ["x", "y"]})
    with pytest.raises(ValueError, match="test: the split has no rows"):
        prepare_classification({"train": rows, "test": rows.select([])})


def test_a_label_is_read_the_same_way_alone() -> None:
    scheme = LabelScheme("ordinal", ["1", "2"], whole=True, numeric=True)
    assert [encode_label(scheme, value) for value in (1, "2", 2.0, "2.0", "1.0")] == [0, 1, 1, 1, 0]


def test_kept_columns_and_json_of_every_problem(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(json.dumps({"text": t, "labels": v, "id": t}) + "\n" for t, v in [("a", ["x"]), ("b", [])])
    )
    split = prepare_classification(load_splits(train=path), keep_columns=["id"]).splits["train"]
    assert split.to_list() == [
        {"text": "a", "id": "a", ORIGIN: f"{path}:1", "label": [1.0]},
        {"text": "b", "id": "b", ORIGIN: f"{path}:2", "label": [0.0]},
    ]
