"""What annotation tools export as JSON: found out by the keys of the rows, and read as texts, labels and spans."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .label_studio import is_minimal, is_task, joined_minimal, task_reader
from .rows import ORIGIN, Reading, ReadRow, Row

PEEK = 10_000  # rows by which a tool is known
RowReader = Callable[[Row], tuple[Row, str]]  # a row as the recipes read it, and why it is left out or ""

PRODIGY_HASHES = ("_input_hash", "_task_hash")
PRODIGY_OWN = ("tokens", "options", "accept", "answer", "config", "version", "highlighted")
DOCCANO_OWN = ("Comments", "comments", "relations", "entities", "cats", "annotation_approver")
DOCCANO_KEYS = {"id", "doc_id", "text", "data", "label", "labels", "meta", "username", *DOCCANO_OWN}


@dataclass(frozen=True)
class Tool:
    """An annotation tool: what its files are called, how a row is known, and what reads the rows of a file."""

    name: str
    unit: str
    fits: Callable[[Row], bool]
    reader: Callable[[Sequence[Row]], RowReader]  # made of the first rows
    joined: Callable[[Iterator[ReadRow]], Iterator[ReadRow]] = iter  # rows of one text


def read_annotations(rows: Iterator[ReadRow], reading: Reading) -> Iterator[ReadRow]:
    """Yield the rows of a JSON file, those of an annotation tool as texts, labels and spans."""
    first = list(itertools.islice(rows, PEEK))
    tool = next((tool for tool in TOOLS if any(tool.fits(row) for row, _ in first)), None)
    if tool is None:
        yield from itertools.chain(first, rows)
        return
    read = tool.reader([row for row, problem in tool.joined(iter(first)) if not problem])
    converted = (_converted(read, *row) for row in tool.joined(itertools.chain(first, rows)))
    seen = list(itertools.islice(converted, PEEK))
    sizes: dict[str, int] = {}  # of the columns with lists of labels: the most labels in one row
    for name, value in itertools.chain.from_iterable(row.items() for row, *_ in seen):
        if _are_labels(value):
            sizes[name] = max(sizes.get(name, 0), len(value))
    counts = Counter({tool.unit: 0})
    for row, problem, reason in itertools.chain(seen, converted):
        row = {name: _unwrapped(value) if sizes.get(name) == 1 else value for name, value in row.items()}
        if not problem and row.get("label", "") in (None, []) and sizes.get("label", 0) < 2 and not row.get("spans"):
            reason = reason or "without a label"
        counts.update([tool.unit, reason] if reason else [tool.unit])
        if problem or not (reason and reading.labelled):
            yield row, problem
    reading.count(tool.name, counts)


def _are_labels(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _unwrapped(value: Any) -> Any:
    """Return the label of a list of one."""
    return value if not _are_labels(value) or len(value) > 1 else value[0] if value else None


def _converted(read: RowReader, row: Row, problem: str) -> tuple[Row, str, str]:
    """Return a row as it is read, what is wrong with it, and why it is left out."""
    if problem:
        return row, problem, ""
    try:
        converted, reason = read(row)
    except ValueError as error:
        return {}, f"{row[ORIGIN]}: {error}", ""
    return {**converted, ORIGIN: row[ORIGIN]}, "", reason


def is_prodigy(row: Row) -> bool:
    """Tell whether a row is an answered task of Prodigy."""
    answered = row.get("answer") in ("accept", "reject", "ignore")
    return any(name in row for name in PRODIGY_HASHES) or (
        answered and any(name in row for name in ("spans", "accept", "options", "label"))
    )


def prodigy_reader(sample: Sequence[Row]) -> RowReader:
    """Return what reads a task of Prodigy.

    Where all tasks ask for one and the same label, a rejected one is the class "not LABEL"; else it is left out.
    """
    labels = {row.get("label") for row in sample}
    is_binary = len(labels) == 1 and isinstance(next(iter(labels)), str)
    has_spans = any("spans" in row for row in sample)

    def read(row: Row) -> tuple[Row, str]:
        kept = {name: value for name, value in row.items() if not name.startswith("_") and name not in PRODIGY_OWN}
        rejected = row.get("answer") == "reject"
        if "accept" in row or "options" in row:
            kept["label"] = _chosen(row)
        elif is_binary and rejected and not has_spans:
            kept["label"], rejected = f"not {row['label']}", False
        if has_spans:
            kept["spans"] = row.get("spans") or []
        return kept, "ignored" if row.get("answer") == "ignore" else "rejected" if rejected else ""

    return read


def _chosen(row: Row) -> list[Any]:
    """List the accepted options; by their texts where their ids are numbers."""
    texts = {item.get("id"): item.get("text") for item in row.get("options") or [] if isinstance(item, dict)}
    return [name if isinstance(name, str) else texts.get(name, str(name)) for name in row.get("accept") or []]


def is_doccano(row: Row) -> bool:
    """Tell whether a row is a document of Doccano: spans with offsets, or a list of labels beside text and id."""
    entities = row.get("entities")
    if isinstance(entities, list) and any(isinstance(item, dict) and "start_offset" in item for item in entities):
        return True
    named = row.keys() - {ORIGIN} <= DOCCANO_KEYS
    return named and ("Comments" in row or ("id" in row and _is_label_list(row.get("label"))))


def _is_label_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) or _is_triple(item) for item in value)


def _is_triple(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 3 and isinstance(item[2], str)


def doccano_reader(sample: Sequence[Row]) -> RowReader:
    """Return what reads a document of Doccano; its relations and comments are not read."""

    def read(row: Row) -> tuple[Row, str]:
        kept = {name: value for name, value in row.items() if name not in DOCCANO_OWN}
        if isinstance(kept.get("data"), str) and "text" not in kept:
            kept["text"] = kept.pop("data")
        labels = kept.get("label", row.get("labels"))
        if "entities" in row:
            kept["spans"] = row["entities"]
        elif has_spans:
            kept["spans"] = kept.pop("label" if "label" in kept else "labels", None) or []
        elif isinstance(labels, list):
            kept.pop("labels", None)
            kept["label"] = labels
        if isinstance(row.get("cats"), list):
            kept["label"] = row["cats"]
        return kept, ""

    cells = [row.get("label", row.get("labels")) for row in sample]
    has_spans = any(_is_triple(item) for cell in cells if isinstance(cell, list) for item in cell)
    return read


def is_spacy(row: Row) -> bool:
    """Tell whether a row is an example of spaCy with classes."""
    cats = row.get("cats")
    return isinstance(row.get("text"), str) and isinstance(cats, dict) and bool(cats)


def spacy_reader(sample: Sequence[Row]) -> RowReader:
    """Return what reads an example of spaCy: the classes above .5 are its labels."""

    def read(row: Row) -> tuple[Row, str]:
        kept = {name: value for name, value in row.items() if name not in ("cats", "entities")}
        spans = {"spans": row["entities"]} if "entities" in row else {}
        return {**kept, "label": classes_of(row.get("cats") or {}), **spans}, ""

    return read


def classes_of(cats: dict[str, Any]) -> list[str]:
    """List the classes of spaCy that hold."""
    return [name for name, value in cats.items() if isinstance(value, (bool, int, float)) and value > 0.5]


TOOLS = (
    Tool("a Label Studio export", "tasks", is_task, task_reader),
    Tool("a Label Studio export (JSON-MIN)", "tasks", is_minimal, task_reader, joined_minimal),
    Tool("a Prodigy export", "tasks", is_prodigy, prodigy_reader),
    Tool("a Doccano export", "documents", is_doccano, doccano_reader),
    Tool("spaCy examples", "examples", is_spacy, spacy_reader),
)
