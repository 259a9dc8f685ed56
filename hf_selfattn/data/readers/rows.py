"""What all readers share: rows that know where they stand, lines and cells, and what is to be said of a file."""

from __future__ import annotations

import codecs
import io
import itertools
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

ORIGIN = "__origin__"
ENCODING_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

ZIP = b"PK\x03\x04"
OTHER_FILES = {  # by their first bytes
    b"\x1f\x8b": "a file that gzip compressed: add .gz to its name",
    ZIP: "an Excel workbook (name it .xlsx) or a ZIP archive (unpack it)",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook (.xls), or one with a password: save it as .xlsx, and without one",
}

Row = dict[str, Any]
ReadRow = tuple[Row, str]  # a row with its place, and what is wrong with it or ""


@dataclass
class Reading:
    """What is wanted of files, and what their readers have to say.

    Args:
        labelled: leave out the rows that annotators skipped, rejected or have not reached.
        counts: by what the files were read as, how many of each thing were found or left out.
        remarks: what else there is to say, each once.
    """

    labelled: bool = True
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    remarks: dict[str, None] = field(default_factory=dict)

    def count(self, what: str, found: dict[str, int]) -> None:
        """Add what was found in one more file of a kind."""
        self.counts.setdefault(what, Counter()).update(found)

    def say(self, remark: str) -> None:
        """Remember a remark."""
        self.remarks[remark] = None

    def notes(self) -> list[str]:
        """Return the sentences for the user."""
        counted = [
            f"read as {what}: {', '.join(f'{number} {unit}' for unit, number in found.items() if number)}."
            for what, found in self.counts.items()
        ]
        return [*counted, *self.remarks]


def named_cells(rows: Iterator[tuple[int, list[str]]], place: str, reading: Reading) -> Iterator[ReadRow]:
    """Name the cells of each (line, cells) as the first row does; empty cells beyond those are none."""
    first, header = next(rows, (1, [""]))
    if not any(name.strip() for name in header):
        raise ValueError(f"{place}:1: the first line must hold the column names, and is blank.")
    names = [name.strip() or f"unnamed_{i}" for i, name in enumerate(header)]
    check_names(names, f"{place}:{first}")
    for line, cells in rows:
        origin = f"{place}:{line}"
        if reading.labelled and len(cells) > 1 and not any(cells):
            reading.say(f"{place}: rows without a filled cell are left out, such as row {line}.")
            continue
        while len(cells) > len(names) and not cells[-1]:
            cells.pop()
        problem = f"{origin} has {len(cells)} cells, the header {len(names)}" if len(cells) != len(names) else ""
        if cells == header and len(cells) > 1:
            problem = f"{origin} repeats the header (files put one after the other)"
        yield {**dict(zip(names, cells, strict=False)), ORIGIN: origin}, problem


def check_names(names: Iterable[str], place: str) -> None:
    """Refuse two columns of one name."""
    seen: set[str] = {ORIGIN}
    for name in names:
        if name in seen:
            raise ValueError(f"{place}: two columns are named '{name}' ('{ORIGIN}' is reserved). Rename one of them.")
        if "\0" in name:
            raise ValueError(f"{place}: the column name {name!r} holds a NUL, which no table can have. Rename it.")
        seen.add(name)


def decoded_lines(stream: IO[bytes], path: Path) -> Iterator[str]:
    """Yield the lines of a file in UTF-8, or in what its first bytes say; an error names the line that is not."""
    first = stream.readline()
    if first.startswith((*ENCODING_MARKS,)):
        yield from _marked_lines(first + stream.read(), path)
        return
    for number, line in enumerate(_split_lines(first, stream), start=1):
        data = line.removeprefix(codecs.BOM_UTF8)  # also in the middle, where files were put one after the other
        try:
            yield data.decode("utf-8")
        except UnicodeDecodeError as error:
            if kind := next((kind for mark, kind in OTHER_FILES.items() if number == 1 and data.startswith(mark)), ""):
                raise ValueError(f"{path}: this is no text but {kind}.") from error
            encoding = _probable_encoding(data)
            raise ValueError(
                f"{path}:{number}: byte {error.start + 1} of the line (0x{data[error.start]:02x}) is not UTF-8; the "
                f"file is probably {encoding}. Convert it: iconv -f {encoding} -t utf-8 {shlex.quote(path.name)} > "
                f"{shlex.quote(f'utf8_{path.name}')}; or save it in Excel as 'CSV UTF-8'."
            ) from error


def _split_lines(first: bytes, stream: IO[bytes]) -> Iterator[bytes]:
    """Yield lines with their ends: those of the first line, a bare carriage return (old Macs) among them."""
    if b"\r" in first.rstrip(b"\r\n"):
        stream = io.BytesIO(first + stream.read())
        first = b""
        yield from stream.read().splitlines(keepends=True)
    yield from itertools.chain([first] if first else [], stream)


def _marked_lines(data: bytes, path: Path) -> Iterator[str]:
    encoding = next(encoding for mark, encoding in ENCODING_MARKS.items() if data.startswith(mark))
    try:
        yield from io.StringIO(data.decode(encoding), newline="")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: the file begins as {encoding}, but byte {error.start + 1} is not.") from error


def _probable_encoding(line: bytes) -> str:
    try:
        line.decode("cp1252")
    except UnicodeDecodeError:
        return "latin1"
    return "cp1252" if any(0x80 <= byte <= 0x9F for byte in line) else "latin1"
