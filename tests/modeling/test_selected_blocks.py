"""Models whose blocks read their best other blocks in full; the attention itself is in `test_attention.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import WINDOW, aligned, assert_rows_stand_alone, tiny_batch, tiny_labels, tiny_model
from torch.nn import functional as F

from hf_selfattn import SelfAttnForTokenClassification
from hf_selfattn.hub import onnx as export
from hf_selfattn.modeling.selection_selfattn import select_blocks

ROWS = [2 * WINDOW + 5, 1, WINDOW + 7]
BLOCK = 8


def sharp_model(task: str = "single_label", **options: Any) -> Any:
    """A tiny model that selects two blocks, its attention far from even, so that it matters which."""
    model = tiny_model(task, **{"selected_blocks": 2, **options})
    with torch.no_grad():
        model.model.heads.layers[0].grouped_attention.qkv.weight.mul_(30)
    return model


def test_the_choice_is_by_mean_query_and_mean_key() -> None:
    """Three real blocks of one-hot keys and an empty one, at first of the greatest score."""
    mean_key = torch.eye(4)[None, :, None]  # (B, K, H, E)
    wish = torch.tensor([[9.0, 1, 2, 99], [2, 9, 1, 99], [2, 1, 9, 99], [1, 2, 3, 99]])
    query = wish[None, :, None, None].expand(-1, -1, 2, -1, -1)
    chosen, is_open = select_blocks(query, mean_key, torch.tensor([5]), 3)
    assert chosen[0, 0, :3, :2].tolist() == [[2, 1], [0, 2], [0, 1]]
    assert is_open[0, 0, :3].tolist() == [[True, True, False]] * 3, "the third best is the own block or empty"


@pytest.mark.parametrize("selected_blocks", [2, 4])
@pytest.mark.parametrize("task", ["single_label", "token"])
def test_padding_and_batching_change_nothing(task: str, selected_blocks: int) -> None:
    assert_rows_stand_alone(sharp_model(task, selected_blocks=selected_blocks), ROWS)


@torch.no_grad()
def test_more_selected_blocks_end_at_full_attention() -> None:
    batch = tiny_batch(ROWS)
    settings = [{"selected_blocks": number} for number in (0, 2, 9)]
    settings.append({"selected_blocks": 0, "block_size": ROWS[0]})
    is_real = batch["attention_mask"].bool()
    none, two, nine, full = (sharp_model("token", **options)(**batch).logits[is_real] for options in settings)
    assert (none - two).abs().max() > 1e-3
    torch.testing.assert_close(nine, full, atol=1e-5, rtol=0)


def test_every_parameter_gets_a_gradient_and_the_same_with_checkpointing() -> None:
    gradients = []
    for checkpointing in (False, True):
        model, batch = sharp_model(classifier_dropout=0.0), tiny_batch(ROWS)
        model.train().model.backbone.eval()
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable()
        model(**batch, **tiny_labels("single_label", batch)).loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            if "grouped_attention" in name:
                assert parameter.grad.any(), name
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_output_attentions_have_no_part_on_what_is_read_in_full() -> None:
    model, batch = sharp_model("token"), tiny_batch(ROWS)
    expected = model(**batch).logits
    model.set_attn_implementation("eager")
    outputs = model(**batch, output_attentions=True)
    num_blocks = -(-ROWS[0] // BLOCK)
    summaries = outputs.summary_attentions[0]
    assert summaries.shape == (len(ROWS), 3, ROWS[0], num_blocks)
    assert ((summaries[0] > 0).sum(dim=-1) == num_blocks - 1 - 2).all(), "own block and two others"
    torch.testing.assert_close(outputs.logits, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_saved_model_selects_as_before(tmp_path: Path) -> None:
    model, batch = sharp_model("token"), tiny_batch(ROWS)
    model.save_pretrained(tmp_path)
    reopened = aligned(SelfAttnForTokenClassification.from_pretrained(tmp_path))
    assert reopened.config.selected_blocks == 2
    torch.testing.assert_close(reopened(**batch).logits, model(**batch).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(dtype: torch.dtype) -> None:
    model, batch = sharp_model(), tiny_batch(ROWS)
    expected = model(**batch).logits
    outputs = model.to(dtype)(**batch)
    F.mse_loss(outputs.logits.float(), expected.detach()).backward()
    assert outputs.logits.dtype == dtype and (outputs.logits.float() - expected).abs().mean() < 0.05
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.slow
@torch.no_grad()
def test_compiled_model_is_equal() -> None:
    torch.compiler.reset()
    model, batch = sharp_model("token"), tiny_batch([70, 9])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**batch).logits, model(**batch).logits, atol=1e-5, rtol=0)


@torch.no_grad()
def test_exported_program_is_equal_at_every_length() -> None:
    model, example = sharp_model("token"), tiny_batch([12, 7])
    exported = torch.export.export(model, (), example, dynamic_shapes=export.dynamic_shapes(list(example))).module()
    for lengths in ([1], [5, 3], [9, 8], [WINDOW, 17], [200, 1]):  # one block, two, three, many
        batch = tiny_batch(lengths)
        is_real = batch["attention_mask"].bool()
        actual, expected = exported(**batch).logits, model(**batch).logits
        torch.testing.assert_close(actual[is_real], expected[is_real], atol=1e-5, rtol=0)


@pytest.mark.slow
def test_the_onnx_graph_is_equal(tmp_path: Path) -> None:
    export.export_onnx(sharp_model(), tmp_path / "model.onnx")  # compares with onnxruntime
    assert (tmp_path / "model.onnx").is_file()
