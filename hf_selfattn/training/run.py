"""Carry out a run: train, evaluate, save and push."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import Tensor
from transformers import Trainer

from ..adapters import base_model, merge_adapters
from ..arguments import RunArguments
from ..cpu_attention import use_fused_attention
from ..files import write_json, write_text
from ..hub.card import model_card
from ..hub.push import logged_in, open_repository, push, push_target
from ..hub.results import (
    ARGUMENTS_FILE,
    CARD_FILE,
    LOCK_FILE,
    RESULTS_FILE,
    backbone_record,
    environment,
    open_run,
    together,
)
from ..hub.saving import sample_batch, save_adapter, save_model
from ..hub.summary import summary, with_near_baselines
from ..machine import alone_in, join_processes
from ..metrics.inputs import Array
from ..modeling.configuration_selfattn import SelfAttnConfig, refuse_unknown_keys
from ..tasks import Task, say, task_of
from ..tasks.evaluation import plain_model
from .contrastive.phase import advice, fit_all_phases
from .phases import Fitted, prepare
from .progress import hide_bars, show_progress
from .search import search
from .search_space import Plan, read_plan
from .setup import Prepared, cached_features
from .trainer import ListLabelsTrainer


def run(arguments: RunArguments) -> dict[str, Any]:
    """Carry out a recipe and return its results.

    A folder that holds the finished run of the same arguments is read, not trained again; an unfinished one is
    continued from its newest checkpoint. With `push_to_hub` the result is pushed at the end, trained just now or not;
    whether it may be is found out first.

    Returns:
        The content of `results.json`.

    Raises:
        ValueError: for data, options, an output folder or a repository that cannot be used; nothing is lost.
    """
    join_processes(arguments.options.get("use_cpu"))
    hide_bars()
    task = task_of(arguments)
    refuse_unknown_keys(SelfAttnConfig, arguments.heads)
    if arguments.check:
        return task.check()
    plan = read_plan(arguments)
    target = push_target(arguments)
    with logged_in(target):
        data = task.load()
        output_dir = Path(arguments.output_dir)
        with alone_in(output_dir / LOCK_FILE, "Or choose another output_dir."):
            finished = claim(output_dir, arguments)
            if target is not None and PartialState().is_main_process:
                target = open_repository(target)
            results = finished or train(task, plan, data, output_dir)
            if finished is None:
                say(f"Wrote {output_dir}. To look at it: hf-selfattn report {shlex.quote(str(output_dir))}")
            else:
                say(f"{output_dir} holds the finished run of these arguments: nothing to train.\n{summary(finished)}")
            if target is not None and PartialState().is_main_process:
                say(f"Pushed to {push(output_dir, target)}")
            PartialState().wait_for_everyone()
    return results


def train(task: Task[Any], plan: Plan | None, data: Any, output_dir: Path) -> dict[str, Any]:
    """Carry out the run, or the runs of several seeds or folds, after a search or a sweep where one is planned."""
    for note in [*data.notes, *advice(task, data)]:
        say(note)
    found: dict[str, Any] = {}
    if plan is not None:
        arguments, found[plan.kind] = search(plan, task.arguments, with_validation(task, data), output_dir)
        task = task_of(arguments)
    if task.arguments.makes_several_models:
        return run_repeats(task, data, output_dir, found)
    return train_and_evaluate(task, with_validation(task, data), output_dir, found)


def with_validation(task: Task[Any], data: Any) -> Any:
    """Return the data with a validation split, and say of one that is made from train how."""
    whole = task.with_validation(data)
    for note in whole.notes[len(data.notes) :]:
        say(note)
    return whole


def claim(output_dir: Path, arguments: RunArguments) -> dict[str, Any] | None:
    """Return the results of the finished run of these arguments, or take the folder for it, the main process first."""
    with PartialState().main_process_first():
        finished = open_run(output_dir, arguments.without_places())
        if finished is None and PartialState().is_main_process:
            write_json(output_dir / ARGUMENTS_FILE, arguments.without_places())
    return finished


def run_repeats(task: Task[Any], data: Any, output_dir: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Carry out the runs of several seeds or folds, each in a folder of its own, and put their scores together."""
    runs = {}
    for name, part, part_data in repeats(task, data):
        say(f"\n{name}")
        finished = claim(output_dir / name, part.arguments)
        runs[name] = finished or train_and_evaluate(part, with_validation(part, part_data), output_dir / name, {})
    results = together(runs) | found
    if PartialState().is_main_process:
        write_json(output_dir / RESULTS_FILE, results)
    PartialState().wait_for_everyone()
    say(f"\n{summary(results)}")
    return results


def repeats(task: Task[Any], data: Any) -> Iterator[tuple[str, Task[Any], Any]]:
    """Yield name, task and data of each run of several seeds or folds."""
    arguments = task.arguments
    for number, part in enumerate(task.folds(data)):
        yield f"fold-{number}", task_of(replace(arguments, folds=0)), part
    if arguments.seeds > 1:
        for seed in range(arguments.seed, arguments.seed + arguments.seeds):
            options = {**arguments.options, "seed": seed}
            yield f"seed-{seed}", task_of(replace(arguments, seeds=1, options=options)), data


def train_and_evaluate(task: Task[Any], data: Any, output_dir: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Train on the data, score every evaluation split, save the model and the results."""
    arguments = task.arguments
    prepared = prepare(task, data)
    fitted = fit_as_told(task, prepared, output_dir)
    trainer, encoded = fitted.trainer, prepared.encoded

    evaluator = final_evaluator(trainer, merge=arguments.save == "merged")
    results = {
        "task": task.pipeline,
        "task_name": task.name,
        "label_names": data.label_names,
        "arguments": arguments.without_places(),
        "backbone": backbone_record(arguments.model, arguments.model_revision),
        "seed": arguments.seed,
        "notes": data.notes,
        "parameters": trainer.parameters,
        "training": fitted.record,
        "run_state": asdict(fitted.run_state),
        "environment": environment(),
        "train": task.train_record(data),
        **task.evaluate(data, encoded, evaluator, output_dir),
        **found,
    }
    if arguments.caches_features and arguments.tuning == "probe":
        found_by_others = task.feature_baselines(data, lambda: mean_features(task, prepared, evaluator))
        results["baseline"] = {**results.get("baseline", {}), **found_by_others}
    results = with_near_baselines(results)
    if trainer.is_world_process_zero():
        columns = task.inputs(prepared.processor).columns
        batch = sample_batch(columns, encoded["validation"], trainer.data_collator)
        save(arguments, plain_model(evaluator), prepared.processor, output_dir, batch)
        write_text(output_dir / CARD_FILE, model_card(results))
        write_json(output_dir / RESULTS_FILE, results)
    PartialState().wait_for_everyone()
    say(summary(results))
    return results


def fit_as_told(task: Task[Any], prepared: Prepared, output_dir: Path) -> Fitted:
    """Train as `tuning` says."""
    if task.arguments.tuning == "auto":
        from .auto.fit import fit_auto

        return fit_auto(task, prepared, output_dir)
    return fit_all_phases(task, prepared, output_dir)


def mean_features(task: Task[Any], prepared: Prepared, evaluator: Trainer) -> dict[str, Array]:
    """Return (N, D) the means of the kept features of every split; those of the test splits are computed now."""
    splits = list(prepared.encoded)
    cache = cached_features(task.arguments, prepared.encoded, task.inputs(prepared.processor), splits)
    if cache is None:
        return {}
    cache.prepare(plain_model(evaluator), evaluator.args.device)
    return cache.means()


def save(arguments: RunArguments, model: Any, processor: Any, output_dir: Path, batch: dict[str, Tensor]) -> None:
    """Save the model that was scored: whole, or its adapter alone."""
    if arguments.save == "merged":
        return save_model(model, processor, output_dir, batch=batch)
    save_adapter(model, processor, output_dir, batch=batch, backbone_name_or_path=arguments.model)
    if Path(arguments.model).is_dir():
        say(
            "The adapter does not keep where its backbone is. Open it with "
            f"from_pretrained({str(output_dir)!r}, backbone_name_or_path={arguments.model!r}); on the command line "
            f"add backbone_name_or_path={shlex.quote(arguments.model)}."
        )


def final_evaluator(trainer: Trainer, merge: bool) -> Trainer:
    """Return a `Trainer` that evaluates the model that is saved."""
    model = plain_model(trainer)
    final = (merge_adapters(model) if merge else model).eval()
    use_fused_attention(base_model(final))
    only_evaluate = replace(
        trainer.args,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        push_to_hub=False,
        bf16=False,  # the answers scored are those that the saved model gives
        fp16=False,
    )
    evaluator = ListLabelsTrainer(
        model=final,
        args=only_evaluate,
        data_collator=trainer.data_collator,
        preprocess_logits_for_metrics=trainer.preprocess_logits_for_metrics,
    )
    return show_progress(evaluator)
