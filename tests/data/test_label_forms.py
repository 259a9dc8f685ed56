"""How people write several labels, and numbers, into a cell: read right and said, or refused in one line."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from tiny_models import tiny_tokenizer

from hf_selfattn.data import ClassificationData, check_classification, load_splits, prepare_classification
from hf_selfattn.data.streams import stream_files

MULTI = "multi_label_classification"


def prepared(labels: list[Any], **options: Any) -> ClassificationData:
    rows = Dataset.from_dict({"text": [f"text {i}" for i in range(len(labels))], "label": labels})
    return prepare_classification({"train": rows}, **options)


def sets_of(data: ClassificationData) -> list[set[str]]:
    """The names of the labels of each row."""
    rows = data.splits["train"]["label"]
    return [{name for name, on in zip(data.label_names, row, strict=True) if on} for row in rows]


LISTS = {
    "Python": ["['a', 'b']", "['b']", "[]"],
    "JSON": ['["a", "b"]', '["b"]', "[]"],
    "tuples": ["('a', 'b')", "('b',)", "()"],
    "sets": ["{'b', 'a'}", "{'b'}", "set()"],
    "numpy": ["['a' 'b']", "['b']", "[]"],
    "Postgres": ['{"a",b}', "{b}", "{}"],
    "without quotes": ["[a, b]", "[b]", "[]"],
    "empty cell": ["['a', 'b']", "['b']", ""],
}


@pytest.mark.parametrize("form", LISTS)
@pytest.mark.parametrize("problem", [None, MULTI])
def test_lists_written_as_text(form: str, problem: str | None) -> None:
    data = prepared(LISTS[form], problem=problem)
    assert data.problem == MULTI and data.label_names == ["a", "b"]
    assert sets_of(data) == [{"a", "b"}, {"b"}, set()]
    assert "The lists of labels are written as text." in data.notes


@pytest.mark.parametrize(
    "labels",
    [
        ["[1, 0, 1]", "[0, 1, 0]", "[0, 0, 0]"],
        ["[1 0 1]", "[0 1 0]", "[0 0 0]"],
        ["[1. 0. 1.]", "[0. 1. 0.]", "[0. 0. 0.]"],
        ["(True, False, True)", "(False, True, False)", "(False, False, False)"],
        ["{1,0,1}", "{0,1,0}", "{0,0,0}"],
        [["1", "0", "1"], ["0", "1", "0"], ["0", "0", "0"]],
        ["1,0,1", "0,1,0", "0,0,0"],
    ],
)
def test_zeros_and_ones_are_one_per_label(labels: list[Any]) -> None:
    data = prepared(labels, problem=MULTI)
    assert data.label_names == ["0", "1", "2"]
    assert list(data.splits["train"]["label"]) == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("names", [None, ["a", "b"]])
def test_one_hot_of_two(names: list[str] | None) -> None:
    data = prepared([[1, 0], [0, 1], [1, 0]], label_names=names)
    assert data.label_names == (names or ["0", "1"])
    assert list(data.splits["train"]["label"]) == [[1, 0], [0, 1], [1, 0]]


def test_quotes_commas_and_escapes_inside_a_list() -> None:
    data = prepared([r"""["it\u0027s, so", "b"]""", r"['it\'s, so']", "['b']"])
    assert data.label_names == ["b", "it's, so"]


def test_words_in_brackets_are_names() -> None:
    assert prepared(["[good]", "[bad]"]).label_names == ["[bad]", "[good]"]


REFUSED = {
    "bars": (["a|b", "b|a"], {}, r"Set label_separator='\|' to read several labels"),
    "towns": (["Rome, GA", "Rome, NY", "Troy, GA", "Troy, NY"], {}, "4 different labels hold ',', such as 'Rome, GA'"),
    "a separator for one": (["a", "b"], {"label_separator": ",", "problem": "ordinal"}, "and a ordinal has one"),
    "decimal commas": (["1,5", "2,5", "1,0", "2,0"], {}, "numbers are written with a decimal point"),
    "lists and none": (["['a', 'b']", "a"], {}, r"are lists, and 'a' is none"),
    "dictionaries": (["{'a': 1, 'b': 0}", "{'a': 0, 'b': 1}"], {}, "are dictionaries"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_known_is_refused_in_one_line(case: str) -> None:
    labels, options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        prepared(labels, **options)


SEPARATED: dict[str, tuple[list[str], dict[str, Any]]] = {
    "commas": (["money,speed", "money", "speed", "money, rare"], {}),
    "semicolons": (["a;b", "a", "b;", "c;b"], {}),
    "bars": (["a|b", "a"], {"label_names": ["a", "b"]}),
    "Doccano's CSV": (["a#b", "a", "b"], {}),
    "as set": (["a/b", "a", "c"], {"label_separator": "/"}),
    "as set, in none": (["a", "b"], {"label_separator": "/"}),
}


@pytest.mark.parametrize("case", SEPARATED)
def test_several_labels_in_a_cell(case: str) -> None:
    labels, options = SEPARATED[case]
    data = prepared(labels, **options)
    mark = next((mark for mark in ",;|#/" if any(mark in label for label in labels)), "/")
    assert data.problem == MULTI
    assert sets_of(data) == [{part.strip() for part in label.split(mark) if part.strip()} for label in labels]


def test_a_separator_that_was_found_is_said() -> None:
    notes = prepared(["money,speed", "money", "speed", "money, rare"]).notes
    assert notes[1] == (
        "Problem: multi_label_classification (detected: column 'label': 2 different labels hold ',', such as "
        "'money,speed', and their parts stand alone elsewhere). Set problem=single_label_classification to read each "
        "cell as one class."
    )
    assert "Labels in a cell are separated by ','." in notes
    notes = prepared(["a", "b"], label_separator="/").notes
    assert "No cell holds a separator (/): each has one label." in notes


def test_a_comma_in_a_class_is_said() -> None:
    data = prepared(["Lyon, France", "Ghent, Belgium"])
    assert data.label_names == ["Ghent, Belgium", "Lyon, France"]
    assert any(note.startswith("Warning: column 'label': 2 different labels hold ','") for note in data.notes)
    assert prepared(["a,b", "a", "b"], problem="single_label_classification").label_names == ["a", "a,b", "b"]
    assert prepared(["a,b", "a"], label_names=["a", "a,b"]).label_names == ["a", "a,b"]


def columns_file(folder: Path, *rows: str) -> dict[str, Dataset]:
    (folder / "a.csv").write_text("\n".join(["text,rude,threat", *rows]))
    return load_splits(train=folder / "a.csv")


def test_one_column_per_label(tmp_path: Path) -> None:
    splits = columns_file(tmp_path, "a,1,0", "b,0,0.0", "c,1.0,1")
    data = prepare_classification(splits, label_column=["rude", "threat"])
    assert data.problem == MULTI and data.label_names == ["rude", "threat"]
    assert sets_of(data) == [{"rude"}, set(), {"rude", "threat"}]
    report = check_classification(splits, tiny_tokenizer(), 32, label_column=["rude", "threat"])
    assert report["splits"]["train"]["classes"] == {"rude": 2, "threat": 1, "(no label)": 1}
    named = prepare_classification(splits, label_column=["rude", "threat"], label_names=["r", "t"])
    assert named.label_names == ["r", "t"]


def test_columns_of_0_and_1_are_found_and_said(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "id,comment_text,rude,threat\n7,you are so bad,1,0\n8,I will find you,TRUE,1\n9,that is fine then,0,false\n"
    )
    splits = load_splits(train=tmp_path / "a.csv")
    data = prepare_classification(splits)
    assert data.problem == MULTI and sets_of(data) == [{"rude"}, {"rude", "threat"}, set()]
    assert "Labels: one column of 0 and 1 each: rude, threat (label_column=… to change)." in data.notes
    assert any("Column 'comment_text' is the text" in note for note in data.notes)
    report = check_classification(splits, tiny_tokenizer(), 32)
    assert report["splits"]["train"]["classes"] == {"rude": 2, "threat": 1, "(no label)": 1}


def test_one_column_per_label_names_what_is_neither_0_nor_1(tmp_path: Path) -> None:
    splits = columns_file(tmp_path, "a,1,0", "b,0,maybe", "c,,1")
    with pytest.raises(ValueError, match=r"'threat=maybe' .*a\.csv:3") as caught:
        prepare_classification(splits, label_column=["rude", "threat"])
    assert "'rude='" in str(caught.value)
    with pytest.raises(ValueError, match=r"no column \['insult'\]"):
        prepare_classification(splits, label_column=["rude", "insult"])
    with pytest.raises(ValueError, match="to a list of them"):
        prepare_classification(splits)


def decimals(path: Path, values: list[str]) -> Path:
    cells = pa.array([Decimal(value) for value in values], pa.decimal128(5, 2))
    pq.write_table(pa.table({"text": [f"text {value}" for value in values], "label": cells}), path)
    return path


def test_decimals_are_numbers(tmp_path: Path) -> None:
    data = prepare_classification(load_splits(train=decimals(tmp_path / "a.parquet", ["0.50", "4.50"])))
    assert data.problem == "regression" and list(data.splits["train"]["label"]) == [0.5, 4.5]
    path = decimals(tmp_path / "b.parquet", ["0.00", "1.00", "2.00"])
    (tmp_path / "t.csv").write_text("text,label\na,2\n")
    data = prepare_classification(load_splits(train=path, test=tmp_path / "t.csv"))
    assert data.label_names == ["0", "1", "2"] and list(data.splits["test"]["label"]) == [2]
    assert [row["label"] for row in stream_files([path])] == [Decimal("0.00"), Decimal("1.00"), Decimal("2.00")]


def test_bytes_are_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", "b"], "label": [b"x", b"y"]}), tmp_path / "a.parquet")
    assert prepare_classification(load_splits(train=tmp_path / "a.parquet")).label_names == ["x", "y"]


@pytest.mark.parametrize(
    ("columns", "pair"),
    [
        (["question", "sentence"], ("question", "sentence")),
        (["query", "document"], ("query", "document")),
        (["text", "text2"], ("text", "text2")),
        (["text", "title"], ("text", None)),
        (["sentence", "context"], ("sentence", None)),
    ],
)
def test_a_second_text_is_read_or_said(columns: list[str], pair: tuple[str, str | None]) -> None:
    cells = {name: [f"{name} of row {i}" for i in range(4)] for name in columns}
    data = prepare_classification({"train": Dataset.from_dict({**cells, "label": list("xyxy")})})
    assert data.splits["train"]["text"][0] == f"{pair[0]} of row 0"
    if pair[1] is None:
        assert any(note.startswith(f"Not read: the texts of ['{columns[1]}']") for note in data.notes)
    else:
        assert data.splits["train"]["text_pair"][0] == f"{pair[1]} of row 0"
