"""How long a part of a run took."""

from __future__ import annotations

import time


class Stopwatch:
    """Counts from where it is made.

    Processor time stays what it is on a machine that others use, too; it adds up the threads of this process.
    """

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def record(self) -> dict[str, float]:
        """Return `seconds` on the clock and `cpu_seconds` of this process."""
        return {"seconds": time.perf_counter() - self.wall, "cpu_seconds": time.process_time() - self.cpu}
