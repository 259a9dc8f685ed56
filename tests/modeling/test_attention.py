from __future__ import annotations

from math import sqrt

import pytest
import torch
from naive_attention import naive_grouped
from tiny_models import HIDDEN_SIZE, tiny_config
from torch import Tensor, nn
from torch.nn import functional as F

from hf_selfattn.modeling.attention_selfattn import GroupedAttentionHead, HeadMasks, SelfAttentionHead, head_masks
from hf_selfattn.modeling.grouping_selfattn import block_means, far_field_slope, permute_tokens
from hf_selfattn.modeling.heads_selfattn import LONGEST_SPAN, SelfAttnHeads, SelfAttnLayer, masked_layers
from hf_selfattn.modeling.modeling_selfattn import SelfAttnModel

LENGTHS = [23, 17, 1]
BLOCK_SIZES = [1, 4, 7, 16, 64]


def head_of(model_class: type[nn.Module], implementation: str = "sdpa", **options: int | str) -> nn.Module:
    """A head in double precision with random weights, biases and metric scales."""
    config = tiny_config(**options)
    config._attn_implementation = implementation
    head = model_class(config)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.4)
    if isinstance(head, GroupedAttentionHead):
        head.prototypes.copy_(F.normalize(torch.randn_like(head.prototypes), dim=-1))
    return head.double()


def masks_of(head: nn.Module, features: Tensor, lengths: list[int] | None) -> HeadMasks:
    given = None if lengths is None else torch.tensor(lengths)
    return head_masks(head.config, features, given)


def naive_self_attention(head: SelfAttentionHead, x: Tensor) -> Tensor:
    """One row without padding, (N, D): full attention inside each window of it, head by head."""
    parts = []
    for window in x.split(head.window):
        q, k, v = head.qkv(window).view(len(window), 3, head.num_heads, head.head_dim).unbind(dim=1)
        rows = [((q[:, h] @ k[:, h].T / sqrt(head.head_dim)).softmax(dim=-1) @ v[:, h]) for h in range(head.num_heads)]
        parts.append(torch.cat(rows, dim=-1))
    return head.output(torch.cat(parts))


def gradients(head: nn.Module, outputs: list[Tensor], directions: list[Tensor], x: Tensor) -> list[Tensor]:
    total = sum((output * direction).sum() for output, direction in zip(outputs, directions, strict=True))
    return list(torch.autograd.grad(total, [x, *head.parameters()]))


def features_of(length: int, rows: int = 1) -> Tensor:
    return torch.randn(rows, length, HIDDEN_SIZE, dtype=torch.float64)


def assert_all_close(actual: list[Tensor], expected: list[Tensor], implementation: str = "sdpa") -> None:
    tolerance = 1e-9 if implementation == "sdpa" else 1e-4  # eager has its softmax in single precision
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def assert_is_naive(head: GroupedAttentionHead, implementation: str) -> None:
    """Output and gradients of real tokens are those of the double loop."""
    x = features_of(max(LENGTHS), rows=len(LENGTHS)).requires_grad_()
    output, _ = head(x, masks_of(head, x, LENGTHS))
    real = [output[row, :length] for row, length in enumerate(LENGTHS)]
    expected = [naive_grouped(head, x[row, :length])[0] for row, length in enumerate(LENGTHS)]
    assert_all_close(real, expected, implementation)
    directions = [torch.randn_like(row) for row in real]
    actual_gradients = gradients(head, real, directions, x)
    assert all(bool(gradient.any()) for gradient in actual_gradients[1:]), "a weight has no part in the output"
    assert_all_close(actual_gradients, gradients(head, expected, directions, x), implementation)


def assert_summaries_are_naive(head: GroupedAttentionHead) -> None:
    """So is the attention to summaries, and the groups are the most probable ones."""
    x = features_of(max(LENGTHS), rows=len(LENGTHS))
    _, (groups, probabilities, summary) = head(x, masks_of(head, x, LENGTHS), output_attentions=True)
    assert torch.equal(probabilities.argmax(dim=-1), groups)
    torch.testing.assert_close(probabilities.sum(dim=-1), x.new_ones(groups.shape))
    for row, length in enumerate(LENGTHS):
        _, expected = naive_grouped(head, x[row, :length])
        torch.testing.assert_close(summary[row, :, :length, : expected.shape[-1]], expected, atol=1e-6, rtol=1e-5)
        assert not summary[row, :, :length, expected.shape[-1] :].any(), "blocks of padding take no attention"


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_grouped_attention_is_the_naive_double_loop(block_size: int, implementation: str) -> None:
    assert_is_naive(head_of(GroupedAttentionHead, implementation, block_size=block_size), implementation)


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_summary_attentions_are_those_of_the_naive_form(block_size: int) -> None:
    assert_summaries_are_naive(head_of(GroupedAttentionHead, "eager", block_size=block_size))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("window", [1, 5, 16, 64])
def test_self_attention_is_the_naive_form(window: int, implementation: str) -> None:
    head = head_of(SelfAttentionHead, implementation, attention_window=window)
    x = features_of(max(LENGTHS), rows=len(LENGTHS)).requires_grad_()
    output = head(x, masks_of(head, x, LENGTHS))
    real = [output[row, :length] for row, length in enumerate(LENGTHS)]
    expected = [naive_self_attention(head, x[row, :length]) for row, length in enumerate(LENGTHS)]
    assert_all_close(real, expected, implementation)
    directions = [torch.randn_like(row) for row in real]
    actual_gradients = gradients(head, real, directions, x)
    assert_all_close(actual_gradients, gradients(head, expected, directions, x), implementation)


@pytest.mark.parametrize("head_class", [SelfAttentionHead, GroupedAttentionHead])
@pytest.mark.parametrize("length", [16, 21])
def test_without_padding_the_mask_changes_nothing(head_class: type[nn.Module], length: int) -> None:
    head = head_of(head_class)
    x = features_of(length, rows=2)
    without, given = (head(x, masks_of(head, x, lengths)) for lengths in (None, [length, length]))
    torch.testing.assert_close(without, given)


def full_attention(head: GroupedAttentionHead, x: Tensor) -> Tensor:
    """Attention of each token to each other one, (B, N, D), with the metric in the logits."""
    d = head.head_dim
    projected = head.qkv(x).unflatten(-1, (head.num_heads, -1)).transpose(1, 2)
    q, k, v = projected[..., :d], projected[..., d : 2 * d], projected[..., 2 * d : 2 * d + head.value_dim]
    u = F.normalize(head.metric(x), dim=-1)
    bias = head.metric_scale[:, None, None] * (u @ u.transpose(1, 2))[:, None]
    return head.output(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2))


def test_one_block_is_full_attention() -> None:
    head = head_of(GroupedAttentionHead, block_size=32)
    x = features_of(21, rows=2)
    torch.testing.assert_close(head(x, masks_of(head, x, None))[0], full_attention(head, x))


def test_far_blocks_of_equal_tokens_are_exact() -> None:
    """Four groups of six equal tokens each: a mean over equal keys and values loses nothing."""
    head = head_of(GroupedAttentionHead, block_size=6)
    kinds = features_of(4)[0]
    head.prototypes.copy_(F.normalize(head.metric(kinds), dim=-1).detach().expand(head.num_heads, -1, -1))
    shuffled = torch.arange(24)[torch.randperm(24)] % 4
    x = kinds[shuffled][None]
    torch.testing.assert_close(head(x, masks_of(head, x, None))[0], full_attention(head, x))


def test_far_blocks_of_unlike_tokens_are_not_exact() -> None:
    head = head_of(GroupedAttentionHead, block_size=6)
    x = features_of(24)
    assert (head(x, masks_of(head, x, None))[0] - full_attention(head, x)).abs().max() > 1e-3


def test_the_linear_far_field_is_attention_to_normally_distributed_keys() -> None:
    """Two groups, far apart: for the one, the other is a block whose values follow its keys."""
    torch.manual_seed(0)
    N, E = 4096, 8
    key = torch.randn(1, 2, N // 2, 1, E, dtype=torch.float64)
    value = key @ torch.randn(E, E, dtype=torch.float64) + 3
    query = torch.randn_like(key)
    means, lengths, scaling = key.mean(dim=2), torch.tensor([N]), 0.1
    shift, damping = far_field_slope((query, key, value), means, lengths, scaling, E)
    slope = (shift * damping)[0, : N // 2, 0]
    weights = (query[0, 0, :, 0] @ key[0, 1, :, 0].T * scaling).softmax(dim=-1)
    shift = weights @ (value - value.mean(dim=2, keepdim=True))[0, 1, :, 0]
    assert (slope - shift).norm() < 0.15 * shift.norm()


def test_the_linear_far_field_damps_keys_with_much_in_common() -> None:
    """Rounded to bfloat16, what a query's logits vary by inside a block must not fall below 0."""
    common, lengths = 30 * F.normalize(torch.randn(32), dim=-1), torch.tensor([100])
    blocks = tuple((common + 0.1 * torch.randn(1, 2, 64, 8, 32)).to(torch.bfloat16) for _ in range(3))
    _, damping = far_field_slope(blocks, block_means(blocks[1], lengths), lengths, 32**-0.5, 31)
    assert 0 < damping.min() and damping.max() <= 1


def test_fixed_weights_of_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="fusion='fixed' with fusion_init=0 would never read"):
        tiny_config(fusion="fixed", fusion_init=0.0)


def test_permute_tokens() -> None:
    values, index = torch.randn(2, 5, 3, 4), torch.randint(5, (2, 7, 3))
    taken = permute_tokens(values, index)
    for b in range(2):
        for m in range(7):
            for h in range(3):
                assert torch.equal(taken[b, m, h], values[b, index[b, m, h], h])


@pytest.mark.parametrize("fusion", ["scalar", "fixed"])
@pytest.mark.parametrize("norm_type", ["layernorm", "rmsnorm"])
def test_layer_is_the_weighted_sum(fusion: str, norm_type: str) -> None:
    layer = SelfAttnLayer(tiny_config(fusion=fusion, fusion_init=0.5, norm_type=norm_type))
    nn.init.normal_(layer.fusion_weight)
    layer.grouped_attention.prototypes.normal_()
    x = torch.randn(2, 11, HIDDEN_SIZE)
    masks = masks_of(layer, x, [11, 4])
    a = layer.self_attention(layer.self_norm(x), masks)
    g, _ = layer.grouped_attention(layer.grouped_norm(x + a), masks)
    expected = x + layer.fusion_weight[0] * a + layer.fusion_weight[1] * g
    torch.testing.assert_close(layer(x, masks)[0], expected)
    assert ("fusion_weight" in dict(layer.named_parameters())) == (fusion != "fixed")


@pytest.mark.parametrize(
    "options",
    [
        {"num_self_attention_heads": 0},
        {"num_grouped_attention_heads": 0},
        {"num_head_layers": 3},
        {"convolution_width": 2},
    ],
)
def test_heads_that_are_off_have_no_weights(options: dict[str, int]) -> None:
    model = SelfAttnModel(tiny_config(**options))
    names = {name.split(".")[3] for name, _ in model.named_parameters() if name.startswith("heads.layers")}
    assert ("self_attention" in names) == ("num_self_attention_heads" not in options)
    assert ("grouped_attention" in names) == ("num_grouped_attention_heads" not in options)
    assert ("convolution" in names) == ("convolution_width" in options)
    assert len(model.heads.layers) == options.get("num_head_layers", 1)


def test_with_both_heads_off_nothing_stands_between_backbone_and_classifier() -> None:
    heads = SelfAttnHeads(tiny_config(num_self_attention_heads=0, num_grouped_attention_heads=0))
    x = torch.randn(2, 5, HIDDEN_SIZE)
    output = heads((x,), output_attentions=True)
    assert torch.equal(output.features, x) and not list(heads.parameters()) and output.group_ids == ()


def test_a_convolution_stands_before_both_attentions() -> None:
    layer = SelfAttnLayer(tiny_config(convolution_width=3, fusion_init=0.5))
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.4)
    layer.grouped_attention.prototypes.normal_()
    x, lengths = torch.randn(2, 11, HIDDEN_SIZE), [11, 4]
    masks, convolution = masks_of(layer, x, lengths), layer.convolution
    taps = convolution.depthwise.weight[:, 0]  # (D, 3)
    for row, length in enumerate(lengths):
        gated = F.glu(convolution.gate(layer.convolution_norm(x[row, :length])), dim=-1)
        around = F.pad(gated, (0, 0, 1, 1))
        mixed = sum(around[place : place + length] * taps[:, place] for place in range(3)) + convolution.depthwise.bias
        expected = x[row, :length] + layer.convolution_weight * convolution.output(F.silu(mixed))
        torch.testing.assert_close(layer.convolved(x, masks)[row, :length], expected)
    plain = SelfAttnLayer(tiny_config(fusion_init=0.5))
    plain.load_state_dict(layer.state_dict(), strict=False)
    torch.testing.assert_close(layer(x, masks)[0], plain(layer.convolved(x, masks), masks)[0])
    torch.testing.assert_close(layer.unit_metric(x, masks), plain.unit_metric(layer.convolved(x, masks), masks))


def test_masked_spans_are_short_and_inside_a_row() -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([400, 40, 1])
    tokens, channels = [], []
    for _ in range(50):
        masked = masked_layers((torch.ones(3, 400, 64),), lengths)[0] == 0
        of_tokens, of_channels = masked.all(dim=2), masked.all(dim=1)
        assert torch.equal(masked, of_tokens[..., None] | of_channels[:, None])
        assert not any(of_tokens[row, length:].any() for row, length in enumerate(lengths))
        tokens.append(of_tokens.sum(dim=1))
        channels.append(of_channels.sum(dim=1))
    most = torch.stack(tokens).amax(dim=0)
    assert 20 < most[0] <= 2 * (LONGEST_SPAN + 1) and 5 < most[1] <= 22 and most[2] <= 1
    assert 3 < torch.stack(channels).max() <= 2 * 7


def test_features_are_masked_in_training_alone() -> None:
    heads = SelfAttnHeads(tiny_config(spec_augment=True))
    x = torch.randn(2, 30, HIDDEN_SIZE)
    assert torch.equal(heads.eval()((x,)).features, heads((x,)).features)
    assert not torch.equal(heads.train()((x,)).features, heads((x,)).features)
