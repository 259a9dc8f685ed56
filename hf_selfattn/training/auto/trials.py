"""The candidates of `tuning: auto` trained on kept features, by successive halving; each score is written at once."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from ...files import write_json
from ...machine import from_main
from ...tasks import Task, say
from ..phases import fit_phase, probe_phase, with_arguments
from ..search import OF_A_TRIAL, ask, attempt, finish, in_words, numbered, open_study, record_of, tell
from ..search_space import Plan, with_settings
from ..setup import Prepared
from .candidates import Candidates, settings_of, space_of, starts_of

if TYPE_CHECKING:
    from optuna.trial import Trial

# Of the candidates that were evaluated as often, a third goes on.
REDUCTION = 3
ONE_OF_MANY: dict[str, Any] = {"early_stopping_patience": 0, "budget_minutes": None}

Report = Callable[[int, float], bool]


class Rungs(TrainerCallback):
    """Reports the best score of a candidate at each evaluation, and stops it where others were ahead."""

    def __init__(self, report: Report):
        self.report = report
        self.values: list[float] = []
        self.stopped = False

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self.values.append(metrics[f"eval_{args.metric_for_best_model}"])
        best = max(self.values) if args.greater_is_better else min(self.values)
        if self.report(len(self.values), best) and state.global_step < state.max_steps:
            self.stopped = control.should_training_stop = True


def try_candidates(
    task: Task[Any],
    candidates: Candidates,
    parts: Sequence[Prepared],
    trials: int,
    metric: tuple[str, bool],
    output_dir: Path,
) -> dict[str, Any]:
    """Train the candidates that are left, and return the record, with the best of them.

    Args:
        parts: the rows, with their validation split; or the folds of a cross-validation.
        trials: how many candidates there are.
        metric: that picks, and whether more of it is better.
    """
    from optuna.pruners import SuccessiveHalvingPruner

    plan = Plan("auto", trials, space_of(candidates), {name: list(choices) for name, choices in candidates.items()})
    study = open_study(plan, task.arguments, output_dir, metric[1])
    if study is not None:
        study.pruner = SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION)
        if not study.trials:
            for start in starts_of(candidates)[:trials]:
                study.enqueue_trial(start)
    path = output_dir / "auto.json"
    while True:
        trial = ask(plan, study, output_dir)
        number, chosen = from_main(partial(numbered, plan, trial))
        if number < 0:
            break
        told = trial_score(task, settings_of(candidates, chosen), parts, output_dir / "auto" / str(number), trial)
        if study is not None and trial is not None:
            tell(study, trial, told)
            write_json(path, record_of(plan, study, metric[0]))
        say(f"Candidate {number}: {in_words(chosen)}: {told.get('error', told['value'])}")
    record: dict[str, Any] = from_main(lambda: finish(plan, study, metric[0], path))
    if record["best"] is None:
        errors = [trial["error"] for trial in record["trials"] if "error" in trial]
        raise ValueError(f"tuning=auto: no candidate ended well; the first error: {errors[0] if errors else 'none'}")
    return record


def candidate(task: Task[Any], settings: Mapping[str, Any], **options: Any) -> Task[Any]:
    """Return the task with the arguments of a candidate, or of the phase that trains the best of them."""
    changed = with_settings(replace(task.arguments, tuning="probe+lora"), settings)
    phase = probe_phase(type(task)(changed))
    return with_arguments(phase, options={**phase.arguments.options, **options})


def trial_score(
    task: Task[Any], settings: Mapping[str, Any], parts: Sequence[Prepared], folder: Path, trial: Trial | None
) -> dict[str, Any]:
    """Train a candidate, and return its score on validation and its time; where that cannot be, the error."""

    def score() -> dict[str, Any]:
        of_trial = with_arguments(candidate(task, settings, **OF_A_TRIAL, logging_strategy="no"), **ONE_OF_MANY)
        find = score_in_folds if len(parts) > 1 else score_on_validation
        value, stopped = find(of_trial, parts, folder, partial(is_behind, trial))
        return {"value": value, "pruned": stopped}

    return attempt(score, folder)


def is_behind(trial: Trial | None, step: int, value: float) -> bool:
    """Report a score to Optuna on the main process, and return to all whether others were ahead."""

    def report(known: Trial) -> bool:
        known.report(value, step)
        return known.should_prune()

    return from_main(lambda: trial is not None and report(trial))


def score_on_validation(
    task: Task[Any], parts: Sequence[Prepared], folder: Path, report: Report
) -> tuple[float, bool]:
    """Return the best score on the validation split, and whether the training was stopped because of others."""
    rungs = Rungs(report)
    fitted = fit_phase(task, parts[0], folder, callbacks=[rungs])
    return float(fitted.record["best_metric"]), rungs.stopped


def score_in_folds(task: Task[Any], parts: Sequence[Prepared], folder: Path, report: Report) -> tuple[float, bool]:
    """Return the mean over folds of the score at the end, and whether folds were left out because of others."""
    values: list[float] = []
    for number, part in enumerate(parts, start=1):
        values.append(final_score(with_arguments(task, options=at_the_end(task)), part, folder / str(number)))
        if report(number, statistics.fmean(values)) and number < len(parts):
            return statistics.fmean(values), True
    return statistics.fmean(values), False


def at_the_end(task: Task[Any]) -> dict[str, Any]:
    """Return options under which a training is evaluated at its end alone."""
    return {**task.arguments.options, **OF_A_TRIAL, "eval_strategy": "no"}


def final_score(task: Task[Any], part: Prepared, folder: Path, heads: Any = None) -> float:
    """Return the score on validation at the end of a training."""
    trainer = fit_phase(task, part, folder, heads).trainer
    return float(trainer.evaluate()[f"eval_{trainer.args.metric_for_best_model}"])
