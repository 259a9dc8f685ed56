"""What holds for every backbone family and every task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import (
    BACKBONES,
    HIDDEN_SIZE,
    TASKS,
    WINDOW,
    aligned,
    main_output,
    tiny_batch,
    tiny_labels,
    tiny_model,
)
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification

from hf_selfattn import SelfAttnForSequenceClassification, SelfAttnModel

AUTO_CLASSES = {"model": AutoModel, "token": AutoModelForTokenClassification}
LENGTHS = {"short": [WINDOW - 1, 9, 2], "long": [3 * WINDOW + 5, 9, WINDOW + 7]}

families = pytest.mark.parametrize("family", BACKBONES)
tasks = pytest.mark.parametrize("task", TASKS)
lengths = pytest.mark.parametrize("length", LENGTHS)


def total_loss(task: str, model: Any, batch: dict[str, Tensor]) -> Tensor:
    outputs = model(**batch, **tiny_labels(task, batch))
    if task != "model":
        return outputs.loss
    return outputs.last_hidden_state[batch["attention_mask"].bool()].square().mean()


@families
@tasks
@lengths
def test_shapes_and_values(family: str, task: str, length: str) -> None:
    batch = tiny_batch(LENGTHS[length], family)
    outputs = tiny_model(task, family)(**batch, **tiny_labels(task, batch))
    B, T = batch["input_ids"].shape
    shape = {"model": (B, T, HIDDEN_SIZE), "token": (B, T, 5), "regression": (B, 1)}.get(task, (B, 3))
    assert main_output(outputs).shape == shape
    assert torch.isfinite(main_output(outputs)).all()
    if task != "model":
        assert outputs.loss.shape == () and torch.isfinite(outputs.loss)


@families
@tasks
@lengths
def test_every_parameter_gets_a_gradient(family: str, task: str, length: str) -> None:
    model = tiny_model(task, family, num_mixed_layers=2, head_dropout=0.1).train()
    total_loss(task, model, tiny_batch(LENGTHS[length], family)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"No gradient for {name}"
        assert torch.isfinite(parameter.grad).all(), f"No finite gradient for {name}"
    for name, parameter in model.named_parameters():
        if not name.endswith(("key.bias", "k.bias", "key_proj.bias")):  # a softmax does not see what all keys share
            assert parameter.grad.any(), f"Gradient 0 for {name}"


@families
@tasks
@lengths
@pytest.mark.parametrize("framed", [True, False])
def test_padding_and_batching_change_nothing(family: str, task: str, length: str, framed: bool) -> None:
    model = tiny_model(task, family)
    rows = LENGTHS[length]
    right = tiny_batch(rows, family, framed=framed)
    left = tiny_batch(rows, family, padding_side="left", framed=framed)
    with torch.no_grad():
        from_right, from_left = main_output(model(**right)), main_output(model(**left))
        for row, number in enumerate(rows):
            single = main_output(model(right["input_ids"][row : row + 1, :number]))[0]
            per_token = task in ("model", "token")
            at_right = from_right[row, :number] if per_token else from_right[row]
            at_left = from_left[row, -number:] if per_token else from_left[row]
            torch.testing.assert_close(at_right, single, atol=1e-5, rtol=0)
            torch.testing.assert_close(at_left, single, atol=1e-5, rtol=0)


@families
@tasks
@lengths
def test_saved_model_is_bit_equal(family: str, task: str, length: str, tmp_path: Path) -> None:
    model = tiny_model(task, family)
    model.save_pretrained(tmp_path)
    reopened = AUTO_CLASSES.get(task, AutoModelForSequenceClassification).from_pretrained(tmp_path)
    assert type(reopened) is type(model) and not reopened.training
    saved = model.state_dict()
    assert reopened.state_dict().keys() == saved.keys()
    assert all(torch.equal(weight, saved[name]) for name, weight in reopened.state_dict().items())
    batch = tiny_batch(LENGTHS[length], family)
    with torch.no_grad():
        assert torch.equal(main_output(aligned(reopened)(**batch)), main_output(model(**batch)))


@families
@tasks
@lengths
def test_gradient_checkpointing_is_equal(family: str, task: str, length: str) -> None:
    batch = tiny_batch(LENGTHS[length], family)
    losses, gradients = [], []
    for checkpointing in (False, True):
        model = tiny_model(task, family, num_head_layers=2).train()
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        torch.manual_seed(0)  # dropout
        loss = total_loss(task, model, batch)
        loss.backward()
        losses.append(loss.detach())
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(losses[1], losses[0], atol=1e-6, rtol=0)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(
            gradients[1][name], gradient, atol=1e-6, rtol=1e-4, msg=lambda difference, n=name: f"{n}: {difference}"
        )


@families
@tasks
@lengths
def test_rows_of_padding_or_one_token_are_finite(family: str, task: str, length: str) -> None:
    model = tiny_model(task, family)
    batch = tiny_batch([LENGTHS[length][0], 1, 0], family)
    outputs = main_output(model(**batch))
    assert torch.isfinite(outputs).all()
    alone = main_output(model(batch["input_ids"][1:2, :1]))[0]
    in_batch = outputs[1, :1] if task in ("model", "token") else outputs[1]
    torch.testing.assert_close(in_batch, alone, atol=1e-5, rtol=0)
    padding_alone = {name: value[2:, :4] for name, value in batch.items()}
    assert torch.isfinite(main_output(model(**padding_alone))).all()


@families
@lengths
def test_every_token_reaches_the_logits(family: str, length: str) -> None:
    model = tiny_model("single_label", family, pooling="mean")
    torch.nn.init.normal_(model.classifier.linear.weight)
    batch = tiny_batch(LENGTHS[length], family)
    embeddings = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
    model(inputs_embeds=embeddings, attention_mask=batch["attention_mask"]).logits.square().sum().backward()
    reached = embeddings.grad.abs().sum(dim=-1)
    is_real = batch["attention_mask"].bool()
    assert (reached[is_real] > 0).all(), "a token is cut"
    assert (reached[~is_real] == 0).all(), "padding is read"


@families
@lengths
def test_embeddings_are_read_as_ids(family: str, length: str) -> None:
    model = tiny_model("single_label", family)
    batch = tiny_batch(LENGTHS[length], family)
    embeddings = model.get_input_embeddings()(batch["input_ids"])
    from_embeddings = model(inputs_embeds=embeddings, attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(from_embeddings, model(**batch).logits, atol=1e-6, rtol=0)


@families
@lengths
def test_hidden_states_are_those_of_the_backbone(family: str, length: str) -> None:
    model = tiny_model("single_label", family)
    batch = tiny_batch(LENGTHS[length], family)
    outputs = model(**batch, output_hidden_states=True)
    assert len(outputs.hidden_states) == model.config.num_hidden_layers + 1
    assert {layer.shape for layer in outputs.hidden_states} == {(*batch["input_ids"].shape, HIDDEN_SIZE)}
    assert torch.equal(outputs.logits, model(**batch).logits), "asking for more outputs changes nothing"
    short = batch["input_ids"][1:2, : LENGTHS[length][1]]
    expected = model.model.backbone(short, output_hidden_states=True).hidden_states
    for layer, states in zip(outputs.hidden_states, expected, strict=True):
        torch.testing.assert_close(layer[1, : short.shape[1]], states[0], atol=1e-5, rtol=0)


@families
@pytest.mark.parametrize("task", ["single_label", "token"])
@lengths
def test_bf16(family: str, task: str, length: str) -> None:
    batch = tiny_batch(LENGTHS[length], family)
    model = tiny_model(task, family)
    expected = main_output(model(**batch))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = main_output(model(**batch)).float()
    outputs = model.to(torch.bfloat16)(**batch, **tiny_labels(task, batch))
    assert main_output(outputs).dtype == torch.bfloat16 and torch.isfinite(outputs.loss)
    is_real = batch["attention_mask"].bool() if task == "token" else ...
    # A token near the border of two groups may change its block: the bulk is compared, not each value.
    for values in (main_output(outputs).float(), autocast):
        assert torch.isfinite(values).all()
        assert (values - expected)[is_real].abs().mean() < 0.05


def test_model_classes_share_the_base_model(tmp_path: Path) -> None:
    tiny_model("single_label").save_pretrained(tmp_path)
    base = SelfAttnModel.from_pretrained(tmp_path)
    task = SelfAttnForSequenceClassification.from_pretrained(tmp_path)
    batch = tiny_batch(LENGTHS["long"])
    assert torch.equal(base(**batch).last_hidden_state, task.model(**batch).last_hidden_state)
