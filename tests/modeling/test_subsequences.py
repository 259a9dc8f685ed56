from __future__ import annotations

import random

import pytest
import torch

from hf_selfattn.modeling.subsequences_selfattn import (
    Subsequences,
    ends_with,
    fill_windows,
    is_right_padded,
    merge,
    num_windows,
    real_tokens,
    right_pad_order,
    split,
    starts_with,
)


def naive_windows(length: int, window: int, stride: int, prefix: int, suffix: int) -> list[list[int]]:
    """The tokens of each window of one row, special tokens of the row around each."""
    text = list(range(prefix, max(prefix, length - suffix)))
    count = 1
    while True:
        step = max(1, -(-(len(text) - stride) // count))
        if step + stride <= window - prefix - suffix or len(text) <= window - prefix - suffix:
            break
        count += 1
    opening, closing = list(range(prefix)), list(range(prefix + len(text), prefix + len(text) + suffix))
    return [opening + text[k * step : k * step + step + stride] + closing for k in range(count)]


def context(token: int, words: list[int], first: int, last: int) -> float:
    """The least number of tokens beside a token in a window; nothing lies beyond the ends of the text."""
    left = float("inf") if words[0] == first else words.index(token)
    right = float("inf") if words[-1] == last else len(words) - 1 - words.index(token)
    return min(left, right)


def random_case(seed: int) -> dict[str, int]:
    draw = random.Random(seed)
    prefix, suffix = draw.randint(0, 2), draw.randint(0, 2)
    window = draw.randint(prefix + suffix + 2, 14)
    stride = draw.randint(0, window - prefix - suffix - 1)
    return {"window": window, "stride": stride, "num_prefix": prefix, "num_suffix": suffix}


def planned(lengths: list[int], case: dict[str, int], framed: list[bool]) -> Subsequences:
    return split(
        torch.tensor(lengths),
        max(lengths),
        **case,
        has_prefix_B=torch.tensor(framed),
        has_suffix_B=torch.tensor(framed),
    )


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("trim", [False, True])
def test_split_is_the_naive_split(seed: int, trim: bool) -> None:
    case = random_case(seed)
    draw = random.Random(seed)
    lengths = [draw.randint(1, 60) for _ in range(4)]
    special = case["num_prefix"] + case["num_suffix"]
    framed = [length >= special and draw.random() < 0.7 for length in lengths]
    plan = planned(lengths, case, framed)
    plan = plan.trim() if trim else plan
    for row, length in enumerate(lengths):
        prefix, suffix = (case["num_prefix"], case["num_suffix"]) if framed[row] else (0, 0)
        expected = naive_windows(length, case["window"], case["stride"], prefix, suffix)
        windows = [
            source[mask].tolist()
            for source, mask in zip(plan.source_BSW[row], plan.mask_BSW[row], strict=True)
            if mask.any()
        ]
        assert windows == expected
        assert len(windows) <= num_windows(length, case["window"] - special, case["stride"])
        assert max(len(window) for window in windows) <= case["window"]
        # The tokens of a window stand at its front, so its positions are those of a text of its own.
        assert bool((plan.mask_BSW[row].long().diff(dim=-1) <= 0).all())


@pytest.mark.parametrize("seed", range(60))
def test_each_token_is_taken_from_the_window_with_most_context(seed: int) -> None:
    case = random_case(seed)
    lengths = [random.Random(seed).randint(case["num_prefix"] + case["num_suffix"] + 1, 60)]
    plan = planned(lengths, case, [True])
    windows = naive_windows(lengths[0], case["window"], case["stride"], case["num_prefix"], case["num_suffix"])
    texts = [window[case["num_prefix"] : len(window) - case["num_suffix"]] for window in windows]
    first, last = texts[0][0], texts[-1][-1]
    for token in range(first, last + 1):
        chosen, slot = divmod(int(plan.slot_BT[0, token]), case["window"])
        assert windows[chosen][slot] == token
        most = max(context(token, words, first, last) for words in texts if token in words)
        assert context(token, texts[chosen], first, last) == most
    for token in range(first):
        assert int(plan.slot_BT[0, token]) == token, "opening tokens come from the first window"
    for token in range(last + 1, lengths[0]):
        assert divmod(int(plan.slot_BT[0, token]), case["window"]) == (len(windows) - 1, windows[-1].index(token))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("features", [0, 3])
def test_merge_undoes_fill_windows(seed: int, features: int) -> None:
    case = random_case(seed)
    draw = random.Random(seed)
    lengths = [draw.randint(4, 60) for _ in range(3)]
    values = torch.rand(3, max(lengths), *[features] * bool(features))
    for plan in (planned(lengths, case, [True] * 3), planned(lengths, case, [True] * 3).trim()):
        filled = fill_windows(values, plan.source_BSW, plan.mask_BSW)
        assert bool((filled[~plan.mask_BSW] == 0).all())
        merged = merge(filled if features else filled[..., None], plan).view(values.shape)
        for row, length in enumerate(lengths):
            assert torch.equal(merged[row, :length], values[row, :length])


def test_plan_of_a_row_depends_on_that_row_alone() -> None:
    case = {"window": 10, "stride": 2, "num_prefix": 1, "num_suffix": 1}
    together = planned([23, 57, 5], case, [True] * 3)
    alone = planned([23], case, [True])
    S, W = alone.mask_BSW.shape[1:]
    assert torch.equal(together.source_BSW[:1, :S, :W], alone.source_BSW)
    assert torch.equal(together.slot_BT[:1, :23], alone.slot_BT)


def test_segments_of_closing_tokens_are_those_of_the_text_before() -> None:
    segments = torch.tensor([[0] * 10 + [1] * 10])  # the closing token of the row is of segment 1
    plan = planned([20], {"window": 8, "stride": 0, "num_prefix": 1, "num_suffix": 1}, [True]).trim()
    filled = fill_windows(segments, plan.segment_source_BSW, plan.mask_BSW)
    assert filled[0].tolist() == [[0] * 8, [0, 0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1, 1]]


def test_empty_slots_hold_the_padding() -> None:
    plan = planned([4, 12], {"window": 8, "stride": 0, "num_prefix": 0, "num_suffix": 0}, [False, False])
    filled = fill_windows(torch.full((2, 12), 5), plan.source_BSW, plan.mask_BSW, padding=7)
    assert filled[0, 0].tolist() == [5] * 4 + [7] * 4
    assert filled[0, 1].tolist() == [7] * 8


def test_frame_is_seen_only_where_the_row_has_room_for_it() -> None:
    ids = torch.tensor([[3, 8, 4, 0], [8, 4, 3, 8], [3, 8, 0, 0], [3, 8, 8, 9]])
    lengths = torch.tensor([3, 2, 1, 4])
    assert starts_with(ids, lengths, [3, 8]).tolist() == [True, False, False, True]
    assert ends_with(ids, lengths, [8, 4]).tolist() == [True, True, False, False]
    assert starts_with(ids, lengths, []).all() and ends_with(ids, lengths, []).all()


def test_right_pad_order() -> None:
    mask = torch.tensor([[0, 1, 0, 1], [1, 1, 1, 0]], dtype=torch.bool)
    order, inverse = right_pad_order(mask)
    assert order.tolist() == [[1, 3, 0, 2], [0, 1, 2, 3]]
    values = torch.rand(2, 4)
    assert torch.equal(values.gather(1, order).gather(1, inverse), values)
    assert not is_right_padded(mask) and is_right_padded(mask.gather(1, order))


def test_real_tokens() -> None:
    ids = torch.zeros(2, 3, dtype=torch.long)
    assert real_tokens(None, ids) is None
    assert real_tokens(torch.ones(2, 3), ids) is None
    kept = real_tokens(torch.tensor([[1, 1, 0], [0, 0, 0]]), ids)
    assert kept is not None and kept.tolist() == [[True, True, False], [True, False, False]]
    with pytest.raises(ValueError, match=r"attention_mask has shape \(2, 2\), but the input has \(2, 3\)"):
        real_tokens(torch.ones(2, 2), ids)
