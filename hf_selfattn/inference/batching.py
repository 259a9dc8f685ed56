"""One queue before the model: requests that arrive together are answered together, by one thread."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

MOST_WINDOWS = 5  # that a request waits for others, when one after the other comes
CHARACTERS_OF_A_TOKEN = 4  # about; the model's own batches are cut by tokens
CHARACTERS_OF_AN_IMAGE = 512


class QueueFull(Exception):
    """More texts wait than may."""


@dataclass
class Waiting:
    """The rows of one request, until they are answered or given up."""

    rows: Sequence[Mapping[str, Any]]
    answers: asyncio.Future[list[dict[str, Any]]]
    size: int = 0  # in characters
    since: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.size = sum(size_of(value) for row in self.rows for value in row.values())


def size_of(value: Any) -> int:
    """Return how long a text, or a list of words, is in characters; an image counts as a text of some length."""
    if isinstance(value, Mapping):
        return CHARACTERS_OF_AN_IMAGE
    return len(value) if isinstance(value, str) else sum(map(len, value))


class Batcher:
    """Lets requests wait for the model in their order, and the model answer those that are there at once.

    Args:
        answer: of many rows, in their order; it is called by one thread.
        tokens: about so many are answered at once, or one request.
        most_waiting: rows that may wait.
        window: seconds without a new request after which those that wait are answered.
        watch: called after each batch with its rows and the seconds that it took.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Mapping[str, Any]]], list[dict[str, Any]]],
        *,
        tokens: int,
        most_waiting: int,
        window: float,
        watch: Callable[[int, float], None],
    ) -> None:
        self.answer, self.watch = answer, watch
        self.size, self.most_waiting, self.window = tokens * CHARACTERS_OF_A_TOKEN, most_waiting, window
        self.queue: deque[Waiting] = deque()
        self.arrived = asyncio.Event()
        self.thread = ThreadPoolExecutor(1, "model")
        self.task: asyncio.Task[None] | None = None
        self.free_since = 0.0

    @property
    def waiting(self) -> int:
        """How many rows wait."""
        return sum(len(entry.rows) for entry in self.queue if not entry.answers.done())

    @property
    def is_running(self) -> bool:
        """Whether there is somebody who answers."""
        return self.task is not None and not self.task.done()

    def start(self) -> None:
        """Begin to answer, in the running loop."""
        self.task = asyncio.create_task(self.run())

    async def stop(self) -> None:
        """Answer what waits, and end."""
        while self.queue and self.is_running:
            await asyncio.sleep(0.01)
        if self.task is not None:
            self.task.cancel()
        await asyncio.to_thread(self.thread.shutdown)

    def enter(self, rows: Sequence[Mapping[str, Any]]) -> asyncio.Future[list[dict[str, Any]]]:
        """Let the rows of a request wait, and return what becomes their answers; cancelled, they are given up.

        Raises:
            QueueFull: if they cannot wait.
        """
        if self.waiting + len(rows) > self.most_waiting:
            raise QueueFull(f"{self.waiting} texts wait for the model, and at most {self.most_waiting} may")
        entry = Waiting(rows, asyncio.get_running_loop().create_future())
        self.queue.append(entry)
        self.arrived.set()
        return entry.answers

    async def run(self) -> None:
        """Answer what arrives, until the task is cancelled."""
        while True:
            await self.arrived.wait()
            while self.queue:
                await self.until_full()
                await self.serve(self.take())
            self.arrived.clear()

    async def until_full(self) -> None:
        """Wait for a whole batch, or until nobody came for a window: those just answered may come again."""
        end = max(self.queue[0].since, self.free_since) + MOST_WINDOWS * self.window
        while sum(entry.size for entry in self.queue) < self.size:
            left = min(end, max(self.queue[-1].since, self.free_since) + self.window) - time.monotonic()
            if left <= 0:
                break
            await asyncio.sleep(min(left, self.window / 4))

    def take(self) -> list[Waiting]:
        """Take the requests of the next batch from the queue; those that were given up are dropped."""
        batch: list[Waiting] = []
        size = 0
        while self.queue and (not batch or size + self.queue[0].size <= self.size):
            entry = self.queue.popleft()
            if not entry.answers.done():
                batch.append(entry)
                size += entry.size
        return batch

    async def serve(self, batch: list[Waiting]) -> None:
        """Answer the requests of a batch; where that fails, each alone, so that one does not spoil the others."""
        rows = [row for entry in batch for row in entry.rows]
        if not rows:
            return
        started = time.monotonic()
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self.thread, self.answer, rows)
        except Exception as error:
            if len(batch) > 1:
                for entry in batch:
                    await self.serve([entry])
            elif not batch[0].answers.done():
                batch[0].answers.set_exception(error)
            return
        self.watch(len(rows), time.monotonic() - started)
        self.free_since = time.monotonic()
        for entry in batch:
            own, answers = answers[: len(entry.rows)], answers[len(entry.rows) :]
            if not entry.answers.done():
                entry.answers.set_result(own)
