"""Which attention the heads take, and what FlashAttention is given: its kernels are stood in for on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fake_flash import FakeFlash, fake_flash
from tiny_models import HIDDEN_SIZE, main_output, tiny_batch, tiny_config, tiny_model
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import is_flash_attn_2_available

from hf_selfattn.modeling import attention_selfattn
from hf_selfattn.modeling.attention_selfattn import (
    KERNELS,
    GroupedAttentionHead,
    SelfAttentionHead,
    choose_grouped_attention,
    choose_window_attention,
    head_masks,
)
from hf_selfattn.modeling.flex_selfattn import attend_in_blocks

FLASH, FLEX, FUSED = "flash_attention_2", "flex_attention", "sdpa"
CPU, GPU = torch.device("cpu"), torch.device("cuda")
BF16, FP32, FP64 = torch.bfloat16, torch.float32, torch.float64


@pytest.fixture
def with_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU with FlexAttention's kernels, and without ours."""
    monkeypatch.setattr(attention_selfattn, "has_flex_kernels", lambda device: device.type == "cuda")
    monkeypatch.setattr(attention_selfattn, "has_triton_kernels", lambda device: False)


@pytest.mark.usefixtures("with_kernels")
@pytest.mark.parametrize(
    ("told", "device", "dtype", "windows", "groups", "groups_of_a_long_row"),
    [
        ("eager", GPU, BF16, "eager", "eager", "eager"),
        ("sdpa_or_eager_on_cpu", CPU, BF16, *["sdpa_or_eager_on_cpu"] * 3),
        (FUSED, CPU, FP32, FUSED, FUSED, FUSED),
        (FUSED, GPU, FP32, FUSED, FUSED, FLEX),
        (FUSED, GPU, BF16, FUSED, FUSED, FLEX),
        (FUSED, GPU, FP64, FUSED, FUSED, FUSED),
        (FUSED, torch.device("mps"), FP32, FUSED, FUSED, FUSED),
        (FLEX, CPU, FP64, FLEX, FLEX, FLEX),
        (FLEX, GPU, BF16, FLEX, FLEX, FLEX),
        (FLEX, GPU, FP64, FUSED, FUSED, FUSED),
        (FLASH, GPU, BF16, FLASH, FLEX, FLEX),
        (FLASH, GPU, FP32, FUSED, FLEX, FLEX),
        (FLASH, CPU, BF16, FLASH, FUSED, FUSED),
        ("kernels-community/flash-attn3", GPU, torch.float16, "kernels-community/flash-attn3", FLEX, FLEX),
    ],
)
def test_choice(
    told: str, device: torch.device, dtype: torch.dtype, windows: str, groups: str, groups_of_a_long_row: str
) -> None:
    assert choose_window_attention(told, device, dtype) == windows
    assert choose_grouped_attention(told, device, dtype, 64, 64, 48) == groups
    assert choose_grouped_attention(told, device, dtype, 65, 64, 48) == groups_of_a_long_row


@pytest.mark.usefixtures("with_kernels")
@pytest.mark.parametrize(
    ("told", "device", "dtype", "sizes", "expected"),
    [
        (FUSED, GPU, BF16, (2, 64, 48), KERNELS),
        (FUSED, GPU, FP32, (1000, 256, 128), KERNELS),
        (FUSED, GPU, torch.float16, (9, 100, 48), KERNELS),
        (FLASH, GPU, BF16, (9, 64, 48), KERNELS),
        (FLASH, GPU, FP32, (9, 64, 48), KERNELS),
        (FUSED, GPU, FP64, (9, 64, 48), FUSED),
        (FUSED, GPU, BF16, (1, 64, 48), FUSED),  # one block is full attention
        (FUSED, GPU, BF16, (9, 64, 144), FUSED),
        (FUSED, GPU, BF16, (9, 8, 48), FLEX),
        (FLASH, GPU, BF16, (9, 64, 144), FLEX),
        (FUSED, CPU, BF16, (9, 64, 48), FUSED),
        (FLEX, GPU, BF16, (9, 64, 48), FLEX),
        ("eager", GPU, BF16, (9, 64, 48), "eager"),
    ],
)
def test_kernels_are_taken_where_they_apply(
    told: str,
    device: torch.device,
    dtype: torch.dtype,
    sizes: tuple[int, int, int],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention_selfattn, "has_triton_kernels", lambda device: device.type == "cuda")
    assert choose_grouped_attention(told, device, dtype, *sizes) == expected


@pytest.mark.usefixtures("with_kernels")
@pytest.mark.parametrize("told", [FUSED, FLEX, FLASH, "eager"])
def test_exported_programs_have_no_kernels_of_a_device(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    expected = "eager" if told == "eager" else FUSED
    assert choose_window_attention(told, GPU, BF16) == expected
    assert choose_grouped_attention(told, GPU, BF16, 65, 64, 48) == expected


def test_a_cpu_has_no_kernels() -> None:
    assert not attention_selfattn.has_flex_kernels(CPU) and not attention_selfattn.has_triton_kernels(CPU)


@pytest.mark.parametrize(("length", "calls"), [(64, 0), (65, 1)])
@torch.no_grad()
def test_long_rows_take_flex_without_being_told(length: int, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def record(*inputs: Any) -> Tensor:
        seen.append(inputs)
        return attend_in_blocks(*inputs)

    monkeypatch.setattr(attention_selfattn, "attend_in_blocks", record)
    batch = tiny_batch([length, 9])
    model = tiny_model("model")
    assert model.config._attn_implementation == FUSED and model.config.block_size == 8
    expected = model(**batch).last_hidden_state
    assert not seen
    monkeypatch.setattr(attention_selfattn, "has_flex_kernels", lambda device: True)
    actual = model(**batch).last_hidden_state
    assert len(seen) == calls
    is_real = batch["attention_mask"].bool()
    torch.testing.assert_close(actual[is_real], expected[is_real], atol=1e-5, rtol=0)


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> FakeFlash:
    return fake_flash(monkeypatch)


def output_by(implementation: str, head: nn.Module, features: Tensor, lengths: list[int] | None) -> Tensor:
    head.config._attn_implementation = implementation
    given = None if lengths is None else torch.tensor(lengths)
    output = head(features, head_masks(head.config, features, given))
    output = output[0] if isinstance(output, tuple) else output
    is_real = torch.arange(features.shape[1]) < torch.tensor(lengths or [features.shape[1]] * len(features))[:, None]
    return output[is_real].float()


@pytest.mark.parametrize(
    ("window", "lengths", "seen"),
    [
        (64, [23, 17, 1], [23, 17, 1]),
        (10, [23, 17, 1], [10, 10, 3, 10, 7, 1, 1, 1, 1]),  # a window of padding lets its first token through
        (64, None, [23, 23, 23]),
        (23, [23, 17, 1], [23, 17, 1]),
    ],
)
def test_flash_is_given_the_real_tokens_of_each_window(
    flash: FakeFlash, window: int, lengths: list[int] | None, seen: list[int]
) -> None:
    head = SelfAttentionHead(tiny_config(attention_window=window)).bfloat16()
    features = torch.randn(3, 23, HIDDEN_SIZE, dtype=BF16)
    expected = output_by(FUSED, head, features, lengths)
    assert flash.lengths == []
    actual = output_by(FLASH, head, features, lengths)
    assert flash.lengths == seen
    torch.testing.assert_close(actual, expected, atol=0.02, rtol=0.02)


def test_flash_computes_no_single_precision(flash: FakeFlash) -> None:
    head = SelfAttentionHead(tiny_config())
    features = torch.randn(3, 23, HIDDEN_SIZE)
    torch.testing.assert_close(
        output_by(FLASH, head, features, [23, 17, 1]), output_by(FUSED, head, features, [23, 17, 1])
    )
    assert flash.lengths == []
    with torch.autocast("cpu", BF16):  # in mixed precision it does
        output_by(FLASH, head, features, [23, 17, 1])
    assert flash.lengths == [16, 7, 16, 1, 1, 1]


def test_flash_is_never_given_the_bias_of_the_means(flash: FakeFlash) -> None:
    head = GroupedAttentionHead(tiny_config(block_size=7)).bfloat16()
    features = torch.randn(3, 23, HIDDEN_SIZE, dtype=BF16)
    torch.testing.assert_close(
        output_by(FLASH, head, features, [23, 17, 1]), output_by(FUSED, head, features, [23, 17, 1])
    )
    assert flash.lengths == []


@pytest.fixture
def told_flash() -> Iterator[list[tuple[Any, ...]]]:
    """An attention of the interface whose name is one of FlashAttention's."""
    calls = []

    def record(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
    ) -> Any:
        calls.append((query, key, value, mask, options))
        if mask is not None:
            mask = mask[:, None, None]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=options["scaling"])
        return attended.transpose(1, 2), None

    ALL_ATTENTION_FUNCTIONS["test_flash"] = record
    yield calls
    del ALL_ATTENTION_FUNCTIONS["test_flash"]


def test_what_the_interface_is_given(told_flash: list[tuple[Any, ...]]) -> None:
    batch = tiny_batch([23, 17, 1])
    model = tiny_model().bfloat16()
    expected = main_output(model(**batch))
    model.config._attn_implementation = {"": "test_flash", "backbone_config": FUSED}
    torch.testing.assert_close(main_output(model(**batch)), expected, atol=0.03, rtol=0.03)
    ((query, key, value, mask, options),) = told_flash
    assert query.shape == key.shape == value.shape == (6, 2, 16, 8), "windows, heads, tokens, width"
    assert mask.dtype == torch.bool and mask.sum(dim=1).tolist() == [16, 7, 16, 1, 1, 1]
    assert options == {"scaling": 8**-0.5, "dropout": 0.0}


def test_models_may_be_told_either() -> None:
    model = tiny_model()
    assert model._supports_flash_attn and model._supports_flex_attn and model._supports_sdpa
    if not is_flash_attn_2_available():
        with pytest.raises(ImportError, match="FlashAttention2"):
            model.set_attn_implementation(FLASH)
        assert model.config._attn_implementation == FUSED


@pytest.mark.skipif(
    not (torch.cuda.is_available() and is_flash_attn_2_available()), reason="needs flash-attn on a GPU"
)
def test_flash_kernels_give_the_same() -> None:
    batch = {name: values.cuda() for name, values in tiny_batch([30, 17, 9]).items()}
    results = []
    for implementation in (FUSED, FLASH):
        model = tiny_model().to("cuda", BF16)
        model.set_attn_implementation(implementation)
        outputs = model(**batch, labels=torch.arange(3, device="cuda"))
        outputs.loss.backward()
        results.append([outputs.logits.detach(), *(x.grad for x in model.parameters() if x.grad is not None)])
    torch.testing.assert_close(results[1], results[0], atol=0.05, rtol=0.05)
