from __future__ import annotations

import pytest
import torch
from tiny_models import BACKBONES, main_output, tiny_batch, tiny_labels, tiny_model

ROWS = {"short": [20, 9], "long": [70, 9]}


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()


@pytest.mark.parametrize("family", BACKBONES)
@pytest.mark.parametrize("length", ROWS)
def test_compiled_model_is_equal(family: str, length: str) -> None:
    model = tiny_model("single_label", family)
    batch = tiny_batch(ROWS[length], family)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**batch).logits, model(**batch).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("task", ["single_label", "multi_label", "regression", "token"])
def test_compiled_training_step_is_equal(task: str) -> None:
    batch = tiny_batch(ROWS["long"])
    labels = tiny_labels(task, batch)
    model = tiny_model(task)
    model(**batch, **labels).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    torch.compile(model, fullgraph=True, backend="aot_eager")(**batch, **labels).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", BACKBONES)
@pytest.mark.parametrize("length", ROWS)
def test_exported_model_is_equal(family: str, length: str) -> None:
    model = tiny_model("token", family)
    batch = tiny_batch(ROWS[length], family)
    exported = torch.export.export(model, (), batch).module()
    is_real = batch["attention_mask"].bool()
    actual, expected = main_output(exported(**batch)), main_output(model(**batch))
    torch.testing.assert_close(actual[is_real], expected[is_real], atol=1e-5, rtol=0)
