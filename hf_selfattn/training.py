"""Train, evaluate and save: the one place that uses `Trainer`."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoTokenizer,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from .adapters import add_lora, base_model, count_parameters, merge_adapters
from .arguments import RecipeArguments
from .attention_cpu import use_fast_attention, use_fused_attention
from .data import (
    ClassificationData,
    check_classification,
    deduplicate,
    format_report,
    load_splits,
    make_validation,
    prepare,
)
from .evaluation import metric_names, metrics_function, plain_model, predict, score_baseline, score_splits
from .metrics import LOWER_IS_BETTER
from .modeling.configuration_selfattn import backbone_window
from .modeling.modeling_selfattn import SelfAttnForSequenceClassification
from .report import summary
from .results import ARGUMENTS_FILE, RESULTS_FILE, environment, open_run, write_json
from .saving import save_model
from .tasks import PROBLEMS, label_options, tokenise

# A tokenizer that claims no limit makes pipelines pass a text on whole: the model reads any length.
NO_LIMIT = int(1e30)
ATTENTION_DROPOUT_FIELDS = ("attention_probs_dropout_prob", "attention_dropout")
LEARNING_RATE = {"lora": 1e-3, "full": 5e-5}


def run(arguments: RecipeArguments) -> dict[str, Any]:
    """Carry out a text classification recipe and return its results.

    A folder that holds the finished run of the same arguments is read, not trained again; an unfinished one is
    continued from its newest checkpoint.

    Args:
        arguments: the arguments of the recipe.

    Returns:
        The content of `results.json`.

    Raises:
        ValueError: for data, options or an output folder that cannot be used; nothing is lost.
    """
    state = PartialState()
    data = load_data(arguments)
    if arguments.check:
        return report_on_data(data, arguments)
    output_dir = Path(arguments.output_dir)
    finished = open_run(output_dir, arguments.without_places())
    if finished is not None:
        say(f"{output_dir} holds the finished run of these arguments: nothing to train.\n{summary(finished)}")
        return finished
    for note in data.notes:
        say(note)
    if state.is_main_process:
        write_json(output_dir / ARGUMENTS_FILE, arguments.without_places())
    state.wait_for_everyone()
    return train_and_evaluate(arguments, data, output_dir)


def say(text: str) -> None:
    """Print a line on the main process.

    Args:
        text: the line.
    """
    PartialState().print(text, flush=True)


def load_data(arguments: RecipeArguments) -> ClassificationData:
    """Load the splits that the arguments name, check them, and make a validation split where there is none.

    Args:
        arguments: the arguments of the recipe.
    """
    with PartialState().main_process_first():
        splits = load_splits(
            train=arguments.train,
            validation=arguments.validation,
            test=arguments.test,
            dataset=arguments.dataset,
            dataset_config=arguments.dataset_config,
            revision=arguments.revision,
            extra=arguments.test_files or None,
        )
        data = prepare(
            splits,
            text_column=arguments.text_column,
            text_pair_column=arguments.text_pair_column,
            label_column=arguments.label_column,
            problem=arguments.problem,
            label_names=arguments.label_names,
            on_bad_row=arguments.on_bad_row,
            keep_columns=[arguments.group_column] if arguments.group_column else [],
        )
    if arguments.deduplicate:
        data = deduplicate(data)
    return make_validation(
        data, fraction=arguments.validation_fraction, seed=seed_of(arguments), group_column=arguments.group_column
    )


def seed_of(arguments: RecipeArguments) -> int:
    """Return the seed of a run.

    Args:
        arguments: the arguments of the recipe.
    """
    return int(arguments.options.get("seed", 42))


def report_on_data(data: ClassificationData, arguments: RecipeArguments) -> dict[str, Any]:
    """Print the report on the data and return it.

    Args:
        data: checked data.
        arguments: the arguments of the recipe.
    """
    backbone_config, tokenizer = open_backbone(arguments)
    report = check_classification(data, tokenizer, backbone_window(backbone_config) or tokenizer.model_max_length)
    say(format_report(report))
    return report


def train_and_evaluate(arguments: RecipeArguments, data: ClassificationData, output_dir: Path) -> dict[str, Any]:
    """Train on the data, score every evaluation split, save the model and the results.

    Args:
        arguments: the arguments of the recipe.
        data: checked data with the splits train and validation.
        output_dir: folder of the run.
    """
    set_seed(seed_of(arguments))
    backbone_config, tokenizer = open_backbone(arguments)
    tokenizer.model_max_length = NO_LIMIT
    with PartialState().main_process_first():
        tokens = {name: tokenise(split, tokenizer, data.problem) for name, split in data.splits.items()}
    model = build_model(arguments, data, backbone_config)
    parameters = count_parameters(model)
    say(f"{parameters['trainable']:,} of {parameters['all']:,} parameters train ({arguments.tuning}).")

    trainer = build_trainer(arguments, data, tokens, model, tokenizer, output_dir)
    if trainer.args.bf16 and trainer.args.device.type == "cpu":
        use_fast_attention(base_model(model))
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(output_dir)))
    seconds = time.perf_counter() - started

    merged = merge_adapters(plain_model(trainer)).eval()
    use_fused_attention(merged)
    only_evaluate = replace(
        trainer.args,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        train_sampling_strategy="random",  # grouping by length reorders evaluation too
    )
    evaluator = Trainer(model=merged, args=only_evaluate, data_collator=trainer.data_collator)
    outputs = {name: predict(evaluator, split, data.problem) for name, split in tokens.items() if name != "train"}
    results = {
        "task": "text-classification",
        "problem": data.problem,
        "label_names": data.label_names,
        "arguments": arguments.without_places(),
        "seed": seed_of(arguments),
        "notes": data.notes,
        "parameters": parameters,
        "training": training_record(trainer, seconds),
        "environment": environment(),
        "splits": score_splits(data, outputs, output_dir),
    }
    if arguments.baseline:
        results["baseline"] = {"tfidf": score_baseline(data, seed_of(arguments))}
    if trainer.is_world_process_zero():
        save_model(plain_model(evaluator), tokenizer, output_dir, tokens["validation"], trainer.data_collator)
        write_json(output_dir / RESULTS_FILE, results)
    PartialState().wait_for_everyone()
    say(summary(results))
    return results


def hub_options(arguments: RecipeArguments) -> dict[str, str]:
    """Return what every download of the backbone has in common.

    Args:
        arguments: the arguments of the recipe.
    """
    return {"revision": arguments.model_revision} if arguments.model_revision else {}


def open_backbone(arguments: RecipeArguments) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Return the configuration and the tokenizer of the backbone.

    Args:
        arguments: the arguments of the recipe.

    Raises:
        ValueError: if there is no such backbone.
    """
    options = hub_options(arguments)
    try:
        config = AutoConfig.from_pretrained(arguments.model, **options)
        return config, AutoTokenizer.from_pretrained(arguments.model, **options)
    except OSError as error:
        raise ValueError(
            f"The backbone model={arguments.model!r} cannot be opened. Give a name on the hub or a folder with "
            f"config.json, weights and tokenizer. {error}"
        ) from error


def build_model(
    arguments: RecipeArguments, data: ClassificationData, backbone_config: PreTrainedConfig
) -> torch.nn.Module:
    """Return the model that trains: fresh heads on the backbone, with adapters where they are asked for.

    Dropout inside the backbone's attention is off unless `backbone` sets it: it keeps attention from its fused
    kernel, which costs more than half of a step on 512 tokens, and the heads have their own.

    Args:
        arguments: the arguments of the recipe.
        data: checked data.
        backbone_config: configuration of the backbone as it was trained.
    """
    no_dropout = {name: 0.0 for name in ATTENTION_DROPOUT_FIELDS if hasattr(backbone_config, name)}
    model = SelfAttnForSequenceClassification.from_backbone(
        arguments.model,
        hub_options=hub_options(arguments),
        backbone_options={**no_dropout, **arguments.backbone},
        **label_options(data),
        **arguments.heads,
    )
    return add_lora(model, "SEQ_CLS", **arguments.lora) if arguments.tuning == "lora" else model


def build_trainer(
    arguments: RecipeArguments,
    data: ClassificationData,
    tokens: dict[str, Dataset],
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    output_dir: Path,
) -> Trainer:
    """Return the `Trainer` of a run.

    Args:
        arguments: the arguments of the recipe.
        data: checked data.
        tokens: tokenised splits.
        model: the model that trains.
        tokenizer: its tokenizer.
        output_dir: folder of the run.
    """
    patience = arguments.early_stopping_patience
    return Trainer(
        model=model,
        args=training_arguments(arguments, data, output_dir),
        train_dataset=tokens["train"],
        eval_dataset=tokens["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_metrics=metrics_function(data),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=patience)] if patience else None,
    )


def training_arguments(arguments: RecipeArguments, data: ClassificationData, output_dir: Path) -> TrainingArguments:
    """Return the options of `Trainer`: the recipe's defaults, then what the user set.

    Args:
        arguments: the arguments of the recipe.
        data: checked data.
        output_dir: folder of the run.

    Raises:
        ValueError: if the validation split has no such metric as is to pick the checkpoint.
    """
    metric = arguments.selection_metric or PROBLEMS[data.problem].selection_metric
    if metric not in (known := {"loss", *metric_names(data)}):
        raise ValueError(f"selection_metric={metric!r} is unknown; it is one of {', '.join(sorted(known))}.")
    defaults = {
        "learning_rate": LEARNING_RATE[arguments.tuning],
        "num_train_epochs": 3,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 32,
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "bf16": has_bf16(),
        "use_cpu": not torch.accelerator.is_available(),
        "train_sampling_strategy": "group_by_length",
        "length_column_name": "length",
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": metric,
        "greater_is_better": metric not in {"loss", *LOWER_IS_BETTER},
        "logging_steps": 0.05,
        "report_to": "none",
        "label_names": ["labels"],
    }
    return TrainingArguments(output_dir=str(output_dir), **{**defaults, **arguments.options})


def has_bf16() -> bool:
    """Return whether the machine multiplies bfloat16 matrices in hardware."""
    if torch.accelerator.is_available():
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def training_record(trainer: Trainer, seconds: float) -> dict[str, Any]:
    """Return how training went.

    Args:
        trainer: after training.
        seconds: wall time of training.
    """
    return {
        "seconds": seconds,
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "best_step": trainer.state.best_global_step,
        "best_metric": trainer.state.best_metric,
        "processes": trainer.args.world_size,
        "device": str(trainer.args.device),
        "bf16": trainer.args.bf16,
        "history": trainer.state.log_history,
    }
