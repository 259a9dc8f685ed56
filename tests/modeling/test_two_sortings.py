"""Models whose grouped attention sorts the tokens twice; the attention itself is in `test_attention.py`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_models import WINDOW, assert_rows_stand_alone, tiny_batch, tiny_labels, tiny_model

from hf_selfattn import SelfAttnForTokenClassification

ROWS = [2 * WINDOW + 5, 1, WINDOW + 7]
BLOCK = 8


@pytest.mark.parametrize("task", ["single_label", "token"])
def test_padding_and_batching_change_nothing(task: str) -> None:
    model = tiny_model(task, num_sortings=2)
    assert_rows_stand_alone(model, ROWS)


def test_every_parameter_gets_a_gradient() -> None:
    model, batch = tiny_model(num_sortings=2), tiny_batch(ROWS)
    model(**batch, **tiny_labels("single_label", batch)).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        if "grouped_attention" in name:
            assert parameter.grad.any(), name


def test_output_attentions_are_those_of_the_first_sorting() -> None:
    model, batch = tiny_model("token", num_sortings=2), tiny_batch(ROWS)
    model.set_attn_implementation("eager")
    outputs = model(**batch, output_attentions=True)
    B, N = batch["input_ids"].shape
    H, G = 3, 4
    assert outputs.group_ids[0].shape == (B, H, N)
    assert outputs.group_probs[0].shape == (B, H, N, G)
    assert torch.equal(outputs.group_probs[0].argmax(dim=-1), outputs.group_ids[0])
    assert outputs.summary_attentions[0].shape == (B, H, N, -(-N // BLOCK))
    total = outputs.summary_attentions[0].sum(dim=-1)
    assert (total[0] > 0).all() and (total < 1).all(), "the own blocks take the rest"
    torch.testing.assert_close(outputs.logits, model(**batch).logits, atol=1e-6, rtol=0)


def test_both_sortings_count_and_have_prototypes_of_their_own() -> None:
    model, batch = tiny_model("token", num_sortings=2), tiny_batch([60])
    prototypes = model.model.heads.layers[0].grouped_attention.prototypes
    first, second = prototypes.chunk(2)
    assert not torch.equal(first, second)
    before = model(**batch).logits
    second.copy_(second.roll(1, dims=-1))
    assert not torch.allclose(model(**batch).logits, before)


def test_a_checkpoint_from_before_the_fields_opens_as_it_was(tmp_path: Path) -> None:
    before = {"num_sortings": 1, "far_field": "mean", "codebook": "random", "group_order": "position"}
    model, batch = tiny_model("token", **before), tiny_batch(ROWS)
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    assert {name: written.pop(name) for name in before} == before
    path.write_text(json.dumps(written), encoding="utf-8")
    reopened = SelfAttnForTokenClassification.from_pretrained(tmp_path)
    assert {name: getattr(reopened.config, name) for name in before} == before
    torch.testing.assert_close(reopened(**batch).logits, model(**batch).logits, atol=1e-6, rtol=0)


def test_a_saved_model_has_both_sortings(tmp_path: Path) -> None:
    model, batch = tiny_model("token", num_sortings=2), tiny_batch(ROWS)
    model.save_pretrained(tmp_path)
    reopened = SelfAttnForTokenClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(reopened(**batch).logits, model(**batch).logits, atol=1e-6, rtol=0)


def test_bf16() -> None:
    model, batch = tiny_model(num_sortings=2), tiny_batch(ROWS)
    expected = model(**batch).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(**batch, **tiny_labels("single_label", batch))
    outputs.loss.backward()
    assert (outputs.logits.float() - expected).abs().mean() < 0.05
    logits = model.to(torch.bfloat16)(**batch).logits
    assert logits.dtype == torch.bfloat16 and (logits.float() - expected).abs().mean() < 0.05


@pytest.mark.slow
def test_compiled_and_exported_models_are_equal() -> None:
    torch.compiler.reset()
    model, batch = tiny_model("token", num_sortings=2), tiny_batch([70, 9])
    expected = model(**batch).logits
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**batch).logits, expected, atol=1e-5, rtol=0)
    exported = torch.export.export(model, (), batch).module()
    is_real = batch["attention_mask"].bool()
    torch.testing.assert_close(exported(**batch).logits[is_real], expected[is_real], atol=1e-5, rtol=0)
