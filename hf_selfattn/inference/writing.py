"""Answered rows in the format that a file's ending names: each block apart, and all together in the end."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..data.conll import LINES
from ..data.formats import COMPRESSIONS, CONLL_ENDINGS, ORIGIN, Row, format_of, table_from_rows
from .reading import PRIVATE, RAW

ENTITY = pa.struct(
    [("type", pa.string()), ("start", pa.int64()), ("end", pa.int64()), ("text", pa.string()), ("score", pa.float64())]
)
OBJECT = pa.struct([("label", pa.string()), ("score", pa.float64()), ("box", pa.list_(pa.float64()))])
WORD = pa.struct([("text", pa.string()), ("start", pa.float64()), ("end", pa.float64()), ("confidence", pa.float64())])
SINKS: dict[str, Callable[[IO[bytes]], Any]] = {
    ".gz": lambda stream: gzip.GzipFile("", "wb", fileobj=stream, mtime=0),
    ".bz2": lambda stream: bz2.BZ2File(stream, "wb"),
    ".xz": lambda stream: lzma.LZMAFile(stream, "wb"),
    ".zst": lambda stream: pa.CompressedOutputStream(stream, "zstd"),
}


class Writer(ABC):
    """Writes rows with their answers.

    Args:
        path: of the output, whose ending may name a compression.
    """

    def __init__(self, path: Path):
        self.path = path

    @abstractmethod
    def block(self, rows: Sequence[Row], answers: Sequence[Row], table: pa.Table | None, target: IO[bytes]) -> None:
        """Write some rows, which have the types of a table where there is one."""

    def head(self) -> bytes:
        """Return what stands before the first row; it is asked for when a block is seen."""
        return b""

    def see(self, rows: Sequence[Row], answered: Sequence[str]) -> None:
        """Look at the rows of a block, whether they are answered here or not, and at the names of the answers."""
        return  # most formats need to know nothing of them

    def join(self, shards: Sequence[Path], target: Path) -> None:
        """Write the blocks of these files as one."""
        compress = SINKS.get(self.path.suffix.lower())
        with target.open("wb") as stream, compress(stream) if compress else stream as sink:
            sink.write(self.head())
            for shard in shards:
                with shard.open("rb") as block:
                    shutil.copyfileobj(block, sink)


class JsonLines(Writer):
    """One JSON object for each row."""

    def block(self, rows: Sequence[Row], answers: Sequence[Row], table: pa.Table | None, target: IO[bytes]) -> None:
        """Write a line for each row."""
        for row, answer in zip(rows, answers, strict=True):
            line = json.dumps({**source_columns(row), **answer}, ensure_ascii=False, default=str)
            target.write(f"{line}\n".encode())


class Cells(Writer):
    """A line of cells for each row, under those of the first block; what is no text or number is JSON.

    Args:
        path: of the output.
        tab: whether a tab ends a cell, and nothing is quoted.
    """

    def __init__(self, path: Path, tab: bool):
        super().__init__(path)
        self.tab = tab
        self.names: list[str] = []

    def see(self, rows: Sequence[Row], answered: Sequence[str]) -> None:
        """Take the columns of the first block; an error names a row that has others."""
        if not self.names and rows:
            self.names = [*dict.fromkeys(name for row in rows for name in source_columns(row)), *answered]
        for row in rows:
            if more := source_columns(row).keys() - {*self.names}:
                raise ValueError(
                    f"{row[ORIGIN]}: the row has {sorted(more)}, which the first rows do not have, and every row of "
                    f"{self.path.name} has the same columns. Write to a file .jsonl or .parquet."
                )

    def head(self) -> bytes:
        """Return the line of the names."""
        return self.line(self.names, self.path.name)

    def block(self, rows: Sequence[Row], answers: Sequence[Row], table: pa.Table | None, target: IO[bytes]) -> None:
        """Write a line for each row."""
        for row, answer in zip(rows, answers, strict=True):
            whole = {**source_columns(row), **answer}
            target.write(self.line([cell(whole.get(name)) for name in self.names], row[ORIGIN]))

    def line(self, cells: Sequence[str], place: str) -> bytes:
        """Return a line of cells."""
        if not self.tab:
            line = io.StringIO()
            csv.writer(line, lineterminator="\n").writerow(cells)
            return line.getvalue().encode()
        if bad := next((cell for cell in cells if {*"\t\r\n"} & {*cell}), None):
            raise ValueError(
                f"{place}: a cell of a file .tsv holds no tab or line end, as in {bad[:50]!r}. Write .csv."
            )
        return ("\t".join(cells) + "\n").encode()


class ColumnFile(Writer):
    """One word per line with its tag at the end, a blank line after each sentence; all other lines as they were."""

    def block(self, rows: Sequence[Row], answers: Sequence[Row], table: pa.Table | None, target: IO[bytes]) -> None:
        """Write the lines of each sentence."""
        for row, answer in zip(rows, answers, strict=True):
            tags = next((value for name, value in answer.items() if name.endswith("tags")), None)
            if tags is None or RAW not in row:
                raise ValueError(
                    f"{row[ORIGIN]}: a column file is written of a column file only, with the tags of its words. "
                    "Write to a file .jsonl."
                )
            target.write("".join(lines_of(row, tags)).encode())


class Parquet(Writer):
    """A row group for each block, in the types of the source where it has any."""

    def block(self, rows: Sequence[Row], answers: Sequence[Row], table: pa.Table | None, target: IO[bytes]) -> None:
        """Write a Parquet file of the block."""
        if table is None:
            table = table_from_rows([source_columns(row) for row in rows])
        for name in answers[0] if answers else ():
            values = [answer[name] for answer in answers]
            table = table.append_column(name, pa.array(values, type_of(name, values[0])))
        pq.write_table(table, target)

    def join(self, shards: Sequence[Path], target: Path) -> None:
        """Write the row groups of these files into one, a column of unequal types in the one that holds all."""
        schemas = [schema for shard in shards if len(schema := pq.read_schema(shard))]
        try:
            schema = pa.unify_schemas(schemas, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(f"{self.path}: a column has no one type: {error}. Write to a file .jsonl.") from error
        with pq.ParquetWriter(target, schema) as writer:
            for shard in shards:
                table = pq.read_table(shard)
                if table.num_rows:
                    none = {name: pa.nulls(table.num_rows) for name in schema.names if name not in table.column_names}
                    for name, values in none.items():
                        table = table.append_column(name, values)
                    writer.write_table(table.select(schema.names).cast(schema))


WRITERS: dict[str, Callable[[Path], Writer]] = {
    ".csv": lambda path: Cells(path, tab=False),
    ".tsv": lambda path: Cells(path, tab=True),
    ".jsonl": JsonLines,
    ".ndjson": JsonLines,
    ".parquet": Parquet,
    **dict.fromkeys(CONLL_ENDINGS, ColumnFile),
}


def open_writer(path: Path, output_format: str | None = None) -> Writer:
    """Return what writes the format of a path, or a format that is given as an ending."""
    ending = output_format or format_of(path)
    if ending not in WRITERS:
        raise ValueError(
            f"output={str(path)!r}: '{ending}' is not written; the endings written are {', '.join(WRITERS)}, all but "
            f".parquet also compressed ({', '.join(COMPRESSIONS)})."
        )
    if ending == ".parquet" and path.suffix.lower() in SINKS:
        raise ValueError(f"output={str(path)!r}: a file .parquet is compressed inside. Leave {path.suffix} out.")
    return WRITERS[ending](path)


def source_columns(row: Row) -> Row:
    """Return the columns that the source has, without what was noted of the row when it was read."""
    private = (*PRIVATE, "document") if RAW in row else PRIVATE
    return {name: without_bytes(value) for name, value in row.items() if name not in private}


def without_bytes(value: Any) -> Any:
    """Return of an image in a data set its path, and any other value as it is."""
    return value["path"] if isinstance(value, dict) and value.keys() == {"bytes", "path"} else value


def cell(value: Any) -> str:
    """Return a value as the text of a cell."""
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (list, dict, bool)) else str(value)


def lines_of(row: Row, tags: Sequence[str]) -> list[str]:
    """Return the lines of a sentence with the tag of each word; what is no word of it stays as it is."""
    words = dict(zip(row[LINES], tags, strict=True))
    lines = {number: line.rstrip("\r\n") for number, line in row[RAW].items()}
    separator = "\t" if any("\t" in lines[number] for number in words) else " "
    tagged = [f"{line}{separator}{words[n]}\n" if n in words else f"{line}\n" for n, line in lines.items()]
    return tagged if tagged[-1].strip() == "" else [*tagged, "\n"]


def type_of(name: str, value: Any) -> pa.DataType:
    """Return the Arrow type of a field of answers, of its name and one value."""
    if isinstance(value, dict):
        return pa.struct([(label, pa.float64()) for label in value])
    if isinstance(value, list):
        kinds = {"entities": ENTITY, "objects": OBJECT, "words": WORD}
        return pa.list_(next((kind for ending, kind in kinds.items() if name.endswith(ending)), pa.string()))
    return pa.string() if isinstance(value, str) else pa.float64()
