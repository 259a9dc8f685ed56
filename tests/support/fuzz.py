"""Random inputs, damaged and odd ones among them: each is read right, or refused by an error of ours that says where.

python tests/support/fuzz.py                       10,000 inputs of all kinds, with seed 0
python tests/support/fuzz.py 2000 7 files          2,000 inputs of one kind with seed 7

An input is made of the seed, its kind and its number alone, so that one which is found can be made again.
"""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import fuzz_files  # noqa: E402
import fuzz_images  # noqa: E402
import fuzz_models  # noqa: E402
import fuzz_sounds  # noqa: E402

# A kind of input: what makes one in a folder and tries it, the share of all inputs, and how it ended.
Try = Callable[[Random, Path], str]
KINDS: dict[str, tuple[Try, float]] = {
    "tables": (fuzz_files.try_table, 0.4),
    "columns": (fuzz_files.try_columns, 0.15),
    "configurations": (fuzz_models.try_configuration, 0.15),
    "adapters": (fuzz_models.try_adapter, 0.05),
    "batches": (fuzz_models.try_batch, 0.15),
    "texts": (fuzz_models.try_text, 0.1),
    "images": (fuzz_images.try_image, 0.2),
    "boxes": (fuzz_images.try_boxes, 0.1),
    "sounds": (fuzz_sounds.try_sound, 0.2),
}


def try_input(kind: str, seed: int, number: int, folder: Path) -> str:
    """Try one input; return how it ended: `read`, `refused`, or the error that should not have been."""
    random = Random(f"{seed}/{kind}/{number}")
    try:
        return KINDS[kind][0](random, folder)
    except Exception:
        return f"{kind} {number} of seed {seed}: {traceback.format_exc()}"


def fuzz(count: int, seed: int, kinds: list[str]) -> tuple[dict[str, Counter[str]], list[str]]:
    """Try so many inputs; return how those of each kind ended, and what was found."""
    ends: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    found: list[str] = []
    shares = sum(KINDS[kind][1] for kind in kinds)
    for kind in kinds:
        for number in range(round(count * KINDS[kind][1] / shares)):
            with tempfile.TemporaryDirectory() as folder:
                end = try_input(kind, seed, number, Path(folder))
            ends[kind][end if end in ("read", "refused") else "found"] += 1
            if end not in ("read", "refused"):
                found.append(end)
    return ends, found


if __name__ == "__main__":
    count, seed = (int(word) for word in (sys.argv[1:3] + ["10000", "0"][len(sys.argv[1:3]) :]))
    ends, found = fuzz(count, seed, sys.argv[3:] or [*KINDS])
    print(*found, sep="\n")
    for kind, counted in ends.items():
        print(f"{kind}: {dict(counted)}")
    sys.exit(bool(found))
