from __future__ import annotations

import pytest
import torch
from tiny_models import BACKBONES, WINDOW, tiny_batch, tiny_model
from torch import Tensor
from transformers import DynamicCache

READS_PAST = {"bert", "roberta", "xlm-roberta", "electra"}
P = 4


def learned(rows: int, seed: int = 0) -> DynamicCache:
    """Keys and values of 2 layers with 4 heads of 8, the same for each row, as prefix tuning gives them."""
    generator = torch.Generator().manual_seed(seed)
    layers = torch.randn(2, 2, 1, 4, P, 8, generator=generator).expand(-1, -1, rows, -1, -1, -1)
    return DynamicCache([(keys, values) for keys, values in layers])


def with_past_mask(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What PEFT gives: a mask that begins with the learned keys."""
    mask = torch.nn.functional.pad(batch["attention_mask"], (P, 0), value=1)
    return {**batch, "attention_mask": mask}


@torch.no_grad()
def logits(model: object, batch: dict[str, Tensor], past: DynamicCache | None) -> Tensor:
    return model(**batch, past_key_values=past).logits  # type: ignore[operator]


@pytest.mark.parametrize("task", ["single_label", "token"])
@pytest.mark.parametrize("family", sorted(READS_PAST))
def test_learned_keys_stand_before_every_window(family: str, task: str) -> None:
    model = tiny_model(task, family)
    batch = tiny_batch([100, 33, 9], family)
    past = learned(3)
    given = logits(model, with_past_mask(batch), past)
    assert past.get_seq_length() == P, "what was given must not change"
    torch.testing.assert_close(logits(model, batch, learned(3)), given)  # a mask of the tokens alone does too
    assert not torch.allclose(given, logits(model, batch, None), atol=1e-4)
    for row, length in enumerate([100, 33, 9]):
        one = {name: values[row : row + 1, :length] for name, values in batch.items()}
        alone = logits(model, one, learned(1))
        expected = given[row : row + 1] if task == "single_label" else given[row : row + 1, :length]
        torch.testing.assert_close(alone, expected, atol=2e-5, rtol=0)


def test_windows_leave_room_for_the_learned_keys() -> None:
    """Positions of the backbone count from the learned keys on, so a window of its full length would overflow."""
    model = tiny_model()
    for length in (WINDOW - P, WINDOW - P + 1, WINDOW, WINDOW + 1):
        assert torch.isfinite(logits(model, tiny_batch([length]), learned(1))).all()


def test_learned_keys_get_a_gradient_from_every_window() -> None:
    model = tiny_model()
    prompt = torch.randn(2, 2, 1, 4, P, 8, requires_grad=True)
    model(**tiny_batch([100]), past_key_values=DynamicCache(list(prompt))).logits.sum().backward()
    assert prompt.grad is not None and (prompt.grad.abs().amax(dim=(1, 2, 3, 4, 5)) > 0).all()


@pytest.mark.parametrize("family", sorted(set(BACKBONES) - READS_PAST))
def test_a_backbone_that_reads_no_keys_says_so(family: str) -> None:
    with pytest.raises(ValueError, match="reads no past_key_values, which prefix tuning needs"):
        logits(tiny_model(family=family), tiny_batch([9], family), learned(1))
