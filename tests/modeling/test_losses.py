from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import TASKS, VOCAB_SIZE, tiny_batch, tiny_config, tiny_labels, tiny_model
from torch import Tensor
from torch.nn import functional as F

from hf_selfattn import SelfAttnForSequenceClassification, SelfAttnForTokenClassification

ROWS = [20, 9, 33, 5]
LABELLED = [task for task in TASKS if task != "model"]


def naive_loss(task: str, logits: Tensor, labels: Tensor) -> Tensor:
    if task == "single_label":
        return F.cross_entropy(logits, labels)
    if task == "multi_label":
        return F.binary_cross_entropy_with_logits(logits, labels)
    if task == "regression":
        return F.mse_loss(logits[:, 0], labels)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


@pytest.mark.parametrize("task", LABELLED)
def test_loss_is_that_of_torch(task: str) -> None:
    batch = tiny_batch(ROWS)
    labels = tiny_labels(task, batch)["labels"]
    outputs = tiny_model(task)(**batch, labels=labels)
    torch.testing.assert_close(outputs.loss, naive_loss(task, outputs.logits, labels))


@pytest.mark.parametrize("task", LABELLED)
@pytest.mark.parametrize("cuts", [[1, 2, 3], [3], [2]])
def test_micro_batches_sum_to_the_whole_batch(task: str, cuts: list[int]) -> None:
    """With num_items_in_batch the gradients of micro-batches of unlike sizes add up to that of the whole batch."""
    model = tiny_model(task)
    batch = tiny_batch(ROWS)
    batch |= tiny_labels(task, batch)
    model(**batch).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    num_items = (batch["labels"] != -100).sum()
    edges = [0, *cuts, len(ROWS)]
    losses = []
    for start, end in zip(edges, edges[1:], strict=False):
        part = {name: value[start:end] for name, value in batch.items()}
        loss = model(**part, num_items_in_batch=num_items).loss
        loss.backward()
        losses.append(loss.detach())
    torch.testing.assert_close(sum(losses), model(**batch).loss.detach(), atol=1e-6, rtol=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("task", LABELLED)
def test_labels_of_minus_100_do_not_count(task: str) -> None:
    model = tiny_model(task)
    batch = tiny_batch(ROWS)
    labels = tiny_labels(task, batch)["labels"].clone()
    labels[1] = -100
    kept = torch.tensor([0, 2, 3])
    expected = model(**{name: value[kept] for name, value in batch.items()}, labels=labels[kept]).loss
    torch.testing.assert_close(model(**batch, labels=labels).loss, expected, atol=1e-6, rtol=1e-5)
    for counted in ({}, {"num_items_in_batch": 0}, {"num_items_in_batch": torch.tensor(0)}):
        model.zero_grad()
        nothing = model(**batch, labels=torch.full_like(labels, -100), **counted).loss
        nothing.backward()
        assert nothing == 0
        assert all(not parameter.grad.any() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("decoding", ["argmax", "viterbi", "crf"])
def test_tokens_without_a_label_give_no_loss_and_no_gradient(decoding: str) -> None:
    names = {"id2label": dict(enumerate(["O", "B-A", "I-A"])), "label2id": {"O": 0, "B-A": 1, "I-A": 2}}
    model = tiny_model("token", decoding=decoding, **names)
    batch = tiny_batch(ROWS)
    labels = torch.full_like(batch["input_ids"], -100)
    loss = model(**batch, labels=labels, num_items_in_batch=torch.tensor(0)).loss
    loss.backward()
    assert loss == 0
    assert all(not parameter.grad.any() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize(
    ("labels", "num_labels", "expected"),
    [
        (torch.tensor([0, 2, 1, 0]), 3, "single_label"),
        (torch.tensor([[0], [2], [1], [0]]), 3, None),
        (torch.eye(4)[:, :3], 3, "multi_label"),
        (torch.eye(4)[:, :3].long(), 3, "multi_label"),
        (torch.tensor([0.5, 2, 1, 0]), 1, "regression"),
        (torch.tensor([1, 2, 1, 0]), 1, "regression"),
    ],
)
def test_problem_type_follows_from_the_labels_and_is_not_written(
    labels: Tensor, num_labels: int, expected: str | None
) -> None:
    model = SelfAttnForSequenceClassification(tiny_config(num_labels=num_labels)).eval()
    batch = tiny_batch(ROWS)
    if expected is None:
        with pytest.raises(
            ValueError, match=r"labels have shape \(4, 1\).*needs \(4, 3\): one number per row and label"
        ):
            model(**batch, labels=labels)
        return
    outputs = model(**batch, labels=labels)
    torch.testing.assert_close(outputs.loss, naive_loss(expected, outputs.logits, labels.to(_dtype(expected))))
    assert model.config.problem_type is None


def _dtype(task: str) -> torch.dtype:
    return torch.long if task == "single_label" else torch.float32


def test_labels_of_another_shape_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"shape \(4,\), but multi_label_classification with num_labels=3 needs \(4, 3\)"
    ):
        tiny_model("multi_label")(**tiny_batch(ROWS), labels=torch.zeros(4))


def test_token_problem_type_is_not_written() -> None:
    model = SelfAttnForTokenClassification(tiny_config(num_labels=5))
    batch = tiny_batch(ROWS)
    model(**batch, **tiny_labels("token", batch))
    assert model.config.problem_type is None


@pytest.mark.parametrize("task", LABELLED)
def test_a_few_steps_lower_the_loss(task: str) -> None:
    options: dict[str, Any] = {"classifier_dropout": 0.0}
    model = tiny_model(task, **options)
    batch = tiny_batch(ROWS)
    labels = tiny_labels(task, batch)
    assert int(batch["input_ids"].max()) < VOCAB_SIZE
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(12):
        loss = model(**batch, **labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


def test_answers_follow_temperature_and_thresholds() -> None:
    batch = tiny_batch([9, 40])
    plain = tiny_model("multi_label")(**batch).logits
    model = tiny_model("multi_label", temperature=2.0, thresholds=[0.9, 0.5, 0.1])
    assert torch.equal(model(**batch).logits, plain / 2)
    logits = torch.tensor([[0.0, -9.0, 0.0], [0.0, -0.1, -9.0], [3.0, 3.0, -9.0]])
    assert model.predict_labels(logits).tolist() == [[0, 0, 1], [1, 0, 0], [1, 1, 0]]
    model.config.top_one_if_none = False
    assert model.predict_labels(logits)[1].tolist() == [0, 0, 0]
    assert tiny_model("single_label").predict_labels(logits).tolist() == [0, 0, 0]
    assert tiny_model("regression").predict_labels(logits[:, :1]).tolist() == [0, 0, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"temperature": 0.0}, "temperature=0.0"), ({"thresholds": [0.5]}, "thresholds has 1 numb")],
)
def test_answers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_model("multi_label", **options)
