"""Random files of rows, right and damaged, of every format: the rows come back, or file and row are named."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from hf_selfattn.data import prepare_classification, prepare_tagging
from hf_selfattn.data.formats import read_table

SIGNS = ["a", "Zürich", "o", " ", "  ", "\t", ",", ";", '"', '""', "'", "|", "\\", "\n", "\r\n", "\r", "\x00", "\x1f"]
SIGNS += [
    "\x85",
    "\u2028",
    "\u200b",
    "\ufeff",
    "\ufe0f",
    "e\u0301",
    "👩\u200d🚀",
    "中文",
    "שלום",
    "\u202e",
    "-1",
    "0.5",
    "NaN",
]
SIGNS += ["null", "true", "<b>", "{", "}", "[", "]", "=1+1", "#", "O", "B-PER"]
LABELS = [
    ["yes", "no"],
    ["0", "1"],
    ["a", "b", "c"],
    ["True", "False"],
    ["NA", "NaN"],
    ["é", "e\u0301"],
    ["x y", "x,y"],
]
BYTES = [b"", b'"', b"\n", b"\r", b",", b"\t", b"\x00", b"\xff", b"\xc3", b"{", b"}", b"[1]", b"null"]
COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


def our_error(error: Exception, path: Path) -> None:
    """Pass an error of ours that names the file, or a column where it is about all rows; raise any other."""
    ours = "/hf_selfattn/" in traceback.extract_tb(error.__traceback__)[-1].filename
    named = re.search(rf"{re.escape(path.name)}|column|train", str(error))
    if not (isinstance(error, ValueError) and ours and named):
        raise error


def random_text(random: Random, most: int = 12) -> str:
    """Return a text with a word in it, and with whatever breaks formats."""
    return "w" + "".join(random.choice(SIGNS) for _ in range(random.randrange(most)))


def random_rows(random: Random) -> list[dict[str, str]]:
    """Return rows of texts and of at least two labels."""
    labels = random.choice(LABELS)
    rows = [{"text": random_text(random), "label": label} for label in labels]
    return rows + [{"text": random_text(random), "label": random.choice(labels)} for _ in range(random.randrange(8))]


def as_csv(random: Random, rows: list[dict[str, str]]) -> bytes:
    stream = io.StringIO()
    delimiter, end = random.choice(",;\t"), random.choice(["\n", "\r\n", "\r"])
    for row in rows:  # a byte order mark at the beginning of a line is no text: there files were put together
        row["text"] = re.sub("([\r\n])\ufeff+", r"\1", row["text"])
    # Python's writer leaves a carriage return unquoted where lines end otherwise, and no reader can tell it from one.
    bare = any("\r" in row["text"] or "\n" in row["text"] for row in rows)
    quoting = random.choice([csv.QUOTE_ALL] if bare else [csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
    writer = csv.DictWriter(stream, ["text", "label"], delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writeheader()
    writer.writerows(rows)
    text = stream.getvalue() + end * random.randrange(3)
    return (random.choice(["", "\ufeff"]) + text).encode()


def as_tsv(random: Random, rows: list[dict[str, str]]) -> bytes:
    """Write what a file without quotes can hold: the texts lose their tabs and line ends."""
    for row in rows:
        row["text"] = re.sub(r"[\t\r\n]", "", row["text"])
    lines = ["text\tlabel", *(f"{row['text']}\t{row['label']}" for row in rows)]
    end = random.choice(["\n", "\r\n"])
    return (end.join(lines) + end * random.randrange(2)).encode()


def as_jsonl(random: Random, rows: list[dict[str, str]]) -> bytes:
    ascii_only = random.random() < 0.5
    return "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows).encode()


def as_json(random: Random, rows: list[dict[str, str]]) -> bytes:
    return json.dumps(rows, indent=random.choice([None, 1])).encode()


def as_parquet(random: Random, rows: list[dict[str, str]]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream, row_group_size=random.choice([1, 3, 100]))
    return stream.getvalue()


WRITERS = {".csv": as_csv, ".tsv": as_tsv, ".jsonl": as_jsonl, ".json": as_json, ".parquet": as_parquet}


def damaged(random: Random, data: bytes) -> bytes:
    """Change bytes: cut, lose, double, insert or overwrite some, once or a few times."""
    for _ in range(random.choice([1, 1, 1, 2, 5])):
        start = random.randrange(len(data) + 1)
        end = min(len(data), start + random.choice([1, 1, 2, 10]))
        new = random.choice(
            [b"", b'"', b"\n", b"\r", b",", b"\t", b"\x00", b"\xff", b"\xc3", b"{", b"}", b"[1]", b"null"]
        )
        change = random.randrange(4)
        if change == 0:
            data = data[:start]
        elif change == 1:
            data = data[:start] + data[start:end] * 2 + data[end:]
        else:
            data = data[:start] + new + data[end if change == 2 else start :]
    return data


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Return what was read of the columns that were written."""
    return [{name: row[name] for name in ("text", "label")} for row in table.to_pylist()]


def counted(data: bytes, ending: str) -> int | None:
    """Count the rows of a text file naively; None where only a whole reader can."""
    text = data.decode(errors="replace")
    if ending == ".tsv" and "\r" not in text.replace("\r\n", ""):
        return sum(bool(line.rstrip("\r")) for line in text.split("\n")) - 1
    if ending == ".jsonl" and "\r" not in text.replace("\r\n", ""):
        return sum(bool(line.strip()) for line in text.split("\n"))
    return None


def try_table(random: Random, folder: Path) -> str:
    """A file with a text and a label in each row."""
    ending, packing = random.choice([*WRITERS]), random.choice(["", "", "", *COMPRESSED])
    rows = random_rows(random)
    data = WRITERS[ending](random, rows)
    is_damaged = random.random() < 0.6
    inside = is_damaged and random.random() < 0.8
    data = damaged(random, data) if inside else data
    packed = COMPRESSED[packing](data)
    path = folder / f"rows{ending}{packing}"
    path.write_bytes(damaged(random, packed) if is_damaged and not inside else packed)
    try:
        table = read_table(path)
        if not is_damaged:
            assert rows_of(table) == rows, (rows_of(table), rows)
        elif inside and (number := counted(data, ending)) is not None:
            assert table.num_rows == number, f"{number} rows became {table.num_rows}: {data!r}"
        read = prepare_classification({"train": Dataset(table)}, problem="single_label_classification")
    except ValueError as error:
        our_error(error, path)
        assert is_damaged or "label" in str(error), "a right file is read"
        return "refused"
    split = read.splits["train"]
    assert len(split) == table.num_rows and all(text.strip() for text in split["text"])
    if not is_damaged:
        assert [read.label_names[label] for label in split["label"]] == [row["label"] for row in rows]
        assert split["text"][:] == [row["text"] for row in rows]
    return "read"


def try_columns(random: Random, folder: Path) -> str:
    """A column file of words and tags."""
    separator = random.choice(["\t", " ", "  "])
    sentences = [_sentence(random) for _ in range(random.randrange(1, 6))]
    sentences.append([("Ada", "B-PER"), ("Bo", "I-PER"), ("met", "O")])
    end = random.choice(["\n", "\r\n"])
    lines = [[f"{word}{separator}{tag}" for word, tag in sentence] for sentence in sentences]
    data = (end * 2).join(end.join(sentence) for sentence in lines).encode() + random.choice([b"", b"\n", b"\n\n"])
    is_damaged = random.random() < 0.6
    path = folder / random.choice(["rows.conll", "rows.txt", "rows.bio"])
    path.write_bytes(damaged(random, data) if is_damaged else data)
    try:
        table = read_table(path)
        read = prepare_tagging({"train": Dataset(table)})
    except ValueError as error:
        our_error(error, path)
        assert is_damaged, "a right file is read"
        return "refused"
    split = read.splits["train"]
    tags = [[read.label_names[tag] for tag in row] for row in split["tags"]]
    assert all(len(words) == len(row) and words for words, row in zip(split["tokens"], tags, strict=True))
    for row in tags:
        before = ["O", *row[:-1]]
        assert all(tag[0] != "I" or last[1:] == tag[1:] for last, tag in zip(before, row, strict=True))
    if not is_damaged:
        assert [[*zip(*pair, strict=True)] for pair in zip(split["tokens"], tags, strict=True)] == sentences
    return "read"


def _sentence(random: Random) -> list[tuple[str, str]]:
    """Words, none of which is blank to this format, with legal tags."""
    words, before = [], "O"
    for _ in range(random.randrange(1, 6)):
        word = "w" + re.sub(r"\s|[\x00\x1f\x85]", "", random_text(random, 4))
        tags = ["O", "B-PER", "B-LOC"] + ([f"I-{before[2:]}"] if before != "O" else [])
        before = random.choice(tags)
        words.append((word, before))
    return words
