"""Tagging schemes: which one a data set uses, and its tags in IOB2.

The schemes differ in how a tag "ROLE-TYPE" marks the words of an entity (Ramshaw & Marcus 1995; Tjong Kim Sang &
Veenstra 1999, "Representing text chunks"; Ratinov & Roth 2009): IOB1 (B only between touching entities of one type),
IOB2 (B on each first word), BIOES = BILOU = BMES (also a mark for the last word and for entities of one word), IO (no
roles: "PER", or "I-PER").
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .labels import LabelError, natural_key

OUTSIDE = "O"
PREFIXED = re.compile(r"([BIESLUMW])[-_](.+)", re.DOTALL)
ROLES = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "W": "S"}
SCHEMES = {"IOB1": "BI", "IOB2": "BI", "BIOES": "BIES", "BILOU": "BILU", "BMES": "BMESW", "IO": ""}
CLOSED = ("BIOES", "BILOU", "BMES")  # the last word of each entity is marked


@dataclass(frozen=True)
class TagScheme:
    """The scheme of a data set: one of `SCHEMES`, and how it is known."""

    name: str
    reason: str


def detect_scheme(sentences: Iterable[Sequence[str]]) -> TagScheme:
    """Find out the tagging scheme; of IOB1 and IOB2, which share their tags, the one with fewer broken ones."""
    prefixes: Counter[str] = Counter()
    opening_i = lone_b = 0  # what IOB2 forbids, and what IOB1 forbids
    for tags in sentences:
        previous = ""
        for tag in tags:
            match = PREFIXED.fullmatch(tag)
            kind = match[2] if match else ""
            if match:
                prefixes[match[1]] += 1
                opening_i += match[1] == "I" and previous != kind
                lone_b += match[1] == "B" and previous != kind
            previous = kind
    used = ", ".join(f"{prefix}-" for prefix in sorted(prefixes))
    for name, marks in (("BILOU", "LU"), ("BMES", "MW"), ("BIOES", "ES")):
        if any(prefixes[mark] for mark in marks):
            return TagScheme(name, f"the tags begin with {used}")
    if not prefixes:
        return TagScheme("IO", "no tag has a role such as B-")
    if opening_i and opening_i > lone_b:
        if not prefixes["B"]:
            return TagScheme("IOB1", "all tags begin with I-")
        return TagScheme("IOB1", f"{opening_i} entities open with I-, {lone_b} with a B- that IOB1 forbids")
    return TagScheme("IOB2", f"{lone_b} entities open with B-, {opening_i} with an I- that IOB2 forbids")


def check_scheme(name: str) -> None:
    """Raise a ValueError unless the name is one of `SCHEMES`."""
    if name not in SCHEMES:
        raise ValueError(f"scheme='{name}' is unknown; it is one of {', '.join(SCHEMES)}, or leave it out.")


def is_tag(tag: str, scheme: str) -> bool:
    """Tell whether a tag is one of the scheme."""
    try:
        split_tag(tag, scheme)
    except LabelError:
        return False
    return True


def split_tag(tag: str, scheme: str) -> tuple[str, str]:
    """Split a tag into its role and its entity type: "L-PER" into ("E", "PER"), "O" into ("O", "").

    Each closed scheme understands the marks of the others; in IO the role is "I". A `LabelError` is raised for a tag
    that is none of the scheme.
    """
    if tag == OUTSIDE:
        return "O", ""
    if scheme == "IO":
        return "I", tag
    match = PREFIXED.fullmatch(tag)
    if match is None or ROLES[match[1]] not in ("BIES" if scheme in CLOSED else "BI"):
        allowed = ", ".join([OUTSIDE, *(f"{role}-TYPE" for role in SCHEMES[scheme])])
        raise LabelError("tag_unknown", f"the tag '{tag}' is none of the scheme {scheme} ({allowed})")
    return ROLES[match[1]], match[2]


def to_iob2(tags: Sequence[str], scheme: str) -> tuple[list[str], list[tuple[int, str]]]:
    """Write the tags of a sentence in IOB2, and mend broken ones.

    The rule is that of the `conlleval` script (Tjong Kim Sang & Buchholz 2000): a tag that cannot continue the entity
    before it opens a new one; an entity that is not closed ends before the first word that does not continue it.

    Returns:
        n tags in IOB2, and the broken ones as (index of the word, what is wrong and how it is read).

    Raises:
        LabelError: a tag is none of the scheme.
    """
    result: list[str] = []
    broken: list[tuple[int, str]] = []
    closed = scheme in CLOSED
    previous, open_type = "", ""  # the type of the word before, and the type that this word may continue
    for index, tag in enumerate(tags):
        role, kind = split_tag(tag, scheme)
        continues = role in ("I", "E") and kind == open_type
        if closed and open_type and not continues:
            broken.append((index - 1, f"the entity of type '{open_type}' is not closed (read as ending here)"))
        if role in ("I", "E") and not continues and scheme not in ("IOB1", "IO"):
            broken.append((index, f"'{tag}' continues no entity of its type (read as opening one)"))
        if role == "B" and scheme == "IOB1" and previous != kind:
            broken.append((index, f"'{tag}' follows no entity of its type (read as opening one)"))
        result.append(OUTSIDE if role == "O" else f"{'I' if continues else 'B'}-{kind}")
        previous = kind
        open_type = "" if role in ("O", "S") or (closed and role == "E") else kind
    if closed and open_type:
        broken.append((len(tags) - 1, f"the entity of type '{open_type}' is not closed (read as ending here)"))
    return result, broken


def iob2_names(entity_types: Iterable[str]) -> list[str]:
    """List the tags of the entity types in their natural order: "O", "B-LOC", "I-LOC", "B-ORG", …"""
    types = sorted(entity_types, key=natural_key)
    return [OUTSIDE, *(f"{role}-{kind}" for kind in types for role in "BI")]
