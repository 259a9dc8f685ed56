"""Words of a text with their places, and character spans as tags on these words."""

from __future__ import annotations

import json
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from .labels import LabelError
from .schemes import OUTSIDE

# Scripts without spaces between words (each character is a word): Thai, Lao, Myanmar, Khmer, kana, Han, half-width.
SPACELESS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff]"
)
JOINERS = "\u200c\u200d"

SPAN_KEYS = (  # what tools call start, end and type
    ("start", "start_offset", "begin", "start_char"),
    ("end", "end_offset", "end_char"),
    ("label", "labels", "type", "entity_group", "entity", "tag"),
)

Span = tuple[int, int, str]


def split_words(text: str) -> list[tuple[int, int]]:
    """Cut a text into words: runs of letters and digits; each other visible character alone.

    In scripts without spaces (Chinese, Japanese, Thai, …) each character is a word. Accents and joiners stay with the
    character before them.

    Returns:
        (start, end) of each word in characters, in order.
    """
    words: list[tuple[int, int]] = []
    previous = "space"
    for index, character in enumerate(text):
        kind = _kind(character)
        if kind == "space" or (kind == "mark" and previous == "space"):
            previous = "space"
            continue
        if kind == "mark" or (kind == previous == "letter"):
            words[-1] = (words[-1][0], index + 1)
        else:
            words.append((index, index + 1))
            previous = kind
    return words


def read_spans(value: Any, text: str) -> list[Span]:
    """Read the spans of a text, in the order of the data; a LabelError for one that is none or lies outside."""
    if isinstance(value, str) and value.lstrip().startswith("["):  # a list in a cell of CSV
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise LabelError(
                "span_form", "the spans are a text that is no JSON", f"{error.msg}: {value[:60]}"
            ) from error
    if not isinstance(value, list):
        raise LabelError("span_form", f"the spans are no list but {type(value).__name__}")
    return list(dict.fromkeys(_read_span(span, text) for span in value))


def choose_spans(spans: Sequence[Span], on_overlap: str) -> tuple[list[Span], list[tuple[Span, Span]]]:
    """Leave out spans that overlap a better one: a longer one, or ("first") one that begins before it.

    Args:
        on_overlap: "longest", "first", or "error", which keeps all.

    Returns:
        The spans by their places, and each that overlaps another with that one.
    """
    by_place = sorted(spans, key=lambda span: span[0])
    if on_overlap == "longest":
        by_place.sort(key=lambda span: span[0] - span[1])
    kept: list[Span] = []
    overlapping = []
    for span in by_place:
        other = next((one for one in kept if one[0] < span[1] and span[0] < one[1]), None)
        if other is not None:
            overlapping.append((other, span))
        if other is None or on_overlap == "error":
            kept.append(span)
    return sorted(kept, key=lambda span: span[0]), overlapping


def tag_words(
    text: str, words: Sequence[tuple[int, int]], spans: Sequence[Span], on_overlap: str = "error"
) -> tuple[list[str], list[str], list[str]]:
    """Turn character spans into IOB2 tags on words; spaces at a span's border do not count.

    Args:
        words: n (start, end) of its words.
        on_overlap: what becomes of spans that share a word: see `choose_spans`; "error" raises a LabelError.

    Returns:
        n tags; the spans that cut a word, which are widened to it; and those left out because they overlap.
    """
    starts, ends = [start for start, _ in words], [end for _, end in words]
    tags = [OUTSIDE] * len(words)
    whole = [(bisect_right(ends, start), bisect_left(starts, end), kind) for start, end, kind in spans]  # in words
    shown = {wide: f"[{s}, {e}, '{kind}'] ('{text[s:e]}')" for wide, (s, e, kind) in zip(whole, spans, strict=True)}
    if empty := [wide for wide in whole if wide[0] >= wide[1]]:
        raise LabelError("span_empty", "a span holds no word", shown[empty[0]])
    chosen, overlapping = choose_spans(list(shown), on_overlap)
    left_out = [f"{shown[other]} and {shown[span]}" for other, span in overlapping]
    if left_out and on_overlap == "error":
        raise LabelError("span_overlap", "two spans overlap, or share a word", left_out[0])
    cut = [
        f"{shown[first, last, kind]} in '{text[starts[first] : ends[last - 1]]}'"
        for (first, last, kind), (start, end, _) in zip(whole, spans, strict=True)
        if (first, last, kind) in chosen and (starts[first] < start or ends[last - 1] > end)
    ]
    for first, last, kind in chosen:
        tags[first:last] = [f"B-{kind}"] + [f"I-{kind}"] * (last - first - 1)
    return tags, cut, left_out


def _read_span(span: Any, text: str) -> Span:
    start: Any
    end: Any
    kind: Any
    if isinstance(span, Mapping):
        start, end, kind = (next((span[name] for name in names if name in span), None) for names in SPAN_KEYS)
        kind = kind[0] if isinstance(kind, list) and len(kind) == 1 else kind
    elif isinstance(span, (list, tuple)) and len(span) == 3:
        start, end, kind = span
    else:
        start = end = kind = None
    numbers = all(isinstance(number, int) and not isinstance(number, bool) for number in (start, end))
    if not numbers or not isinstance(kind, str) or not kind.strip():
        raise LabelError("span_form", 'a span must be {"start": 0, "end": 5, "label": "PER"}', f"but is {span}")
    said = span.get("text") if isinstance(span, Mapping) else None
    if isinstance(said, str) and not _same(said, text[start:end]):
        first, last = _of_utf16(text, start, end)  # as JavaScript counts
        if _same(said, text[first:last]):
            start, end = first, last
        elif 0 <= start < end <= len(text):
            message = f"{[start, end, kind]} is said to be '{said}', but is '{text[start:end]}'"
            raise LabelError("span_text", "a span's text is another than the one at its place", message)
    if not 0 <= start < end <= len(text):
        raise LabelError(
            "span_outside", "a span does not lie in the text", f"{[start, end, kind]} in {len(text)} characters"
        )
    return start, end, kind.strip()


def _same(one: str, other: str) -> bool:
    """Compare letters and digits: tools write line ends and spaces in their own ways, such as a backslash and "n"."""
    first, second = ("".join(filter(str.isalnum, text.replace("\\n", ""))) for text in (one, other))
    return first == second


def _of_utf16(text: str, start: int, end: int) -> tuple[int, int]:
    """Turn places in UTF-16 units, of which an emoji has two, into places in characters."""
    units = text.encode("utf-16-le")
    first, last = (len(units[: 2 * max(place, 0)].decode("utf-16-le", "ignore")) for place in (start, end))
    return first, last


@lru_cache(maxsize=4096)
def _kind(character: str) -> str:
    """Tell what a character is: "space", "mark", "letter", "spaceless" or "symbol"."""
    category = unicodedata.category(character)
    if category.startswith("M") or character in JOINERS:
        return "mark"
    if character.isspace() or category in ("Cc", "Cf", "Zs", "Zl", "Zp"):
        return "space"
    if SPACELESS.match(character):
        return "spaceless"
    return "letter" if character.isalnum() or character == "_" else "symbol"
