from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hf_selfattn.tasks.problems import balanced_weights, build_loss

CLASSES = np.array([0, 0, 0, 1, 2, 0])
MULTI = np.array([[1, 0], [1, 0], [0, 0], [1, 1]])
SMOOTH: dict[str, Any] = {"label_smoothing": 0.1}


def loss_of(
    problem: str, logits: torch.Tensor, labels: torch.Tensor, items: int | None = None, **options: Any
) -> float:
    references = MULTI if problem.startswith("multi") else CLASSES
    function = build_loss(problem, references, logits.shape[1], **options)
    assert function is not None
    return float(function({"logits": logits}, labels, num_items_in_batch=items))


def test_the_models_own_loss_is_used_where_nothing_is_asked_for() -> None:
    assert build_loss("single_label_classification", CLASSES, 3) is None
    assert build_loss("multi_label_classification", MULTI, 2) is None
    assert build_loss("regression", CLASSES / 2, 1) is None
    assert build_loss("ordinal", CLASSES, 3) is None


def test_trainer_smooths_the_plain_cross_entropy() -> None:
    """Without a loss of ours `Trainer` uses its own label smoothing (`test_label_smoothing.py`)."""
    for problem in ("single_label_classification", "ordinal"):
        assert build_loss(problem, CLASSES, 3, **SMOOTH) is None


def test_balanced_weights_by_hand() -> None:
    assert balanced_weights(CLASSES, 4).tolist() == pytest.approx([6 / 16, 6 / 4, 6 / 4, 1.0])
    assert balanced_weights(MULTI, 2).tolist() == pytest.approx([1 / 3, 3.0])


def test_class_losses_equal_a_loop() -> None:
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    weight = balanced_weights(CLASSES, 3)
    log_probs = logits.log_softmax(-1)
    weighted = [-weight[y] * log_probs[i, y] for i, y in enumerate(labels)]
    name = "single_label_classification"
    assert loss_of(name, logits, labels, class_weights="balanced") == pytest.approx(float(sum(weighted)) / 5, rel=1e-5)
    of_ten = loss_of(name, logits, labels, items=10, class_weights="balanced")
    assert of_ten == pytest.approx(float(sum(weighted)) / 10, rel=1e-5)


def test_binary_losses_equal_a_loop() -> None:
    logits, labels = torch.randn(4, 2), torch.tensor(MULTI, dtype=torch.float)
    name = "multi_label_classification"
    weighted = 0.0
    for i in range(4):
        for c in range(2):
            right = logits[i, c] if MULTI[i, c] else -logits[i, c]
            loss = -F.logsigmoid(right)
            weighted += float(loss * (balanced_weights(MULTI, 2)[c] if MULTI[i, c] else 1))
    assert loss_of(name, logits, labels, class_weights="balanced") == pytest.approx(weighted / 8, rel=1e-5)


@pytest.mark.parametrize(
    ("problem", "options", "message"),
    [
        ("regression", {"class_weights": "balanced"}, "A regression has no classes"),
        ("single_label_classification", {"class_weights": "balanced", **SMOOTH}, "plain cross entropy of classes"),
        ("multi_label_classification", SMOOTH, "the problem here is multi_label_classification"),
        ("ordinal", {"class_weights": "balanced", **SMOOTH}, "the problem here is ordinal"),
        ("regression", SMOOTH, "the problem here is regression"),
    ],
)
def test_an_option_that_the_problem_has_not(problem: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_loss(problem, CLASSES, 3, **options)
