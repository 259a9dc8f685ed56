"""Excel workbooks (.xlsx), through openpyxl: cells as the text that a CSV file would hold."""

from __future__ import annotations

import datetime
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .rows import OTHER_FILES, ZIP, Reading, ReadRow, named_cells

TITLE_ROWS = 10  # rows above the header, at most
Cells = list[tuple[int, list[str]]]  # the number of a row in its sheet, and its cells


def excel_rows(stream: IO[bytes], path: Path, reading: Reading) -> Iterator[ReadRow]:
    """Yield the rows of the fullest sheet, and of those with the same header; their places are "file:sheet:row"."""
    try:
        import openpyxl
    except ImportError as error:
        raise ValueError(f"{path}: Excel files need openpyxl: pip install openpyxl; or save CSV.") from error
    data = stream.read()
    if not data.startswith(ZIP) and (kind := OTHER_FILES.get(data[:4])):
        raise ValueError(f"{path}: this is {kind}.")
    try:
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: the file is damaged or no .xlsx workbook: {error}") from error
    sheets = {sheet.title: cells for sheet in book.worksheets if (cells := _cells(sheet))}
    headers = {name: _header(cells) for name, cells in sheets.items()}
    fullest = max(sheets, key=lambda name: sum(map(len, (row for _, row in sheets[name]))), default="")
    for name, cells in sheets.items():
        first = headers[name]
        if cells[first][1] != sheets[fullest][headers[fullest]][1]:
            reading.say(f"{path}: sheet '{name}' is not read, only '{fullest}' and sheets with the same header.")
            continue
        if first:
            reading.say(f"{path}: sheet '{name}': row {cells[first][0]} is the header; what is above it is not read.")
        width = len(cells[first][1])
        padded = ((number, row + [""] * (width - len(row))) for number, row in cells[first:])
        yield from named_cells(padded, f"{path}:{name}", reading)


def _cells(sheet: Any) -> Cells:
    """Return the rows of a sheet that are not empty, without the empty cells at their ends."""
    sheet.reset_dimensions()  # what some programs write there is wrong
    rows = ((number, [_text(cell) for cell in row]) for number, row in enumerate(sheet.iter_rows(), start=1))
    return [(number, _stripped(row)) for number, row in rows if any(row)]


def _stripped(cells: list[str]) -> list[str]:
    empty = sum(1 for _ in itertools.takewhile(lambda cell: not cell, reversed(cells)))
    return cells[: len(cells) - empty]


def _header(cells: Cells) -> int:
    """Return the index of the header: the first row, but for titles of one cell above a wider table."""
    widths = [sum(map(bool, row)) for _, row in cells[:TITLE_ROWS]]
    return next((i for i, width in enumerate(widths) if width > 1), 0)


def _text(cell: Any) -> str:
    """Write a cell as Excel shows it: whole numbers without a point, dates as year-month-day."""
    value = cell.value
    if value is None or cell.data_type == "e":  # a formula without a result, such as #REF!
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime.datetime):
        return str(value.date() if value.time() == datetime.time() else value)
    return str(value)
