from __future__ import annotations

from math import log

import pytest
import torch
from torch.nn import functional as F

from hf_selfattn.modeling.grouping_selfattn import (
    block_counts,
    group_similarity,
    near_and_far_bias,
    sort_by_group,
    window_bias,
)

LOWEST = torch.finfo(torch.float32).min


def test_similarity_is_the_cosine_of_each_head_and_group() -> None:
    metric, prototypes = torch.randn(2, 7, 5), torch.randn(3, 4, 5)
    similarity = group_similarity(F.normalize(metric, dim=-1), F.normalize(prototypes, dim=-1))
    expected = F.cosine_similarity(metric[:, None, :, None], prototypes[None, :, None], dim=-1)
    torch.testing.assert_close(similarity, expected)


@pytest.mark.parametrize("lengths", [[13, 13], [13, 6], [1, 13], [13, 0]])
def test_tokens_are_sorted_by_group_and_inside_it_and_padding_last(lengths: list[int]) -> None:
    similarity = torch.randint(-4, 5, (2, 3, 13, 4)) / 4  # with equal ones, and both ends
    groups, order, inverse = sort_by_group(similarity, torch.tensor(lengths))
    for b, length in enumerate(lengths):
        for h in range(3):
            highest, group = (x.tolist() for x in similarity[b, h].max(dim=-1))
            assert groups[b, h].tolist() == group
            expected = sorted(range(length), key=lambda i, g=group, high=highest: (g[i], -high[i], i))
            assert order[b, h].tolist() == expected + list(range(length, 13))
            assert order[b, h][inverse[b, h]].tolist() == list(range(13))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_twins_far_apart_lie_side_by_side(dtype: torch.dtype) -> None:
    """One group of 64 tokens, of which each is like one other, half of the text away."""
    similarity = torch.rand(32, generator=torch.Generator().manual_seed(0)).repeat(2)[None, None, :, None].to(dtype)
    place = sort_by_group(similarity, torch.tensor([64]))[2][0, 0]
    assert (place[:32] - place[32:]).abs().float().mean() < 2


def test_grouping_takes_no_gradient() -> None:
    similarity = torch.randn(1, 1, 5, 2, requires_grad=True)
    assert not any(t.requires_grad for t in sort_by_group(similarity, torch.tensor([5])))


def test_block_counts_sum_to_the_lengths() -> None:
    counts = block_counts(torch.tensor([11, 4, 0]), num_blocks=3, block_size=4)
    assert counts.tolist() == [[4, 4, 3], [4, 0, 0], [0, 0, 0]]


def test_window_bias_leaves_no_softmax_over_nothing() -> None:
    bias = window_bias(torch.tensor([[3, 1, 0]]), 3, torch.float32)
    assert bias.tolist() == [[[0, 0, 0], [0, LOWEST, LOWEST], [0, LOWEST, LOWEST]]]


def test_far_bias_is_the_log_of_the_number_of_tokens() -> None:
    bias = near_and_far_bias(torch.tensor([[4, 3, 0]]), 4, torch.float32)
    assert bias.shape == (1, 3, 7)
    far = bias[0, :, 4:].tolist()
    assert far[0] == [LOWEST, pytest.approx(log(3)), LOWEST], "the own and the empty block are hidden"
    assert far[1] == [pytest.approx(log(4)), LOWEST, LOWEST]


def test_one_block_has_no_far_field() -> None:
    assert near_and_far_bias(torch.tensor([[3]]), 4, torch.float32).tolist() == [[[0, 0, 0, LOWEST]]]
