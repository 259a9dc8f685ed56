"""The machine: the processes that a launcher started on it, and what it computes natively."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from .files import locked

Found = TypeVar("Found")


def join_processes(use_cpu: bool | None = None) -> None:
    """Let the processes that a launcher started know of each other, before the first of them reads data.

    Without a word on it `PartialState` looks for accelerators alone: on a machine that has none every process would
    take itself for the only one until `TrainingArguments` are made.
    """
    alone = "WORLD_SIZE" not in os.environ
    state = PartialState(cpu=not torch.accelerator.is_available() if use_cpu is None else use_cpu)
    if alone and state.num_processes == 1:
        refuse_lone_process()


def refuse_lone_process() -> None:
    """Raise an error if `accelerate launch` was asked for several processes, but started this one alone.

    Unless `--multi_gpu` is given, it starts one process on a machine without accelerators, whatever `--num_processes`
    says. The number is not passed on; what shows it is the address where several processes would meet, which it sets
    (beside `ACCELERATE_USE_CPU=True` or `False`) for more than one process only.
    """
    one_process_path = os.environ.get("ACCELERATE_USE_CPU") in ("True", "False")
    if one_process_path and "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ:
        raise ValueError(
            "accelerate launch was asked for more than one process, but started this one alone: so it does on CPUs "
            "with --cpu, with distributed_type: MULTI_CPU, and without --multi_gpu. Give --multi_gpu --num_processes "
            "2, as launch/cpu_2.yaml of `hf-selfattn launch-files`, or start with torchrun --nproc_per_node 2. If you "
            "want one process, give --num_processes 1, and unset MASTER_ADDR and MASTER_PORT where they are set."
        )


def from_main(find: Callable[[], Found]) -> Found:
    """Return to every process what the main one finds."""
    found = [find() if PartialState().is_main_process else None]
    return broadcast_object_list(found)[0]  # type: ignore[no-any-return]


def is_main() -> bool:
    """Return whether this process is the main one."""
    return bool(PartialState().is_main_process)


@contextmanager
def alone_in(lock_file: Path, mend: str) -> Iterator[None]:
    """Keep other runs out of the folder of a lock file for as long as this one takes."""
    with ExitStack() as held:
        trouble = from_main(lambda: lock(held, lock_file, mend))
        if trouble is not None:
            raise ValueError(trouble)
        yield


def lock(held: ExitStack, lock_file: Path, mend: str) -> str | None:
    """Lock a folder, on the main process; return why it cannot be, or None."""
    try:
        before = held.enter_context(locked(lock_file))
    except ValueError as error:
        return f"{error} {mend}"
    if before is not None:
        PartialState().print(
            f"{lock_file.parent} was in use by {before}, which is gone: this run takes it over.", flush=True
        )
    return None


def has_bf16(device: str | None = None) -> bool:
    """Return whether a kind of device, or else the machine, multiplies bfloat16 matrices in hardware."""
    if torch.accelerator.is_available() and device != "cpu":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
