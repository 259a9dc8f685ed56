"""Reading of every format, and the errors that name file and line."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import socket
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pandas as pd
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict

from hf_selfattn.data.classification import prepare_classification
from hf_selfattn.data.formats import ORIGIN
from hf_selfattn.data.load import load_splits

ROWS = [{"text": "good film", "label": "01"}, {"text": "NA", "label": "null"}, {"text": "007", "label": "1.0"}]
CSV = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS)
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)


def write_parquet(path: Path) -> None:
    pd.DataFrame(ROWS).to_parquet(path)


def write_arrow_stream(path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def write_arrow_file(path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def write_zstd(path: Path) -> None:
    with pa.CompressedOutputStream(str(path), "zstd") as sink:
        sink.write(JSONL.encode())


FORMATS = {
    "rows.csv": (lambda path: path.write_text(CSV), "{}:3"),
    "semicolon.csv": (lambda path: path.write_text(CSV.replace(",", ";")), "{}:3"),
    "rows.tsv": (lambda path: path.write_text(CSV.replace(",", "\t")), "{}:3"),
    "rows.jsonl": (lambda path: path.write_text(JSONL), "{}:2"),
    "lines.json": (lambda path: path.write_text(JSONL), "{}:2"),
    "array.json": (lambda path: path.write_text(json.dumps(ROWS, indent=1)), "{}[1]"),
    "rows.parquet": (write_parquet, "{}[1]"),
    "stream.arrow": (write_arrow_stream, "{}[1]"),
    "file.arrow": (write_arrow_file, "{}[1]"),
    "rows.csv.gz": (lambda path: path.write_bytes(gzip.compress(CSV.encode())), "{}:3"),
    "rows.csv.bz2": (lambda path: path.write_bytes(bz2.compress(CSV.encode())), "{}:3"),
    "rows.tsv.xz": (lambda path: path.write_bytes(lzma.compress(CSV.replace(",", "\t").encode())), "{}:3"),
    "rows.jsonl.zst": (write_zstd, "{}:2"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_keeps_text_and_place(tmp_path: Path, name: str) -> None:
    write, place = FORMATS[name]
    path = tmp_path / name
    write(path)
    split = load_splits(train=path)["train"]
    assert split.select_columns(["text", "label"]).to_list() == ROWS
    assert split[1][ORIGIN] == place.format(path)


def test_quotes_line_ends_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes('\ufefftext,label\r\n"one ""two"", \r\nthree",a\r\n\r\n  x ,b\r\n'.encode())
    split = load_splits(train=path)["train"]
    assert split["text"][:] == ['one "two", \r\nthree', "  x "]
    assert split[ORIGIN][:] == [f"{path}:2", f"{path}:5"]


def test_a_document_above_the_csv_modules_limit_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "word " * 60_000 + ",a\n")
    assert len(load_splits(train=path)["train"][0]["text"]) == 300_000


def test_index_column_without_a_name_is_kept_apart(tmp_path: Path) -> None:
    pd.DataFrame(ROWS).to_csv(tmp_path / "a.csv")
    assert load_splits(train=tmp_path / "a.csv")["train"].column_names == ["unnamed_0", "text", "label", ORIGIN]


def test_mixed_json_types_and_missing_keys_keep_their_values(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"text": "a", "label": 1}, {"text": 5, "label": "x"}, {"text": "b", "label": None, "more": [1, "z"]}]
    path.write_text("\n".join(map(json.dumps, rows)))
    split = load_splits(train=path)["train"]
    assert split["text"][:] == ["a", 5, "b"]
    assert split["label"][:] == [1, "x", None]
    assert split["more"][:] == [None, None, [1, "z"]]


def test_types_that_change_after_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_selfattn.data.formats.BATCH_ROWS", 2)
    path = tmp_path / "a.jsonl"
    values = [None, None, 1, 2, 2.5, 3, "x", ["y"]]
    path.write_text(
        "\n".join(json.dumps({"n": value, "f": i if i < 4 else i + 0.5}) for i, value in enumerate(values))
    )
    split = load_splits(train=path)["train"]
    assert split["n"][:] == values
    assert split["f"][:] == [0.0, 1.0, 2.0, 3.0, 4.5, 5.5, 6.5, 7.5]


def test_globs_lists_and_extra_sets_are_joined(tmp_path: Path) -> None:
    for name in ("b1", "b2", "amazon"):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{name},x\n")
    (tmp_path / "b2.csv").write_text("label,text\nx,b2\n")  # the order of the columns does not matter
    splits = load_splits(
        train=str(tmp_path / "b*.csv"), test=[tmp_path / "b1.csv"], extra={"amazon": tmp_path / "amazon.csv"}
    )
    assert list(splits) == ["train", "test", "amazon"]
    assert splits["train"]["text"][:] == ["b1", "b2"]
    assert splits["train"][1][ORIGIN] == f"{tmp_path / 'b2.csv'}:2"


def test_datasets_in_python_folders_and_parquet_keep_class_labels(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}).cast_column("label", ClassLabel(names=["z", "a"]))
    rows.to_parquet(tmp_path / "a.parquet")
    DatasetDict({"train": rows, "dev": rows, "unsupervised": rows}).save_to_disk(tmp_path / "disk")
    before = sorted(tmp_path.joinpath("disk").rglob("*"))
    from_disk = load_splits(dataset=tmp_path / "disk", extra={"more": "unsupervised"})
    assert list(from_disk) == ["train", "validation", "more"]
    for split in (
        load_splits(train=tmp_path / "a.parquet")["train"],
        load_splits(dataset=rows)["train"],
        *from_disk.values(),
    ):
        assert split.features["label"] == ClassLabel(names=["z", "a"])
    assert from_disk["validation"][1][ORIGIN] == f"{tmp_path / 'disk'}/dev[1]"
    from_disk["train"].map(lambda row: {"n": len(row["text"])})
    assert sorted(tmp_path.joinpath("disk").rglob("*")) == before, "nothing is written into the user's folder"


def test_pandas_categories(tmp_path: Path) -> None:
    pd.DataFrame({"text": ["a", "b"], "label": pd.Categorical(["x", "y"])}).to_parquet(tmp_path / "a.parquet")
    assert load_splits(train=tmp_path / "a.parquet")["train"]["label"][:] == ["x", "y"]


def test_a_changed_file_is_read_again_even_with_the_same_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\naaa,x\n")
    first = load_splits(train=path)["train"]
    stat = path.stat()
    path.write_text("text,label\nbbb,x\n")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert load_splits(train=path)["train"]["text"][:] == ["bbb"]
    assert first["text"][:] == ["aaa"]
    assert sorted(entry.name for entry in tmp_path.glob("*.*")) == ["a.csv"]


@pytest.mark.parametrize("flag", [True, False])
def test_files_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: bool) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", flag)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", flag)
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "disk")
    (tmp_path / "a.csv").write_text(CSV)
    splits = load_splits(dataset=tmp_path / "disk", test=tmp_path / "a.csv")
    assert [len(split) for split in splits.values()] == [3, 3]


def test_a_hub_name_without_the_network_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"'owner/name' \(config None, revision v1\) could not be opened.*train=…"):
        load_splits(dataset="owner/name", revision="v1")


BROKEN = {
    "latin1": (
        "a.csv",
        b"text,label\nok,x\ncaf\xe9,x\n",
        [r"a\.csv:3", r"byte 4 .*0xe9", "iconv -f latin1 -t utf-8 a.csv"],
    ),
    "cp1252": ("my a.jsonl", b'{"text": "\x93q\x94"}\n', [r"a\.jsonl:1", "iconv -f cp1252 .*'my a.jsonl' >", "Excel"]),
    "cut utf-16": ("a.csv", "text,label\nx,y\n".encode("utf-16")[:-1], [r"a\.csv: the file begins as utf-16, but"]),
    "gzip by another name": ("a.csv", gzip.compress(CSV.encode()), [r"a\.csv: this is no text but a file that gzip"]),
    "ZIP by another name": ("a.jsonl", b"PK\x03\x04\xff\n", [r"a\.jsonl: this is no text but an Excel workbook"]),
    "old Excel": ("a.xlsx", b"\xd0\xcf\x11\xe0\xa1", [r"a\.xlsx: this is an old Excel workbook \(\.xls\)"]),
    "header twice": ("a.csv", b"text,label\nx,y\n\xef\xbb\xbftext,label\nz,y\n", [r"a\.csv:3 repeats the header"]),
    "too deep": (
        "a.jsonl",
        b'{"text": ' + b"[" * 99_999 + b"]" * 99_999 + b"}\n",
        [r"a\.jsonl:1: .*too deep to read"],
    ),
    "no bytes": ("a.csv", b"", [r"a\.csv: the file is empty"]),
    "header only": ("a.csv", b"text,label\n", [r"a\.csv: the file holds no rows"]),
    "empty array": ("a.json", b"[]", [r"a\.json: the file holds no rows"]),
    "unknown ending": ("a.docx", b"x", [r"a\.docx: unknown file ending '\.docx'", r"\.parquet"]),
    "not excel": ("a.xlsx", b"text,label\n", [r"a\.xlsx: the file is damaged"]),
    "ragged": (
        "a.csv",
        b"text,label\nx,y\na,b,c\n\nd\n",
        [r"2 row\(s\)", r"a\.csv:3 has 3", r"a\.csv:5 has 1", "the header 2"],
    ),
    "open quote": ("a.csv", b'text,label\nx,y\n"never closed,y\nz,w\n', [r"a\.csv:3", "double quote"]),
    "bad line": (
        "a.jsonl",
        b'{"text": "a"}\n{"text": \n[1]\n',
        [r"a\.jsonl:2", r"a\.jsonl:3: a list", r"2 row\(s\)"],
    ),
    "bad array": ("a.json", b'[{"text": "a"},\n{"text" 1}]', [r"a\.json:2"]),
    "array of texts": ("a.json", b'[{"text": "a"}, "b"]', [r"a\.json\[1\]: a str"]),
    "half a character": ("a.jsonl", b'{"text": "\\ud83d"}\n', [r"a\.jsonl:1", "surrogate"]),
    "same name twice": ("a.csv", b"text,text\na,b\n", [r"a\.csv:1", "two columns are named 'text'"]),
    "not gzip": ("a.csv.gz", b"text,label\n", [r"a\.csv\.gz", "damaged"]),
    "cut gzip": ("a.csv.gz", gzip.compress(CSV.encode())[:-12], [r"a\.csv\.gz", "damaged"]),
    "not parquet": ("a.parquet", b"text,label\n", [r"a\.parquet", "damaged"]),
    "not arrow": ("a.arrow", b"text,label and more\n", [r"a\.arrow", "damaged"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, case: str) -> None:
    name, content, patterns = BROKEN[case]
    (tmp_path / name).write_bytes(content)
    for pattern in patterns:
        with pytest.raises(ValueError, match=pattern):
            load_splits(train=tmp_path / name)


def test_what_excel_and_editors_leave_in_csv_is_no_content(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("\ufefftext,label\r\none,a,\r\n,\r\n\ufefftwo,b,,\r\n".encode())
    splits = load_splits(train=path)
    assert splits["train"].select_columns(["text", "label", ORIGIN]).to_list() == [
        {"text": "one", "label": "a", ORIGIN: f"{path}:2"},
        {"text": "two", "label": "b", ORIGIN: f"{path}:4"},
    ]
    notes = prepare_classification(splits).notes
    assert f"train: {path}: rows without a filled cell are left out, such as row 3." in notes


def test_a_comma_is_text_in_a_file_of_one_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text\nhello, you\n"two\nlines, quoted"\n')
    assert load_splits(train=tmp_path / "a.csv")["train"]["text"][:] == ["hello, you", "two\nlines, quoted"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_says_the_encoding(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(end.join(["text\tlabel", "Crème, brûlée 😀\ta", "\u2028 x\tb"]).encode(encoding))
    split = load_splits(train=path)["train"]
    assert split["text"][:] == ["Crème, brûlée 😀", "\u2028 x"] and split[1][ORIGIN] == f"{path}:3"


WHOLE: dict[str, Any] = {
    "array": ROWS,
    "around an array": {"version": 1, "rows": ROWS},
    "columns of pandas": {name: {str(i): row[name] for i, row in enumerate(ROWS)} for name in ("text", "label")},
}


@pytest.mark.parametrize("form", WHOLE)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_whole_json_file_in_other_forms(tmp_path: Path, form: str, indent: int | None) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(WHOLE[form], indent=indent))
    split = load_splits(train=path)["train"]
    assert split.select_columns(["text", "label"]).to_list() == ROWS and split[1][ORIGIN] == f"{path}[1]"


@pytest.mark.parametrize("indent", [None, 2])
def test_one_object_is_one_row(tmp_path: Path, indent: int | None) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"tokens": ["a", "b"], "tags": ["O", "B-X"]}, indent=indent))
    assert load_splits(train=tmp_path / "a.json")["train"]["tokens"][:] == [["a", "b"]]


def test_whole_numbers_of_more_than_64_bits_stay_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"n": {2**63 - 1}}}\n{{"n": {2**63}}}\n{{"n": -{10**30}}}\n')
    assert load_splits(train=tmp_path / "a.jsonl")["train"]["n"][:] == [2**63 - 1, str(2**63), f"-{10**30}"]


def test_no_match_lists_similar_names(tmp_path: Path) -> None:
    (tmp_path / "train_2024.csv").write_text(CSV)
    with pytest.raises(ValueError, match=r"test: no file matches .*train2024\.csv.*like it .*: train_2024\.csv\."):
        load_splits(test=tmp_path / "train2024.csv")
    with pytest.raises(ValueError, match=r"holds: train_2024\.csv\."):
        load_splits(test=tmp_path / "qqq")
    with pytest.raises(ValueError, match="The folder .*nowhere' does not exist"):
        load_splits(train=tmp_path / "nowhere" / "*.csv")
    with pytest.raises(ValueError, match=r"It is a folder: write .*\*\.csv"):
        load_splits(train=tmp_path)


def test_files_of_a_split_with_other_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,b\n")
    (tmp_path / "b.csv").write_text("text,class\na,b\n")
    with pytest.raises(ValueError, match=r"a\.csv has \['text', 'label'\], .*b\.csv has \['text', 'class'\]"):
        load_splits(train=tmp_path / "*.csv")


def test_sources_that_contradict_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    rows = Dataset.from_list(ROWS)
    with pytest.raises(ValueError, match="no data"):
        load_splits()
    with pytest.raises(ValueError, match=r"\['train'\] are given as files"):
        load_splits(train=tmp_path / "a.csv", dataset=rows)
    with pytest.raises(ValueError, match="these names are taken"):
        load_splits(dataset=rows, extra={"test": tmp_path / "a.csv"})
    with pytest.raises(ValueError, match="was not written by save_to_disk"):
        load_splits(dataset=tmp_path)
    with pytest.raises(ValueError, match=r"is no folder\. Give files as train="):
        load_splits(dataset=tmp_path / "a.csv")
    with pytest.raises(ValueError, match="load it without streaming"):
        load_splits(dataset={"train": rows.to_iterable_dataset()})


UGLY = [
    '"Solid, Mira said',
    'and then it broke"',
    '"Great" she said',
    "\u2028 and \x0b, \x0c, \x85 are no line ends",
    "it's 5\" long",
    "#1",
    "  spaces  ",
    "NULL",
    "\\N",
    "a\\",
    "'",
    '"',
    '""',
]
WRITERS: dict[str, Any] = {
    "csv": lambda rows: "".join(
        ",".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\n" for row in [("text", "label"), *rows]
    ),
    "tsv": lambda rows: "".join("\t".join(row) + "\n" for row in [("text", "label"), *rows]),
    "jsonl": lambda rows: "".join(json.dumps(dict(zip(("text", "label"), row, strict=True))) + "\n" for row in rows),
}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("form", WRITERS)
def test_each_line_is_a_row(tmp_path: Path, form: str, end: str) -> None:
    rows = [(text, "ab"[i % 2]) for i, text in enumerate(UGLY * 3)]
    content = WRITERS[form](rows)
    path = tmp_path / f"a.{form}"
    path.write_bytes(content.replace("\n", end).encode())
    split = load_splits(train=path)["train"]
    assert list(zip(split["text"], split["label"], strict=True)) == rows
    first = 1 if form == "jsonl" else 2
    assert split[ORIGIN][:] == [f"{path}:{number}" for number in range(first, first + len(rows))]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_each_line_of_a_column_file_is_a_word(tmp_path: Path, end: str) -> None:
    words = ["Mira B-PER", "said O", "", "Bo B-PER", ""]
    (tmp_path / "a.conll").write_bytes(end.join(words).encode())
    split = load_splits(train=tmp_path / "a.conll")["train"]
    assert split["0"][:] == [["Mira", "said"], ["Bo"]] and split["__lines__"][:] == [[1, 2], [4]]


def test_tsv_that_was_quoted_loses_its_quotes(tmp_path: Path) -> None:
    rows = pd.DataFrame({"text": ['He said "hi" to me', "plain"], "label": ["a", "b"]})
    for number, quoting in enumerate((0, 1)):
        path = tmp_path / f"{number}.tsv"
        rows.to_csv(path, sep="\t", index=False, quoting=quoting)
        split = load_splits(train=path)["train"]
        assert split["text"][:] == rows["text"].tolist() and split["label"][:] == ["a", "b"]


def test_a_quoted_cell_of_several_lines_is_named_in_tsv_and_said_in_csv(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('text\tlabel\n"one\ntwo"\ta\nthree\tb\n')
    with pytest.raises(ValueError, match=r"a\.tsv:2 has 1 cells.*name the file \.csv"):
        load_splits(train=tmp_path / "a.tsv")
    (tmp_path / "a.csv").write_text('text,label\nx,a\n"Solid, Mira said,a\nit boils,b\nand then it broke",b\n')
    data = prepare_classification(load_splits(train=tmp_path / "a.csv"))
    assert len(data.splits["train"]) == 2
    assert any(
        "several lines; a double quote too many joins rows" in note and "a.csv:3" in note for note in data.notes
    )


def test_a_split_of_the_data_set_may_stand_for_files(caplog: pytest.LogCaptureFixture) -> None:
    names = ["train", "validation_matched", "validation_mismatched", "test_matched", "test"]
    source = DatasetDict({name: Dataset.from_dict({"text": [name], "label": [1]}) for name in names})
    splits = load_splits(dataset=source, validation="validation_matched", extra={"other": "validation_mismatched"})
    shown = {name: split["text"][0] for name, split in splits.items()}
    assert shown == {
        "train": "train",
        "validation": "validation_matched",
        "test": "test",
        "other": "validation_mismatched",
    }
    assert "['test_matched'] of the data set are not used; test_files.NAME=SPLIT" in caplog.text
    assert load_splits(dataset=source, test="test_matched")["test"]["text"][0] == "test_matched"
    with pytest.raises(ValueError, match="validation: no file matches 'validation_mtched'"):
        load_splits(dataset=source, validation="validation_mtched")
