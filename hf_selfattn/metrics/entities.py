"""Entities of tag sequences in IOB2, strict and lenient, in flat arrays over the words of all sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .inputs import Array

TAG_ROLES = {"O": 0, "B": 1, "I": 2}


@dataclass(frozen=True)
class TagNames:
    """What the C label names of IOB2 mean."""

    roles: Array  # (C,) 0 for O, 1 for B-, 2 for I-
    types: Array  # (C,) index into entity_types, -1 for O
    entity_types: tuple[str, ...]  # T, in the order of the labels


@dataclass(frozen=True)
class Entities:
    """E entities in the order of their words."""

    starts: Array  # (E,) first word, counted over all sentences
    ends: Array  # (E,) the word after the last
    types: Array  # (E,) index of the entity type
    opened: Array  # (E,) whether it begins with B-, as IOB2 demands

    def strict(self) -> Entities:
        """Leave out the entities that begin with I-."""
        return self.select(self.opened)

    def select(self, chosen: Array) -> Entities:
        """Keep the entities where (E,) booleans are true."""
        return Entities(self.starts[chosen], self.ends[chosen], self.types[chosen], self.opened[chosen])

    def keys(self) -> list[tuple[int, int, int]]:
        """List the entities as (start, end, type)."""
        return list(zip(self.starts.tolist(), self.ends.tolist(), self.types.tolist(), strict=True))


@dataclass(frozen=True)
class TaggedWords:
    """Checked references and predictions of N sentences with W words."""

    names: TagNames
    references: Array  # (W,) label ids
    predictions: Array  # (W,) label ids
    sentences: Array  # (W,) index of each word's sentence
    offsets: Array  # (N + 1,) first word of each sentence, and W

    def entities(self, tags: Array) -> Entities:
        """Decode the entities of label ids (W,), as the conlleval script does (Tjong Kim Sang & Buchholz 2000).

        An entity begins at B-X, or at an I-X that follows no X in its sentence, and goes on through I-X. Those that
        begin with B-X are the entities of strict IOB2, where an I-X that continues none is no entity.
        """
        roles, types = self.names.roles[tags], self.names.types[tags]
        previous = np.concatenate([[-1], types[:-1]])
        previous[self.offsets[:-1][self.offsets[:-1] < len(tags)]] = -1  # a sentence's first word continues nothing
        continues = (roles == 2) & (previous == types)
        starts = np.flatnonzero((roles > 0) & ~continues)
        stops = np.append(np.flatnonzero(~continues), len(tags))
        ends = stops[np.searchsorted(stops, starts, side="right")]
        return Entities(starts, ends, types[starts], roles[starts] == 1)


def _read_names(label_names: Sequence[str]) -> TagNames:
    valid = all(name == "O" or (name[:2] in ("B-", "I-") and len(name) > 2) for name in label_names)
    if not valid or len(set(label_names)) != len(label_names):
        raise ValueError(
            f"label_names must be different tags of IOB2 such as 'O', 'B-LOC', 'I-LOC'; got {list(label_names)}."
        )
    types = dict.fromkeys(name[2:] for name in label_names if name != "O")
    numbers = {name: index for index, name in enumerate(types)}
    roles = np.array([TAG_ROLES[name[0]] for name in label_names], dtype=np.int64)
    return TagNames(roles, np.array([numbers.get(name[2:], -1) for name in label_names], dtype=np.int64), tuple(types))


def check_tags(
    references: Sequence[Sequence[int]], predictions: Sequence[Sequence[int]], label_names: Sequence[str]
) -> TaggedWords:
    """Check label ids of N sentences, one per word, and join them; an error names the first sentence at fault."""
    names = _read_names(label_names)
    if len(references) != len(predictions) or not len(references):
        raise ValueError(
            f"there are {len(references)} sentences of references and {len(predictions)} of predictions; "
            "give one prediction for each sentence, and at least one."
        )
    lengths = np.array([len(tags) for tags in references], dtype=np.int64)
    answered = np.array([len(tags) for tags in predictions], dtype=np.int64)
    if (lengths != answered).any():
        row = int((lengths != answered).argmax())
        raise ValueError(
            f"sentence {row} has {lengths[row]} references, but {answered[row]} predictions: give one tag per word."
        )
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    sentences = np.repeat(np.arange(len(lengths)), lengths)
    truth = _joined(references, sentences, offsets, label_names, "reference")
    guess = _joined(predictions, sentences, offsets, label_names, "prediction")
    return TaggedWords(names, truth, guess, sentences, offsets)


def _joined(
    tags: Sequence[Sequence[int]], sentences: Array, offsets: Array, label_names: Sequence[str], what: str
) -> Array:
    ids = np.concatenate([np.asarray(row, dtype=np.float64) for row in tags]) if len(sentences) else np.zeros(0)
    bad = ~np.isin(ids, np.arange(len(label_names)))
    if bad.any():
        word = int(bad.argmax())
        row = int(sentences[word])
        raise ValueError(
            f"the {what} of word {word - offsets[row]} of sentence {row} is {ids[word]:g}, but must be an id from 0 "
            f"to {len(label_names) - 1}. Score words only, without -100."
        )
    return ids.astype(np.int64)
