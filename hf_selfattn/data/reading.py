"""Read one data file, of any supported format, into an Arrow table whose rows know where they stand."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import itertools
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from .conll import LINES, conll_rows

ORIGIN = "__origin__"
BATCH_ROWS = 10_000
DELIMITERS = ",;\t"
DAMAGED = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, OSError)
ENCODING_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_table(path: Path) -> pa.Table:
    """Read one file into a table with the extra text column ``__origin__``.

    ``__origin__`` is ``file:line`` for CSV, TSV, JSON lines and CoNLL columns (the first line of the row, as an editor
    counts) and ``file[index]`` (from 0) for JSON arrays, Parquet and Arrow.
    CSV cells stay text, whatever they look like; a JSON column of mixed types keeps its values as JSON. A row of a
    CoNLL column file is a sentence (see `conll.conll_rows`).

    Args:
        path: a file ending in one of `FORMATS`, perhaps followed by one of `COMPRESSIONS`.

    Raises:
        ValueError: unknown ending, empty file, not UTF-8, or rows that do not parse (each with file and line).
    """
    compression = path.suffix.lower() if path.suffix.lower() in COMPRESSIONS else ""
    ending = Path(path.stem).suffix.lower() if compression else path.suffix.lower()
    if ending not in FORMATS:
        raise ValueError(
            f"{path}: unknown file ending '{ending}'; the endings read are {', '.join(FORMATS)}, "
            f"each also compressed ({', '.join(COMPRESSIONS)}). Rename or convert the file."
        )
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty (0 bytes).")
    try:
        with COMPRESSIONS[compression](path) if compression else path.open("rb") as stream:
            table = FORMATS[ending](stream, path)
    except DAMAGED as error:
        if isinstance(error, PermissionError):
            raise
        raise ValueError(f"{path}: the file is damaged or not what its ending says: {error}") from error
    if table.num_rows == 0:
        raise ValueError(f"{path}: the file holds no rows.")
    return table


def _read_csv(stream: IO[bytes], path: Path, delimiters: str = DELIMITERS) -> pa.Table:
    names, delimiter, reader = open_csv(stream, path, delimiters)
    ragged: list[str] = []
    batches = []
    for batch in _batched(reader):
        for line, cells in batch:
            if len(cells) != len(names):
                ragged.append(f"{path}:{line} has {len(cells)}")
        if not ragged:
            columns = {name: [cells[i] for _, cells in batch] for i, name in enumerate(names)}
            columns[ORIGIN] = [f"{path}:{line}" for line, _ in batch]
            batches.append(pa.table({name: pa.array(cells, pa.string()) for name, cells in columns.items()}))
    if ragged:
        raise ValueError(
            f"{path}: {len(ragged)} row(s) do not have the {len(names)} cells of the header {names}: "
            f"{'; '.join(ragged[:3])}. Put cells that contain {delimiter!r} or a line end between double quotes."
        )
    return _concatenated(batches)


def open_csv(
    stream: IO[bytes], path: Path, delimiters: str = DELIMITERS
) -> tuple[list[str], str, Iterator[tuple[int, list[str]]]]:
    """Return the column names, the delimiter, and (first line, cells) of each row as it is read."""
    lines = decoded_lines(stream, path)
    first = next(lines, "")
    delimiter = max(delimiters, key=first.count)  # a tie keeps the first: the usual one
    reader = csv_rows(itertools.chain([first], lines), delimiter, path)
    _, header = next(reader, (1, [""]))
    return _column_names(header, path), delimiter, reader


def _read_tsv(stream: IO[bytes], path: Path) -> pa.Table:
    return _read_csv(stream, path, delimiters="\t")


def csv_rows(lines: Iterable[str], delimiter: str, path: Path) -> Iterator[tuple[int, list[str]]]:
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
            'written twice (""), and the cell stands between double quotes.'
        ) from error
    finally:
        csv.field_size_limit(limit)


def _column_names(header: list[str], path: Path) -> list[str]:
    names = [name.strip() or f"unnamed_{i}" for i, name in enumerate(header)]
    if not any(name.strip() for name in header):
        raise ValueError(f"{path}:1: the first line must hold the column names, and is blank.")
    _check_names(names, path)
    return names


def _check_names(names: Iterable[str], path: Path) -> None:
    seen: set[str] = {ORIGIN}
    for name in names:
        if name in seen:
            raise ValueError(f"{path}:1: two columns are named '{name}' ('{ORIGIN}' is reserved). Rename one of them.")
        seen.add(name)


def _read_json_lines(stream: IO[bytes], path: Path) -> pa.Table:
    bad: list[str] = []
    batches = []
    for batch in _batched(enumerate(decoded_lines(stream, path), start=1)):
        rows = []
        for number, line in batch:
            if not line.strip():
                continue
            row, problem = parse_json_row(line)
            if problem:
                bad.append(f"{path}:{number}: {problem}")
            else:
                rows.append({**row, ORIGIN: f"{path}:{number}"})
        if rows and not bad:
            batches.append(table_from_rows(rows))
    if bad:
        raise ValueError(
            f"{path}: {len(bad)} line(s) are not JSON objects; {'; '.join(bad[:3])}. "
            'Each line must be one object such as {"text": "…", "label": "…"}.'
        )
    return _concatenated(batches)


def _read_json(stream: IO[bytes], path: Path) -> pa.Table:
    """Read a JSON array of objects, or JSON lines under the ending .json."""
    data = stream.read()
    if not data.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        return _read_json_lines(io.BytesIO(data), path)
    text = "".join(decoded_lines(io.BytesIO(data), path))
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: the JSON does not parse: {error.msg}.") from error
    for index, row in enumerate(rows):
        problem = _row_problem(row)
        if problem:
            raise ValueError(f'{path}[{index}]: {problem}; the array must hold objects such as {{"text": "…"}}.')
    tables = [
        table_from_rows([{**row, ORIGIN: f"{path}[{index}]"} for index, row in batch])
        for batch in _batched(enumerate(rows))
    ]
    return _concatenated(tables)


def _read_conll(stream: IO[bytes], path: Path) -> pa.Table:
    batches = _batched(conll_rows(decoded_lines(stream, path), path))
    return _concatenated(
        [table_from_rows([{**row, ORIGIN: f"{path}:{row[LINES][0]}"} for row in batch]) for batch in batches]
    )


def parse_json_row(line: str) -> tuple[dict[str, Any], str]:
    """Return the row of a line of JSON, and what is wrong with it or ""."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return {}, f"{error.msg} at character {error.colno}"
    return row, _row_problem(row)


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


def table_from_rows(rows: list[dict[str, Any]]) -> pa.Table:
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
    """Join tables row-wise; a column whose types do not go together becomes JSON."""
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


def _read_parquet(stream: IO[bytes], path: Path) -> pa.Table:
    try:
        return _with_index(pq.read_table(pa.BufferReader(stream.read())), path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: the file is not readable Parquet: {error}") from error


def _read_arrow(stream: IO[bytes], path: Path) -> pa.Table:
    buffer = pa.py_buffer(stream.read())
    try:
        is_file = buffer.slice(0, 6).to_pybytes() == b"ARROW1"
        reader = pa.ipc.open_file(buffer) if is_file else pa.ipc.open_stream(buffer)
        return _with_index(reader.read_all(), path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: the file is not readable Arrow: {error}") from error


def _with_index(table: pa.Table, path: Path) -> pa.Table:
    _check_names(table.column_names, path)
    origins = pa.array([f"{path}[{index}]" for index in range(table.num_rows)], pa.string())
    for i, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):  # pandas categories: plain values for `datasets`
            table = table.set_column(i, field.name, table.column(i).cast(field.type.value_type))
    return table.append_column(ORIGIN, origins)


def decoded_lines(stream: IO[bytes], path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file.

    Args:
        stream: its bytes.

    Raises:
        ValueError: names the line that is not UTF-8, and the probable encoding.
    """
    for number, line in enumerate(stream, start=1):
        data = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        try:
            yield data.decode("utf-8")
        except UnicodeDecodeError as error:
            encoding = _probable_encoding(data)
            raise ValueError(
                f"{path}:{number}: byte {error.start + 1} of the line (0x{data[error.start]:02x}) is not UTF-8; the "
                f"file is probably {encoding}. Convert it: iconv -f {encoding} -t utf-8 {path.name} > utf8_{path.name}"
            ) from error


def _probable_encoding(line: bytes) -> str:
    for mark, encoding in ENCODING_MARKS.items():
        if line.startswith(mark):
            return encoding
    try:
        line.decode("cp1252")
    except UnicodeDecodeError:
        return "latin1"
    return "cp1252" if any(0x80 <= byte <= 0x9F for byte in line) else "latin1"


def _batched(rows: Iterable[Any]) -> Iterator[list[Any]]:
    rows = iter(rows)
    while batch := list(itertools.islice(rows, BATCH_ROWS)):
        yield batch


def _open_zstd(path: Path) -> IO[bytes]:
    return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))


COMPRESSIONS: dict[str, Callable[[Path], IO[bytes]]] = {
    ".gz": gzip.open,  # type: ignore[dict-item]
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstd,
}
FORMATS: dict[str, Callable[[IO[bytes], Path], pa.Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    **dict.fromkeys(
        (".txt", ".conll", ".conllu", ".conllup", ".iob", ".iob2", ".bio", ".bioes", ".bmes"), _read_conll
    ),
}
