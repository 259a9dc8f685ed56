"""What is odd in transcripts, beside the sounds that they are of."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..findings import Finding
from ..media.check import finding
from .inspect import SoundFacts

FAST, SLOW = 35.0, 0.5  # characters in a second of sound: none speaks so
SLOW_SECONDS = 3.0  # that a slow sound must have at least

Texts = Mapping[str, Sequence[Any]]
Places = Mapping[str, Sequence[str]]


def transcript_findings(
    texts: Texts, places: Places, facts: Mapping[str, Sequence[SoundFacts | None]]
) -> list[Finding]:
    """Find rare and unknown characters, letters in both cases, digits, wrong lengths, and texts in two splits."""
    rows = {name: [(text, place) for text, place in zip(texts[name], places[name], strict=True)] for name in texts}
    spoken = {name: [pair for pair in found if isinstance(pair[0], str)] for name, found in rows.items()}
    findings = _character_findings(spoken) + _text_findings(spoken)
    for name, found in rows.items():
        fast, slow = [], []
        for (text, _), fact in zip(found, facts[name], strict=True):
            if isinstance(text, str) and text.strip() and fact is not None:
                pace = len(text) / fact.seconds
                fast += [fact.place] if pace > FAST else []
                slow += [fact.place] if pace < SLOW and fact.seconds >= SLOW_SECONDS else []
        said = "the transcript has {} characters for each second of the sound: is it that of another?"
        for kind, limit, shown in (
            ("transcript_too_long", f"more than {FAST:g}", fast),
            ("transcript_too_short", f"less than {SLOW:g}", slow),
        ):
            findings += [finding(kind, name, said.format(limit), shown)] if shown else []
    return findings


def _character_findings(rows: Mapping[str, list[tuple[str, str]]]) -> list[Finding]:
    """Look at the characters of train, and at those that only other splits have."""
    if "train" not in rows:
        return []
    counts = Counter(character for text, _ in rows["train"] for character in text if not character.isspace())
    findings = []
    if rare := {character for character, count in counts.items() if count == 1}:
        message = f"characters that occur once, from which nothing is learned: {_shown(rare)}"
        findings.append(finding("rare_character", "train", message, _rows_with(rows["train"], rare)))
    both = {letter for letter in counts if letter.isupper() and letter.lower() in counts}
    if both:
        message = f"letters in both cases, which sound alike: {_shown(both)}"
        findings.append(finding("two_cases", "train", message, _rows_with(rows["train"], both)))
    for name, found in rows.items():
        unknown = {character for text, _ in found for character in text if not character.isspace()} - counts.keys()
        if unknown:
            message = f"characters that train does not have, and that are never predicted: {_shown(unknown)}"
            findings.append(finding("unknown_character", name, message, _rows_with(found, unknown)))
    return findings


def _text_findings(rows: Mapping[str, list[tuple[str, str]]]) -> list[Finding]:
    """Find digits, and transcripts that stand in two splits."""
    findings = []
    keys = {name: {" ".join(text.split()).casefold() for text, _ in found} - {""} for name, found in rows.items()}
    for name, found in rows.items():
        if digits := [place for text, place in found if re.search(r"\d", text)]:
            findings.append(finding("digits", name, "digits, which are spoken as words", digits))
    for one, other in itertools.combinations(rows, 2):
        shared = keys[one] & keys[other]
        places = [place for text, place in rows[one] if " ".join(text.split()).casefold() in shared]
        if places:
            message = f"the transcript also stands in {other}: what is scored there was learned as a text"
            findings.append(finding("transcript_in_two_splits", one, message, places))
    return findings


def _rows_with(rows: Sequence[tuple[str, str]], characters: set[str]) -> list[str]:
    return [place for text, place in rows if not characters.isdisjoint(text)]


def _shown(characters: set[str]) -> str:
    found = sorted(characters)
    return " ".join(found[:30]) + " …" * (len(found) > 30)
