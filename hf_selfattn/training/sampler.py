"""What training reads of the rows, and in which order: excerpts of long texts, rows of like length together."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from ..metrics.inputs import Array


class GroupedByLength(Sampler[int], TrainerCallback):
    """Gives rows of like length one after the other, in another order every epoch.

    The order is a function of the lengths, the rows of an update, the seed and the epoch alone: one process and many
    that share the same rows of an update, and a training that is resumed, read the same rows in the same updates. For
    that the last update of an epoch is filled up with the first rows, which several processes need in any case.

    Args:
        lengths: of the rows, in tokens.
        update: rows of an update, of all processes and accumulated steps.
        seed: of the order.
        fill: whether the last update is filled up; else it is left out.
    """

    def __init__(self, lengths: Sequence[int], update: int, seed: int, fill: bool = True):
        self.lengths, self.update, self.seed, self.epoch = lengths, update, seed, 0
        self.count = (len(lengths) + (update - 1 if fill else 0)) // update * update

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.epoch = int(state.epoch or 0)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(int(np.random.default_rng([self.seed, self.epoch]).integers(2**62)))
        order = get_length_grouped_indices(self.lengths, self.update, generator=generator)
        return islice(cycle(order), self.count)


class RoundsOfClasses(GroupedByLength):
    """Gives two rows of each class, class after class, round after round.

    No batch is without rows that belong together, and rare classes stand in as many as the others.

    Args:
        labels: class of each row.
        update: rows of an update, of all processes and accumulated steps.
        seed: of the order.
    """

    def __init__(self, labels: Array, update: int, seed: int):
        super().__init__(labels.tolist(), update, seed)
        self.rows_of = [np.flatnonzero(labels == label) for label in np.unique(labels)]

    def __iter__(self) -> Iterator[int]:
        return islice(self.rounds(np.random.default_rng([self.seed, self.epoch])), self.count)

    def rounds(self, random: np.random.Generator) -> Iterator[int]:
        """Yield rows without an end; those of a class come again when all were there."""
        decks = [cycle(random.permutation(rows).tolist()) for rows in self.rows_of]
        while True:
            for number in random.permutation(len(decks)).tolist():
                yield next(decks[number])
                yield next(decks[number])


def length_grouped(rows: Any, options: TrainingArguments) -> GroupedByLength | None:
    """Return what puts the rows of train in order, or None for a stream, which has its own."""
    if not isinstance(rows, Dataset):
        return None
    update = options.train_batch_size * options.gradient_accumulation_steps * options.world_size
    seed = options.seed if options.data_seed is None else options.data_seed
    lengths = rows.with_format(None)[options.length_column_name][:]
    return GroupedByLength(lengths, update, seed, fill=not options.dataloader_drop_last)


class Excerpts(TrainerCallback):
    """Cuts a random excerpt out of each row of tokens that is longer than wanted; evaluation still reads everything.

    The excerpt is a function of the seed, the epoch and the text alone, so that a resumed training, or one in several
    processes, reads the same ones. The special tokens around a text stay.

    Args:
        length: tokens of an excerpt, special tokens included.
        num_prefix: special tokens before a text.
        num_suffix: special tokens after a text.
        seed: of the draws.

    Raises:
        ValueError: if an excerpt has no room for a token of the text.
    """

    def __init__(self, length: int, num_prefix: int, num_suffix: int, seed: int):
        if length <= num_prefix + num_suffix:
            raise ValueError(
                f"sample_tokens={length} leaves no room beside {num_prefix + num_suffix} special tokens. Take "
                "more, or 0 to read every text whole."
            )
        self.length, self.num_prefix, self.num_suffix = length, num_prefix, num_suffix
        self.seed, self.epoch = seed, 0

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.epoch = int(state.epoch or 0)

    def of(self, tokens: Dataset) -> Dataset:
        """Return a tokenised split whose rows are cut whenever they are read."""
        lengths = np.minimum(tokens.with_format("numpy")["length"][:], self.length)
        return tokens.remove_columns("length").add_column("length", lengths).with_transform(self.cut)

    def cut(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Return rows of which none is longer than an excerpt."""
        if "input_ids" not in rows:
            return rows
        cut: dict[str, list[Any]] = {name: list(values) for name, values in rows.items()}
        for number, ids in enumerate(rows["input_ids"]):
            if len(ids) <= self.length:
                continue
            chosen = self.chosen(ids)
            for name, values in rows.items():
                if isinstance(values[number], list) and len(values[number]) == len(ids):
                    cut[name][number] = [values[number][place] for place in chosen]
        return cut

    def chosen(self, ids: list[int]) -> list[int]:
        """Return the places of the tokens that are read in this epoch."""
        room = self.length - self.num_prefix - self.num_suffix
        text = zlib.crc32(np.asarray(ids, dtype=np.int64).tobytes())
        last = len(ids) - self.num_suffix - room
        start = int(np.random.default_rng([self.seed, self.epoch, text]).integers(self.num_prefix, last + 1))
        suffix = range(len(ids) - self.num_suffix, len(ids))
        return [*range(self.num_prefix), *range(start, start + room), *suffix]
