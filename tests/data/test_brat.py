"""Documents of brat: two files each, lines as rows, and what is not read counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_selfattn.data import TaggingData, load_splits, prepare_tagging
from hf_selfattn.data.formats import ORIGIN

TEXT = "Mira met Bo in Ghent.\n\nThe kettle of\nJonas Berg broke. 😀 Bo wept.\n"
ANNOTATIONS = """T1\tPerson 0 4\tMira
T2\tPerson 9 11\tBo
T3\tPlace 15 20\tGhent
R1\tLives Arg1:T1 Arg2:T3
#1\tAnnotatorNotes T1\tsure?
A1\tNegation T2
*\tEquiv T1 T2
T4\tThing 27 33;43 47\tkettle Berg
T5\tPerson 57 59\tBo
E1\tMeet:T2 Who:T1
"""


def document(folder: Path, text: str = TEXT, annotations: str = ANNOTATIONS, name: str = "one") -> Path:
    (folder / f"{name}.txt").write_bytes(text.encode())
    (folder / f"{name}.ann").write_bytes(annotations.encode())
    return folder / f"{name}.ann"


def entities(data: TaggingData) -> list[tuple[str, str]]:
    split, names = data.splits["train"], data.label_names
    pairs = zip(split["tokens"][:], split["tags"][:], strict=True)
    return [(word, names[tag]) for row in pairs for word, tag in zip(*row, strict=True) if names[tag] != "O"]


@pytest.mark.parametrize("pattern", ["one.ann", "one.txt", "one.*", "*"])
def test_lines_are_rows_with_their_spans(tmp_path: Path, pattern: str) -> None:
    document(tmp_path)
    data = prepare_tagging(load_splits(train=tmp_path / pattern))
    split = data.splits["train"]
    assert split["text"][:] == ["Mira met Bo in Ghent.", "The kettle of", "Jonas Berg broke. 😀 Bo wept."]
    assert entities(data) == [("Mira", "B-Person"), ("Bo", "B-Person"), ("Ghent", "B-Place"), ("Bo", "B-Person")]
    assert split[ORIGIN][:] == [f"{tmp_path / 'one.txt'}:{line}" for line in (1, 3, 4)]
    assert set(split["document"]) == {str(tmp_path / "one.txt")} and split["sentence"][:] == [0, 1, 2]
    note = next(note for note in data.notes if "brat" in note)
    assert note.startswith("train: read as brat documents")
    for count in ("1 documents", "4 spans", "1 relations", "1 notes", "1 attributes", "1 events", "1 discontinuous"):
        assert count in note


def test_lines_that_share_a_span_are_one_row(tmp_path: Path) -> None:
    path = document(tmp_path, annotations="T1\tName 34 48\tof Jonas Berg\nT2\tPerson 0 4\tMira\n")
    data = prepare_tagging(load_splits(train=path))
    assert data.splits["train"]["text"][:] == [
        "Mira met Bo in Ghent.",
        "The kettle of\nJonas Berg broke. 😀 Bo wept.",
    ]
    assert entities(data) == [("Mira", "B-Person"), ("of", "B-Name"), ("Jonas", "I-Name"), ("Berg", "I-Name")]


def test_windows_line_ends_count(tmp_path: Path) -> None:
    path = document(tmp_path, "Bo\r\nMira\r\n", "T1\tPerson 0 2\tBo\r\nT2\tPerson 4 8\tMira\r\n")
    assert entities(prepare_tagging(load_splits(train=path))) == [("Bo", "B-Person"), ("Mira", "B-Person")]


def test_a_changed_text_is_read_again_and_a_column_file_stays_one(tmp_path: Path) -> None:
    path = document(tmp_path)
    load_splits(train=path)
    document(tmp_path, TEXT.replace("wept", "left"))
    assert load_splits(train=path)["train"][2]["text"].endswith("Bo left.")
    (tmp_path / "words.txt").write_text("Mira B-PER\nmet O\n")
    assert load_splits(train=tmp_path / "words.txt")["train"]["0"][:] == [["Mira", "met"]]


BAD = {
    "no tab": ("T1 Person 0 4 Mira\n", r"one\.ann:1: 'T1 Person 0 4 Mira' is no annotation such as"),
    "outside": ("T1\tPerson 0 4\tMira\nT2\tPerson 60 90\tBo\n", r"one\.ann:2: T2 reaches from 60 to 90, .* has 66"),
    "another text": ("T1\tPerson 1 5\tMira\n", r"one\.ann:1: T1 is 'Mira', but the text there is 'ira '"),
    "overlap": ("T1\tA 0 8\tMira met\nT2\tB 5 11\tmet Bo\n", r"one\.txt:1 \(\[0, 8, 'A'\] \('Mira met'\) and \[5, 11"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_annotations_are_named(tmp_path: Path, case: str) -> None:
    annotations, message = BAD[case]
    path = document(tmp_path, annotations=annotations)
    with pytest.raises(ValueError, match=message):
        prepare_tagging(load_splits(train=path))


def test_a_document_needs_both_files(tmp_path: Path) -> None:
    (tmp_path / "one.ann").write_text(ANNOTATIONS)
    with pytest.raises(ValueError, match=r"one\.ann: brat keeps a document in two files, .* no one\.txt in"):
        load_splits(train=tmp_path / "one.ann")
