from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset, DatasetDict
from runs import text_arguments
from torch.utils.data import BatchSampler
from transformers import Trainer

from hf_selfattn.data import ClassificationData
from hf_selfattn.tasks import task_of
from hf_selfattn.training.sampler import Excerpts, GroupedByLength
from hf_selfattn.training.setup import training_arguments

CLS, SEP = 1, 2


def tokens_of(*lengths: int) -> Dataset:
    """Rows [CLS] 100 101 … [SEP] whose labels are their ids and whose `places` count words."""
    ids = [[CLS, *range(100, 100 + length - 2), SEP] for length in lengths]
    return Dataset.from_dict({"input_ids": ids, "labels": ids, "length": list(lengths)})


def begin(reading: Excerpts | GroupedByLength, epoch: float) -> None:
    state: Any = SimpleNamespace(epoch=epoch)
    reading.on_epoch_begin(None, state, None)  # type: ignore[arg-type]


def test_a_long_row_is_one_framed_excerpt_and_a_short_one_is_whole() -> None:
    rows = Excerpts(8, 1, 1, seed=0).of(tokens_of(30, 8, 5))
    assert rows["length"][:] == [8, 8, 5]
    long, fits, short = (rows[i]["input_ids"] for i in range(3))
    assert long[0] == CLS and long[-1] == SEP and len(long) == 8
    assert long[1:-1] == list(range(long[1], long[1] + 6))
    assert fits == tokens_of(8)[0]["input_ids"] and short == tokens_of(5)[0]["input_ids"]
    assert all(rows[i]["labels"] == rows[i]["input_ids"] for i in range(3))


def test_another_excerpt_each_epoch_and_the_same_in_one_epoch() -> None:
    excerpts = Excerpts(8, 1, 1, seed=0)
    rows = excerpts.of(tokens_of(500))
    seen = []
    for epoch in (0.0, 1.0, 2.0, 1.0):
        begin(excerpts, epoch)
        seen.append(rows[0]["input_ids"])
        assert rows[0]["input_ids"] == seen[-1]
    assert seen[1] == seen[3]
    assert len({tuple(ids) for ids in seen}) == 3


def test_every_token_of_a_text_is_read_some_time() -> None:
    excerpts = Excerpts(8, 1, 1, seed=0)
    rows = excerpts.of(tokens_of(20))
    read: set[int] = set()
    for epoch in range(60):
        begin(excerpts, epoch)
        read |= set(rows[0]["input_ids"])
    assert read == {CLS, SEP, *range(100, 118)}


def test_an_excerpt_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="sample_tokens=2 leaves no room beside 2 special tokens"):
        Excerpts(2, 1, 1, seed=0)


LENGTHS = [5 + 7 * i % 60 for i in range(103)]


def order_of(processes: int, batch: int, steps: int = 1, epoch: int = 0) -> list[int]:
    """The rows in the order in which all processes together read them."""
    shards = []
    for rank in range(processes):
        sampler = GroupedByLength(LENGTHS, processes * batch * steps, seed=0)
        begin(sampler, epoch)
        shards.append(list(BatchSamplerShard(BatchSampler(sampler, batch, False), processes, rank)))
    return [row for batches in zip(*shards, strict=True) for rows in batches for row in rows]


def test_any_number_of_processes_reads_the_same_rows_in_the_same_updates() -> None:
    alone = order_of(1, 16)
    for processes, batch, steps in ((2, 8, 1), (4, 4, 1), (1, 4, 4), (2, 2, 4)):
        assert order_of(processes, batch, steps) == alone
    assert sorted(alone[:103]) == list(range(103))
    assert len(alone) == 112 and alone[103:] == alone[:9]  # the last update is filled up


def test_rows_of_like_length_stand_together_in_another_order_every_epoch() -> None:
    orders = [order_of(1, 16, epoch=epoch) for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
    lengths = np.random.default_rng(0).integers(5, 500, 800).tolist()
    grouped = [lengths[row] for row in GroupedByLength(lengths, 16, seed=0)]

    def padding(values: list[int]) -> int:
        return sum(16 * max(values[i : i + 16]) - sum(values[i : i + 16]) for i in range(0, 800, 16))

    assert sorted(grouped) == sorted(lengths) and padding(grouped) < 0.3 * padding(lengths)


@pytest.mark.parametrize(
    ("given", "strategy", "groups"),
    [({}, "random", True), ("group_by_length", "random", True), ("sequential", "sequential", False)],
)
def test_train_is_grouped_unless_told_otherwise_and_the_evaluation_is_in_order(
    given: Any, strategy: str, groups: bool, tmp_path: Path
) -> None:
    """`Trainer` would put the rows of the evaluation in another order, too, if it heard of the grouping."""
    options = {"train_sampling_strategy": given} if given else {}
    task = task_of(text_arguments({"model": "m", "output_dir": "o", **options}))
    splits = DatasetDict({"validation": Dataset.from_dict({"label": [0, 1]})})
    data = ClassificationData(splits, "single_label_classification", ["a", "b"])
    made, grouped = training_arguments(task, data, tmp_path)
    assert (made.train_sampling_strategy, grouped) == (strategy, groups)
    rows, made.remove_unused_columns = Dataset.from_dict({"length": [9, 2, 7, 4]}), False
    trainer = Trainer(model=torch.nn.Linear(1, 1), args=made, eval_dataset=rows, data_collator=lambda rows: rows)
    assert [row["length"] for batch in trainer.get_eval_dataloader() for row in batch] == [9, 2, 7, 4]


def test_the_last_update_is_left_out_where_that_is_asked_for() -> None:
    assert len(list(GroupedByLength(LENGTHS, 16, 0, fill=False))) == 96
