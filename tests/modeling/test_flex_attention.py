from __future__ import annotations

from math import ceil, log
from typing import Any

import pytest
import torch
from tiny_models import HIDDEN_SIZE, main_output, tiny_batch, tiny_config, tiny_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from hf_selfattn.modeling import flex_selfattn
from hf_selfattn.modeling.attention_selfattn import (
    GroupedAttentionHead,
    SelfAttentionHead,
    has_flex_kernels,
    head_masks,
)
from hf_selfattn.modeling.flex_selfattn import TILE, attend_in_blocks, build_block_mask

needs_gpu = pytest.mark.skipif(
    not (torch.cuda.is_available() and has_flex_kernels(torch.device("cuda"))),
    reason="needs a GPU with FlexAttention's kernels",
)
# PyTorch's compiler and Transformers' integration of it still use parts that PyTorch calls deprecated.
compiles = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
HEADS_BY_FLEX = {"": "flex_attention", "backbone_config": "sdpa"}
LENGTHS = [23, 17, 1]


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()
    flex_selfattn.cached_block_mask.cache_clear()


def blocks_of(block_size: int, with_means: bool, lengths: list[int], device: str = "cpu") -> tuple[Any, ...]:
    """Random sorted tokens of rows, and the means of their blocks where these are keys."""
    num_blocks, rows = ceil(max(lengths) / block_size), len(lengths)
    places = num_blocks * block_size
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(rows, places, 2, 16, generator=generator, dtype=torch.float64) for _ in range(3))
    means = None
    if with_means:
        counts = [[min(max(n - c * block_size, 0), block_size) for c in range(num_blocks)] for n in lengths]
        is_real = torch.arange(places) < torch.tensor(lengths)[:, None]
        divisor = torch.tensor(counts).clamp(min=1)[..., None, None]
        means = tuple(
            (x * is_real[..., None, None]).unflatten(1, (-1, block_size)).sum(dim=2) / divisor for x in (key, value)
        )
        means = tuple(x.to(device) for x in means)
    return *(x.to(device) for x in (query, key, value)), means, torch.tensor(lengths, device=device), block_size, 0.3


def naive_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    means: tuple[Tensor, Tensor] | None,
    lengths: Tensor,
    block_size: int,
    scaling: float,
) -> Tensor:
    """Double loop over rows, heads and tokens; zeros at padding."""
    attended = torch.zeros_like(value)
    for row, length in enumerate(lengths.tolist()):
        blocks = [range(start, min(start + block_size, length)) for start in range(0, length, block_size)]
        for head in range(query.shape[2]):
            for number, block in enumerate(blocks):
                for i in block:
                    logits = [query[row, i, head] @ key[row, j, head] * scaling for j in block]
                    values = [value[row, j, head] for j in block]
                    for other, far in enumerate(blocks if means else ()):
                        if other != number:
                            logit = query[row, i, head] @ means[0][row, other, head] * scaling
                            logits.append(logit + log(len(far)))
                            values.append(means[1][row, other, head])
                    attended[row, i, head] = torch.stack(logits).softmax(dim=0) @ torch.stack(values)
    return attended


def real_tokens(values: Tensor, lengths: Tensor) -> Tensor:
    return values[torch.arange(values.shape[1], device=values.device) < lengths[:, None]]


@pytest.mark.parametrize("with_means", [True, False])
@pytest.mark.parametrize("block_size", [1, 4, 7, 64])
def test_attention_is_the_naive_double_loop(block_size: int, with_means: bool) -> None:
    inputs = blocks_of(block_size, with_means, LENGTHS)
    attended = attend_in_blocks(*inputs)
    expected = naive_blocks(*inputs)
    assert attended.shape == expected.shape
    torch.testing.assert_close(
        real_tokens(attended, inputs[4]), real_tokens(expected, inputs[4]), atol=1e-12, rtol=1e-12
    )
    assert attended.isfinite().all()


def head_of(model_class: type[nn.Module], **options: Any) -> nn.Module:
    head = model_class(tiny_config(**options))
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.4)
    if isinstance(head, GroupedAttentionHead):
        head.prototypes.copy_(F.normalize(torch.randn_like(head.prototypes), dim=-1))
    return head.double()


def output_by(implementation: str, head: nn.Module, features: Tensor, lengths: list[int] | None) -> Tensor:
    head.config._attn_implementation = implementation
    given = None if lengths is None else torch.tensor(lengths, device=features.device)
    output = head(features, head_masks(head.config, features, given))
    output = output[0] if isinstance(output, tuple) else output
    return output.flatten(0, 1) if lengths is None else real_tokens(output, given)


HEADS = [
    *[(GroupedAttentionHead, {"block_size": size}) for size in (7, 64)],
    *[(SelfAttentionHead, {"attention_window": window}) for window in (5, 64)],
]


@pytest.mark.parametrize("lengths", [LENGTHS, None], ids=["padded", "whole"])
@pytest.mark.parametrize(("head_class", "options"), HEADS)
@torch.no_grad()
def test_heads_are_those_of_the_fused_kernel(
    head_class: type[nn.Module], options: dict[str, Any], lengths: list[int] | None
) -> None:
    head = head_of(head_class, **options)
    features = torch.randn(3, 23, HIDDEN_SIZE, dtype=torch.float64)
    expected = output_by("sdpa", head, features, lengths)
    torch.testing.assert_close(output_by("flex_attention", head, features, lengths), expected, atol=1e-9, rtol=1e-9)


def plain_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: Tensor, mask: BlockMask) -> Tensor:
    """What the kernel computes, in a form that has gradients on a CPU."""
    is_seen = mask.mask_mod(0, 0, torch.arange(query.shape[2])[:, None], torch.arange(key.shape[2]))
    logits = query @ key.transpose(-1, -2) * scale + bias[:, None, None]
    return logits.masked_fill(~is_seen, -torch.inf).softmax(dim=-1) @ value


@pytest.mark.parametrize("lengths", [LENGTHS, None], ids=["padded", "whole"])
@pytest.mark.parametrize(("head_class", "options"), HEADS)
def test_gradients_around_the_kernel(
    head_class: type[nn.Module], options: dict[str, Any], lengths: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the kernel itself needs a GPU: the ways into it and out of it have the gradients of the fused kernel."""
    monkeypatch.setattr(flex_selfattn, "biased_attention", plain_attention)
    head = head_of(head_class, **options)
    features = torch.randn(3, 23, HIDDEN_SIZE, dtype=torch.float64, requires_grad=True)
    variables = [features, *head.parameters()]
    expected = output_by("sdpa", head, features, lengths)
    towards = torch.randn_like(expected)
    gradients = [
        torch.autograd.grad((output * towards).sum(), variables)
        for output in (output_by("flex_attention", head, features, lengths), expected)
    ]
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("num_blocks", "block_size"), [(1, 1), (1, 64), (2, 64), (3, 64), (129, 1), (5, 100), (2, 128), (130, 3), (3, 300)]
)
@pytest.mark.parametrize("with_means", [True, False])
def test_the_mask_keeps_the_tiles_that_a_double_loop_finds(num_blocks: int, block_size: int, with_means: bool) -> None:
    num_means = num_blocks if with_means else 0
    mask = build_block_mask(num_blocks, block_size, num_means, torch.device("cpu"))
    places, keys = mask.seq_lengths
    assert places == max(ceil(num_blocks * block_size / TILE), 2) * TILE
    assert keys - places == ceil(num_means / TILE) * TILE

    def sees(i: int, j: int) -> bool:
        if j < places:
            return i // block_size == j // block_size
        return j - places < num_means and j - places != i // block_size

    block = torch.arange(places) // block_size
    is_seen = torch.zeros(places, keys, dtype=torch.bool)
    is_seen[:, :places] = block[:, None] == block
    is_seen[:, places : places + num_means] = block[:, None] != torch.arange(num_means)
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randint(places, (300,), generator=generator), torch.randint(keys, (300,), generator=generator)
    for i, j in zip(*(x.tolist() for x in pairs), strict=True):
        assert is_seen[i, j] == sees(i, j) == mask.mask_mod(0, 0, torch.tensor(i), torch.tensor(j))

    kept, full = dense(mask.kv_num_blocks, mask.kv_indices), dense(mask.full_kv_num_blocks, mask.full_kv_indices)
    for row in range(places // TILE):
        for column in range(keys // TILE):
            tile = is_seen[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
            assert kept[row, column] == bool(tile.any() and not tile.all())
            assert full[row, column] == bool(tile.all())
    theirs = create_block_mask(mask.mask_mod, None, None, places, keys, device="cpu")
    torch.testing.assert_close(mask.to_dense(), theirs.to_dense())
    for name in ("q_num_blocks", "full_q_num_blocks"):
        torch.testing.assert_close(getattr(mask, name), getattr(theirs, name))


def dense(numbers: Tensor, places: Tensor) -> Tensor:
    """Which tiles of keys each row of tiles keeps."""
    kept = torch.zeros(places.shape[-2:], dtype=torch.bool)
    for row, number in enumerate(numbers[0, 0].tolist()):
        kept[row, places[0, 0, row, :number].long()] = True
    return kept


def test_nothing_grows_with_the_square_of_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def record(query: Tensor, *others: Any) -> Tensor:
        sizes.append(sum(x.numel() for x in (query, *others) if isinstance(x, Tensor)))
        return query

    monkeypatch.setattr(flex_selfattn, "biased_attention", record)
    for num_blocks in (128, 256, 512):
        blocks = torch.randn(1, num_blocks * 2, 1, 16)
        means = (torch.randn(1, num_blocks, 1, 16),) * 2
        attend_in_blocks(blocks, blocks, blocks, means, torch.tensor([num_blocks * 2]), 2, 1.0)
    assert sizes[2] - 1 == 2 * (sizes[1] - 1) == 4 * (sizes[0] - 1)  # 1 is the scale


@torch.no_grad()
def test_few_graphs_serve_inputs_of_all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(flex_selfattn.biased_attention, dynamic=True, fullgraph=True, backend=count)
    monkeypatch.setattr(flex_selfattn, "biased_attention", compiled)
    for with_means in (True, False):
        for lengths in (
            [700, 3, 9],
            [200, 80],
            [900] * 5,
            [130],
            [1000],
            [385, 1, 1, 1],
            [450, 2],
            [650] * 6,
            [64],
            [60, 3],
        ):
            inputs = blocks_of(64, with_means, lengths)
            attended = attend_in_blocks(*inputs)
            assert attended.isfinite().all()
    assert 1 <= len(graphs) <= 3, "PyTorch allows 8, and the other head and training have graphs of their own"


@pytest.mark.parametrize("task", ["single_label", "token"])
@torch.no_grad()
def test_model_answers_the_same(task: str) -> None:
    batch = tiny_batch([70, 9, 33])
    model = tiny_model(task)
    is_real = batch["attention_mask"].bool() if task == "token" else slice(None)
    expected = main_output(model(**batch))[is_real]
    model.set_attn_implementation(HEADS_BY_FLEX)
    assert model.base_model.heads.config._attn_implementation == "flex_attention"
    assert model.base_model.backbone.config._attn_implementation == "sdpa"
    torch.testing.assert_close(main_output(model(**batch))[is_real], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_mixed_precision() -> None:
    batch = tiny_batch([70, 9, 33])
    model = tiny_model()
    expected = main_output(model(**batch))
    model.set_attn_implementation(HEADS_BY_FLEX)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(main_output(model(**batch)).float(), expected, atol=0.05, rtol=0)


@torch.no_grad()
def test_compiled_and_exported_models_answer_the_same() -> None:
    batch = tiny_batch([70, 9])
    model = tiny_model()
    expected = main_output(model(**batch))
    model.set_attn_implementation(HEADS_BY_FLEX)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(main_output(compiled(**batch)), expected, atol=1e-5, rtol=0)
    exported = torch.export.export(model, (), batch).module()
    torch.testing.assert_close(main_output(exported(**batch)), expected, atol=1e-5, rtol=0)


def test_a_mask_from_inference_mode_serves_training() -> None:
    with torch.inference_mode():
        mask = flex_selfattn.block_mask(3, 11, 3, torch.device("cpu"))
    assert mask is flex_selfattn.block_mask(3, 11, 3, torch.device("cpu"))
    assert not mask.kv_indices.is_inference()


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("with_means", [True, False])
@torch.no_grad()
def test_compiled_attention_is_the_plain_one(with_means: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What devices run, compiled for a CPU, where PyTorch 2.13 cannot compile it for lengths that vary."""
    query, key, value, means, *others = blocks_of(64, with_means, [201, 130, 1])
    query, key, value, *means = (x.float() for x in (query, key, value, *(means or ())))
    inputs = query, key, value, tuple(means) or None, *others
    expected = attend_in_blocks(*inputs)
    compiled = torch.compile(flex_selfattn.biased_attention, dynamic=False, fullgraph=True)
    monkeypatch.setattr(flex_selfattn, "biased_attention", compiled)
    torch.testing.assert_close(attend_in_blocks(*inputs), expected, atol=1e-5, rtol=1e-5)


@compiles
@pytest.mark.slow
@torch.no_grad()
def test_backbone_and_heads_by_flex() -> None:
    """Transformers compiles the backbone's attention, which takes a while on a CPU."""
    batch = tiny_batch([30, 9])
    expected = main_output(tiny_model()(**batch))
    model = tiny_model(attn_implementation="flex_attention")
    assert model.config._attn_implementation == model.model.backbone.config._attn_implementation == "flex_attention"
    torch.testing.assert_close(main_output(model(**batch)), expected, atol=1e-5, rtol=0)


def test_gradients_on_a_cpu_are_refused() -> None:
    model = tiny_model()
    model.set_attn_implementation(HEADS_BY_FLEX)
    with pytest.raises(ValueError, match="no gradients on a CPU.*no_grad.*sdpa"):
        model(**tiny_batch([9]))
    model.requires_grad_(False)
    assert main_output(model(**tiny_batch([9]))).isfinite().all()


@pytest.mark.parametrize("family", ["mpnet", "deberta-v2"])
def test_a_backbone_without_flex_says_so(family: str) -> None:
    with pytest.raises(
        ValueError, match="does not support an attention implementation through torch's flex_attention"
    ):
        tiny_model(family=family, attn_implementation="flex_attention")
    for told in ("flex_attention", {"": "flex_attention"}):
        model = tiny_model(family=family)
        before = model.config.backbone_config._attn_implementation
        model.set_attn_implementation(told)  # Transformers leaves such a backbone as it is, and warns
        assert model.config._attn_implementation == "flex_attention"
        assert model.config.backbone_config._attn_implementation == before
        with torch.no_grad():
            torch.testing.assert_close(
                main_output(model(**tiny_batch([40, 9]))),
                main_output(tiny_model(family=family)(**tiny_batch([40, 9]))),
                atol=1e-5,
                rtol=0,
            )


@compiles
@needs_gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("with_means", [True, False])
@pytest.mark.parametrize("block_size", [64, 100])
def test_kernels_are_the_naive_double_loop(
    block_size: int, with_means: bool, dtype: torch.dtype, tolerance: float
) -> None:
    query, key, value, means, lengths, *others = blocks_of(block_size, with_means, [201, 130, 1])
    mine, theirs = ([query, key, value, *(means or ())] for _ in range(2))
    mine = [x.to("cuda", dtype).requires_grad_() for x in mine]
    theirs = [x.detach().to(dtype).double().requires_grad_() for x in theirs]
    attended = attend_in_blocks(*mine[:3], tuple(mine[3:]) or None, lengths.cuda(), *others)
    expected = naive_blocks(*theirs[:3], tuple(theirs[3:]) or None, lengths, *others)
    is_real = (torch.arange(expected.shape[1]) < lengths[:, None])[..., None, None]
    towards = torch.randn_like(expected) * is_real
    torch.testing.assert_close(attended.double().cpu() * is_real, expected, atol=tolerance, rtol=tolerance)
    for gradient, reference in zip(
        torch.autograd.grad((attended * towards.to("cuda", dtype)).sum(), mine),
        torch.autograd.grad((expected * towards).sum(), theirs),
        strict=True,
    ):
        torch.testing.assert_close(gradient.double().cpu(), reference, atol=4 * tolerance, rtol=4 * tolerance)


@compiles
@needs_gpu
def test_training_step_on_a_gpu_is_equal() -> None:
    batch = {name: values.cuda() for name, values in tiny_batch([300, 9, 33]).items()}
    results = []
    for implementation in ("sdpa", HEADS_BY_FLEX):
        model = tiny_model("token").cuda()
        model.set_attn_implementation(implementation)
        outputs = model(**batch, labels=batch["input_ids"] % 5)
        outputs.loss.backward()
        results.append([outputs.loss.detach(), *(x.grad for x in model.parameters() if x.grad is not None)])
    torch.testing.assert_close(results[1], results[0], atol=1e-4, rtol=1e-3)


@compiles
@needs_gpu
@torch.no_grad()
def test_long_rows_on_a_gpu_are_equal() -> None:
    """More blocks than a block has tokens: the model takes FlexAttention without being told to."""
    batch = {name: values.cuda() for name, values in tiny_batch([500, 77]).items()}
    model = tiny_model("model").cuda()
    actual = model(**batch).last_hidden_state
    assert flex_selfattn.cached_block_mask.cache_info().currsize
    model.set_attn_implementation("eager")
    expected = model(**batch).last_hidden_state
    is_real = batch["attention_mask"].bool()
    torch.testing.assert_close(actual[is_real], expected[is_real], atol=1e-3, rtol=1e-3)
