"""`Trainer` for the trials of a hyper-parameter search: each with its own model, loss and learning rates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from datasets import DatasetDict
from huggingface_hub.errors import StrictDataclassError
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer, TrainingArguments, set_seed

from ..adapters import base_model
from ..arguments import RecipeArguments
from ..tasks.preparation import open_backbone
from .attention_cpu import use_fast_attention
from .optimizer import grouped_optimizer
from .progress import show_progress, tokenising
from .sampler import length_grouped
from .search_space import Choices, SearchPlan, with_settings
from .setup import (
    WIDTH,
    cached_features,
    excerpts_of,
    prepare_heads,
    some_rows,
    task_of,
    task_options,
    training_arguments,
)

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

# A trial leaves its score, and nothing else.
OF_A_TRIAL = {"save_strategy": "no", "load_best_model_at_end": False, "push_to_hub": False}
# What settings that do not go together, or do not fit into memory, raise: the trial fails, the search goes on.
FAILURES = (ValueError, RuntimeError, StrictDataclassError)


class TrialTrainer(Trainer):
    """`Trainer` whose loss, layer-wise learning rates and patience are those of the trial.

    Args:
        settle: a trial of Optuna to the arguments of the recipe with its settings.
        loss: these arguments to what `Trainer` takes as `compute_loss_func`.
        options: of `Trainer`.
    """

    def __init__(
        self,
        settle: Callable[[BaseTrial | None], RecipeArguments],
        loss: Callable[[RecipeArguments], Any],
        **options: Any,
    ) -> None:
        self.settle, self.loss, self.settled = settle, loss, settle(None)
        self.optimizer: torch.optim.Optimizer | None = None
        super().__init__(**options)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Return the order of the rows, as in a run."""
        sampler = length_grouped(self.train_dataset, self.args)
        return super()._get_train_sampler(train_dataset) if sampler is None else sampler

    def train(self, resume_from_checkpoint: Any = None, trial: BaseTrial | None = None, **options: Any) -> Any:
        """Train one trial; an error that ends it is kept with it."""
        try:
            self.settled = self.settle(trial)
            self.compute_loss_func = self.loss(self.settled)
            self.remove_callback(EarlyStoppingCallback)  # it counts on from the trial before
            if self.settled.early_stopping_patience:
                self.add_callback(EarlyStoppingCallback(self.settled.early_stopping_patience))
            return super().train(resume_from_checkpoint, trial, **options)
        except FAILURES as error:
            if trial is not None:
                trial.set_user_attr("error", f"{type(error).__name__}: {error}")
            raise

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return the optimizer of the trial."""
        self.optimizer = grouped_optimizer(self.model, self.args, self.settled) or self.optimizer
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)  # the one that is there, if any
        return optimizer


def build_trial_trainer(plan: SearchPlan, arguments: RecipeArguments, data: Any, output_dir: Path) -> TrialTrainer:
    """Return the `Trainer` of all trials."""
    task = task_of(arguments)
    data = replace(data, splits=DatasetDict({name: data.splits[name] for name in ("train", "validation")}))
    backbone_config, tokenizer = open_backbone(arguments)
    with PartialState().local_main_process_first(), tokenising(data.splits):
        tokens = task.tokenise(arguments, data, tokenizer)
    width = getattr(backbone_config, "hidden_size", WIDTH)  # without it every trial fails, and says why
    options = trial_arguments(plan, arguments, data, output_dir, width)
    cache = cached_features(arguments, tokens, tokenizer)
    rows = tokens if cache is None else cache.rows

    def settle(trial: BaseTrial | None) -> RecipeArguments:
        return arguments if trial is None else with_settings(arguments, draw(plan, trial))

    def fresh_model(trial: BaseTrial | None) -> PreTrainedModel:
        settled = settle(trial)
        model = task.build_model(settled, data, backbone_config)
        if cache is not None:
            cache.prepare(model, options.device)  # a trial may read other layers or windows
        train = rows["train"]
        train = excerpts_of(settled, data, model).of(train) if settled.sample_tokens else train
        some = some_rows(train, tokenizer, options.seed)
        prepare_heads(settled, model, some, trainer_options(settled)["data_collator"])
        if options.bf16 and options.device.type == "cpu":
            use_fast_attention(base_model(model))
        set_seed(options.seed)  # as `Trainer` does when it is given a model: the best trial can be trained again
        return model

    def trainer_options(settled: RecipeArguments) -> dict[str, Any]:
        its_options = training_arguments(settled, data, output_dir / "search")
        return task_options(settled, data, tokens, its_options, tokenizer)

    trainer = TrialTrainer(
        settle,
        lambda settled: trainer_options(settled).get("compute_loss_func"),
        args=options,
        model_init=fresh_model,
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        processing_class=tokenizer,
        **trainer_options(arguments),
    )
    show_progress(trainer)
    if arguments.sample_tokens:
        excerpts = excerpts_of(arguments, data, trainer.model)
        trainer.train_dataset = excerpts.of(tokens["train"])
        trainer.add_callback(excerpts)
    return trainer


def trial_arguments(
    plan: SearchPlan, arguments: RecipeArguments, data: Any, output_dir: Path, width: int = WIDTH
) -> TrainingArguments:
    """Return the options of `Trainer` for the trials; it sets the searched ones anew for each."""
    # `Trainer` casts a setting to the type of the value before: each begins with a value of its own type.
    first = {key: entry.values[0] if isinstance(entry, Choices) else entry.low for key, entry in plan.space.items()}
    options = {key: value for key, value in first.items() if "." not in key and not hasattr(arguments, key)}
    if "label_smoothing_factor" in options:
        options["label_smoothing_factor"] = 0.0  # else `Trainer` would smooth where the trial does not
    given = replace(arguments, options={**arguments.options, **options, **OF_A_TRIAL})
    return training_arguments(given, data, output_dir / "search", width)


def draw(plan: SearchPlan, trial: BaseTrial) -> dict[str, Any]:
    """Return the settings of a trial; asked twice, they are the same."""
    return {key: entry.draw(trial, key) for key, entry in plan.space.items()}
