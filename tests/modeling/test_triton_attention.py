"""The Triton kernels of the grouped attention, on a GPU where there is one, else in Triton's interpreter on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from naive_attention import naive_grouped
from tiny_models import HIDDEN_SIZE, main_output, tiny_batch, tiny_config, tiny_labels, tiny_model
from torch import Tensor, nn
from torch.nn import functional as F

pytest.importorskip("triton", reason="triton has packages for Linux only")

from triton_interpreter import mend_bfloat16  # noqa: E402

from hf_selfattn.modeling import attention_selfattn, triton_selfattn  # noqa: E402
from hf_selfattn.modeling.attention_selfattn import KERNELS, GroupedAttentionHead, head_masks  # noqa: E402
from hf_selfattn.modeling.grouping_selfattn import group_similarity, sort_by_group  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the choice take the kernels on the CPU, too."""
    if DEVICE == "cpu":
        mend_bfloat16(monkeypatch)
    monkeypatch.setattr(attention_selfattn, "has_triton_kernels", lambda device: device.type == DEVICE)


def head_of(dtype: torch.dtype = FP32, **options: Any) -> GroupedAttentionHead:
    """A head with random weights, biases and metric scales, numbers of a type."""
    head = GroupedAttentionHead(tiny_config(**{"num_grouped_attention_heads": 2, **options}))
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.4)
    head.prototypes.copy_(F.normalize(torch.randn_like(head.prototypes), dim=-1))
    return head.to(DEVICE, dtype)


def features_of(rows: int, length: int, dtype: torch.dtype = FP32) -> Tensor:
    return torch.randn(rows, length, HIDDEN_SIZE).to(DEVICE, dtype)


def outputs_of(
    head: GroupedAttentionHead, features: Tensor, lengths: list[int] | None, implementation: str = "sdpa"
) -> Tensor:
    """What the head gives each token, by kernels where it is told "sdpa"."""
    head.config._attn_implementation = implementation
    masks = head_masks(head.config, features, None if lengths is None else torch.tensor(lengths, device=DEVICE))
    by_kernels = implementation == "sdpa"
    assert (masks.grouped_attention == KERNELS, masks.block_bias is None) == (by_kernels, by_kernels)
    return head(features, masks)[0]


def results_of(
    head: GroupedAttentionHead, forward: Callable[[Tensor], Tensor], features: Tensor, towards: Tensor
) -> list[Tensor]:
    """Outputs, and the gradients of the features and of every weight, in double precision."""
    features = features.detach().requires_grad_()
    output = forward(features)
    found = torch.autograd.grad((output * towards).sum(), [features, *head.parameters()])
    return [x.detach().double() for x in (output, *found)]


def assert_equal(actual: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    """The greatest difference is small beside the greatest number."""
    for one, other in zip(actual, expected, strict=True):
        assert one.isfinite().all()
        assert (one - other).abs().max() <= tolerance * max(1.0, float(other.abs().max()))


def compare(head: GroupedAttentionHead, lengths: list[int], dtype: torch.dtype) -> dict[str, list[Tensor]]:
    """Results of real tokens by kernels and by plain products, and those of plain products in double precision."""
    features = features_of(len(lengths), max(lengths), dtype)
    is_real = torch.arange(max(lengths), device=DEVICE) < torch.tensor(lengths, device=DEVICE)[:, None]
    towards = torch.randn(int(is_real.sum()), HIDDEN_SIZE, device=DEVICE).to(dtype)
    found = {
        told: results_of(head, lambda x, told=told: outputs_of(head, x, lengths, told)[is_real], features, towards)
        for told in ("sdpa", "eager")
    }
    head.double()
    found["exact"] = results_of(
        head, lambda x: outputs_of(head, x, lengths, "eager")[is_real], features.double(), towards.double()
    )
    return found


@pytest.mark.parametrize("block_size", [16, 24])
def test_kernels_are_the_naive_double_loop(block_size: int) -> None:
    """Rows of an odd length, of one token and of none; double precision on the one side, single on the other."""
    lengths = [37, 17, 1, 0]
    head = head_of(block_size=block_size)
    features, towards = features_of(4, 37), torch.randn(4, 37, HIDDEN_SIZE, device=DEVICE)
    is_real = torch.arange(37, device=DEVICE) < torch.tensor(lengths, device=DEVICE)[:, None]
    actual = results_of(head, lambda x: outputs_of(head, x, lengths)[is_real], features, towards[is_real])
    head.double()

    def naive(x: Tensor) -> Tensor:
        return torch.cat(
            [naive_grouped(head, row[:length])[0] for row, length in zip(x, lengths, strict=True) if length]
        )

    expected = results_of(head, naive, features.double(), towards[is_real].double())
    assert all(bool(gradient.any()) for gradient in expected), "a weight has no part in the output"
    assert_equal(actual, expected)


CASES = {
    "blocks of 64": ([150, 65], {"block_size": 64}),
    "blocks in several tiles": ([210], {"block_size": 100, "num_grouped_attention_heads": 1}),
    "as wide as it goes": (
        [40],
        {"block_size": 16, "head_dim": 112, "group_dim": 16, "num_grouped_attention_heads": 1},
    ),
    "sums in several parts": ([300], {"block_size": 16, "num_grouped_attention_heads": 1}),
}


@pytest.mark.parametrize("case", CASES)
def test_kernels_are_the_layer(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths, options = CASES[case]
    if case == "sums in several parts":  # more than a tile of means, a program of blocks and a program of queries
        for name, size in {"WIDEST": 16, "FEWEST_BLOCKS": 4, "FEWEST_PLACES": 64}.items():
            monkeypatch.setattr(triton_selfattn, name, size)
    found = compare(head_of(**options), lengths, FP32)
    assert_equal(found["sdpa"], found["exact"])


@pytest.mark.parametrize("options", [{"head_dim": 128}, {"block_size": 8}], ids=["keys of 136 columns", "blocks of 8"])
def test_what_kernels_do_not_compute_is_left_to_pytorch(options: dict[str, int]) -> None:
    lengths = torch.tensor([40, 9], device=DEVICE)
    head, features = head_of(**{"block_size": 16, **options}), features_of(2, 40)
    head.config._attn_implementation = "sdpa"
    masks = head_masks(head.config, features, lengths)
    assert masks.grouped_attention == "sdpa"
    actual, expected = head(features, masks)[0].detach(), outputs_of(head, features, [40, 9], "eager").detach()
    is_real = torch.arange(40, device=DEVICE) < lengths[:, None]
    assert_equal([actual[is_real]], [expected[is_real]])


@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_half_precision_is_no_worse_than_the_layer_is(dtype: torch.dtype) -> None:
    """Of the outputs, and of all gradients together."""
    found = compare(head_of(dtype, block_size=32), [90, 33, 1], dtype)
    for part in (slice(0, 1), slice(1, None)):
        kernels, plain, exact = (torch.cat([x.flatten() for x in own[part]]) for own in found.values())
        assert (kernels - exact).norm() <= (plain - exact).norm()
        assert (kernels - exact).norm() <= 16 * torch.finfo(dtype).eps * exact.norm()


def test_padding_and_batching_change_nothing() -> None:
    lengths = [50, 33, 1]
    head, features = head_of(block_size=16), features_of(3, 70)
    batch = outputs_of(head, features, lengths)
    for row, length in enumerate(lengths[:2]):
        alone = outputs_of(head, features[row : row + 1, :length], None)
        torch.testing.assert_close(batch[row, :length], alone[0], atol=1e-5, rtol=0)


def test_rows_of_padding_alone() -> None:
    head, features = head_of(block_size=16), features_of(2, 20).requires_grad_()
    output = outputs_of(head, features, [0, 0])
    assert torch.equal(output, head.output.bias.expand_as(output))
    found = torch.autograd.grad(output.sum(), [features, *head.parameters()])
    for gradient, (name, _) in zip(found, [("features", features), *head.named_parameters()], strict=True):
        assert gradient.isfinite().all()
        assert name.startswith("output.bias") or not gradient.any(), name


def test_the_order_is_that_of_the_layer() -> None:
    head, features, lengths = head_of(), features_of(2, 90), torch.tensor([90, 31], device=DEVICE)
    groups, expected, _ = sort_by_group(group_similarity(head.unit_metric(features), head.prototypes), lengths)
    starts = torch.tensor([0, 90, 180], device=DEVICE)
    keys = triton_selfattn.group_keys(head.metric(features).flatten(0, 1), head.prototypes, starts, lengths, 90)
    order = torch.sort(keys, dim=-1, stable=True).indices
    for row, length in enumerate(lengths.tolist()):
        assert torch.equal(order[row, :, :length], expected[row, :, :length])
        assert torch.equal(keys[row, :, :length] // 1024, groups[row, :, :length].int())
    assert len(set(keys[1, :, 31:].flatten().tolist())) == 1 and keys[1, 0, 31] > keys[:, :, :31].max()


def test_operators_are_what_pytorch_expects() -> None:
    head, features = head_of(block_size=16), features_of(1, 20)[0]
    rows = torch.tensor([0, 20], device=DEVICE), torch.tensor([20], device=DEVICE)
    projected, metric = head.qkv(features).unflatten(-1, (2, -1)).detach().requires_grad_(), head.metric(features)
    metric = metric.detach().requires_grad_()
    torch.library.opcheck(triton_selfattn.group_keys, (metric.detach(), head.prototypes, *rows, 20))
    keys = triton_selfattn.group_keys(metric.detach(), head.prototypes, *rows, 20)
    order = torch.sort(keys, dim=-1, stable=True).indices
    inputs = (projected, metric, head.metric_scale, order, *rows, 16)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(triton_selfattn.attend_in_order, inputs, test_utils=checks)


@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_model_takes_the_kernels_by_itself(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """In mixed precision as without; a training step gives the gradients of the plain products."""
    batch = {name: values.to(DEVICE) for name, values in tiny_batch([40, 9]).items()}
    labels = tiny_labels("single_label", batch)
    tolerance = 1e-5 if dtype == FP32 else 0.05
    calls, found = [], []
    attend = triton_selfattn.grouped_attention

    def record(*inputs: Any) -> Tensor:
        calls.append(inputs[0].dtype)
        return attend(*inputs)

    monkeypatch.setattr(triton_selfattn, "grouped_attention", record)
    for told in ("eager", "sdpa"):
        model = tiny_model("single_label", block_size=16).to(DEVICE)
        model.set_attn_implementation(told)
        with torch.autocast(DEVICE, BF16, enabled=dtype == BF16):
            outputs = model(**batch, **labels)
        outputs.loss.backward()
        found.append([main_output(outputs).detach().double(), *(x.grad.double() for x in model.parameters())])
    assert calls == [dtype]
    assert_equal(found[1], found[0], tolerance)


def test_compiled_heads_take_them_as_one_node() -> None:
    torch.compiler.reset()
    heads, graphs = tiny_model("model", block_size=16).heads.to(DEVICE), []
    features, lengths = features_of(2, 40), torch.tensor([40, 9], device=DEVICE)

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return graph.forward

    def gradients_of(called: Callable[..., Any]) -> list[Tensor]:
        is_real = torch.arange(40, device=DEVICE) < lengths[:, None]
        output = called((features,), lengths).features[is_real]
        return list(torch.autograd.grad(output.square().sum(), list(heads.parameters())))

    compiled = torch.compile(heads, fullgraph=True, dynamic=True, backend=count)
    assert_equal(gradients_of(compiled), gradients_of(heads))
    (nodes,) = graphs
    assert sum("attend_in_order" in name for name in nodes) == 1
