"""Recurrences in blocks of positions: equal to one position after the other."""

from __future__ import annotations

import pytest
import torch

from hf_selfattn.modeling import decoding_selfattn as decoding
from hf_selfattn.modeling.decoding_selfattn import as_factors, as_scores, transition_mask

LENGTHS = [33, 47, 48, 49, 64, 65, 130]
IOB2 = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def tables(kind: str) -> tuple[torch.Tensor, ...]:
    legal = [as_scores(table, torch.zeros(0, dtype=torch.float64)) for table in transition_mask(IOB2)]
    if kind == "legal":
        return tuple(legal)
    generator = torch.Generator().manual_seed(1)
    return tuple(table + 3 * torch.randn(table.shape, generator=generator, dtype=torch.float64) for table in legal)


def scores(length: int, scale: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(3, length, len(IOB2), generator=generator, dtype=torch.float64)


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(decoding, "in_blocks", lambda *_: False)
    return monkeypatch


@pytest.mark.parametrize("kind", ["legal", "learned"])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("scale", [1.0, 150.0])
def test_messages(one_by_one: pytest.MonkeyPatch, length: int, scale: float, kind: str) -> None:
    start, steps, _ = (as_factors(table) for table in tables(kind))
    values = scores(length, scale)
    factors = (values - values.amax(dim=2, keepdim=True)).clamp(min=-300).exp()
    given = start.expand(3, -1), steps.expand(3, -1, -1), factors
    expected = decoding.messages(*given)
    found = decoding.messages_in_blocks(*given)
    assert found.shape == (3, length, len(IOB2)) and found.isfinite().all()
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("kind", ["legal", "learned"])
@pytest.mark.parametrize("length", LENGTHS)
def test_best_path(one_by_one: pytest.MonkeyPatch, length: int, kind: str) -> None:
    values = scores(length, 1.0)
    mask = torch.arange(length) < torch.tensor([[length], [length - 17], [1]])
    start, steps, end = tables(kind)
    expected = decoding.best_path(start, steps, end, values, mask)
    one_by_one.setattr(decoding, "in_blocks", lambda *_: True)
    found = decoding.best_path(start, steps, end, values, mask)
    assert torch.equal(found[mask], expected[mask])


def test_best_path_of_ties_is_legal(one_by_one: pytest.MonkeyPatch) -> None:
    start, steps, end = tables("legal")
    values, mask = torch.zeros(1, 70, len(IOB2)), torch.ones(1, 70, dtype=torch.bool)
    one_by_one.setattr(decoding, "in_blocks", lambda *_: True)
    path = decoding.best_path(start, steps, end, values, mask)[0]
    assert (steps[path[:-1], path[1:]] == 0).all() and start[path[0]] == 0


def test_long_rows_go_in_blocks_and_many_rows_do_not() -> None:
    assert decoding.in_blocks(rows=2, positions=500, tags=9)
    assert not decoding.in_blocks(rows=2, positions=20, tags=9)
    assert not decoding.in_blocks(rows=64, positions=500, tags=9)
