"""Sentences of a CoNLL column file: one word per line, its columns side by side, a blank line after each sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

LINES = "__lines__"  # the column with the line number of each word
DOCSTART = "-DOCSTART-"
NO_ID = ("O", "-X-", "_", "-", DOCSTART)  # what fills the other columns of a -DOCSTART- line
COMMENT = re.compile(  # strict, for "#text" may be a word
    r"# ?(newdoc|newpar)( id ?=|\s*$)|# ?(sent_id|text|global\.columns) ?=|# id \S|# ?(begin|end) document"
)
BEGIN_DOCUMENT = re.compile(r"#\s?begin document\s*\((?P<id>.*)\);?\s*(?P<part>.*)")
NEW_DOCUMENT = re.compile(r"#\s?newdoc(\s+id\s*=\s*(?P<id>.*))?")
GLOBAL_COLUMNS = re.compile(r"#\s?global\.columns\s*=\s*(?P<names>.*)")


def conll_rows(lines: Iterable[str], path: Path) -> Iterator[dict[str, Any]]:
    """Yield the sentences of a column file.

    A file with a tab in its first word's line is split at tabs, any other at spaces. Documents begin at
    ``-DOCSTART-`` (an id may follow), ``# newdoc id = …`` (CoNLL-U) or ``#begin document (…)`` (CoNLL-2012).

    Yields:
        Per sentence: the columns (lists of n strings) under their numbers "0", "1", … or the names of
        ``# global.columns``; ``__lines__`` (n line numbers); ``document``, "file#id" or "file:line", None in a file
        without document borders.
    """
    separator: re.Pattern[str] | None = None
    names: list[str] = []
    words: list[list[str]] = []
    numbers: list[int] = []
    ragged: list[str] = []
    document: str | None = None
    first = 0
    for number, line in enumerate(lines, start=1):
        line = line.rstrip("\r\n")
        if not line.strip(" \t") or COMMENT.match(line) or re.match(rf"{DOCSTART}(\s|$)", line):
            if words and not ragged:
                yield _row(names, words, numbers, document)
            words, numbers = [], []
            document = _document(line, document, path, number)
            if named := GLOBAL_COLUMNS.match(line):
                names = named["names"].split() or names
            continue
        if separator is None:
            separator = re.compile("\t" if "\t" in line.strip() else "[ \t]+")
        cells = separator.split(line if separator.pattern == "\t" else line.strip(" \t"))
        if not first:
            first = number
            names = names if len(names) == len(cells) else [str(i) for i in range(len(cells))]
        if len(cells) != len(names):
            ragged.append(f"{path}:{number} has {len(cells)}")
        words.append(cells)
        numbers.append(number)
    if ragged:
        raise ValueError(
            f"{path}: {len(ragged)} line(s) do not have the {len(names)} columns of line {first}: "
            f"{'; '.join(ragged[:3])}. A column file has one word per line, with the same number of columns in each, "
            "and a blank line after each sentence."
        )
    if words:
        yield _row(names, words, numbers, document)


def _row(names: list[str], words: list[list[str]], numbers: list[int], document: str | None) -> dict[str, Any]:
    columns = zip(*words, strict=True)
    return {**dict(zip(names, map(list, columns), strict=True)), LINES: numbers, "document": document}


def _document(line: str, current: str | None, path: Path, number: int) -> str | None:
    """Give the document that holds the lines after this one."""
    if line.startswith(DOCSTART):
        rest = line[len(DOCSTART) :].strip()
        bracketed = re.search(r"\((.+)\)", rest)
        given = bracketed[1] if bracketed else rest if len(rest.split()) == 1 and rest not in NO_ID else ""
        return _document_id(given, path, number)
    if match := BEGIN_DOCUMENT.match(line):
        return _document_id(f"{match['id']} {match['part']}".strip(), path, number)
    if match := NEW_DOCUMENT.match(line):
        return _document_id((match["id"] or "").strip(), path, number)
    return current


def _document_id(given: str, path: Path, number: int) -> str:
    return f"{path}#{given}" if given else f"{path}:{number}"
