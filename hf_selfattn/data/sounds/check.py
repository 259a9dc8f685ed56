"""Reports on sounds with labels or transcripts, made without training and without stopping at the first mistake."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset

from ..check import filled_splits, odd_characters, quantiles
from ..columns import column_values, found_columns
from ..findings import Finding, summarise
from ..formats import ORIGIN
from ..media.check import check_labelled, finding, pair_findings, remark_findings
from .check_transcripts import transcript_findings
from .duplicates import equal_sounds
from .inspect import SoundFacts, inspect_sounds
from .load import SOUNDS
from .read import SoundData, raw_sounds
from .speech import SPEECH, SpeechData, raw_speech, transcript_mistakes

SILENT = 1e-3  # of full scale: -60 dB
CANCELLED = 0.01  # of the loudest channel, that is left of their mean
CLIPPED = 1e-3  # of all samples
SHORT = 0.1  # s
LONG = 20  # times the median, in a split of as many sounds
TELLING = 0.2  # more of the labels known by the kind of file than by guessing

Facts = Mapping[str, Sequence[SoundFacts | None]]


def check_sounds(
    data: SoundData | Mapping[str, Dataset], *, group_column: str | None = None, **options: Any
) -> dict[str, Any]:
    """Decode all sounds and report what is there and every kind of mistake.

    Args:
        data: raw splits, or prepared data.
        group_column: what must not stand in two splits, such as the speaker.
        options: of raw splits: the columns, `problem`, `label_names` and `label_separator` of `read_sounds`.

    Returns:
        A dict of plain values for JSON, in the form of `check_classification`: columns, problem, label_names; per
        split the rows, hours, classes, quantiles of the lengths in seconds, rates, channels and formats of the files;
        the findings (kind, split, message, count and all places) and notes.

    Raises:
        ValueError: a column is missing, the options contradict the data, or there are no rows.
    """
    if isinstance(data, SoundData):
        options = {"label_column": "label", "problem": data.problem, "label_names": data.label_names}
    splits, findings = filled_splits(data.splits if isinstance(data, SoundData) else data)
    findings += _group_findings(splits, group_column)
    report = check_labelled(
        SOUNDS,
        raw_sounds(splits, **options),
        findings,
        inspect=inspect_sounds,
        describe=lambda name, facts: (_sound_findings(name, facts), _summary(facts)),
        relate=_related,
    )
    return {**report, "notes": list(data.notes)} if isinstance(data, SoundData) else report


def check_speech(
    data: SpeechData | Mapping[str, Dataset],
    *,
    group_column: str | None = None,
    sound_column: str | None = None,
    transcript_column: str | None = None,
) -> dict[str, Any]:
    """Decode all sounds, look at all transcripts, and report what is there and every kind of mistake.

    Args:
        data: raw splits, or prepared data.
        group_column: what must not stand in two splits, such as the speaker.

    Returns:
        A dict of plain values for JSON, in the form of `check_sounds`; characters in place of classes.

    Raises:
        ValueError: a column is missing, or there are no rows.
    """
    splits, findings = filled_splits(data.splits if isinstance(data, SpeechData) else data)
    findings += _group_findings(splits, group_column)
    raw = raw_speech(splits, sound_column, transcript_column)
    report: dict[str, Any] = {}
    facts: dict[str, list[SoundFacts | None]] = {}
    texts: dict[str, list[Any]] = {}
    for name, split in raw.splits.items():
        facts[name], broken = inspect_sounds(split, raw.sounds[name])
        texts[name] = column_values(split, raw.transcripts)
        findings += summarise(name, broken + transcript_mistakes(split, raw.transcripts), most=None)
        findings += odd_characters(name, raw.transcripts, texts[name], column_values(split, ORIGIN))
        findings += _sound_findings(name, facts[name])
        counts = Counter(character for text in texts[name] if isinstance(text, str) for character in text)
        report[name] = {"rows": len(split), **_summary(facts[name]), "characters": dict(counts.most_common())}
    places = {name: column_values(split, ORIGIN) for name, split in raw.splits.items()}
    findings += transcript_findings(texts, places, facts)
    findings += _mixture_findings(facts) + _repeats(facts, texts, "transcript")
    first = next(iter(raw.splits))
    return {
        "columns": {"sound": raw.sounds[first], "transcript": raw.transcripts},
        "columns_found": found_columns(raw.splits[first]),
        "problem": SPEECH,
        "label_names": [],
        "splits": report,
        "findings": [asdict(item) for item in findings],
        "notes": list(data.notes) if isinstance(data, SpeechData) else raw.notes,
    }


def _summary(facts: Sequence[SoundFacts | None]) -> dict[str, Any]:
    known = [fact for fact in facts if fact is not None]
    return {
        "hours": round(sum(fact.seconds for fact in known) / 3600, 3),
        "seconds": quantiles([fact.seconds for fact in known]),
        "rates": _numbers_of(fact.rate for fact in known),
        "channels": _numbers_of(fact.channels for fact in known),
        "formats": _numbers_of(f"{fact.format} {fact.coding}" for fact in known),
    }


def _numbers_of(values: Any) -> dict[str, int]:
    return {str(value): count for value, count in Counter(values).most_common()}


def _sound_findings(name: str, facts: Sequence[SoundFacts | None]) -> list[Finding]:
    """Find sounds that are not read as they stand in their file, and those in which little is to be heard."""
    lengths = [fact.seconds for fact in facts if fact is not None]
    longest = LONG * float(np.median(lengths)) if len(lengths) >= LONG else np.inf
    return remark_findings(name, facts, partial(_sound_remarks, longest=longest), "sound(s)")


def _sound_remarks(fact: SoundFacts, longest: float) -> list[tuple[str, str]]:
    remarks = list(fact.remarks)
    if fact.peak < SILENT:
        remarks.append(("sound_silent", "the sound is silent (nothing louder than -60 dB)"))
    elif fact.mono_peak < CANCELLED * fact.peak:
        remarks.append(("sound_cancelled", "the channels cancel each other out where they are averaged"))
    if fact.clipped > CLIPPED:
        remarks.append(("sound_clipped", f"more than {CLIPPED:.1%} of the samples are cut off at full scale"))
    if fact.seconds < SHORT:
        remarks.append(("sound_short", f"the sound is shorter than {SHORT} s"))
    if fact.seconds > longest:
        remarks.append(("sound_long", f"the sound is more than {LONG} times as long as the median"))
    return remarks


def _related(facts: Facts, labels: Mapping[str, Sequence[Any]]) -> list[Finding]:
    return _mixture_findings(facts) + _telling_findings(facts, labels) + _repeats(facts, labels, "label")


def _repeats(facts: Facts, targets: Mapping[str, Sequence[Any]], target: str) -> list[Finding]:
    said = "the sound has the samples of an earlier one"
    return pair_findings(equal_sounds(facts), facts, targets, said=said, unit="sound(s)", target=target)


def _mixture_findings(facts: Facts) -> list[Finding]:
    """Find the sounds whose rate or number of channels is not the most frequent one of all splits."""
    findings = []
    for kind, said in (("rate", "the rate is not {} Hz, as that of most"), ("channels", "not {} channel(s), as most")):
        counts = Counter(getattr(fact, kind) for rows in facts.values() for fact in rows if fact is not None)
        if len(counts) < 2:
            continue
        usual = counts.most_common(1)[0][0]
        for name, rows in facts.items():
            places = [fact.place for fact in rows if fact is not None and getattr(fact, kind) != usual]
            findings += [finding(f"{kind}_mixture", name, said.format(usual), places, "sound(s)")] if places else []
    return findings


def _telling_findings(facts: Facts, labels: Mapping[str, Sequence[Any]]) -> list[Finding]:
    """Find splits whose labels are told by the kind of the files: a model may learn those in place of the sounds."""
    findings = []
    for name, rows in facts.items():
        known = [
            (fact, str(label)) for fact, label in zip(rows, labels[name], strict=True) if fact and label is not None
        ]
        if not known:
            continue
        kinds: dict[Any, Counter[str]] = {}
        for fact, label in known:
            kinds.setdefault((fact.rate, fact.channels, fact.format, fact.coding), Counter())[label] += 1
        told = sum(counts.most_common(1)[0][1] for counts in kinds.values()) / len(known)
        guessed = Counter(label for _, label in known).most_common(1)[0][1] / len(known)
        if told - guessed > TELLING:
            message = (
                f"rate, channels and format of the files alone tell {told:.0%} of the labels, where guessing tells "
                f"{guessed:.0%}: a model may learn the recording in place of the sound"
            )
            findings.append(finding("file_tells_label", name, message, [fact.place for fact, _ in known], "sound(s)"))
    return findings


def _group_findings(splits: Mapping[str, Dataset], column: str | None) -> list[Finding]:
    """Find groups, such as speakers, that stand in two splits."""
    if column is None:
        return []
    groups: dict[str, list[Any]] = {}
    for name, split in splits.items():
        if column not in split.column_names:
            raise ValueError(
                f"{name}: there is no column '{column}' (group_column); the columns found are {found_columns(split)}."
            )
        groups[name] = column_values(split, column)
    findings, names = [], list(splits)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            shared = {*groups[one]} & {*groups[other]} - {None, ""}
            places = zip(groups[one], column_values(splits[one], ORIGIN), strict=True)
            rows = [f"{place} ({group})" for group, place in places if group in shared]
            if rows:
                message = f"column '{column}': {len(shared)} group(s) also stand in {other}"
                findings.append(finding("group_in_two_splits", one, message, rows))
    return findings
