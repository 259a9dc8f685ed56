"""Rows without padding between them: kernels that know where rows begin give what padded rows get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fake_flash import fake_flash
from tiny_models import HIDDEN_SIZE, main_output, tiny_batch, tiny_config, tiny_labels, tiny_model
from torch import Tensor, nn

pytest.importorskip("triton", reason="triton has packages for Linux only")

from triton_interpreter import mend_bfloat16  # noqa: E402

from hf_selfattn.modeling import attention_selfattn, heads_selfattn  # noqa: E402
from hf_selfattn.modeling.backbone_selfattn import READ_PACKED_ROWS  # noqa: E402
from hf_selfattn.modeling.heads_selfattn import SelfAttnHeads  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FLASH = "flash_attention_2"
ROWS = [37, 1, 0, 20]


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens stood in each batch of packed rows; kernels are taken on the CPU, too."""
    sizes = []
    pack = heads_selfattn.pack

    def record(*inputs: Any) -> Any:
        found = pack(*inputs)
        sizes.append(found[0].shape[1])
        return found

    monkeypatch.setenv(attention_selfattn.KERNEL_SWITCH, "1")
    monkeypatch.setattr(heads_selfattn, "pack", record)
    monkeypatch.setattr(attention_selfattn, "has_triton_kernels", lambda device: device.type == DEVICE)
    if DEVICE == "cpu":
        mend_bfloat16(monkeypatch)
    return sizes


def heads_of(**options: Any) -> SelfAttnHeads:
    """Heads with random weights that all count."""
    config = tiny_config(num_grouped_attention_heads=2, block_size=16, **options)
    config._attn_implementation = "sdpa"
    heads = SelfAttnHeads(config)
    for parameter in heads.parameters():
        nn.init.normal_(parameter, std=0.4)
    return heads.to(DEVICE)


def results_of(heads: SelfAttnHeads, told: str, features: Tensor, lengths: list[int] | None) -> list[Tensor]:
    """Outputs of real tokens, and the gradients of the features and of every weight."""
    heads.config._attn_implementation = told
    N = features.shape[1]
    is_real = torch.arange(N, device=DEVICE) < torch.tensor(lengths or [N], device=DEVICE)[:, None]
    given = None if lengths is None else torch.tensor(lengths, device=DEVICE)
    features = features.detach().requires_grad_()
    output = heads.attend(features, given).features
    assert output.shape == features.shape
    weights = dict(heads.named_parameters())
    found = torch.autograd.grad(output[is_real].square().sum(), [features, *weights.values()])
    return [output[is_real].detach(), *found]


def assert_equal(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance * max(1.0, float(other.abs().max())), rtol=0)


def test_packed_rows_are_padded_rows(packed: list[int]) -> None:
    """Of an odd length, of one token and of none; forward and every gradient, against plain products."""
    heads, features = heads_of(num_self_attention_heads=0), torch.randn(4, 37, HIDDEN_SIZE, device=DEVICE)
    actual = results_of(heads, "sdpa", features, ROWS)
    assert packed == [58]
    expected = results_of(heads, "eager", features, ROWS)
    assert packed == [58]
    assert_equal(actual, expected, 1e-5)
    alone = results_of(heads, "sdpa", features[3:, :20], None)
    torch.testing.assert_close(actual[0][-20:], alone[0], atol=1e-5, rtol=0)


def test_places_of_padding_are_zeros_and_have_no_gradient(packed: list[int]) -> None:
    heads, features = heads_of(num_self_attention_heads=0), torch.randn(4, 37, HIDDEN_SIZE, device=DEVICE)
    features.requires_grad_()
    output = heads.attend(features, torch.tensor(ROWS, device=DEVICE)).features
    output.square().sum().backward()
    is_padding = torch.arange(37, device=DEVICE) >= torch.tensor(ROWS, device=DEVICE)[:, None]
    assert packed == [58] and features.grad is not None
    assert not output[is_padding].any() and not features.grad[is_padding].any()
    assert output[~is_padding].all() and features.grad[~is_padding].all()


@pytest.mark.skipif(DEVICE != "cpu", reason="a GPU has FlashAttention itself")
def test_windows_of_packed_rows_go_to_flash(packed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole windows, cut ones, and none: in bfloat16, as far from plain products as FlashAttention of padded rows."""
    flash = fake_flash(monkeypatch)
    heads = heads_of(attention_window=10).bfloat16()
    features = torch.randn(4, 37, HIDDEN_SIZE).bfloat16()
    actual = results_of(heads, FLASH, features, ROWS)
    assert packed == [58]
    assert flash.lengths == [10, 10, 10, 7, *[1, 0, 0, 0], *[0] * 4, *[10, 10, 0, 0]]
    expected = results_of(heads.float(), "eager", features.float(), ROWS)
    monkeypatch.setattr(heads_selfattn, "takes_packed_rows", lambda *_: False)
    padded = results_of(heads.bfloat16(), FLASH, features, ROWS)
    for part in (slice(0, 1), slice(1, None)):
        one, other, exact = (torch.cat([x.float().flatten() for x in all[part]]) for all in (actual, padded, expected))
        assert (one - exact).norm() <= 1.1 * (other - exact).norm() + 1e-3 * exact.norm()


@pytest.mark.parametrize(
    ("told", "lengths", "options", "expected"),
    [
        ("sdpa", [20, 9], {"num_self_attention_heads": 0}, [29]),
        ("sdpa", [20, 20], {"num_self_attention_heads": 0}, []),  # nothing is padding
        ("sdpa", [20, 9], {}, []),  # PyTorch's kernel reads windows of one length
        ("sdpa", [16, 9], {"num_self_attention_heads": 0}, []),  # one block is full attention
        ("eager", [20, 9], {"num_self_attention_heads": 0}, []),
    ],
)
def test_a_model_packs_where_both_attentions_take_it(
    told: str, lengths: list[int], options: dict[str, Any], expected: list[int], packed: list[int]
) -> None:
    """A training step has the loss and the gradients of plain products."""
    batch = {name: values.to(DEVICE) for name, values in tiny_batch(lengths, padding_side="left").items()}
    labels = {name: values.to(DEVICE) for name, values in tiny_labels("single_label", batch).items()}
    found = []
    for implementation in ("eager", told):
        model = tiny_model("single_label", block_size=16, **options).to(DEVICE)
        model.set_attn_implementation(implementation)
        outputs = model(**batch, **labels)
        outputs.loss.backward()
        found.append([main_output(outputs).detach(), *(x.grad for x in model.parameters())])
    assert packed == expected
    assert_equal(found[1], found[0], 1e-5)


def test_compiled_heads_read_padded_rows(packed: list[int]) -> None:
    """The size of packed rows stands in the data, so a graph would end there."""
    torch.compiler.reset()
    heads = heads_of(num_self_attention_heads=0)
    features, lengths = torch.randn(2, 20, HIDDEN_SIZE, device=DEVICE), torch.tensor([20, 9], device=DEVICE)
    compiled: Callable[..., Any] = torch.compile(heads.attend, fullgraph=True, backend="eager")
    with torch.no_grad():
        output = compiled(features, lengths).features
        assert packed == []
        torch.testing.assert_close(output[1, :9], heads.attend(features, lengths).features[1, :9], atol=1e-5, rtol=0)
    assert packed == [29]


@pytest.mark.skipif(DEVICE != "cpu", reason="a GPU has FlashAttention itself")
@pytest.mark.parametrize("family", READ_PACKED_ROWS)
def test_a_backbone_reads_packed_windows(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text in several windows, a short one, and one token: the features are those of padded rows."""
    flash, model = fake_flash(monkeypatch), tiny_model("model", family).bfloat16()
    model.backbone.config._attn_implementation = FLASH
    batch, shapes, found = tiny_batch([70, 9, 1], family), [], []
    model.backbone.register_forward_pre_hook(
        lambda module, inputs, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    for switch in ("1", "0"):
        monkeypatch.setenv(attention_selfattn.KERNEL_SWITCH, switch)
        features = model.backbone_features(**batch)
        is_real = features.real_positions()
        output = features.layers[-1][is_real]
        weights = dict(model.backbone.named_parameters())
        gradients = torch.autograd.grad(output.float().square().sum(), list(weights.values()))
        found.append([output.detach(), *gradients])
        assert flash.lengths[-4:] == [28, 28, 26, 9] or flash.lengths[-5:] == [28, 28, 26, 9, 1]
    assert shapes == [(1, 92), (5, 28)]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=0.02 * float(other.abs().max()), rtol=0)


@pytest.mark.skipif(DEVICE != "cpu", reason="a GPU has FlashAttention itself")
def test_a_batch_is_packed_from_the_tokens_to_the_heads(packed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    fake_flash(monkeypatch)
    model, batch = tiny_model("token", block_size=16).bfloat16(), tiny_batch([70, 9, 1], padding_side="left")
    expected = main_output(model(**batch))
    model.config._attn_implementation = model.base_model.backbone.config._attn_implementation = FLASH
    actual = main_output(model(**batch))
    assert packed == [80]
    is_real = batch["attention_mask"].bool()
    torch.testing.assert_close(actual[is_real], expected[is_real], atol=0.05, rtol=0.05)
