"""What a tagger gets wrong: errors by kind with examples, confusion of types, known and unseen entities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from typing import Any, NamedTuple

import numpy as np

from .entities import Entities, TaggedWords, check_tags

KINDS = ("correct", "wrong_type", "wrong_border", "wrong_both", "missed", "spurious")
NONE = "none"
CONTEXT = 5  # words shown on either side of an example


class Match(NamedTuple):
    """What an entity is, with the number of the reference and of the prediction that belong together."""

    kind: str
    reference: int | None
    prediction: int | None


def error_analysis(
    references: Sequence[Sequence[int]],
    predictions: Sequence[Sequence[int]],
    label_names: Sequence[str],
    tokens: Sequence[Sequence[str]],
    *,
    places: Sequence[str] | None = None,
    known: Set[str] | None = None,
    examples: int = 5,
) -> dict[str, Any]:
    """Sort the entities of strict IOB2 by what is wrong with them (after Chinchor & Sundheim 1993, "MUC-5").

    An entity is compared with the one of the other side that has the same span; else that overlaps it and has the same
    type; else that overlaps it. It is correct, of wrong_type (same span), wrong_border (same type), wrong_both, missed
    (a reference without any) or spurious (a prediction without any).

    Args:
        label_names: C tags in IOB2.
        places: N places of the sentences, for the examples; the sentences' numbers by default.
        known: the entity strings of train (see `entity_strings`), to score known and unseen ones apart.

    Returns:
        A dict of plain values for JSON: "kinds" {kind: {"references", "predictions"}}, which sum to the entities of
        each side; "confusion" {type of reference or "none": {type of prediction or "none": count}}; "examples" {kind:
        [{"sentence", "place", "reference", "prediction", "context"}]}; with `known` also "strings" {"known" and
        "unseen": {"references", "predictions", "correct", "precision", "recall", "f1"}}, None where undefined.

    Raises:
        ValueError: lengths differ, an id is no label, or the names are no tags of IOB2.
    """
    words = check_tags(references, predictions, label_names)
    flat = _flat_tokens(tokens, words)
    if places is not None and len(places) != len(references):
        raise ValueError(f"there are {len(places)} places, but {len(references)} sentences: give one for each.")
    truth, guess = words.entities(words.references).strict(), words.entities(words.predictions).strict()
    of_truth = [Match(kind, i, other) for i, (kind, other) in enumerate(_classify(truth, guess, "missed"))]
    of_guess = [Match(kind, other, i) for i, (kind, other) in enumerate(_classify(guess, truth, "spurious"))]
    matches = of_truth + [match for match in of_guess if match.kind == "spurious"]
    counts = [Counter(match.kind for match in side) for side in (of_truth, of_guess)]
    result: dict[str, Any] = {
        "kinds": {kind: {"references": counts[0][kind], "predictions": counts[1][kind]} for kind in KINDS},
        "confusion": _confusion(truth, guess, matches, words.names.entity_types),
        "examples": {
            kind: [
                _example(match, truth, guess, words, flat, places)
                for match in _spread([match for match in matches if match.kind == kind], examples)
            ]
            for kind in KINDS[1:]
        },
    }
    if known is not None:
        result["strings"] = _known_and_unseen(truth, guess, of_guess, flat, known)
    return result


def entity_strings(
    tags: Sequence[Sequence[int]], tokens: Sequence[Sequence[str]], label_names: Sequence[str]
) -> set[str]:
    """Collect the strings of all entities: their words joined by spaces, case kept."""
    words = check_tags(tags, tags, label_names)
    return set(_strings(words.entities(words.references).strict(), _flat_tokens(tokens, words)))


def _classify(entities: Entities, others: Entities, alone: str) -> list[tuple[str, int | None]]:
    """Give each entity its kind and the entity of the other side that it is compared with."""
    first = np.searchsorted(others.ends, entities.starts, side="right")
    last = np.searchsorted(others.starts, entities.ends, side="left")
    found: list[tuple[str, int | None]] = []
    for index, (low, high) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):  # those that overlap
        if low >= high:
            found.append((alone, None))
            continue
        kind = entities.types[index]
        other = next((i for i in range(low, high) if others.types[i] == kind), low)
        same_type = bool(others.types[other] == kind)
        same_span = others.starts[low] == entities.starts[index] and others.ends[low] == entities.ends[index]
        if same_span:  # then it is the only one that overlaps
            found.append(("correct" if same_type else "wrong_type", other))
        else:
            found.append(("wrong_border" if same_type else "wrong_both", other))
    return found


def _confusion(
    truth: Entities, guess: Entities, matches: Sequence[Match], entity_types: Sequence[str]
) -> dict[str, dict[str, int]]:
    names = [*entity_types, NONE]
    table = {name: dict.fromkeys(names, 0) for name in names}
    for match in matches:
        row = NONE if match.reference is None else entity_types[truth.types[match.reference]]
        column = NONE if match.prediction is None else entity_types[guess.types[match.prediction]]
        table[row][column] += 1
    return table


def _spread(matches: Sequence[Match], count: int) -> list[Match]:
    """Take at most so many, spread evenly."""
    count = min(count, len(matches))
    return [matches[i * len(matches) // count] for i in range(count)]


def _example(
    match: Match,
    truth: Entities,
    guess: Entities,
    words: TaggedWords,
    flat: Sequence[str],
    places: Sequence[str] | None,
) -> dict[str, Any]:
    bounds: dict[str, tuple[int, int, str]] = {}
    for name, side, i in (("reference", truth, match.reference), ("prediction", guess, match.prediction)):
        if i is not None:
            bounds[name] = int(side.starts[i]), int(side.ends[i]), words.names.entity_types[side.types[i]]
    low, high = min(start for start, _, _ in bounds.values()), max(end for _, end, _ in bounds.values())
    sentence = int(words.sentences[low])
    first, stop = int(words.offsets[sentence]), int(words.offsets[sentence + 1])
    shown: dict[str, dict[str, Any] | None] = {"reference": None, "prediction": None}
    for name, (start, end, kind) in bounds.items():
        shown[name] = {"text": " ".join(flat[start:end]), "type": kind, "start": start - first, "end": end - first}
    place = str(sentence) if places is None else places[sentence]
    context = " ".join(flat[max(first, low - CONTEXT) : min(stop, high + CONTEXT)])
    return {"sentence": sentence, "place": place, **shown, "context": context}


def _known_and_unseen(
    truth: Entities, guess: Entities, of_guess: Sequence[Match], flat: Sequence[str], known: Set[str]
) -> dict[str, dict[str, float | None]]:
    actual = np.array([string in known for string in _strings(truth, flat)], dtype=np.bool_)
    claimed = np.array([string in known for string in _strings(guess, flat)], dtype=np.bool_)
    right = np.array([match.kind == "correct" for match in of_guess], dtype=np.bool_)
    result: dict[str, dict[str, float | None]] = {}
    for name, ours, theirs in (("known", actual, claimed), ("unseen", ~actual, ~claimed)):
        references, predictions, correct = int(ours.sum()), int(theirs.sum()), int((right & theirs).sum())
        result[name] = {
            "references": references,
            "predictions": predictions,
            "correct": correct,
            "precision": correct / predictions if predictions else None,
            "recall": correct / references if references else None,
            "f1": 2 * correct / (references + predictions) if references + predictions else None,
        }
    return result


def _strings(entities: Entities, flat: Sequence[str]) -> list[str]:
    bounds = zip(entities.starts.tolist(), entities.ends.tolist(), strict=True)
    return [" ".join(flat[start:end]) for start, end in bounds]


def _flat_tokens(tokens: Sequence[Sequence[str]], words: TaggedWords) -> list[str]:
    """Join the words of all sentences, and check that there is one for each tag."""
    lengths = np.array([len(row) for row in tokens], dtype=np.int64)
    expected = np.diff(words.offsets)
    if len(lengths) != len(expected) or (lengths != expected).any():
        rows = min(len(lengths), len(expected))
        different = np.flatnonzero(lengths[:rows] != expected[:rows])
        row = int(different[0]) if len(different) else rows
        raise ValueError(
            f"tokens differ from the tags at sentence {row}: {len(lengths)} sentences of tokens, {len(expected)} of "
            "tags, and each sentence needs one tag per word."
        )
    return [token for row in tokens for token in row]
