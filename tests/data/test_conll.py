"""Column files: columns in any order, both separators, documents and their ids, and the line of each word."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_selfattn.data.conll import LINES, conll_rows
from hf_selfattn.data.formats import ORIGIN, read_table


def rows(text: str) -> list[dict]:
    return list(conll_rows(text.splitlines(keepends=True), Path("a.txt")))


def test_sentences_documents_and_lines() -> None:
    text = "-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nsays VB I-VP O\n\n\n. . O O\n-DOCSTART- (doc 7) O\nHi UH O O\r\n"
    assert rows(text) == [
        {"0": ["EU", "says"], "1": ["NNP", "VB"], "2": ["B-NP", "I-VP"], "3": ["B-ORG", "O"], LINES: [3, 4]}
        | {"document": "a.txt:1"},
        {"0": ["."], "1": ["."], "2": ["O"], "3": ["O"], LINES: [7], "document": "a.txt:1"},
        {"0": ["Hi"], "1": ["UH"], "2": ["O"], "3": ["O"], LINES: [9], "document": "a.txt#doc 7"},
    ]


@pytest.mark.parametrize(
    ("border", "document"),
    [
        ("-DOCSTART-", "a.txt:1"),
        ("-DOCSTART- O", "a.txt:1"),
        ("-DOCSTART- (reuters-17)", "a.txt#reuters-17"),
        ("-DOCSTART-\treuters-17", "a.txt#reuters-17"),
        ("# newdoc id = w01", "a.txt#w01"),
        ("# newdoc", "a.txt:1"),
        ("#begin document (bc/cctv/00); part 000", "a.txt#bc/cctv/00 part 000"),
        ("# sent_id = 4", None),
        ("# id 5239-d8", None),
    ],
)
def test_document_borders_and_ids(border: str, document: str | None) -> None:
    assert [row["document"] for row in rows(f"{border}\nRome B-LOC\n\nis O\n")] == [document, document]


def test_a_tab_file_keeps_spaces_and_hashtags_in_words() -> None:
    found = rows("New\u00a0York\tB-LOC\nten 000\tO\n#text\tO\n# text = comment\n\t\n#id\tO\n")
    assert [row["0"] for row in found] == [["New\u00a0York", "ten 000", "#text"], ["#id"]]


def test_columns_can_be_named() -> None:
    text = "# global.columns = ID FORM NER\n1 Rome B-LOC\n"
    assert rows(text) == [{"ID": ["1"], "FORM": ["Rome"], "NER": ["B-LOC"], LINES: [2], "document": None}]


def test_ragged_lines_are_named() -> None:
    with pytest.raises(ValueError, match=r"a\.txt: 2 line\(s\) do not have the 2 columns of line 2: a\.txt:3 has 1"):
        rows("\nRome B-LOC\nis\n\nold O x\n")


def test_the_file_becomes_a_table(tmp_path: Path) -> None:
    path = tmp_path / "train.conll"
    path.write_bytes(b"\xef\xbb\xbfRome B-LOC\r\n\r\nis O\r\nold O\r\n")
    table = read_table(path)
    assert table.column("0").to_pylist() == [["Rome"], ["is", "old"]]
    assert table.column(ORIGIN).to_pylist() == [f"{path}:1", f"{path}:3"]
    path.write_text("\n\n")
    with pytest.raises(ValueError, match="holds no rows"):
        read_table(path)
