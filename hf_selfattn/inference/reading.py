"""Rows of any source in blocks, in constant memory: the unit in which they are answered and written."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import PartialState
from datasets import Dataset

from ..arguments import PathSpec
from ..data.conll import LINES, conll_rows
from ..data.formats import (
    CONLL_ENDINGS,
    ORIGIN,
    ROW_MENDS,
    ROWS,
    TABLES,
    Reading,
    Row,
    format_of,
    opened,
    read_table,
)
from ..data.load import find_files
from ..data.media.folders import folder_rows
from ..data.media.medium import Medium
from ..data.readers.rows import ReadRow, decoded_lines
from ..files import digest_of

RAW = "__raw__"  # by number, the lines of a sentence of a column file, those before its first word among them
PRIVATE = (ORIGIN, LINES, RAW)
MOST_CHARACTERS = 4_000_000  # of a block
STDIN = Path("stdin")
TEXT_LINES = ".text"


@dataclass
class Block:
    """Some rows, which depend on nothing but the source."""

    number: int
    rows: list[ReadRow]  # with what is wrong with each as it stands in the file, or ""
    table: pa.Table | None = None  # the same rows in their own types, where the source has types


@dataclass
class Source:
    """Files, the standard input or a data set, as rows.

    Args:
        files: to read in their order; `STDIN` is the standard input.
        split: a data set to read instead.
        media: rows of images or sounds, of which each is a file, to read instead.
        input_format: of the files, an ending with its dot; where it is not given, that of each name.
        text_lines: whether a file `.txt` holds a text in each line, and not a word.
        block_rows: rows of a block.
        guess: of the format where nothing says it, for the user.
    """

    files: Sequence[Path] = ()
    split: Dataset | None = None
    media: Sequence[Row] = ()
    input_format: str | None = None
    text_lines: bool = True
    block_rows: int = 2000
    place: str = field(default="dataset")
    guess: str = ""

    def __iter__(self) -> Iterator[Block]:
        number = 0
        for rows, table in self.parts():
            yield Block(number, rows, table)
            number += 1

    def ending(self, path: Path) -> str:
        """Return the ending that tells how a file is read."""
        ending = self.input_format or format_of(path)
        return TEXT_LINES if ending == ".txt" and self.text_lines else ending

    def parts(self) -> Iterator[tuple[list[ReadRow], pa.Table | None]]:
        """Yield the rows of each block, and its table."""
        if self.split is not None:
            yield from _with_places(_slices(self.split.with_format("arrow"), self.block_rows), self.place)
        yield from ((rows, None) for rows in blocks_of_rows(((row, "") for row in self.media), self.block_rows))
        for path in self.files:
            if path == STDIN:
                yield from self._parts_of(sys.stdin.buffer, path)
                continue
            with opened(path) as stream:
                yield from self._parts_of(stream, path)

    def _parts_of(self, stream: IO[bytes], path: Path) -> Iterator[tuple[list[ReadRow], pa.Table | None]]:
        ending = self.ending(path)
        if ending == ".parquet" and path != STDIN:
            with pq.ParquetFile(stream) as file:
                batches = (pa.Table.from_batches([batch]) for batch in file.iter_batches(self.block_rows))
                yield from _with_places(batches, str(path))
        elif ending in TABLES and path != STDIN:
            table = read_table(path).drop_columns([ORIGIN])
            yield from _with_places(_slices(table, self.block_rows), str(path))
        else:
            rows = blocks_of_rows(read_rows(stream, path, ending), self.block_rows)
            yield from ((block, None) for block in rows)

    def digests(self) -> list[str] | None:
        """Return a hash of each file that is read, or nothing where a source cannot be read twice."""
        if STDIN in self.files:
            return None
        cached = [] if self.split is None else self.split.cache_files
        media = (Path(row[ORIGIN]) for row in self.media)
        files = [*self.files, *media, *(Path(file["filename"]) for file in cached)]
        return [digest_of(path) for path in files]


def media_rows(spec: PathSpec, medium: Medium) -> list[Row]:
    """Return a row for each image, or sound, of folders and files, or none where a file is a table."""
    rows: list[Row] = []
    for one in [spec] if isinstance(spec, str) else spec:
        if Path(one).is_dir():
            found, notes = folder_rows(medium, Path(one))
            for note in notes:
                PartialState().print(note, file=sys.stderr)
            rows += [{medium.name: row[medium.name], ORIGIN: row[ORIGIN]} for row in found]
            continue
        files = find_files(one, "input", annotated=False)
        if not all(path.suffix.lower() in medium.endings() for path in files):
            return []
        rows += [{medium.name: str(path), ORIGIN: str(path)} for path in files]
    if not rows:
        raise ValueError(f"input={spec!r}: there is no {medium.name} in it.")
    return rows


def read_rows(stream: IO[bytes], path: Path, ending: str) -> Iterator[ReadRow]:
    """Yield the rows of a file of text that is open."""
    if ending == TEXT_LINES:
        for number, line in enumerate(decoded_lines(stream, path), start=1):
            yield {"text": line.rstrip("\r\n"), ORIGIN: f"{path}:{number}"}, ""
    elif ending in CONLL_ENDINGS:
        yield from ((row, "") for row in _sentences(stream, path))
    elif ending in ROWS:
        for row, problem in ROWS[ending](stream, path, Reading(labelled=False)):
            yield row, f"{problem}. {ROW_MENDS.get(ending, '')}".strip() if problem else ""
    else:
        read = [*ROWS, ".txt", *TABLES]
        raise ValueError(
            f"{path}: '{ending}' is not read here; the endings read are {', '.join(dict.fromkeys(read))}."
        )


def _sentences(stream: IO[bytes], path: Path) -> Iterator[Row]:
    """Yield the sentences of a column file with their lines as they stand there."""
    lines: dict[int, str] = {}

    def remembered() -> Iterator[str]:
        for number, line in enumerate(decoded_lines(stream, path), start=1):
            lines[number] = line
            yield line

    try:
        for row in conll_rows(remembered(), path):
            yield {**row, ORIGIN: f"{path}:{row[LINES][0]}", RAW: {**lines}}
            lines.clear()
    except ValueError as error:
        raise ValueError(f"{error} Where each line is a text, set input_format=text.") from error


def blocks_of_rows(rows: Iterable[ReadRow], most: int) -> Iterator[list[ReadRow]]:
    """Yield rows in blocks of a number of rows, or fewer where they are long."""
    block: list[ReadRow] = []
    characters = 0
    for row, problem in rows:
        block.append((row, problem))
        characters += sum(len(value) for value in row.values() if isinstance(value, str))
        if len(block) == most or characters >= MOST_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _slices(table: Any, rows: int) -> Iterator[pa.Table]:
    for start in range(0, len(table), rows):
        yield table[start : start + rows] if isinstance(table, Dataset) else table.slice(start, rows)


def _with_places(tables: Iterator[pa.Table], place: str) -> Iterator[tuple[list[ReadRow], pa.Table]]:
    first = 0
    for table in tables:
        table.validate(full=True)
        rows = table.to_pylist()
        yield [({**row, ORIGIN: f"{place}[{first + index}]"}, "") for index, row in enumerate(rows)], table
        first += len(rows)


def open_split(dataset: str, config: str | None, revision: str | None, split: str | None) -> Dataset:
    """Open one split of a data set on the hub, or of a folder of `save_to_disk`, mapped into memory."""
    try:
        if Path(dataset).is_dir():
            loaded = datasets.load_from_disk(dataset)
        else:
            loaded = datasets.load_dataset(dataset, config, revision=revision)
    except (FileNotFoundError, ConnectionError, ValueError) as error:
        raise ValueError(
            f"dataset={dataset!r} cannot be opened: {error}. Give a name on the hub or a folder of save_to_disk; "
            "files are given as input=…"
        ) from error
    splits = {"train": loaded} if isinstance(loaded, Dataset) else dict(loaded)
    if split is None and len(splits) == 1:
        split = next(iter(splits))
    if split not in splits:
        raise ValueError(f"dataset={dataset!r} has the splits {', '.join(splits)}. Set split=… to one of them.")
    return splits[split]
