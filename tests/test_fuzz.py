"""Some random inputs of each kind; `python tests/support/fuzz.py` tries ten thousand."""

from __future__ import annotations

import pytest
from fuzz import KINDS, fuzz


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of PEFT, on adapters that were changed by hand
@pytest.mark.parametrize("kind", KINDS)
def test_each_is_read_right_or_refused(kind: str) -> None:
    count = {"tables": 300, "columns": 100}.get(kind, 40)
    ends, found = fuzz(count, seed=20, kinds=[kind])
    assert not found, found[0]
    assert ends[kind]["read"] and ends[kind].total() == count
    assert ends[kind]["refused"] or kind in ("batches", "texts"), "some were damaged"
