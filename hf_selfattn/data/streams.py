"""Rows one after the other, in constant memory: for training data that no memory holds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from .labels import LabelError, LabelScheme, Target, encode_label
from .reading import (
    COMPRESSIONS,
    DAMAGED,
    DELIMITERS,
    ORIGIN,
    decoded_lines,
    open_csv,
    parse_json_row,
    table_from_rows,
)
from .rows import Columns, text_mistake

Row = dict[str, Any]
STREAMED = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
MOST_LABELS = 10_000  # different ones that a first pass keeps


@dataclass
class Stream:
    """The training rows of a text classification, read from their source anew in each pass.

    Args:
        read: begins a pass over the raw rows, each with its place in ``__origin__``.
        columns: of text and label.
        scheme: how labels are read.
        on_bad_row: "error", or "drop" to leave bad rows out.
        rows: how many there are, where a first pass has counted them.
        label_counts: of that pass, by label; of a regression none.
    """

    read: Callable[[], Iterator[Row]]
    columns: Columns
    scheme: LabelScheme
    on_bad_row: str = "error"
    rows: int | None = None
    label_counts: dict[str, int] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Row]:
        """Yield `text`, perhaps `text_pair`, and `labels` of each row.

        Raises:
            ValueError: names file and row of the first bad one.
        """
        names = ("text", "text_pair")[: len(self.columns.texts)]
        for row in self.read():
            try:
                target = checked_target(row, self.columns, self.scheme)
            except LabelError as error:
                if self.on_bad_row == "drop":
                    continue
                raise ValueError(
                    f"{row[ORIGIN]}: {error}. Mend the row, or set on_bad_row='drop' to leave bad rows out."
                ) from error
            texts = zip(names, self.columns.texts, strict=True)
            yield {**{name: row[column] for name, column in texts}, "labels": target}

    def as_dict(self) -> dict[str, Any]:
        """Return what `results.json` says of train."""
        return {"rows": self.rows, "fingerprint": None, "labels": self.label_counts, "streamed": True}


def checked_target(row: Row, columns: Columns, scheme: LabelScheme) -> Target:
    """Return the target of a row whose texts are right, too.

    Raises:
        LabelError: for a text or a label that is none.
    """
    for column in columns.texts:
        kind, message = text_mistake(row.get(column))
        if kind:
            raise LabelError(kind, f"column '{column}': {message}")
    try:
        return encode_label(scheme, row.get(columns.label))
    except LabelError as error:
        raise LabelError(error.kind, f"column '{columns.label}': {error}") from error


@dataclass
class Survey:
    """What a first pass over the rows finds: their number, and the first row of each label with how many have it."""

    rows: int
    examples: list[Row]
    counts: list[int]

    def split(self) -> Dataset:
        """Return the examples as a small data set, from which the labels can be read."""
        return Dataset(table_from_rows(self.examples))

    def label_counts(self, columns: Columns, scheme: LabelScheme) -> dict[str, int]:
        """Return how many rows have each label; of a regression nothing."""
        if scheme.problem == "regression":
            return {}
        counts: Counter[str] = Counter({name: 0 for name in scheme.names})
        for row, count in zip(self.examples, self.counts, strict=True):
            try:
                target = encode_label(scheme, row.get(columns.label))
            except LabelError:  # left out in training, too: with on_bad_row="error" this row was one
                continue
            numbers = [n for n, on in enumerate(target) if on] if isinstance(target, list) else [int(target)]
            counts.update({scheme.names[number]: count for number in numbers})
        return dict(counts)


def survey(rows: Iterator[Row], columns: Columns, on_bad_row: str) -> Survey:
    """Look at every row once, and keep one for each label.

    Raises:
        ValueError: names file and row of the first text that is none, or says that there are too many labels.
    """
    examples: dict[str, Row] = {}
    counts: Counter[str] = Counter()
    read = 0
    for row in rows:
        read += 1
        for column in columns.texts:
            kind, message = text_mistake(row.get(column))
            if kind and on_bad_row == "error":
                raise ValueError(
                    f"{row[ORIGIN]}: column '{column}': {message}. Mend the row, or set on_bad_row='drop'."
                )
        key = json.dumps(row.get(columns.label), default=str)
        if key in examples or len(examples) < MOST_LABELS:
            examples.setdefault(key, {name: row.get(name) for name in (*columns.texts, columns.label, ORIGIN)})
            counts[key] += 1
    return Survey(read, list(examples.values()), [counts[key] for key in examples])


def stream_files(files: Sequence[Path]) -> Iterator[Row]:
    """Yield the rows of files with ``__origin__``, as `read_table` gives it.

    Raises:
        ValueError: unknown ending, or a row that does not parse (with file and line).
    """
    for path in files:
        compression = path.suffix.lower() if path.suffix.lower() in COMPRESSIONS else ""
        ending = Path(path.stem).suffix.lower() if compression else path.suffix.lower()
        if ending not in STREAMED:
            raise ValueError(
                f"{path}: streaming=true reads {', '.join(STREAMED)}, and not '{ending}'. Convert the file, or leave "
                "streaming out."
            )
        try:
            if ending == ".parquet":
                yield from _stream_parquet(path)
                continue
            with COMPRESSIONS[compression](path) if compression else path.open("rb") as stream:
                yield from (_stream_json if ending in (".jsonl", ".ndjson") else _stream_csv)(stream, path)
        except (*DAMAGED, pa.ArrowInvalid) as error:
            if isinstance(error, PermissionError):
                raise
            raise ValueError(f"{path}: the file is damaged or not what its ending says: {error}") from error


def _stream_csv(stream: Any, path: Path) -> Iterator[Row]:
    names, delimiter, reader = open_csv(stream, path, "\t" if ".tsv" in path.suffixes else DELIMITERS)
    for line, cells in reader:
        if len(cells) != len(names):
            raise ValueError(
                f"{path}:{line} has {len(cells)} cells, the header {len(names)}: {names}. Put cells that contain "
                f"{delimiter!r} or a line end between double quotes."
            )
        yield {**dict(zip(names, cells, strict=True)), ORIGIN: f"{path}:{line}"}


def _stream_json(stream: Any, path: Path) -> Iterator[Row]:
    for number, line in enumerate(decoded_lines(stream, path), start=1):
        if line.strip():
            row, problem = parse_json_row(line)
            if problem:
                raise ValueError(f"{path}:{number}: {problem}. Each line must be one JSON object.")
            yield {**row, ORIGIN: f"{path}:{number}"}


def _stream_parquet(path: Path) -> Iterator[Row]:
    index = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1000):
            for row in batch.to_pylist():
                yield {**row, ORIGIN: f"{path}[{index}]"}
                index += 1


def stream_split(split: Any, place: str) -> Iterator[Row]:
    """Yield the rows of a split that `datasets` streams, the numbers of its label names as these names."""
    names: Mapping[str, Any] = {
        column: feature.names for column, feature in (split.features or {}).items() if hasattr(feature, "names")
    }
    for index, row in enumerate(split):
        for column, known in names.items():
            value = row[column]
            row[column] = known[value] if isinstance(value, int) and 0 <= value < len(known) else None
        yield {**row, ORIGIN: f"{place}[{index}]"}
