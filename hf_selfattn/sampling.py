"""Sparse reading in training: a random excerpt of each long text, another one every epoch."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Excerpts(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
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
        """Return a tokenised split whose rows are cut whenever they are read.

        Args:
            tokens: with `input_ids` and other columns of as many values a row, and `length`.
        """
        lengths = np.minimum(tokens.with_format("numpy")["length"][:], self.length)
        return tokens.remove_columns("length").add_column("length", lengths).with_transform(self.cut)

    def cut(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Return rows of which none is longer than an excerpt.

        Args:
            rows: values by column; a list as long as the row's `input_ids` is cut with it.
        """
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
        """Return the places of the tokens that are read in this epoch.

        Args:
            ids: token ids of a row that is longer than an excerpt.
        """
        room = self.length - self.num_prefix - self.num_suffix
        text = zlib.crc32(np.asarray(ids, dtype=np.int64).tobytes())
        last = len(ids) - self.num_suffix - room
        start = int(np.random.default_rng([self.seed, self.epoch, text]).integers(self.num_prefix, last + 1))
        suffix = range(len(ids) - self.num_suffix, len(ids))
        return [*range(self.num_prefix), *range(start, start + room), *suffix]
