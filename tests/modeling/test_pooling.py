from __future__ import annotations

import pytest
import torch
from tiny_models import HIDDEN_SIZE, tiny_config
from torch import Tensor, nn

from hf_selfattn.modeling.heads_selfattn import (
    ClassQueryClassifier,
    PooledClassifier,
    build_sequence_classifier,
    first_token,
    mean_of_tokens,
)

MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1]])


def rows(features: Tensor) -> list[Tensor]:
    """The real tokens of each row."""
    return [row[mask.bool()] for row, mask in zip(features, MASK, strict=True)]


def naive_class_query(classifier: ClassQueryClassifier, x: Tensor) -> Tensor:
    """One row without padding, (N, D) -> (C,), class by class."""
    logits = []
    generic = (classifier.query[-1] @ x.T / HIDDEN_SIZE**0.5).softmax(dim=-1) @ x
    for number in range(len(classifier.query) - 1):
        attention = (classifier.query[number] @ x.T / HIDDEN_SIZE**0.5).softmax(dim=-1)
        own = attention @ (x @ classifier.vote.weight[number] + classifier.vote.bias[number])
        logits.append(own + classifier.generic_vote.weight[number] @ generic)
    return torch.stack(logits)


def test_mean_and_first_token_read_real_tokens_only() -> None:
    x = torch.randn(3, 5, HIDDEN_SIZE)
    torch.testing.assert_close(mean_of_tokens(x, MASK), torch.stack([row.mean(dim=0) for row in rows(x)]))
    assert torch.equal(first_token(x, MASK), torch.stack([row[0] for row in rows(x)]))
    torch.testing.assert_close(mean_of_tokens(x, None), x.mean(dim=1))
    assert torch.equal(first_token(x, None), x[:, 0])


@pytest.mark.parametrize("pooling", ["class_query", "mean", "cls"])
def test_padding_changes_nothing(pooling: str) -> None:
    classifier = build_sequence_classifier(tiny_config(pooling=pooling, num_labels=3)).eval()
    for parameter in classifier.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(3, 5, HIDDEN_SIZE)
    garbage = torch.where(MASK.bool()[..., None], x, 1e4)
    alone = torch.cat([classifier(row[None]) for row in rows(x)])
    torch.testing.assert_close(classifier(x, MASK), alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(classifier(garbage, MASK), alone, atol=1e-5, rtol=1e-5)


def test_class_query_is_the_naive_form() -> None:
    classifier = ClassQueryClassifier(tiny_config(num_labels=4)).eval()
    for parameter in classifier.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(3, 5, HIDDEN_SIZE)
    expected = torch.stack([naive_class_query(classifier, row) for row in rows(x)])
    torch.testing.assert_close(classifier(x, MASK), expected, atol=1e-4, rtol=1e-4)


def test_class_query_starts_as_a_linear_classifier_on_the_mean() -> None:
    classifier = ClassQueryClassifier(tiny_config(num_labels=4)).eval()
    nn.init.zeros_(classifier.query)
    x = torch.randn(3, 5, HIDDEN_SIZE)
    mean = mean_of_tokens(x, MASK)
    expected = classifier.vote(mean) + classifier.generic_vote(mean)
    torch.testing.assert_close(classifier(x, MASK), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["class_query", "mean", "cls"])
def test_row_of_padding_alone_is_finite(pooling: str) -> None:
    classifier = build_sequence_classifier(tiny_config(pooling=pooling)).eval()
    assert torch.isfinite(classifier(torch.randn(1, 5, HIDDEN_SIZE), torch.zeros(1, 5))).all()


@pytest.mark.parametrize(
    ("pooling", "kind"), [("class_query", ClassQueryClassifier), ("mean", PooledClassifier), ("cls", PooledClassifier)]
)
def test_build_sequence_classifier(pooling: str, kind: type[nn.Module]) -> None:
    assert type(build_sequence_classifier(tiny_config(pooling=pooling))) is kind


@pytest.mark.parametrize("pooling", ["class_query", "mean", "cls"])
def test_what_the_tokens_add_sums_to_the_logits(pooling: str) -> None:
    classifier = build_sequence_classifier(tiny_config(pooling=pooling, num_labels=3)).eval()
    for parameter in classifier.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(3, 5, HIDDEN_SIZE)
    for mask in (MASK, None):
        added = classifier.contributions(x, mask)
        assert added.shape == (3, 3, 5)
        bias = classifier.vote.bias if pooling == "class_query" else classifier.linear.bias
        torch.testing.assert_close(added.sum(dim=2) + bias, classifier(x, mask), atol=1e-5, rtol=1e-5)
    assert torch.equal(classifier.contributions(x, MASK).abs().sum(dim=1) > 0, (MASK > 0) & is_read(pooling))


def is_read(pooling: str) -> Tensor:
    """Which real tokens count."""
    return MASK.cumsum(dim=1) == 1 if pooling == "cls" else MASK > 0
