"""Look at every tag once: the one inspection that preparing and checking share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from .labels import LabelError, natural_key
from .rows import BadRow
from .schemes import OUTSIDE, TagScheme, check_scheme, detect_scheme, iob2_names, split_tag, to_iob2
from .sentences import Sentence, TaggingColumns, declared_tags, find_tagging_columns, read_sentences


@dataclass
class ReadTags:
    """Raw splits after the one reading that preparing and checking share.

    Args:
        columns: per split, the columns read.
        scheme: of the tags in the data.
        entity_types: in natural order.
        sentences: per split, the right ones, with tags in IOB2.
        bad: per split, the mistakes.
        repaired: per split, what was mended.
    """

    columns: dict[str, TaggingColumns]
    scheme: TagScheme
    entity_types: list[str]
    sentences: dict[str, list[Sentence]]
    bad: dict[str, list[BadRow]]
    repaired: dict[str, list[BadRow]]

    def notes(self) -> list[str]:
        """Say which columns, scheme, types and documents were found."""
        shown = dict.fromkeys(columns_note(columns) for columns in self.columns.values())
        types = f"Entity types ({len(self.entity_types)}): {', '.join(self.entity_types)}."
        scheme = f"Tagging scheme: {self.scheme.name} ({self.scheme.reason}), read as IOB2."
        single = [name for name, rows in self.sentences.items() if all(row.document is None for row in rows)]
        documents = [f"No document borders in {', '.join(single)}: each row is its own document."] if single else []
        return [*shown, scheme, types, *documents]


def read_tagging(
    splits: Mapping[str, Dataset],
    *,
    scheme: str | None = None,
    tag_names: Sequence[str] | None = None,
    entity_types: Sequence[str] | None = None,
    **columns: Any,
) -> ReadTags:
    """Read all rows, detect the scheme (on train, where there is one), write the tags in IOB2 and collect mistakes.

    Raises:
        ValueError: no splits, a missing column or an unknown scheme.
    """
    if not splits:
        raise ValueError("no splits: give at least one of train, validation, test.")
    if scheme is not None:
        check_scheme(scheme)
    found = {name: find_tagging_columns(split, **columns) for name, split in splits.items()}
    read = {name: read_sentences(split, found[name], tag_names) for name, split in splits.items()}
    sources = ["train"] if "train" in splits else list(splits)
    tagged = [row.tags for name in sources for row in read[name][0] if found[name].tags]
    if scheme is not None:
        chosen = TagScheme(scheme, "as set")
    else:
        chosen = detect_scheme(tagged) if tagged else TagScheme("IOB2", "made from character spans")
        if chosen.name == "IO" and not any(tag != OUTSIDE for tags in tagged for tag in tags):
            chosen = detect_scheme([declared_tags(splits[sources[0]], found[sources[0]])])
    result = ReadTags(found, chosen, [], {}, {name: bad for name, (_, bad) in read.items()}, {})
    for name, (rows, _) in read.items():
        own = chosen.name if found[name].tags else "IOB2"  # spans became IOB2 when they were read
        result.sentences[name], result.repaired[name] = _normalise(rows, own, result.bad[name])
    declared = _types(tag_names or declared_tags(splits[sources[0]], found[sources[0]]), chosen.name)
    present = {tag[2:] for name in sources for row in result.sentences[name] for tag in row.tags if tag != OUTSIDE}
    result.entity_types = sorted(set(entity_types or declared or present), key=natural_key)
    for name, rows in result.sentences.items():
        result.sentences[name] = _known_types(rows, result.entity_types, result.bad[name])
    return result


def columns_note(columns: TaggingColumns) -> str:
    """Say which columns are read."""
    pair = (
        f"tokens '{columns.tokens}', tags '{columns.tags}'"
        if columns.tokens
        else f"text '{columns.text}', spans '{columns.spans}'"
    )
    return f"Columns: {pair}" + (f", document '{columns.document}'." if columns.document else ".")


def _normalise(rows: list[Sentence], scheme: str, bad: list[BadRow]) -> tuple[list[Sentence], list[BadRow]]:
    """Write the tags in IOB2; return the good rows and what was repaired in them."""
    good, repaired = [], []
    for row in rows:
        try:
            row.tags, broken = to_iob2(row.tags, scheme)
        except LabelError as error:
            word = next(i for i, tag in enumerate(row.tags) if not _is_tag(tag, scheme))
            bad.append(BadRow(row.index, row.place_of(word), error.kind, str(error)))
            continue
        good.append(row)
        repaired += [BadRow(row.index, row.place_of(word), "broken_tag", message) for word, message in broken]
        repaired += [
            BadRow(row.index, f"{row.place} ({cut})", "span_cuts_word", "a span cuts a word") for _, cut in row.cut
        ]
    return good, repaired


def _is_tag(tag: str, scheme: str) -> bool:
    try:
        split_tag(tag, scheme)
    except LabelError:
        return False
    return True


def _known_types(rows: list[Sentence], types: list[str], bad: list[BadRow]) -> list[Sentence]:
    good, known = [], set(iob2_names(types))
    for row in rows:
        unknown = next((word for word, tag in enumerate(row.tags) if tag not in known), None)
        if unknown is None:
            good.append(row)
            continue
        message = f"the entity type '{row.tags[unknown][2:]}' is none of {types}"
        bad.append(BadRow(row.index, row.place_of(unknown), "tag_unknown", message))
    return good


def _types(names: Sequence[str], scheme: str) -> list[str]:
    """List the types of declared tag names; none where a name does not fit the scheme."""
    if not all(_is_tag(name, scheme) for name in names):
        return []
    return [kind for _, kind in (split_tag(name, scheme) for name in names) if kind]
