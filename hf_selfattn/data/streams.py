"""Rows one after the other, in constant memory: for training data that no memory holds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset, Features

from .columns import Columns
from .findings import text_mistake
from .formats import ORIGIN, ROW_MENDS, ROWS, Reading, Row, format_of, opened, table_from_rows
from .labels import LabelError, LabelScheme, LabelTarget, class_name, class_names, encode_label

STREAMED = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
MOST_LABELS = 10_000  # different ones that a first pass keeps
BAD_ROW_MEND = "Mend the row, or set on_bad_row='drop' to leave bad rows out."


@dataclass
class Stream:
    """The training rows of a text classification, read from their source anew in each pass."""

    read: Callable[[], Iterator[Row]]  # begins a pass over the raw rows, each with its place in `__origin__`
    columns: Columns
    scheme: LabelScheme
    on_bad_row: str = "error"  # or "drop"
    rows: int | None = None  # how many there are, where a first pass has counted them
    label_counts: dict[str, int] = field(default_factory=dict)  # of that pass; of a regression none

    def __iter__(self) -> Iterator[Row]:
        """Yield `text`, perhaps `text_pair`, and `labels` of each row; an error names the first bad one."""
        for row in self.read():
            try:
                target = _checked_target(row, self.columns, self.scheme)
            except LabelError as error:
                if self.on_bad_row == "drop":
                    continue
                raise ValueError(f"{row[ORIGIN]}: {error}. {BAD_ROW_MEND}") from error
            texts = zip(("text", "text_pair"), self.columns.texts, strict=False)
            yield {**{name: row[column] for name, column in texts}, "labels": target}

    def as_dict(self) -> dict[str, Any]:
        """Return what `results.json` says of train."""
        return {"rows": self.rows, "fingerprint": None, "labels": self.label_counts, "streamed": True}


def _checked_target(row: Row, columns: Columns, scheme: LabelScheme) -> LabelTarget:
    """Return the target of a row whose texts are right; raise a LabelError for a text or a label that is none."""
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
        if sum(self.counts) < self.rows:
            raise ValueError(
                f"column '{columns.label}' of train holds more than {MOST_LABELS} different labels. Is it the right "
                "column? If it is, give label_names; for numbers set problem='regression'."
            )
        counts: Counter[str] = Counter({name: 0 for name in scheme.names})
        for row, count in zip(self.examples, self.counts, strict=True):
            try:
                target = encode_label(scheme, row.get(columns.label))
            except LabelError:  # left out in training, too: with on_bad_row="error" this row was one
                continue
            counts.update({name: count for name in scheme.names_of(target)})
        return dict(counts)


def survey(rows: Iterator[Row], columns: Columns, on_bad_row: str) -> Survey:
    """Look at every row once, and keep one for each label; an error names the first bad text."""
    examples: dict[str, Row] = {}
    counts: Counter[str] = Counter()
    read = 0
    for row in rows:
        read += 1
        for column in columns.texts if on_bad_row == "error" else []:
            kind, message = text_mistake(row.get(column))
            if kind:
                raise ValueError(f"{row[ORIGIN]}: column '{column}': {message}. {BAD_ROW_MEND}")
        key = json.dumps(row.get(columns.label), default=str)
        if key in examples or len(examples) < MOST_LABELS:
            examples.setdefault(key, {name: row.get(name) for name in (*columns.texts, columns.label, ORIGIN)})
            counts[key] += 1
    return Survey(read, list(examples.values()), [counts[key] for key in examples])


def stream_files(files: Sequence[Path], reading: Reading | None = None) -> Iterator[Row]:
    """Yield the rows of files with ``__origin__``, as `read_table` gives it; an error names the row at fault."""
    reading = reading or Reading()
    for path in files:
        ending = format_of(path)
        if ending not in STREAMED:
            raise ValueError(
                f"{path}: streaming=true reads {', '.join(STREAMED)}, and not '{ending}'. Convert the file, or leave "
                "streaming out."
            )
        if ending == ".parquet":
            yield from _stream_parquet(path)
            continue
        with opened(path) as stream:
            for row, problem in ROWS[ending](stream, path, reading):
                if problem:
                    raise ValueError(f"{problem}. {ROW_MENDS[ending]}")
                yield row


def stream_split(split: Any, place: str) -> Iterator[Row]:
    """Yield the rows of a split that `datasets` streams, the numbers of its label names as these names."""
    return _named_rows(split, split.features or {}, place)


def _stream_parquet(path: Path) -> Iterator[Row]:
    with opened(path) as stream, pq.ParquetFile(stream) as file:
        rows = (row for batch in file.iter_batches(batch_size=1000) for row in batch.to_pylist())
        yield from _named_rows(rows, Features.from_arrow_schema(file.schema_arrow), str(path))


def _named_rows(rows: Iterable[Row], features: Mapping[str, Any], place: str) -> Iterator[Row]:
    known = {column: names for column, feature in features.items() if (names := class_names(feature))}
    for index, row in enumerate(rows):
        named = {column: class_name(row[column], names) for column, names in known.items()}
        yield {**row, **named, ORIGIN: f"{place}[{index}]"}
