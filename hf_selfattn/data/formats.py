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
from zipfile import BadZipFile

import pyarrow as pa
import pyarrow.parquet as pq

from .conll import LINES, conll_rows
from .readers.annotations import read_annotations
from .readers.brat import ANNOTATION, brat_rows, is_brat
from .readers.docbin import docbin_rows
from .readers.excel import excel_rows
from .readers.rows import ORIGIN as ORIGIN
from .readers.rows import Reading as Reading
from .readers.rows import ReadRow as ReadRow
from .readers.rows import Row as Row
from .readers.rows import check_names, named_cells
from .readers.rows import decoded_lines as decoded_lines

BATCH_ROWS = 10_000
DAMAGED = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, OSError, pa.ArrowInvalid, BadZipFile)

CONLL_ENDINGS = (".txt", ".conll", ".conllu", ".conllup", ".iob", ".iob2", ".bio", ".bioes", ".bmes")
CSV_MEND = (
    "Put cells that contain the delimiter (the most frequent of comma, semicolon, tab and bar in the first line) or a "
    "line end between double quotes."
)
TSV_MEND = (
    "In a .tsv file each line is a row and each tab ends a cell. Where cells hold tabs or line ends between double "
    "quotes, name the file .csv."
)
JSON_MEND = 'Each line must be one JSON object such as {"text": "…", "label": "…"}.'
ROW_MENDS = {
    ".csv": CSV_MEND,
    ".tsv": TSV_MEND,
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), JSON_MEND),
    ".xlsx": "Give these cells a column name in the header, or clear them.",
    ANNOTATION: "Spans count the characters of the text file from 0, line ends among them.",
}
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}

QUOTED = re.compile(r'"(?:[^"]|"")*"')
NO_DELIMITER = "\x1f"  # of a file with one column, where a comma is one
SEPARATOR_LINE = re.compile(r"sep=(.)\s*", re.IGNORECASE)  # Excel's own first line

Reader = Callable[[IO[bytes], Path, Reading], Iterator[ReadRow]]


def read_table(path: Path, reading: Reading | None = None) -> pa.Table:
    """Read one file into a table with the extra text column ``__origin__``.

    ``__origin__`` is ``file:line`` for CSV, TSV, JSON lines and CoNLL columns (the first line of the row, as an editor
    counts), ``file:sheet:row`` for Excel and ``file[index]`` (from 0) for JSON arrays, Parquet, Arrow and DocBin.
    CSV and Excel cells stay text, whatever they look like; a JSON column of mixed types keeps its values as JSON. A
    row of a CoNLL column file is a sentence (see `conll.conll_rows`), one of brat a line.

    Args:
        reading: takes what there is to say of the file.
    """
    ending, reading = format_of(path), reading or Reading()
    if ending not in ROWS and ending not in TABLES:
        raise ValueError(
            f"{path}: unknown file ending '{ending}'; the endings read are {', '.join([*ROWS, *TABLES])}, "
            f"each also compressed ({', '.join(COMPRESSIONS)}). Rename or convert the file."
        )
    if path.stat().st_size == 0 and ending != ANNOTATION:  # a text of brat without annotations
        raise ValueError(f"{path}: the file is empty (0 bytes).")
    with opened(path) as stream:
        if ending in TABLES:
            table = TABLES[ending](stream, path)
        else:
            table = _table_of(ROWS[ending](stream, path, reading), path)
    if table.num_rows == 0:
        raise ValueError(
            f"{path}: the file holds no rows{' to learn from' if reading.counts else ''}."
            f"{' '.join(['', *reading.notes()])}"
        )
    return table


def format_of(path: Path) -> str:
    """Return the ending that tells the format: ".csv" of "rows.csv.gz", ".ann" of a text that brat annotated."""
    if is_brat(path):
        return ANNOTATION
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


def _csv_rows(stream: IO[bytes], path: Path, reading: Reading) -> Iterator[ReadRow]:
    lines = decoded_lines(stream, path)
    first, before = next(lines, ""), 0
    if named := SEPARATOR_LINE.fullmatch(first):
        first, before = next(lines, ""), 1
    bare = QUOTED.sub("", first)
    delimiter = named[1] if named else max(DELIMITERS, key=bare.count)  # a tie keeps the first: the usual one
    if not named and delimiter not in bare:
        delimiter = NO_DELIMITER
        reading.say(f"{path} has one column: no comma or other separator stands in its first line.")
    elif delimiter != ",":
        reading.say(f"The cells are separated by {DELIMITERS.get(delimiter, delimiter)}.")
    cells = _csv_cells(itertools.chain([first], lines), delimiter, path, before)
    return named_cells(cells, str(path), reading)


def _tsv_rows(stream: IO[bytes], path: Path, reading: Reading) -> Iterator[ReadRow]:
    return named_cells(_tsv_cells(decoded_lines(stream, path)), str(path), reading)


def _csv_cells(lines: Iterable[str], delimiter: str, path: Path, before: int = 0) -> Iterator[tuple[int, list[str]]]:
    """Yield (first line, cells) of each row, after some lines; blank lines are no rows."""
    limit = csv.field_size_limit(2**31 - 1)  # the default refuses documents above 131,072 characters
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    line = before + 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = before + reader.line_num + 1
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


def _json_line_rows(stream: IO[bytes], path: Path, reading: Reading) -> Iterator[ReadRow]:
    return read_annotations(_json_lines(stream, path), reading)


def _json_lines(stream: IO[bytes], path: Path) -> Iterator[ReadRow]:
    for number, line in enumerate(decoded_lines(stream, path), start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = _without_pair(json.loads(line, parse_int=_whole_number))
            problem = _row_problem(row)
        except json.JSONDecodeError as error:
            problem = f"{error.msg} at character {error.colno}"
        except RecursionError:
            problem = "lists or objects in one another, too deep to read"
        yield ({}, f"{place}: {problem}") if problem else ({**row, ORIGIN: place}, "")


def _json_rows(stream: IO[bytes], path: Path, reading: Reading) -> Iterator[ReadRow]:
    """Read an array of objects, one object around it or that pandas wrote, or JSON lines under the ending .json."""
    data = stream.read()
    try:
        content = json.loads(data.removeprefix(codecs.BOM_UTF8), parse_int=_whole_number)
        rows = _objects(content)
        if rows is None and isinstance(content, dict) and b"\n" in data.strip():
            rows = [content]  # on several lines
    except json.JSONDecodeError as error:
        if data.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
            raise ValueError(f"{path}:{error.lineno}: the JSON does not parse: {error.msg}.") from error
        rows = None
    except (UnicodeDecodeError, RecursionError):
        rows = None  # the reader of lines names the line
    found = _json_lines(io.BytesIO(data), path) if rows is None else _json_array_rows(rows, path)
    return read_annotations(found, reading)


def _objects(content: Any) -> list[Any] | None:
    """Return the rows that a JSON file holds; None for one plain object, which is a line."""
    if isinstance(content, list):
        return content
    values = list(content.values()) if isinstance(content, dict) else []
    lists = [value for value in values if isinstance(value, list) and value and isinstance(value[0], (dict, list))]
    is_row = values and ("text" in content or "tokens" in content or isinstance(content.get("data"), dict))
    if len(lists) == 1 and not is_row:
        return lists[0]
    if values and all(isinstance(value, dict) and value and value.keys() == values[0].keys() for value in values):
        if all(key.isdecimal() for key in values[0]):  # as pandas writes columns
            return [{name: column[key] for name, column in content.items()} for key in values[0]]
    return None


def _whole_number(digits: str) -> int | str:
    """Read a whole number; one that 64 bits do not hold is an identifier, and stays text."""
    return int(digits) if len(digits) < 19 or (len(digits) < 21 and abs(int(digits)) < 2**63) else digits


def _json_array_rows(rows: list[Any], path: Path) -> Iterator[ReadRow]:
    for index, row in enumerate(map(_without_pair, rows)):
        place = f"{path}[{index}]"
        if problem := _row_problem(row):
            raise ValueError(f'{place}: {problem}; the array must hold objects such as {{"text": "…"}}.')
        yield {**row, ORIGIN: place}, ""


def _without_pair(row: Any) -> Any:
    """Return an example of spaCy, a text and an object with its annotations, as one object."""
    is_pair = isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) and isinstance(row[1], dict)
    return {"text": row[0], **row[1]} if is_pair else row


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


def _conll_rows(stream: IO[bytes], path: Path, reading: Reading) -> Iterator[ReadRow]:
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
    table.validate(full=True)  # texts that are no UTF-8, offsets that lead nowhere
    check_names(table.column_names, str(path))
    origins = pa.array([f"{path}[{index}]" for index in range(table.num_rows)], pa.string())
    for i, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):  # pandas categories: plain values for `datasets`
            table = table.set_column(i, field.name, table.column(i).cast(field.type.value_type))
    return table.append_column(ORIGIN, origins)


def _open_zstd(path: Path, _: str) -> IO[bytes]:
    return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))


COMPRESSIONS: dict[str, Callable[[Path, str], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstd,
}
ROWS: dict[str, Reader] = {
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
    ".json": _json_rows,
    ".jsonl": _json_line_rows,
    ".ndjson": _json_line_rows,
    **dict.fromkeys(CONLL_ENDINGS, _conll_rows),
    ".xlsx": excel_rows,
    ANNOTATION: brat_rows,
    ".spacy": docbin_rows,
}
TABLES: dict[str, Callable[[IO[bytes], Path], pa.Table]] = {".parquet": _parquet_table, ".arrow": _arrow_table}
