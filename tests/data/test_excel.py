"""Excel workbooks, and what Excel saves as CSV: complaints as people keep them."""

from __future__ import annotations

import builtins
import datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from hf_selfattn.data import load_splits, prepare_classification
from hf_selfattn.data.formats import ORIGIN

Sheets = dict[str, list[list[Any]]]
ROWS = [
    ["text", "label"],
    ["Late again", "delivery"],
    [None, None],
    [404, "website"],
    ["Broken\nlid", "product"],
    ["Rude", "staff"],
]


def workbook(path: Path, sheets: Sheets) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for number, row in enumerate(rows, start=1):
            for column, value in enumerate(row, start=1):
                if value is not None:
                    sheet.cell(number, column, value)
    book.save(path)
    return path


def test_rows_are_named_by_sheet_and_row_and_cells_are_text(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", {"Complaints": ROWS})
    split = load_splits(train=path)["train"]
    assert split["text"][:] == ["Late again", "404", "Broken\nlid", "Rude"]
    assert split[ORIGIN][:] == [f"{path}:Complaints:{row}" for row in (2, 4, 5, 6)]
    assert prepare_classification({"train": split}).label_names == ["delivery", "product", "staff", "website"]


def test_numbers_and_dates_are_written_as_excel_shows_them(tmp_path: Path) -> None:
    day = datetime.datetime(2024, 5, 1)
    cells = [3, 2.5, 4.0, True, day, day.replace(hour=9, minute=30), datetime.time(8, 15), "=1/0", "007"]
    path = workbook(tmp_path / "a.xlsx", {"S": [["text", "x"], *[["t", cell] for cell in cells]]})
    shown = ["3", "2.5", "4", "TRUE", "2024-05-01", "2024-05-01 09:30:00", "08:15:00", "", "007"]
    assert load_splits(train=path)["train"]["x"][:] == shown
    numbers = workbook(tmp_path / "n.xlsx", {"S": [["text", "label"], ["a", 1], ["b", 2.0], ["c", 1]]})
    assert prepare_classification(load_splits(train=numbers)).label_names == ["1", "2"]


def test_the_fullest_sheet_is_read_and_those_like_it(tmp_path: Path) -> None:
    read_me = [["Read me"], ["This file holds complaints of two months."]]
    sheets = {"Read me": read_me, "May": ROWS, "June": [ROWS[0], ["Slow site", "website"]], "Empty": [[None]]}
    path = workbook(tmp_path / "a.xlsx", sheets)
    data = prepare_classification(load_splits(train=path))
    assert data.splits["train"][ORIGIN][-1] == f"{path}:June:2" and len(data.splits["train"]) == 5
    assert any(
        "sheet 'Read me' is not read, only 'May' and sheets with the same header" in note for note in data.notes
    )


def test_columns_of_other_names_are_found_by_what_they_hold(tmp_path: Path) -> None:
    days = [datetime.datetime(2024, 5, 1)] * 4
    kinds = ["Delivery", "Website", "Delivery", "Website"]
    texts = ["The parcel came late", "I cannot log in", "It was left outside in rain", "The site is down again"]
    rows = [[i, *row] for i, row in enumerate(zip(days, texts, kinds, strict=True))]
    path = workbook(tmp_path / "a.xlsx", {"S": [["No.", "Date", "Complaint", "Department"], *rows]})
    data = prepare_classification(load_splits(train=path))
    assert data.label_names == ["Delivery", "Website"] and data.splits["train"]["text"][:] == texts
    assert "Column 'Department' is the label: no other holds classes (label_column=… to change)." in data.notes
    more = [[*row, "north" if row[0] < 2 else "south"] for row in rows]
    path = workbook(tmp_path / "b.xlsx", {"S": [["No.", "Date", "Complaint", "Department", "Region"], *more]})
    with pytest.raises(ValueError, match=r"several columns could be the label \(\['Department', 'Region'\]\)"):
        prepare_classification(load_splits(train=path))


def test_titles_above_the_header_are_said(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", {"S": [["Complaints 2024"], [None], *ROWS]})
    data = prepare_classification(load_splits(train=path))
    assert data.splits["train"][ORIGIN][0] == f"{path}:S:4"
    assert any("sheet 'S': row 3 is the header; what is above it is not read." in note for note in data.notes)


BAD: dict[str, tuple[Sheets, str]] = {
    "no label": ({"S": [*ROWS, ["Cold", None]]}, r"no label.*a\.xlsx:S:7"),
    "no text": ({"S": [*ROWS, [None, "staff"]]}, r"the text is empty.*a\.xlsx:S:7"),
    "a cell too many": ({"S": [*ROWS, ["Cold", "product", "?"]]}, r"a\.xlsx:S:7 has 3 cells, the header 2\. Give"),
    "a name twice": ({"S": [["text", "text"], ["a", "b"]]}, r"a\.xlsx:S:1: two columns are named 'text'"),
    "header alone": ({"S": ROWS[:1]}, r"a\.xlsx: the file holds no rows"),
    "nothing": ({"S": []}, r"a\.xlsx: the file holds no rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_named(tmp_path: Path, case: str) -> None:
    sheets, message = BAD[case]
    path = workbook(tmp_path / "a.xlsx", sheets)
    with pytest.raises(ValueError, match=message):
        prepare_classification(load_splits(train=path))


def test_without_openpyxl_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workbook(tmp_path / "a.xlsx", {"S": ROWS})
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "openpyxl":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ValueError, match=r"a\.xlsx: Excel files need openpyxl: pip install openpyxl"):
        load_splits(train=path)


COMPLAINTS = (
    '\ufeffNo.;text;label\r\n1;"The lid ""leaks"";\r\nand it smells";product\r\n2;Late, again and again;delivery\r\n'
    ";;\r\n3;Crème brûlée was cold;product\r\n"
)


@pytest.mark.parametrize("first", ["", "sep=;\r\n"])
def test_complaints_that_excel_saved_as_csv(tmp_path: Path, first: str) -> None:
    path = tmp_path / "complaints.csv"
    path.write_bytes((first + COMPLAINTS).encode() if first else COMPLAINTS.encode())
    splits = load_splits(train=path)
    data = prepare_classification(splits)
    assert data.splits["train"][ORIGIN][:] == [f"{path}:{line + bool(first)}" for line in (2, 4, 6)]
    assert data.splits["train"]["text"][:] == [
        'The lid "leaks";\r\nand it smells',
        "Late, again and again",
        "Crème brûlée was cold",
    ]
    assert "train: The cells are separated by semicolons." in data.notes


@pytest.mark.parametrize(("mark", "name"), [("\t", "tabs"), (";", "semicolons"), ("|", "bars"), (",", "")])
def test_the_separator_is_found_and_said(tmp_path: Path, mark: str, name: str) -> None:
    (tmp_path / "a.csv").write_text(f'"text, as; it | \tcame"{mark}label\nhello{mark}x\nbye{mark}y\n')
    data = prepare_classification(load_splits(train=tmp_path / "a.csv"), text_column="text, as; it | \tcame")
    assert data.label_names == ["x", "y"]
    assert (f"train: The cells are separated by {name}." in data.notes) is bool(name)
