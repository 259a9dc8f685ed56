"""One of several processes that share a search: `search_together` starts them, as machines of a cluster would."""

from __future__ import annotations

from contextlib import suppress
from multiprocessing import get_context
from threading import BrokenBarrierError
from typing import Any

import torch
from runs import text_arguments

from hf_selfattn import run

# Processes of their own, forked from one that has imported the libraries and nothing of ours.
FRESH = get_context("forkserver")
FRESH.set_forkserver_preload(["datasets", "optuna", "peft", "torch", "transformers.trainer"])
PATIENCE = 120.0


def search_together(given: list[dict[str, Any]]) -> None:
    """Carry out runs in as many processes, all of which open the study at one moment and ask for the last trial, too.

    Args:
        given: settings of each.
    """
    start, last = (FRESH.Barrier(len(given)) for _ in range(2))
    processes = [FRESH.Process(target=work, args=(settings, start, last)) for settings in given]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(300)
            assert process.exitcode == 0, f"a worker ended with {process.exitcode}"
    finally:
        for process in processes:
            process.kill()


def work(settings: dict[str, Any], start: Any, last: Any) -> None:
    """Carry out a run that waits for the others where all of them could do the same thing."""
    from hf_selfattn.training import search

    torch.set_num_threads(1)
    open_study, left = search.open_study, search.left

    def open_together(*arguments: Any) -> Any:
        start.wait(PATIENCE)
        return open_study(*arguments)

    def left_together(*arguments: Any) -> int:
        count = left(*arguments)
        if count == 1:
            with suppress(BrokenBarrierError):  # who comes later finds nothing left
                last.wait(20.0)
        return count

    search.open_study, search.left = open_together, left_together
    run(text_arguments(settings))
