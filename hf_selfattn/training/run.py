"""Carry out a recipe: train, evaluate and save."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import PreTrainedTokenizerBase, Trainer

from ..adapters import base_model, merge_adapters
from ..arguments import RecipeArguments
from ..data import fingerprint, k_folds
from ..files import write_json, write_text
from ..hub.card import model_card
from ..hub.push import logged_in, open_repository, push, push_target
from ..hub.results import ARGUMENTS_FILE, CARD_FILE, RESULTS_FILE, backbone_record, environment, open_run, together
from ..hub.saving import sample_batch, save_adapter, save_model
from ..hub.summary import summary
from ..tasks.evaluation import plain_model
from ..tasks.preparation import say, seed_of
from ..tasks.task import Task
from .attention_cpu import use_fused_attention
from .distributed import join_processes
from .phases import fit_phases, prepare
from .progress import hide_bars, show_progress
from .search import plan_search, search
from .search_space import SearchPlan, with_settings
from .setup import task_of
from .sweep import plan_sweep, sweep


def run(arguments: RecipeArguments) -> dict[str, Any]:
    """Carry out a recipe and return its results.

    A folder that holds the finished run of the same arguments is read, not trained again; an unfinished one is
    continued from its newest checkpoint. With `push_to_hub` the result is pushed at the end, trained just now or not;
    whether it may be is found out first.

    Returns:
        The content of `results.json`.

    Raises:
        ValueError: for data, options, an output folder or a repository that cannot be used; nothing is lost.
    """
    join_processes(arguments)
    hide_bars()
    task = task_of(arguments)
    if arguments.check:
        return task.check(arguments)
    plan, grid = plan_search(arguments), plan_sweep(arguments)
    target = push_target(arguments)
    with logged_in(target):
        data = task.load(arguments)
        output_dir = Path(arguments.output_dir)
        finished = claim(output_dir, arguments)
        if target is not None and PartialState().is_main_process:
            target = open_repository(target)
        results = finished or train(arguments, plan, grid, data, output_dir)
        if finished is not None:
            say(f"{output_dir} holds the finished run of these arguments: nothing to train.\n{summary(finished)}")
        if target is not None and PartialState().is_main_process:
            say(f"Pushed to {push(output_dir, target)}")
        PartialState().wait_for_everyone()
    return results


def train(
    arguments: RecipeArguments,
    plan: SearchPlan | None,
    grid: list[dict[str, Any]],
    data: Any,
    output_dir: Path,
) -> dict[str, Any]:
    """Carry out the run, or the runs of several seeds or folds, after a search or a sweep where one is planned."""
    task = task_of(arguments)
    for note in data.notes:
        say(note)
    found: dict[str, Any] = {}
    if grid:
        arguments = with_settings(arguments, {key: grid[0][key] for key in grid[0] if key == "seed"})
        arguments, found["sweep"] = sweep(grid, arguments, task.with_validation(arguments, data), output_dir)
    if plan is not None:
        arguments, found["search"] = search(plan, arguments, task.with_validation(arguments, data), output_dir)
    if arguments.seeds > 1 or arguments.folds:
        return run_repeats(arguments, data, output_dir, found)
    return train_and_evaluate(arguments, task.with_validation(arguments, data), output_dir, found)


def claim(output_dir: Path, arguments: RecipeArguments) -> dict[str, Any] | None:
    """Return the results of the finished run of these arguments, or take the folder for it, the main process first.

    Raises:
        ValueError: if the folder holds something else.
    """
    with PartialState().main_process_first():
        finished = open_run(output_dir, arguments.without_places())
        if finished is None and PartialState().is_main_process:
            write_json(output_dir / ARGUMENTS_FILE, arguments.without_places())
    return finished


def run_repeats(
    arguments: RecipeArguments, data: Any, output_dir: Path, found: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Carry out the runs of several seeds or folds, each in a folder of its own, and put their scores together."""
    runs, task = {}, task_of(arguments)
    for name, part, part_data in repeats(arguments, data):
        say(f"\n{name}")
        finished = claim(output_dir / name, part)
        runs[name] = finished or train_and_evaluate(part, task.with_validation(part, part_data), output_dir / name)
    results = together(runs) | (found or {})
    if PartialState().is_main_process:
        write_json(output_dir / RESULTS_FILE, results)
    PartialState().wait_for_everyone()
    say(f"\n{summary(results)}")
    return results


def repeats(arguments: RecipeArguments, data: Any) -> Iterator[tuple[str, RecipeArguments, Any]]:
    """Yield name, arguments and data of each run of several seeds or folds.

    Raises:
        ValueError: if both are asked for.
    """
    if arguments.seeds > 1 and arguments.folds:
        raise ValueError(f"seeds={arguments.seeds} and folds={arguments.folds} cannot go together. Leave one out.")
    first = seed_of(arguments)
    if arguments.folds:
        parts = k_folds(data, arguments.folds, first, arguments.group_column)
        for number, part in enumerate(parts):
            yield f"fold-{number}", replace(arguments, folds=0), part
        return
    for seed in range(first, first + arguments.seeds):
        yield f"seed-{seed}", replace(arguments, seeds=1, options={**arguments.options, "seed": seed}), data


def train_and_evaluate(
    arguments: RecipeArguments, data: Any, output_dir: Path, found: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Train on the data, score every evaluation split, save the model and the results."""
    task = task_of(arguments)
    prepared = prepare(arguments, data)
    fitted = fit_phases(arguments, prepared, output_dir)
    trainer, tokens = fitted.trainer, prepared.tokens

    evaluator = final_evaluator(trainer, merge=arguments.save == "merged")
    results = {
        "task": task.name,
        "label_names": data.label_names,
        "arguments": arguments.without_places(),
        "backbone": backbone_record(arguments.model, arguments.model_revision),
        "seed": seed_of(arguments),
        "notes": data.notes,
        "parameters": trainer.parameters,
        "training": fitted.record,
        "run_state": asdict(fitted.run_state),
        "environment": environment(),
        "train": train_record(task, data),
        **task.evaluate(arguments, data, tokens, evaluator, output_dir),
        **(found or {}),
    }
    if trainer.is_world_process_zero():
        sample = tokens["validation"], trainer.data_collator
        save(arguments, plain_model(evaluator), prepared.tokenizer, output_dir, *sample)
        write_text(output_dir / CARD_FILE, model_card(results))
        write_json(output_dir / RESULTS_FILE, results)
    PartialState().wait_for_everyone()
    say(summary(results))
    return results


def train_record(task: Task, data: Any) -> dict[str, Any]:
    """Return what a model was trained on: rows, fingerprint and counts of the labels."""
    if "train" not in data.splits:
        record: dict[str, Any] = data.stream.as_dict()
        return record
    train = data.splits["train"]
    return {"rows": len(train), "fingerprint": fingerprint(train), "labels": task.label_counts(data)}


def save(arguments: RecipeArguments, model: Any, tokenizer: PreTrainedTokenizerBase, *where: Any) -> None:
    """Save the model that was scored: whole, or its adapter alone."""
    output_dir, tokens, collate = where
    batch = sample_batch(tokenizer, tokens, collate)
    if arguments.save == "merged":
        return save_model(model, tokenizer, output_dir, batch=batch)
    save_adapter(model, tokenizer, output_dir, batch=batch, backbone_name_or_path=arguments.model)
    if Path(arguments.model).is_dir():
        say(
            "The adapter does not keep where its backbone is. Open it with "
            f"from_pretrained({str(output_dir)!r}, backbone_name_or_path={arguments.model!r})."
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
        train_sampling_strategy="random",  # grouping by length reorders evaluation too
    )
    evaluator = Trainer(
        model=final,
        args=only_evaluate,
        data_collator=trainer.data_collator,
        preprocess_logits_for_metrics=trainer.preprocess_logits_for_metrics,
    )
    return show_progress(evaluator)
