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


OUTSIDE_NAMES = ("o", "0", "OTHER", "Other", "other", "_", "-", "NONE", "None", "none", "OUT", "out", "OUTSIDE", "NIL")
NO_TYPE = "_"  # of tags that are roles alone, as seqeval calls it
FORMS = (
    re.compile(r"(?P<role>[BIESLUMW])[-_](?P<kind>.+)", re.DOTALL),
    re.compile(r"(?P<role>[BIESLUMW])(?P<kind>)", re.IGNORECASE),
    re.compile(r"(?P<role>[BIESLUMW])[-_:./|](?P<kind>.+)", re.IGNORECASE | re.DOTALL),
    re.compile(r"(?P<kind>.+)[-_:./|](?P<role>[BIESLUMW])", re.IGNORECASE | re.DOTALL),
)


@dataclass(frozen=True)
class TagForm:
    """How the tags of a data set are written: role first or last, or without types; and the tag of words outside."""

    pattern: re.Pattern[str] = FORMS[0]
    outside: str = OUTSIDE

    def read(self, tag: str) -> str:
        """Write a tag as "ROLE-TYPE" or "O"; one of another form stays as it is."""
        if tag == self.outside:
            return OUTSIDE
        match = self.pattern.fullmatch(tag) if self.pattern is not FORMS[0] else None
        return f"{match['role'].upper()}-{match['kind'] or NO_TYPE}" if match else tag

    def notes(self, tags: Iterable[str]) -> list[str]:
        """Say which tags are read as others."""
        changed = {tag: self.read(tag) for tag in sorted(tags) if self.read(tag) != tag}
        return (
            [f"Tags are read so: {', '.join(f'{tag} as {new}' for tag, new in changed.items())}."] if changed else []
        )


def detect_form(tags: set[str], scheme: str | None) -> TagForm:
    """Find out how tags are written; refuse those that would become types by mistake, unless the scheme is "IO"."""
    names = [name for name in OUTSIDE_NAMES if name in tags and OUTSIDE not in tags]
    outside = names[0] if len(names) == 1 else OUTSIDE
    rest = tags - {outside}
    if scheme == "IO" or not rest:
        return TagForm(outside=outside)
    found = [{tag: match for tag in rest if (match := form.fullmatch(tag))} for form in FORMS]
    for form, matches in zip(FORMS, found, strict=True):
        roles = {match["role"].upper() for match in matches.values()}
        if len(matches) == len(rest) and (
            form is FORMS[0] or roles & {"B", "I"} or (form is FORMS[1] and "S" in roles)
        ):
            return TagForm(form, outside)
    odd = sorted(tag for tag in rest if "*" in tag or "=" in tag)
    for matches in found[1:] if not found[0] else []:
        opened = {match["kind"] for match in matches.values() if match["role"] in "BIbi"}
        kinds = [match["kind"] for match in matches.values() if match["kind"] in opened]
        odd += sorted(tag for tag, match in matches.items() if kinds.count(match["kind"]) > 1)
    if odd and not found[0]:
        raise ValueError(
            f"The tags {odd[:5]} are read neither as roles with types nor as types (all: {sorted(tags)[:10]}). Write "
            "them as ROLE-TYPE, such as B-PER, set tag_column=… if another column holds them, or scheme=IO if each is "
            "the name of a type."
        )
    return TagForm(outside=outside)


@dataclass(frozen=True)
class TagScheme:
    """The scheme of a data set: one of `SCHEMES`, and how it is known."""

    name: str
    reason: str


def detect_scheme(sentences: Iterable[Sequence[str]]) -> TagScheme:
    """Find out the tagging scheme; of IOB1 and IOB2, which share their tags, the one with fewer broken ones."""
    prefixes: Counter[str] = Counter()
    is_outside = False
    opening_i = lone_b = 0  # what IOB2 forbids, and what IOB1 forbids
    for tags in sentences:
        previous = ""
        for tag in tags:
            match = PREFIXED.fullmatch(tag)
            kind = match[2] if match else ""
            is_outside |= tag == OUTSIDE
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
        return TagScheme("IO", "no tag has a role such as B-" + ("" if is_outside else ", and no word is outside, O"))
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
