"""The report: each kind of bad row with its file and line, lengths in tokens, and the whole flow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hf_selfattn.data import (
    check_classification,
    deduplicate,
    fingerprint,
    format_report,
    load_splits,
    make_validation,
    prepare_classification,
)
from hf_selfattn.data.check import class_counts
from hf_selfattn.data.labels import LabelScheme


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, between [CLS] and [SEP]; model_max_length 4 must not cut."""
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", model_max_length=4
    )


def report_of(tokenizer: Any, folder: Path, options: dict[str, Any] | None = None, **files: str) -> dict[str, Any]:
    for name, rows in files.items():
        (folder / f"{name}.csv").write_text("text,label\n" + rows, encoding="utf-8")
    splits = load_splits(**{name: folder / f"{name}.csv" for name in files})
    return check_classification(splits, tokenizer, 8, **(options or {}))


def finding(report: dict[str, Any], kind: str, split: str = "train") -> dict[str, Any]:
    found = [item for item in report["findings"] if (item["kind"], item["split"]) == (kind, split)]
    assert len(found) == 1, report["findings"]
    return found[0]


# kind: (train.csv, test.csv, the split, rows counted, places)
KINDS: dict[str, tuple[str, str, str, int, list[str]]] = {
    "label_missing": ("a,x\nb,\nc,y\nd,\n", "e,x\n", "train", 2, ["train.csv:3", "train.csv:5"]),
    "label_unknown": ("a,x\nb,y\n", "c,x\nd,z\n", "test", 1, ["test.csv:3"]),
    "label_not_number": ("a,1.5\nb,2.5\n", "c,good\n", "test", 1, ["test.csv:2"]),
    "label_infinite": ("a,1.5\nb,inf\n", "c,2\n", "train", 1, ["train.csv:3"]),
    "text_empty": ('a,x\n"",y\n"\t ",y\n', "b,x\n", "train", 2, ["train.csv:3", "train.csv:4"]),
    "duplicate": ("a b,x\nc,y\na  b,x\n", "d,x\n", "train", 1, ["train.csv:4 = train.csv:2"]),
    "conflicting_labels": ("a,x\nc,y\na,y\n", "d,x\n", "train", 1, ["train.csv:4 = train.csv:2"]),
    "in_two_splits": ("a,x\nc,y\n", "d,x\nc,y\n", "train", 1, ["train.csv:3 = test.csv:3"]),
    "replacement_character": ("a,x\nb\ufffd,y\n", "c,x\n", "train", 1, ["train.csv:3"]),
    "control_character": ("a,x\nb,y\n", "c\x07,x\n", "test", 1, ["test.csv:2"]),
    "mojibake": ("a,x\nb,y\n", "cafÃ©,x\nitâ€™s,y\n", "test", 2, ["test.csv:2", "test.csv:3"]),
    "label_twins": ("a,Pos\nb,pos \nc,neg\n", "d,neg\n", "train", 1, ["train.csv:3"]),
    "one_class": ("a,x\nb,x\n", "d,x\n", "train", 2, []),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_bad_row_is_reported_with_file_and_line(tokenizer: Any, tmp_path: Path, kind: str) -> None:
    train, test, split, count, places = KINDS[kind]
    report = report_of(tokenizer, tmp_path, train=train, test=test)
    item = finding(report, kind, split)
    assert item["count"] == count
    assert [place.replace(f"{tmp_path}/", "") for place in item["places"]] == places
    said = f"[{kind}] {split}: {item['message']}: {count} row(s)"
    assert said in format_report(report) and f"{said}, \n" not in format_report(report)


def test_a_first_line_that_is_a_row_is_noticed(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("a fine film,good\nb,bad\nc,good\nd,bad\n")
    options = {"text_column": "a fine film", "label_column": "good"}
    report = check_classification(load_splits(train=tmp_path / "train.csv"), tokenizer, 8, **options)
    assert "name them in the first line" in finding(report, "no_header")["message"]
    assert any(note.startswith("Warning: the columns are called 'a fine film' and 'good'") for note in report["notes"])


def test_rows_that_hold_no_text(tokenizer: Any, tmp_path: Path) -> None:
    rows = [
        {"text": "a", "label": "x"},
        {"text": None, "label": "y"},
        {"text": 5, "label": "y"},
        {"text": "b", "label": ["x"]},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = check_classification(
        load_splits(train=tmp_path / "a.jsonl"), tokenizer, 8, problem="single_label_classification"
    )
    for kind, line in [("text_missing", 2), ("text_type", 3), ("label_type", 4)]:
        assert finding(report, kind)["places"] == [f"{tmp_path / 'a.jsonl'}:{line}"]


def test_rare_classes_give_up_to_three_places(tokenizer: Any, tmp_path: Path) -> None:
    rows = "".join(f"word{i},often\n" for i in range(20)) + "".join(f"more{i},rare\n" for i in range(4))
    item = finding(report_of(tokenizer, tmp_path, train=rows), "rare_class")
    assert (item["count"], item["places"]) == (4, [f"{tmp_path / 'train.csv'}:{line}" for line in (22, 23, 24)])
    assert "the label 'rare' is rare (fewer than 10 rows)" in item["message"]


def test_all_kinds_are_reported_at_once(tokenizer: Any, tmp_path: Path) -> None:
    report = report_of(tokenizer, tmp_path, train='a,x\n"",y\nb,\nb,x\nc,Y\n', test="a,x\nd,z\n")
    kinds = {item["kind"] for item in report["findings"]}
    assert kinds >= {"text_empty", "label_missing", "duplicate", "in_two_splits", "label_unknown", "label_twins"}
    assert json.loads(json.dumps(report)) == report


def test_an_empty_split_is_a_finding(tokenizer: Any) -> None:
    rows = Dataset.from_dict({"text": ["a", "b"], "label": ["x", "y"]})
    report = check_classification({"train": rows, "test": rows.select([])}, tokenizer, 8)
    assert finding(report, "empty_split", "test")["count"] == 0
    with pytest.raises(ValueError, match="the data has no rows"):
        check_classification({"train": rows.select([])}, tokenizer, 8)


def test_lengths_are_counted_whole_and_nothing_is_cut(tokenizer: Any, tmp_path: Path) -> None:
    rows = "".join(f"{'w ' * length},{label}\n" for length, label in [(1, "x"), (6, "y"), (7, "x"), (5000, "y")])
    report = report_of(tokenizer, tmp_path, train=rows)
    split = report["splits"]["train"]
    assert split["lengths"]["max"] == 5002 and split["lengths"]["5%"] == 8 and split["lengths"]["50%"] == 9
    assert (split["longer_than_window"], split["share_longer_than_window"]) == (2, 0.5)
    assert split["classes"] == {"x": 2, "y": 2}
    text = format_report(report)
    assert "longer than the backbone's window of 8 tokens: 2 rows (50.0%). Nothing is cut" in text
    assert "Problem: single_label_classification" in text and "train: 4 rows" in text


def test_pairs_regression_and_multi_label(tokenizer: Any) -> None:
    pairs = Dataset.from_dict({"premise": ["a b"] * 2, "hypothesis": ["c", "d"], "label": [0.5, 2.0]})
    report = check_classification({"train": pairs}, tokenizer, 8)
    assert report["splits"]["train"]["lengths"]["max"] == 2 + 1 + 3
    assert report["splits"]["train"]["classes"] == {"min": 0.5, "mean": 1.25, "max": 2.0}
    lists = Dataset.from_dict({"text": ["a", "b", "c"], "labels": [["x", "y"], ["y"], []]})
    classes = check_classification({"train": lists}, tokenizer, 8)["splits"]["train"]["classes"]
    assert classes == {"x": 1, "y": 2, "(no label)": 1}
    scheme = LabelScheme("regression", ["score"])
    assert class_counts(scheme, [3.3, 3.3, 3.3])["mean"] == 3.3  # numpy gives 3.2999999999999994


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        (["x", "y", "x"], {}),
        (["3", "1", "10"], {"problem": "ordinal"}),
        ([0.5, 1.5, 2.0], {}),
        ([["x"], ["x", "y"], []], {}),
        ([["x"], ["x"], []], {}),
    ],
)
def test_prepared_data_gives_the_same_report(tokenizer: Any, labels: list[Any], options: dict[str, Any]) -> None:
    raw = {"train": Dataset.from_dict({"sentence": ["a", "b c", "d"], "y": labels})}
    columns = {"text_column": "sentence", "label_column": "y"}
    before = check_classification(raw, tokenizer, 8, **columns, **options)
    after = check_classification(prepare_classification(raw, **columns, **options), tokenizer, 8)
    assert after["splits"] == before["splits"]
    assert after["label_names"] == (["y"] if before["problem"] == "regression" else before["label_names"])
    assert [item["kind"] for item in after["findings"]] == [item["kind"] for item in before["findings"]]


def test_the_flow_from_files_to_splits(tokenizer: Any, tmp_path: Path) -> None:
    rows = "".join(f"review number {i},{'pos' if i % 3 else 'neg'}\n" for i in range(30))
    (tmp_path / "train_a.csv").write_text("review,sentiment\n" + rows)
    (tmp_path / "train_b.csv").write_text("review,sentiment\nreview number 1,pos\nheld out,neg\n")
    (tmp_path / "test.jsonl").write_text('{"review": "held out", "sentiment": "neg"}\n')
    splits = load_splits(train=tmp_path / "train_*.csv", test=tmp_path / "test.jsonl")
    report = check_classification(splits, tokenizer, 8)
    assert {item["kind"] for item in report["findings"]} == {"duplicate", "in_two_splits"}
    data = make_validation(deduplicate(prepare_classification(splits)), fraction=0.2)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 24, "validation": 6, "test": 1}
    assert data.label_names == ["neg", "pos"]
    assert sum(data.splits["validation"]["label"]) == 4
    again = make_validation(deduplicate(prepare_classification(splits)), fraction=0.2)
    assert [fingerprint(split) for split in again.splits.values()] == [
        fingerprint(split) for split in data.splits.values()
    ]
    assert check_classification(data, tokenizer, 8)["splits"]["test"]["classes"] == {"neg": 1, "pos": 0}
