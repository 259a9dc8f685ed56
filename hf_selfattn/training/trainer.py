"""`Trainer` whose checkpoints are whole, which stops at a loss that is no number, and which signals interrupt well."""

from __future__ import annotations

import math
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import reduce
from datasets import Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..adapters import count_parameters
from .checkpoints import STATE_FILE, WRITING, checkpoint_name, drop_checkpoints, put_checkpoint
from .faults import NotFinite, not_written, rows_in_words
from .sampler import GroupedByLength

# Ctrl-C, the end that clusters and containers announce, and, where the system has it, that of a borrowed machine.
SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))
MakeOptimizer = Callable[[Any], torch.optim.Optimizer | None]


class ListLabelsTrainer(Trainer):
    """`Trainer` whose labels may be a list, such as the boxes of each image: no tensor holds those of several batches.

    Such labels enter the loss, and metrics find the right answers in the data, whose rows come in order.
    """

    def prediction_step(self, *args: Any, **kwargs: Any) -> tuple[Any, Any, Any]:
        """Return loss, outputs and labels of a batch, of labels in a list only how many there are."""
        loss, outputs, labels = super().prediction_step(*args, **kwargs)
        return loss, outputs, torch.zeros(len(labels), device=self.args.device) if isinstance(labels, list) else labels


class RecipeTrainer(ListLabelsTrainer):
    """`Trainer` for a run.

    Four methods are overridden, because no callback stands where they act. `Trainer` groups rows by length with the
    random state of each process: processes whose states part would read some rows twice and others never. It takes no
    optimizer that was made before the model is sharded. Only `training_step` sees each batch and its loss before the
    optimizer makes its step. And it writes a checkpoint straight into its place and deletes older ones before it tells
    a callback.

    Args:
        make_optimizer: makes an optimizer for a model, or returns None where `Trainer` is to make it.
        sampler: puts the rows of train in order; where it is None, `Trainer` does.
        options: of `Trainer`.
    """

    def __init__(
        self, make_optimizer: MakeOptimizer | None = None, sampler: GroupedByLength | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.make_optimizer, self.sampler = make_optimizer, sampler
        self.optimizer: torch.optim.Optimizer | None
        self.train_dataset: Any
        self.last_batch: dict[str, Any] = {}
        self.loss_is_finite = True
        self.parameters = count_parameters(self.model)  # afterwards the best adapter is loaded as one that is frozen
        self.feature_record: dict[str, Any] | None = None
        self.watch = Watch(self)
        self.add_callback(self.watch)
        self.add_callback(LowerLoss())
        if sampler is not None:
            self.add_callback(sampler)

    def train_nothing_more(self) -> None:
        """Let `train`, resumed from the checkpoint that a training ended with, load the best model and do no more."""
        self.args.num_train_epochs, self.args.max_steps = 0, -1
        if not isinstance(self.train_dataset, Dataset):
            self.train_dataset = self.eval_dataset  # of a stream `Trainer` wants steps; no row of either is read

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return super()._get_train_sampler(train_dataset) if self.sampler is None else self.sampler

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make the optimizer, with learning rates of the parts of the model."""
        if self.optimizer is None and self.make_optimizer is not None:
            self.optimizer = self.make_optimizer(self.model if model is None else model)
        made: torch.optim.Optimizer = super().create_optimizer(model)
        return made

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Keep the batch in mind, and whether its loss is a number."""
        self.last_batch = inputs
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        self.loss_is_finite = self.loss_is_finite and bool(loss.isfinite().all())
        return loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint aside, rename it when it is whole, push it, and delete older ones."""
        folder, push = Path(self.args.output_dir), self.args.push_to_hub
        side, checkpoint = folder / WRITING, folder / checkpoint_name(self.state.global_step)
        with cleared_if_not_written(side, checkpoint):
            with changed(self.args, output_dir=str(side), push_to_hub=False), names_of_modules(self.plain):
                super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            for is_mine in (self.is_world_process_zero(), self.is_local_process_zero()):  # then folders of other nodes
                if is_mine and (side / checkpoint.name).is_dir():
                    self.point_to_best(folder)
                    if (side / checkpoint.name / STATE_FILE).is_file():
                        self.state.save_to_json(str(side / checkpoint.name / STATE_FILE))
                    put_checkpoint(side / checkpoint.name, checkpoint)
                    side.rmdir()
                self.accelerator.wait_for_everyone()
        self.point_to_best(folder)
        if push:
            self._push_from_checkpoint(str(checkpoint))
        if self.args.should_save:
            drop_checkpoints(folder, self.args.save_total_limit, self.state.best_global_step)

    @property
    def plain(self) -> Any:
        """The model without the wrappers of accelerate."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    def point_to_best(self, folder: Path) -> None:
        """Let the state of the training name the best checkpoint by its place in the folder of the run."""
        if self.state.best_global_step:
            self.state.best_model_checkpoint = str(folder / checkpoint_name(self.state.best_global_step))

    def stop_at(self, step: int) -> None:
        """Save the weights of the last good step, and raise an error that names the step and the rows of the batch."""
        last = Path(self.args.output_dir) / checkpoint_name(self.state.global_step)
        self.accelerator.wait_for_everyone()
        if self.state.global_step and not last.is_dir():
            self._save_checkpoint(self.model, None)
        kept = f"The weights before it are kept in {last}" if last.is_dir() else "Nothing was trained before it"
        rows = rows_in_words(self.last_batch, self.train_dataset)
        raise NotFinite(
            f"The loss or a gradient is not finite at step {step}; {rows}. {kept}. Look at these rows; then train in "
            "another output_dir with a lower learning_rate, more warmup_steps, or bf16=false fp16=false."
        )


class Stopped(KeyboardInterrupt):
    """A signal ended the training at the end of a step, with a checkpoint."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


class Watch(TrainerCallback):
    """Looks at each step of a training for numbers that are not finite and for signals, on all processes together.

    At the first signal (`SIGNALS`: Ctrl-C, what clusters and containers send to end a process, or before they take the
    machine away) a checkpoint is saved at the end of the running step; a second one stops at once.
    """

    def __init__(self, trainer: RecipeTrainer):
        self.trainer = trainer
        self.asked = 0  # number of the signal
        self.agreed = False
        self.handlers: dict[int, Any] = {}
        self.grace = 0.0  # seconds that the running step may take, 0 for all that it needs

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.point_to_best(Path(args.output_dir))
        if threading.current_thread() is threading.main_thread():
            self.handlers = {number: signal.signal(number, self.ask) for number in SIGNALS}

    def ask(self, number: int, _: Any) -> None:
        """Take note of a signal, and let the next one stop at once."""
        self.asked = number
        for other in self.handlers:
            signal.signal(other, stop_now)
        if self.grace > 0:
            self.handlers[signal.SIGALRM] = signal.signal(signal.SIGALRM, lambda *_: stop_now(number, None))
            signal.setitimer(signal.ITIMER_REAL, self.grace)
        if self.trainer.is_world_process_zero():  # a handler must not print: it may stand inside of a print
            name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            line = f"\n{name}: a checkpoint is saved at the end of this step. {name} again stops at once.\n"
            os.write(2, line.encode())

    def release(self) -> None:
        """Give the signals back their former meaning."""
        if signal.SIGALRM in self.handlers:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        trainer = self.trainer
        # A scaler of fp16 passes over such gradients by itself.
        finite = trainer.loss_is_finite and (args.fp16 or gradients_are_finite(model))
        trainer.loss_is_finite = True
        broken, self.agreed = agree(not finite, bool(self.asked), args)
        if broken:
            trainer.stop_at(state.global_step + 1)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # At the end of an epoch the evaluation that belongs to it comes first.
        if self.agreed and state.epoch != math.floor(state.epoch):
            control.should_save = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.agreed:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.agreed:
            raise Stopped(self.asked or signal.SIGINT)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.release()
        if self.asked:
            raise Stopped(self.asked)


class LowerLoss(TrainerCallback):
    """Of checkpoints with equal scores, lets the one with the lower loss on validation be the best.

    `Trainer` keeps the first of them: of a few rows that are all answered rightly, that of the first epoch.
    """

    def __init__(self) -> None:
        self.trains = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trains = True

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        metrics = kwargs["metrics"]
        if not self.trains or metrics.get(f"eval_{args.metric_for_best_model}") != state.best_metric:
            return
        losses = {entry["step"]: entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry}
        if metrics.get("eval_loss", math.inf) < losses.get(state.best_global_step, -math.inf):
            state.best_metric = None  # so that this one counts as better

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trains = False


def stop_now(number: int, _: Any) -> None:
    """End the training at once, whatever it does."""
    raise Stopped(number)


def agree(not_finite: bool, asked: bool, args: TrainingArguments) -> tuple[bool, bool]:
    """Return whether any process met numbers that are not finite, and whether any was asked to stop."""
    if args.world_size == 1:
        return not_finite, asked
    flags = reduce(torch.tensor([not_finite, asked], dtype=torch.float32, device=args.device))
    return bool(flags[0]), bool(flags[1])


def gradients_are_finite(model: Any) -> bool:
    """Return whether all gradients are numbers."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return bool(torch.nn.utils.get_total_norm(gradients).isfinite())


@contextmanager
def changed(args: TrainingArguments, **values: Any) -> Iterator[None]:
    """Let arguments have other values for a while."""
    before = {name: getattr(args, name) for name in values}
    for name, value in values.items():
        setattr(args, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(args, name, value)


@contextmanager
def names_of_modules(model: Any) -> Iterator[None]:
    """Let a model save its weights by the names of its modules, which `Trainer` looks for when it loads them again.

    Otherwise Transformers writes the older names of some families, such as ViT: `from_pretrained` knows both, but a
    training that goes on, and the best model in the end, would keep whatever weights they have, with a warning.
    """
    if isinstance(model, PreTrainedModel):  # an adapter has no other names
        model.save_pretrained = partial(model.save_pretrained, save_original_format=False)
    try:
        yield
    finally:
        vars(model).pop("save_pretrained", None)


@contextmanager
def cleared_if_not_written(side: Path, checkpoint: Path) -> Iterator[None]:
    """Delete a half-written checkpoint and say why it could not be written."""
    try:
        yield
    except Exception as error:
        shutil.rmtree(side, ignore_errors=True)
        reason = not_written(error, checkpoint)
        if reason is None:
            raise
        raise ValueError(reason) from error
