"""`Trainer` whose checkpoints are whole, which stops at a loss that is no number, and which Ctrl-C interrupts well."""

from __future__ import annotations

import math
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import reduce
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..adapters import count_parameters
from .checkpoints import STATE_FILE, WRITING, checkpoint_name, drop_checkpoints, put_checkpoint
from .faults import NotFinite, not_written, rows_in_words
from .sampler import length_grouped

MakeOptimizer = Callable[[Any], torch.optim.Optimizer | None]


class RecipeTrainer(Trainer):
    """`Trainer` for the runs of the recipes.

    Five methods are overridden, because no callback stands where they act. `Trainer` groups rows by length with the
    random state of each process: processes whose states part would read some rows twice and others never. It takes no
    optimizer that was made before the model is sharded. It writes a
    checkpoint straight into its place and deletes older ones before it tells a callback; only `training_step` sees
    each batch and its loss before the optimizer makes its step; and resumed from the last step of a training that
    ended within an epoch, `Trainer` would make one step more.

    Args:
        make_optimizer: makes an optimizer for a model, or returns None where `Trainer` is to make it.
        options: of `Trainer`.
    """

    def __init__(self, make_optimizer: MakeOptimizer | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.make_optimizer = make_optimizer
        self.optimizer: torch.optim.Optimizer | None
        self.save_total_limit, self.args.save_total_limit = self.args.save_total_limit, None
        self.last_batch: dict[str, Any] = {}
        self.loss_is_finite = True
        self.parameters = count_parameters(self.model)  # afterwards the best adapter is loaded as one that is frozen
        self.feature_record: dict[str, Any] | None = None
        self.is_over = False
        self.watch = Watch(self)
        self.add_callback(self.watch)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Return the order of the rows."""
        sampler = length_grouped(self.train_dataset, self.args)
        return super()._get_train_sampler(train_dataset) if sampler is None else sampler

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

    def _run_epoch(self, **options: Any) -> None:
        """Train an epoch, unless the checkpoint that training goes on from was its last."""
        if self.is_over:
            self.control.should_training_stop = True
        else:
            set_epoch(options["train_dataloader"], options["epoch"])
            super()._run_epoch(**options)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint aside, rename it when it is whole, push it, and delete older ones.

        Raises:
            ValueError: if it cannot be written; the earlier ones are whole.
        """
        folder, push = Path(self.args.output_dir), self.args.push_to_hub
        side, checkpoint = folder / WRITING, folder / checkpoint_name(self.state.global_step)
        with cleared_if_not_written(side, checkpoint):
            with changed(self.args, output_dir=str(side), push_to_hub=False):
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
            drop_checkpoints(folder, self.save_total_limit, self.state.best_global_step)

    def point_to_best(self, folder: Path) -> None:
        """Let the state of the training name the best checkpoint by its place in the folder of the run."""
        if self.state.best_global_step:
            self.state.best_model_checkpoint = str(folder / checkpoint_name(self.state.best_global_step))

    def stop_at(self, step: int) -> None:
        """Save the weights of the last good step, and raise an error that names the step and the rows of the batch.

        Raises:
            NotFinite: always.
        """
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


class Watch(TrainerCallback):
    """Looks at each step of a training for numbers that are not finite and for Ctrl-C, on all processes together.

    At the first Ctrl-C a checkpoint is saved at the end of the running step, a second one stops at once.

    Args:
        trainer: whose steps are watched.
    """

    def __init__(self, trainer: RecipeTrainer):
        self.trainer = trainer
        self.asked = self.agreed = False
        self.handler: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.point_to_best(Path(args.output_dir))
        if threading.current_thread() is threading.main_thread():
            self.handler = signal.signal(signal.SIGINT, self.ask)

    def ask(self, *_: Any) -> None:
        """Take note of Ctrl-C, and let the next one stop at once."""
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.trainer.is_world_process_zero():  # a handler must not print: it may stand inside of a print
            os.write(2, b"\nCtrl-C: a checkpoint is saved at the end of this step. Ctrl-C again stops at once.\n")

    def release(self) -> None:
        """Give Ctrl-C back its former meaning."""
        if self.handler is not None:
            signal.signal(signal.SIGINT, self.handler)
            self.handler = None

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        trainer = self.trainer
        # A scaler of fp16 passes over such gradients by itself.
        finite = trainer.loss_is_finite and (args.fp16 or gradients_are_finite(model))
        trainer.loss_is_finite = True
        broken, self.agreed = agree(not finite, self.asked, args)
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
            raise KeyboardInterrupt

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.release()
        if self.asked:
            raise KeyboardInterrupt


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
def cleared_if_not_written(side: Path, checkpoint: Path) -> Iterator[None]:
    """Delete a half-written checkpoint and say why it could not be written.

    Raises:
        ValueError: if it could not be written.
    """
    try:
        yield
    except Exception as error:
        shutil.rmtree(side, ignore_errors=True)
        reason = not_written(error, checkpoint)
        if reason is None:
            raise
        raise ValueError(reason) from error


def set_epoch(batches: Any, epoch: int) -> None:
    """Tell what puts the rows in order which epoch it is, through all that accelerate wraps around it.

    `Trainer` reaches it through two layers. In several processes, where it skips the batches of an epoch that were
    trained before a stop, there are three.
    """
    sampler: Any = getattr(batches, "batch_sampler", None)
    while hasattr(sampler, "batch_sampler"):
        sampler = sampler.batch_sampler
    order: Any = getattr(sampler, "sampler", None)
    if hasattr(order, "set_epoch"):
        order.set_epoch(epoch)
