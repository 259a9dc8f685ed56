"""Documents of brat: a text and, beside it, a file of the same name in .ann with its spans."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import IO

from .rows import ORIGIN, Reading, ReadRow, decoded_lines

ANNOTATION = ".ann"
SPAN = re.compile(r"(?P<id>T\S*)\t(?P<kind>\S+) (?P<start>\d+) (?P<end>\d+)(\t(?P<text>.*))?")
FRAGMENTS = re.compile(r"T\S*\t\S+ \d+ \d+(;\d+ \d+)+(\t.*)?")
IGNORED = {"R": "relations", "E": "events", "A": "attributes", "M": "attributes", "N": "normalizations", "#": "notes"}
IGNORED["*"] = "equivalences"

Found = tuple[int, int, str, str]  # start, end, type and text of a span


def is_brat(path: Path) -> bool:
    """Tell whether a file is a text or the annotations of brat."""
    ending = path.suffix.lower()
    return ending == ANNOTATION or (ending == ".txt" and path.with_suffix(ANNOTATION).is_file())


def brat_rows(stream: IO[bytes], path: Path, reading: Reading) -> Iterator[ReadRow]:
    """Yield the lines of a document, each with its spans; lines that share a span are one row.

    Discontinuous spans, relations, events, attributes and notes are not read, but counted.
    """
    text_file, annotation_file = path.with_suffix(".txt"), path.with_suffix(ANNOTATION)
    for needed in (text_file, annotation_file):
        if not needed.is_file():
            raise ValueError(
                f"{path}: brat keeps a document in two files, {text_file.name} and {annotation_file.name}; there is "
                f"no {needed.name} in '{needed.parent}'."
            )
    with text_file.open("rb") as text_stream, annotation_file.open("rb") as annotation_stream:
        lines = list(decoded_lines(text_stream, text_file))
        annotations = list(decoded_lines(annotation_stream, annotation_file))
    spans: list[Found] = []
    counts = Counter({"documents": 1, "spans": 0})
    for number, line in enumerate(annotations, start=1):
        found, problem = _read_annotation(line.rstrip("\r\n"), "".join(lines), counts)
        spans += found
        if problem:
            yield {}, f"{annotation_file}:{number}: {problem}"
    reading.count("brat documents (all but undivided spans is left out)", counts)
    for first, text, inside in _rows(lines, sorted(spans)):
        named = [{"start": start, "end": end, "label": kind, "text": shown} for start, end, kind, shown in inside]
        row = {"text": text, "spans": named, "document": str(text_file), ORIGIN: f"{text_file}:{first}"}
        if text.strip():
            yield row, ""


def _read_annotation(line: str, text: str, counts: Counter[str]) -> tuple[list[Found], str]:
    """Read a line of annotations: the span that it holds, if it is one that is read, and what is wrong with it."""
    if not line.strip():
        return [], ""
    if line[0] in IGNORED:
        counts[IGNORED[line[0]]] += 1
        return [], ""
    if FRAGMENTS.fullmatch(line):
        counts["discontinuous spans"] += 1
        return [], ""
    match = SPAN.fullmatch(line)
    if match is None:
        return [], f"'{line[:60]}' is no annotation such as 'T1<tab>PER 0 5<tab>Maria'"
    start, end = int(match["start"]), int(match["end"])
    if not start < end <= len(text):
        return [], f"{match['id']} reaches from {start} to {end}, and the text has {len(text)} characters"
    shown = match["text"]
    if shown and _letters(shown) != _letters(text[start:end]):
        return [], f"{match['id']} is '{shown}', but the text there is '{text[start:end]}'"
    counts["spans"] += 1
    return [(start, end, match["kind"], text[start:end])], ""


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def _rows(lines: list[str], spans: list[Found]) -> Iterator[tuple[int, str, list[Found]]]:
    """Yield (number of the first line, text, spans in it) of each line, or of lines that a span goes across."""
    starts = [0, *accumulate(map(len, lines))]
    cut = {
        number for start, end, *_ in spans for number in range(*(bisect_right(starts, x) for x in (start, end - 1)))
    }
    first = 0
    for last in range(len(lines)):
        if last + 1 in cut:
            continue
        begin, end = starts[first], starts[last + 1]
        inside = [(s - begin, e - begin, kind, shown) for s, e, kind, shown in spans if begin <= s < end]
        yield first + 1, "".join(lines[first : last + 1]).rstrip("\r\n"), inside
        first = last + 1
