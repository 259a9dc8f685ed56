"""The queue before the model: what is answered together, in which order, and what is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from hf_selfattn.inference.batching import Batcher, QueueFull

Rows = Sequence[Any]


def texts(*values: str) -> list[dict[str, str]]:
    return [{"text": value} for value in values]


def with_batcher(work: Callable[[Batcher], Awaitable[None]], **options: Any) -> list[list[str]]:
    """Carry out some work with a batcher, and return the texts of each batch."""
    batches: list[list[str]] = []

    def answer(rows: Rows) -> list[dict[str, Any]]:
        batches.append([row["text"] for row in rows])
        return [{"label": row["text"]} for row in rows]

    async def main() -> None:
        given = {"tokens": 10, "most_waiting": 100, "window": 0.02, "watch": lambda texts, seconds: None, **options}
        batcher = Batcher(answer, **given)
        batcher.start()
        await work(batcher)
        await batcher.stop()
        assert not batcher.is_running and not batcher.queue

    asyncio.run(main())
    return batches


def test_requests_that_arrive_together_are_one_batch_and_get_their_own_answers() -> None:
    async def work(batcher: Batcher) -> None:
        waiting = [batcher.enter(rows) for rows in (texts("a"), texts("b", "c"), texts("d"))]
        found = await asyncio.gather(*waiting)
        assert [[answer["label"] for answer in answers] for answers in found] == [["a"], ["b", "c"], ["d"]]

    assert with_batcher(work) == [["a", "b", "c", "d"]]


def test_a_batch_has_its_size_and_the_order_is_kept() -> None:
    async def work(batcher: Batcher) -> None:
        sizes = [30, 10, 1, 200, 5, 36]
        await asyncio.gather(*(batcher.enter(texts(str(n).rjust(size, "x"))) for n, size in enumerate(sizes)))

    found = [[text.strip("x") for text in batch] for batch in with_batcher(work)]
    assert found == [["0", "1"], ["2"], ["3"], ["4"], ["5"]]  # 40 characters, or one request


def test_a_full_batch_does_not_wait_for_the_window() -> None:
    async def work(batcher: Batcher) -> None:
        await asyncio.wait_for(batcher.enter(texts("x" * 40)), 5)

    assert len(with_batcher(work, window=60.0)) == 1


def test_pairs_and_words_count() -> None:
    async def work(batcher: Batcher) -> None:
        rows = [{"text": "a", "text_pair": "x" * 30}, {"text": "b", "tokens": ["x" * 5, "x" * 5]}, {"text": "c"}]
        await asyncio.gather(*(batcher.enter([row]) for row in rows))

    assert with_batcher(work) == [["a"], ["b", "c"]]


def test_what_was_given_up_is_not_answered() -> None:
    async def work(batcher: Batcher) -> None:
        gone, kept = batcher.enter(texts("gone")), batcher.enter(texts("kept"))
        gone.cancel()
        assert batcher.waiting == 1
        assert await kept == [{"label": "kept"}]

    assert with_batcher(work) == [["kept"]]


def test_no_more_wait_than_may() -> None:
    async def work(batcher: Batcher) -> None:
        waiting = [batcher.enter(texts("a", "b")), batcher.enter(texts("c"))]
        with pytest.raises(QueueFull, match="3 texts wait for the model, and at most 4 may"):
            batcher.enter(texts("d", "e"))
        await asyncio.gather(*waiting)
        await batcher.enter(texts("d", "e"))

    assert with_batcher(work, most_waiting=4) == [["a", "b", "c"], ["d", "e"]]


def test_the_end_answers_what_waits() -> None:
    waiting = []

    async def work(batcher: Batcher) -> None:
        waiting.extend(batcher.enter(texts(f"{number}" * 40)) for number in range(5))

    assert len(with_batcher(work)) == 5
    assert all(answers.result() for answers in waiting)
