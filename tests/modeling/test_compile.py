from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import BACKBONES, main_output, tiny_batch, tiny_labels, tiny_model

# A compilation takes seconds: the other families, whose code differs in the backbone alone, compile rows of several
# windows, and they and the other tasks are left to the whole run.
families = pytest.mark.parametrize(
    ("family", "length"),
    [
        ("bert", "short"),
        ("bert", "long"),
        *(pytest.param(family, "long", marks=pytest.mark.slow) for family in BACKBONES if family != "bert"),
    ],
)
tasks = pytest.mark.parametrize(
    "task", ["single_label", *(pytest.param(task, marks=pytest.mark.slow) for task in ("multi_label", "token"))]
)
ROWS = {"short": [20, 9], "long": [70, 9]}


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()


@families
def test_compiled_model_is_equal(family: str, length: str) -> None:
    model = tiny_model("single_label", family)
    batch = tiny_batch(ROWS[length], family)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**batch).logits, model(**batch).logits, atol=1e-5, rtol=0)


def test_one_graph_serves_rows_of_many_lengths() -> None:
    """As many blocks as a block has tokens (64), fewer and more; whole last blocks and windows and cut ones."""
    model, graphs = tiny_model("single_label"), []

    def count(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=count)
    for lengths in ([70, 9], [64, 9], [33, 64, 5], [120, 64]):
        batch = tiny_batch(lengths)
        torch.testing.assert_close(compiled(**batch).logits, model(**batch).logits, atol=1e-5, rtol=0)
    assert 1 <= len(graphs) <= 2, "PyTorch allows 8"


@tasks
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


@pytest.mark.slow
@pytest.mark.parametrize("family", [family for family in BACKBONES if family not in ("bert", "roberta")])
def test_exported_model_is_equal(family: str) -> None:
    """BERT and RoBERTa are exported for every length: tests/hub/test_onnx.py."""
    model = tiny_model("token", family)
    batch = tiny_batch(ROWS["long"], family)
    exported = torch.export.export(model, (), batch).module()
    is_real = batch["attention_mask"].bool()
    actual, expected = main_output(exported(**batch)), main_output(model(**batch))
    torch.testing.assert_close(actual[is_real], expected[is_real], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "decoding", ["viterbi", *(pytest.param(name, marks=pytest.mark.slow) for name in ("argmax", "crf"))]
)
def test_compiled_tagger_answers_are_decoded(decoding: str) -> None:
    names = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    model = tiny_model("token", decoding=decoding, **labels)
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    compiled, batch = torch.compile(model, fullgraph=True, backend="aot_eager"), tiny_batch(ROWS["short"])
    with torch.no_grad():
        answer = model(**batch).logits
        torch.testing.assert_close(compiled(**batch).logits, answer, atol=1e-4, rtol=0)
        assert not torch.equal(answer, model.train()(**batch).logits)
