"""Reports on files with labels, made without stopping at the first mistake: what images and sounds share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol

from datasets import Dataset

from ..check import class_counts, label_findings, twin_places
from ..classification import inspect_labels
from ..columns import found_columns
from ..findings import BadRow, Finding, summarise
from ..findings import finding as short_finding
from ..splits import Duplicates
from .medium import Medium
from .read import RawMedia

finding = partial(short_finding, most=None)  # the report names every file


class FileFacts(Protocol):
    """What is known of each file, whatever it is: its place."""

    @property
    def place(self) -> str: ...


Remarks = Iterable[tuple[str, str]]  # kind and sentence


def check_labelled(
    medium: Medium,
    raw: RawMedia,
    findings: list[Finding],
    *,
    inspect: Callable[[Dataset, str], tuple[list[Any], list[BadRow]]],
    describe: Callable[[str, list[Any]], tuple[list[Finding], dict[str, Any]]],
    relate: Callable[[Mapping[str, list[Any]], Mapping[str, list[Any]]], list[Finding]],
) -> dict[str, Any]:
    """Look at all files and labels, and return the report.

    Args:
        findings: what was found before.
        inspect: returns the facts of each file of a split, and the bad rows.
        describe: finds what is odd in the facts of one split, and counts what is there.
        relate: finds what is odd in the facts and the labels of all splits.
    """
    report: dict[str, Any] = {}
    facts: dict[str, list[Any]] = {}
    labels: dict[str, list[Any]] = {}
    for name, split in raw.splits.items():
        labels[name], bad = inspect_labels(raw.labels[name], raw.columns.label, raw.scheme)
        facts[name], broken = inspect(split, raw.file_columns[name])
        found, summary = describe(name, facts[name])
        findings += summarise(name, broken + bad, most=None) + found
        if name == "train":
            findings += label_findings(raw.labels[name], raw.columns, raw.scheme, labels[name])
        counts = class_counts(raw.scheme, [label for label in labels[name] if label is not None])
        report[name] = {"rows": len(split), "classes": counts, **summary}
    first = next(iter(raw.splits))
    return {
        "columns": {medium.name: raw.file_columns[first], "label": raw.columns.label},
        "columns_found": found_columns(raw.splits[first]),
        "problem": raw.scheme.problem,
        "label_names": raw.scheme.names,
        "splits": report,
        "findings": [asdict(item) for item in findings + relate(facts, labels)],
        "notes": raw.notes,
    }


def remark_findings(
    name: str, facts: Sequence[FileFacts | None], remarks: Callable[[Any], Remarks], unit: str
) -> list[Finding]:
    """Group what is to be said of each file of a split into findings."""
    places: dict[tuple[str, str], list[str]] = {}
    for fact in facts:
        for remark in remarks(fact) if fact is not None else ():
            places.setdefault(remark, []).append(fact.place if fact is not None else "")
    return [finding(kind, name, message, rows, unit) for (kind, message), rows in places.items()]


def pair_findings(
    found: Duplicates,
    facts: Mapping[str, Sequence[FileFacts | None]],
    targets: Mapping[str, Sequence[Any]] | None,
    *,
    said: str,
    unit: str,
    prefix: str = "",
    target: str = "label",
) -> list[Finding]:
    """Find files that repeat others, inside a split or across two, and those of them that have another target.

    Args:
        said: of a file that repeats "an earlier one" of its split.
        prefix: of the kinds.
        target: what the targets are called.
    """
    places = {name: [fact.place if fact is not None else "" for fact in rows] for name, rows in facts.items()}
    groups = [((name, name), pairs) for name, pairs in found.inside.items()] + list(found.across.items())
    findings = []
    for (one, other), pairs in groups:
        is_same = one == other
        kind = "duplicate" if is_same else "in_two_splits"
        message = said if is_same else f"{said.replace('an earlier one', 'one')} of {other}"
        if pairs:
            shown = twin_places(pairs, places[one], places[other])
            findings.append(finding(f"{prefix}{kind}", one, message, shown, unit))
        apart = [(index, twin) for index, twin in pairs if targets and targets[one][index] != targets[other][twin]]
        if apart:
            shown = twin_places(apart, places[one], places[other])
            message += f", and has another {target}"
            findings.append(finding(f"{prefix}conflicting_{target}s", one, message, shown, unit))
    return findings
