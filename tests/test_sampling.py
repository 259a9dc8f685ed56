from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset

from hf_selfattn.sampling import Excerpts

CLS, SEP = 1, 2


def tokens_of(*lengths: int) -> Dataset:
    """Rows [CLS] 100 101 … [SEP] whose labels are their ids and whose `places` count words."""
    ids = [[CLS, *range(100, 100 + length - 2), SEP] for length in lengths]
    return Dataset.from_dict({"input_ids": ids, "labels": ids, "length": list(lengths)})


def begin(excerpts: Excerpts, epoch: float) -> None:
    state: Any = SimpleNamespace(epoch=epoch)
    excerpts.on_epoch_begin(None, state, None)  # type: ignore[arg-type]


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
