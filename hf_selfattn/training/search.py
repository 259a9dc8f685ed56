"""Hyper-parameter search on the validation split, through `Trainer.hyperparameter_search` and Optuna."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from transformers.integrations import is_optuna_available

from ..arguments import RecipeArguments
from ..files import read_json, write_json
from ..tasks.preparation import say, seed_of
from .search_space import SearchPlan, read_search, with_settings
from .trials import FAILURES, build_trial_trainer, draw, trial_arguments

if TYPE_CHECKING:
    import optuna
    from optuna.trial import BaseTrial, FrozenTrial

SEARCH_FILE = "search.json"
STORAGE_FILE = "search.db"


def plan_search(arguments: RecipeArguments) -> SearchPlan | None:
    """Return the plan of the search that the arguments ask for, or None.

    Raises:
        ValueError: for a plan that is wrong, or if Optuna is missing.
    """
    if not arguments.search:
        return None
    plan = read_search(arguments)
    if not is_optuna_available():
        raise ValueError("The search needs the package optuna: pip install hf-selfattn[search]")
    if PartialState().num_processes > 1 and (plan.pruner or plan.timeout):
        raise ValueError(
            f"{PartialState().num_processes} processes train each trial together, but only one would know that it is "
            "pruned or that the time is over. Leave search.pruner and search.timeout out."
        )
    return plan


def search(
    plan: SearchPlan, arguments: RecipeArguments, data: Any, output_dir: Path
) -> tuple[RecipeArguments, dict[str, Any]]:
    """Carry out the trials that are left, and return the arguments with the best settings and the record.

    No evaluation split but validation is read. Every trial starts from the seed of the run; its score is the best
    that it reached, as training keeps its best checkpoint.

    Raises:
        ValueError: if every trial failed.
    """
    record_file = output_dir / SEARCH_FILE
    if record_file.is_file() and (record := read_json(record_file))["best"]:
        return with_settings(replace(arguments, search={}), record["best"]["settings"]), record
    study, left = open_study(plan, arguments, data, output_dir)
    say(f"Search of {', '.join(plan.space)}: {left} of {plan.trials} trials are to be trained.")
    if left:
        run_trials(plan, arguments, data, output_dir, study, left)
    PartialState().wait_for_everyone()  # the main process alone says how the last trial ended
    record = search_record(plan, arguments, study)
    if PartialState().is_main_process:
        write_json(record_file, record)
    if not record["counts"].get("complete"):
        errors = [trial["error"] for trial in record["trials"] if "error" in trial]
        raise ValueError(f"No trial of the search ended well; the first error: {errors[0] if errors else 'none'}")
    best = study.best_trial
    record["best"] = {"number": best.number, "value": best.value, "settings": best.params}
    if PartialState().is_main_process:
        write_json(record_file, record)
    PartialState().wait_for_everyone()
    chosen = ", ".join(f"{key}={value}" for key, value in best.params.items())
    say(f"Best of {len(record['trials'])} trials: {record['metric']} {best.value:.4f} with {chosen}.")
    return with_settings(replace(arguments, search={}), best.params), record


def open_study(plan: SearchPlan, arguments: RecipeArguments, data: Any, output_dir: Path) -> tuple[optuna.Study, int]:
    """Open the study in the folder of a run, and return it with the number of trials that are left.

    A trial that was cut off is put on the list again.
    """
    import optuna
    from optuna.trial import TrialState

    options = trial_arguments(plan, arguments, data, output_dir)
    with PartialState().main_process_first():
        study = optuna.create_study(
            storage=storage_of(output_dir),
            study_name="search",
            direction="maximize" if options.greater_is_better else "minimize",
            load_if_exists=True,
        )
        if PartialState().is_main_process:
            study.set_user_attr("metric", options.metric_for_best_model)
            for trial in study.get_trials(states=(TrialState.RUNNING,)):
                study.tell(trial.number, state=TrialState.FAIL)
                study.enqueue_trial(trial.params)
    return study, plan.trials - sum(state_of(trial) in ("complete", "pruned", "failed") for trial in study.trials)


def run_trials(
    plan: SearchPlan, arguments: RecipeArguments, data: Any, output_dir: Path, study: optuna.Study, left: int
) -> None:
    """Train the trials that are left."""
    trainer = build_trial_trainer(plan, arguments, data, output_dir)
    metric, larger = trainer.args.metric_for_best_model, trainer.args.greater_is_better

    def best_so_far(metrics: dict[str, float]) -> float:
        value, before = metrics[f"eval_{metric}"], trainer.state.best_metric
        if not math.isfinite(value):
            raise ValueError(f"{metric} is {value}")
        return value if before is None else max(value, before) if larger else min(value, before)

    def options_of(trial: BaseTrial) -> dict[str, Any]:
        if PartialState().is_main_process:
            write_json(output_dir / SEARCH_FILE, search_record(plan, arguments, study))
        settings = draw(plan, trial)
        return {key: value for key, value in settings.items() if hasattr(trainer.args, key)}

    try:
        trainer.hyperparameter_search(
            hp_space=options_of,
            compute_objective=best_so_far,
            n_trials=left,
            direction=study.direction.name.lower(),
            backend="optuna",
            hp_name=lambda trial: f"trial-{trial.number}",
            storage=storage_of(output_dir),
            **study_options(plan, arguments, study),
        )
    except ValueError:  # Optuna has no best trial; the caller says why
        if any(state_of(trial) == "complete" for trial in study.trials):
            raise


def study_options(plan: SearchPlan, arguments: RecipeArguments, study: optuna.Study) -> dict[str, Any]:
    """Return what `Trainer` hands on to Optuna."""
    import optuna

    pruners: dict[str, Any] = {"median": optuna.pruners.MedianPruner, "hyperband": optuna.pruners.HyperbandPruner}
    # A search that goes on must not draw again what it drew first.
    seed = seed_of(arguments) + len(study.trials)
    return {
        "study_name": study.study_name,
        "load_if_exists": True,
        "sampler": optuna.samplers.TPESampler(seed=seed),
        "pruner": pruners[plan.pruner]() if plan.pruner else optuna.pruners.NopPruner(),
        "timeout": plan.timeout,
        # Where several processes train together, one must not go on without the others.
        "catch": FAILURES if PartialState().num_processes == 1 else (),
    }


def storage_of(output_dir: Path) -> str:
    """Return the address of the study of a run."""
    return f"sqlite:///{output_dir / STORAGE_FILE}"


def search_record(plan: SearchPlan, arguments: RecipeArguments, study: optuna.Study) -> dict[str, Any]:
    """Return what is known of a search: its space, its trials and how each ended."""
    trials = [trial_record(trial) for trial in study.trials]
    return {
        "metric": study.user_attrs["metric"],
        "direction": study.direction.name.lower(),
        "space": arguments.search["space"],
        "planned": plan.trials,
        "counts": dict(Counter(trial["state"] for trial in trials)),
        "trials": trials,
        "best": None,
    }


def trial_record(trial: FrozenTrial) -> dict[str, Any]:
    """Return settings, score and end of a trial."""
    record = {"number": trial.number, "state": state_of(trial), "value": trial.value, "settings": trial.params}
    if trial.duration is not None:
        record["seconds"] = trial.duration.total_seconds()
    return {**record, **{name: value for name, value in trial.user_attrs.items() if name == "error"}}


def state_of(trial: FrozenTrial) -> str:
    """Return how a trial ended: `complete`, `pruned`, `failed`, or `stopped` where the whole search was."""
    name = trial.state.name.lower()
    return name if name != "fail" else "failed" if "error" in trial.user_attrs else "stopped"
