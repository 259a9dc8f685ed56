"""Sounds that repeat others: the same samples, whatever their files."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from datasets import Dataset

from ..media.read import MediaData
from ..splits import Duplicates, deduplicate, find_duplicates
from .inspect import SoundFacts, inspect_sounds
from .load import SOUNDS

Data = TypeVar("Data", bound=MediaData)


def equal_sounds(facts: Mapping[str, Sequence[SoundFacts | None]]) -> Duplicates:
    """Find sounds with the same samples; silence is like all silence, and left out."""
    return find_duplicates({name: _keys(name, found) for name, found in facts.items()})


def deduplicate_sounds(data: Data, *, inside_evaluation: bool = False) -> Data:
    """Drop repeated sounds of train, and sounds of train that also stand in an evaluation split, as `deduplicate`."""
    keys = {name: sound_digests(name, split) for name, split in data.splits.items()}
    return deduplicate(data, inside_evaluation=inside_evaluation, keys=keys, what=SOUNDS.name)


def sound_digests(name: str, split: Dataset) -> list[Hashable]:
    """Return what equal sounds share, for each row of a prepared split."""
    return _keys(name, inspect_sounds(split, SOUNDS.name)[0])


def _keys(name: str, facts: Sequence[SoundFacts | None]) -> list[Hashable]:
    return [fact.digest if fact is not None and fact.peak else (name, index) for index, fact in enumerate(facts)]
