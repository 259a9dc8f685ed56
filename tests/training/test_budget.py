from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from runs import settings, text_arguments
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_selfattn import run
from hf_selfattn.training import budget
from hf_selfattn.training.budget import TimeBudget, default_epochs
from hf_selfattn.training.trainer import RecipeTrainer


@pytest.mark.parametrize(("rows", "epochs"), [(14_041, 3), (2_000, 3), (1_999, 3), (1_000, 6), (64, 20), (1, 20)])
def test_few_rows_are_read_more_often(rows: int, epochs: int) -> None:
    assert default_epochs(rows, rows_of_update=16) == epochs


@pytest.mark.parametrize(("given", "epochs"), [({}, 20), ({"num_train_epochs": 2}, 2), ({"max_steps": 7}, 3)])
def test_a_run_that_is_not_told_reads_few_rows_more_often(
    tiny_backbone: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: dict[str, int],
    epochs: int,
) -> None:
    class Begun(Exception):
        pass

    def begin(self: RecipeTrainer, **_: Any) -> None:
        raise Begun(self.args.num_train_epochs)

    monkeypatch.setattr(RecipeTrainer, "train", begin)
    asked = settings(tiny_backbone, tmp_path)
    del asked["num_train_epochs"]
    with pytest.raises(Begun) as caught:
        run(text_arguments({**asked, **given}))
    assert caught.value.args == (epochs,)
    assert ("43 training rows are few: 20 epochs." in capsys.readouterr().out) == (not given)


class Clock:
    """A clock that training and evaluation move on."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


class Line(torch.nn.Module):
    """A model whose training step takes a second, and whose evaluation of a batch takes two."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.weight, self.clock = torch.nn.Parameter(torch.zeros(1)), clock

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        self.clock.now += 1.0 if self.training else 2.0
        return {"loss": ((self.weight * x - labels) ** 2).mean(), "logits": self.weight * x}


class Rates(TrainerCallback):
    """The learning rate of every step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])


def trainer_of(folder: Path, clock: Clock, minutes: float, **options: Any) -> tuple[Trainer, TimeBudget, Rates]:
    """A training of 200 steps in 10 epochs, 200 seconds, and ten evaluations of 10 seconds each."""
    given = {"num_train_epochs": 10, "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1}
    given |= {"eval_strategy": "epoch", "save_strategy": "epoch", "report_to": "none", "use_cpu": True}
    given |= {"restore_callback_states_from_checkpoint": True, "warmup_steps": 0.1, "disable_tqdm": True}
    rows = Dataset.from_dict({"x": [[1.0]] * 20, "labels": [[2.0]] * 20}).with_format("torch")
    limit, rates = TimeBudget(minutes), Rates()
    trainer = Trainer(
        model=Line(clock),
        args=TrainingArguments(str(folder), **{**given, **options}),
        train_dataset=rows,
        eval_dataset=rows.select(range(5)),
        callbacks=[limit, rates],
    )
    return trainer, limit, rates


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(budget, "time", made)
    return made


def test_a_training_ends_in_time_and_its_learning_rate_with_it(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer, _, rates = trainer_of(tmp_path, clock, minutes=2)
    trainer.train()
    assert 108 <= clock.now - 100 <= 120
    assert 70 <= trainer.state.global_step == len(rates.rates) <= 80
    assert rates.rates[-1] == pytest.approx(0) and rates.rates[15] < rates.rates[25] * 1.5
    assert len(trainer.state.log_history) and "steps fit at this pace into" in capsys.readouterr().out


def test_time_that_is_enough_changes_nothing(tmp_path: Path, clock: Clock) -> None:
    trainer, _, rates = trainer_of(tmp_path / "a", clock, minutes=60)
    trainer.train()
    plain, limit, other = trainer_of(tmp_path / "b", clock, minutes=60)
    plain.remove_callback(limit)
    plain.train()
    assert trainer.state.global_step == 200 and rates.rates == other.rates


def test_time_that_was_spent_before_a_stop_counts(tmp_path: Path, clock: Clock) -> None:
    class Stop(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.epoch >= 2

    trainer, *_ = trainer_of(tmp_path, clock, minutes=2)
    trainer.add_callback(Stop())
    trainer.train()
    before = clock.now - 100
    clock.now += 1000
    trainer, _, rates = trainer_of(tmp_path, clock, minutes=2)
    trainer.train(resume_from_checkpoint=True)
    assert before == 60 and 48 <= clock.now - 1160 <= 60
    assert rates.rates[-1] == pytest.approx(0) and max(rates.rates) < 5e-5


def test_a_budget_is_positive(tiny_backbone: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"budget_minutes=0.0 must be above 0"):
        text_arguments(settings(tiny_backbone, tmp_path, budget_minutes=0))
