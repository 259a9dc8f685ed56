"""The file formats: one file, of any of them, to rows or to an Arrow table whose rows know where they stand."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import itertools
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from .conll import LINES, conll_rows

ORIGIN = "__origin__"
BATCH_ROWS = 10_000
DAMAGED = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, OSError, pa.ArrowInvalid)
ENCODING_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

CONLL_ENDINGS = (".txt", ".conll", ".conllu", ".conllup", ".iob", ".iob2", ".bio", ".bioes", ".bmes")
CSV_MEND = (
    "Put cells that contain the delimiter (the most frequent of comma, semicolon and tab in the first line) or a line "
    "end between double quotes."
)
TSV_MEND = (
    "In a .tsv file each line is a row and each tab ends a cell. Where cells hold tabs or line ends between double "
    "quotes, name the file .csv."
)
JSON_MEND = 'Each line must be one JSON object such as {"text": "…", "label": "…"}.'
ROW_MENDS = {".csv": CSV_MEND, ".tsv": TSV_MEND, **dict.fromkeys((".json", ".jsonl", ".ndjson"), JSON_MEND)}

QUOTED = re.compile(r'"(?:[^"]|"")*"')

Row = dict[str, Any]
ReadRow = tuple[Row, str]  # a row with its place, and what is wrong with it or ""


def read_table(path: Path) -> pa.Table:
    """Read one file into a table with the extra text column ``__origin__``.

    ``__origin__`` is ``file:line`` for CSV, TSV, JSON lines and CoNLL columns (the first line of the row, as an editor
    counts) and ``file[index]`` (from 0) for JSON arrays, Parquet and Arrow.
    CSV cells stay text, whatever they look like; a JSON column of mixed types keeps its values as JSON. A row of a
    CoNLL column file is a sentence (see `conll.conll_rows`).
    """
    ending = format_of(path)
    if ending not in ROWS and ending not in TABLES:
        raise ValueError(
            f"{path}: unknown file ending '{ending}'; the endings read are {', '.join([*ROWS, *TABLES])}, "
            f"each also compressed ({', '.join(COMPRESSIONS)}). Rename or convert the file."
        )
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty (0 bytes).")
    with opened(path) as stream:
        table = TABLES[ending](stream, path) if ending in TABLES else _table_of(ROWS[ending](stream, path), path)
    if table.num_rows == 0:
        raise ValueError(f"{path}: the file holds no rows.")
    return table


def format_of(path: Path) -> str:
    """Return the ending that tells the format: ".csv" of "rows.csv.gz"."""
    return Path(path.stem if path.suffix.lower() in COMPRESSIONS else path.name).suffix.lower()


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, decompressed; an error names a file that turns out to be damaged, here or while it is read."""
    try:
        with COMPRESSIONS.get(path.suffix.lower(), Path.open)(path, "rb") as stream:
            yield stream
    except PermissionError:
        raise
    except DAMAGED as error:
        raise ValueError(f"{path}: the file is damaged or not what its ending says: {error}") from error


def _table_of(rows: Iterator[ReadRow], path: Path) -> pa.Table:
    bad: list[str] = []
    tables = []
    while batch := list(itertools.islice(rows, BATCH_ROWS)):
        bad += [problem for _, problem in batch if problem]
        if not bad:
            tables.append(table_from_rows([row for row, _ in batch]))
    if bad:
        mend = ROW_MENDS[format_of(path)]
        raise ValueError(f"{path}: {len(bad)} row(s) cannot be read: {'; '.join(bad[:3])}. {mend}")
    return _concatenated(tables)


def _csv_rows(stream: IO[bytes], path: Path) -> Iterator[ReadRow]:
    lines = decoded_lines(stream, path)
    first = next(lines, "")
    delimiter = max(",;\t", key=first.count)  # a tie keeps the first: the usual one
    return _rows_of_cells(_csv_cells(itertools.chain([first], lines), delimiter, path), path)


def _tsv_rows(stream: IO[bytes], path: Path) -> Iterator[ReadRow]:
    return _rows_of_cells(_tsv_cells(decoded_lines(stream, path)), path)


def _rows_of_cells(rows: Iterator[tuple[int, list[str]]], path: Path) -> Iterator[ReadRow]:
    """Name the cells of each row as the first row does."""
    _, header = next(rows, (1, [""]))
    if not any(name.strip() for name in header):
        raise ValueError(f"{path}:1: the first line must hold the column names, and is blank.")
    names = [name.strip() or f"unnamed_{i}" for i, name in enumerate(header)]
    _check_names(names, path)
    for line, cells in rows:
        place = f"{path}:{line}"
        ragged = f"{place} has {len(cells)} cells, the header {len(names)}" if len(cells) != len(names) else ""
        yield {**dict(zip(names, cells, strict=False)), ORIGIN: place}, ragged


def _csv_cells(lines: Iterable[str], delimiter: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (first line, cells) of each row; blank lines are no rows."""
    limit = csv.field_size_limit(2**31 - 1)  # the default refuses documents above 131,072 characters
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}:{line}: the row that begins here is not valid CSV ({error}). A double quote inside a cell is "
            'written twice (""), and the cell stands between double quotes. A file with tabs that quotes nothing ends '
            "in .tsv."
        ) from error
    finally:
        csv.field_size_limit(limit)


def _tsv_cells(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of each row of a file without quoting, as GLUE is written; empty lines are no rows.

    Cells that were quoted nevertheless (the header is, or quotes inside are doubled) lose their quotes.
    """
    all_quoted: bool | None = None
    for number, line in enumerate(lines, start=1):
        cells = line.rstrip("\r\n").split("\t")
        if cells == [""]:
            continue
        if all_quoted is None:
            all_quoted = all(map(QUOTED.fullmatch, cells))
        yield number, [_unquoted(cell, all_quoted) for cell in cells]


def _unquoted(cell: str, is_quoted: bool) -> str:
    if QUOTED.fullmatch(cell) and (is_quoted or '""' in cell[1:-1]):
        return cell[1:-1].replace('""', '"')
    return cell


def _check_names(names: Iterable[str], path: Path) -> None:
    seen: set[str] = {ORIGIN}
    for name in names:
        if name in seen:
            raise ValueError(f"{path}:1: two columns are named '{name}' ('{ORIGIN}' is reserved). Rename one of them.")
        if "\0" in name:
            raise ValueError(f"{path}:1: the column name {name!r} holds a NUL, which no table can have. Rename it.")
        seen.add(name)


def _json_line_rows(stream: IO[bytes], path: Path) -> Iterator[ReadRow]:
    for number, line in enumerate(decoded_lines(stream, path), start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line)
            problem = _row_problem(row)
        except json.JSONDecodeError as error:
            problem = f"{error.msg} at character {error.colno}"
        yield ({}, f"{place}: {problem}") if problem else ({**row, ORIGIN: place}, "")


def _json_rows(stream: IO[bytes], path: Path) -> Iterator[ReadRow]:
    """Read a JSON array of objects, or JSON lines under the ending .json."""
    data = stream.read()
    if not data.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        yield from _json_line_rows(io.BytesIO(data), path)
        return
    text = "".join(decoded_lines(io.BytesIO(data), path))
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: the JSON does not parse: {error.msg}.") from error
    for index, row in enumerate(rows):
        place = f"{path}[{index}]"
        if problem := _row_problem(row):
            raise ValueError(f'{place}: {problem}; the array must hold objects such as {{"text": "…"}}.')
        yield {**row, ORIGIN: place}, ""


def _row_problem(row: Any) -> str:
    if not isinstance(row, dict):
        return f"a {type(row).__name__}, not an object"
    if ORIGIN in row:
        return f"the column name '{ORIGIN}' is reserved"
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "half of a surrogate pair (\\ud800-\\udfff), which is no character"
    return ""


def _conll_rows(stream: IO[bytes], path: Path) -> Iterator[ReadRow]:
    for row in conll_rows(decoded_lines(stream, path), path):
        yield {**row, ORIGIN: f"{path}:{row[LINES][0]}"}, ""


def table_from_rows(rows: list[Row]) -> pa.Table:
    """Return a table of rows; a column of mixed types keeps its values as JSON."""
    names = dict.fromkeys(itertools.chain.from_iterable(rows))
    return pa.table({name: _array([row.get(name) for row in rows]) for name in names})


def _array(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):  # mixed types
        return _json_array(values)


def _json_array(values: list[Any]) -> pa.Array:
    texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))


def _concatenated(tables: list[pa.Table]) -> pa.Table:
    """Join tables; a column whose types do not go together becomes JSON."""
    if not tables:
        return pa.table({})
    names = dict.fromkeys(itertools.chain.from_iterable(table.column_names for table in tables))
    for name in names:
        fields = [pa.schema([table.schema.field(name)]) for table in tables if name in table.column_names]
        try:
            pa.unify_schemas(fields, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            tables = [_with_json_column(table, name) for table in tables]
    return pa.concat_tables(tables, promote_options="permissive")


def _with_json_column(table: pa.Table, name: str) -> pa.Table:
    if name not in table.column_names or isinstance(table.schema.field(name).type, pa.JsonType):
        return table
    return table.set_column(table.column_names.index(name), name, _json_array(table.column(name).to_pylist()))


def _parquet_table(stream: IO[bytes], path: Path) -> pa.Table:
    return _with_index(pq.read_table(pa.BufferReader(stream.read())), path)


def _arrow_table(stream: IO[bytes], path: Path) -> pa.Table:
    buffer = pa.py_buffer(stream.read())
    is_file = buffer.slice(0, 6).to_pybytes() == b"ARROW1"
    return _with_index((pa.ipc.open_file(buffer) if is_file else pa.ipc.open_stream(buffer)).read_all(), path)


def _with_index(table: pa.Table, path: Path) -> pa.Table:
    _check_names(table.column_names, path)
    origins = pa.array([f"{path}[{index}]" for index in range(table.num_rows)], pa.string())
    for i, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):  # pandas categories: plain values for `datasets`
            table = table.set_column(i, field.name, table.column(i).cast(field.type.value_type))
    return table.append_column(ORIGIN, origins)


def decoded_lines(stream: IO[bytes], path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file; an error names the line that is none, and the probable encoding."""
    for number, line in enumerate(_split_lines(stream), start=1):
        data = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        try:
            yield data.decode("utf-8")
        except UnicodeDecodeError as error:
            encoding = _probable_encoding(data)
            raise ValueError(
                f"{path}:{number}: byte {error.start + 1} of the line (0x{data[error.start]:02x}) is not UTF-8; the "
                f"file is probably {encoding}. Convert it: iconv -f {encoding} -t utf-8 {path.name} > utf8_{path.name}"
            ) from error


def _split_lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield lines with their ends: those of the first line, a bare carriage return (old Macs) among them."""
    first = stream.readline()
    if b"\r" in first.rstrip(b"\r\n"):
        stream = io.BytesIO(first + stream.read())
        first = b""
        yield from stream.read().splitlines(keepends=True)
    yield from itertools.chain([first] if first else [], stream)


def _probable_encoding(line: bytes) -> str:
    for mark, encoding in ENCODING_MARKS.items():
        if line.startswith(mark):
            return encoding
    try:
        line.decode("cp1252")
    except UnicodeDecodeError:
        return "latin1"
    return "cp1252" if any(0x80 <= byte <= 0x9F for byte in line) else "latin1"


def _open_zstd(path: Path, _: str) -> IO[bytes]:
    return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))


COMPRESSIONS: dict[str, Callable[[Path, str], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstd,
}
ROWS: dict[str, Callable[[IO[bytes], Path], Iterator[ReadRow]]] = {
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
    ".json": _json_rows,
    ".jsonl": _json_line_rows,
    ".ndjson": _json_line_rows,
    **dict.fromkeys(CONLL_ENDINGS, _conll_rows),
}
TABLES: dict[str, Callable[[IO[bytes], Path], pa.Table]] = {".parquet": _parquet_table, ".arrow": _arrow_table}
