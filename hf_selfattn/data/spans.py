"""Words of a text with their places, and character spans as tags on these words."""

from __future__ import annotations

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


def read_spans(value: Any, length: int) -> list[Span]:
    """Check and sort the spans of a text; raise a LabelError for one that is none, lies outside or overlaps."""
    if not isinstance(value, list):
        raise LabelError("span_form", f"the spans are no list but {type(value).__name__}")
    spans = sorted(_read_span(span, length) for span in value)
    for one, other in zip(spans, spans[1:], strict=False):
        if other[0] < one[1]:
            raise LabelError("span_overlap", "two spans overlap", f"{list(one)} and {list(other)}")
    return spans


def tag_words(text: str, words: Sequence[tuple[int, int]], spans: Sequence[Span]) -> tuple[list[str], list[str]]:
    """Turn character spans into IOB2 tags on words; spaces at a span's border do not count.

    Args:
        words: n (start, end) of its words.

    Returns:
        n tags, and the spans that cut a word; they are widened to it.
    """
    starts, ends = [start for start, _ in words], [end for _, end in words]
    tags = [OUTSIDE] * len(words)
    cut: list[str] = []
    for start, end, kind in spans:
        first, last = bisect_right(ends, start), bisect_left(starts, end) - 1
        shown = f"[{start}, {end}, '{kind}'] ('{text[start:end]}')"
        if first > last:
            raise LabelError("span_empty", "a span holds no word", shown)
        if tags[first] != OUTSIDE:
            raise LabelError("span_overlap", "a span shares a word with the one before it", shown)
        if starts[first] < start or ends[last] > end:
            cut.append(f"{shown} in '{text[starts[first] : ends[last]]}'")
        tags[first : last + 1] = [f"B-{kind}"] + [f"I-{kind}"] * (last - first)
    return tags, cut


def _read_span(span: Any, length: int) -> Span:
    start: Any
    end: Any
    kind: Any
    if isinstance(span, Mapping):
        start, end, kind = span.get("start"), span.get("end"), span.get("label")
    elif isinstance(span, (list, tuple)) and len(span) == 3:
        start, end, kind = span
    else:
        start = end = kind = None
    numbers = all(isinstance(number, int) and not isinstance(number, bool) for number in (start, end))
    if not numbers or not isinstance(kind, str) or not kind.strip():
        raise LabelError("span_form", 'a span must be {"start": 0, "end": 5, "label": "PER"}', f"but is {span}")
    if not 0 <= start < end <= length:
        raise LabelError(
            "span_outside", "a span does not lie in the text", f"{[start, end, kind]} in {length} characters"
        )
    return start, end, kind.strip()


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
