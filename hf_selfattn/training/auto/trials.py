"""The candidates of `tuning: auto` trained on kept features, by successive halving; each score is written at once."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import TrainerCallback

from ...files import write_json
from ...machine import from_main, is_main
from ...tasks import Task, say
from ..phases import (
    HEADS_FILE,
    PROBE_FOLDER,
    fit_phase,
    heads_of,
    probe_phase,
    read_weights,
    with_arguments,
    write_weights,
)
from ..search import OF_A_TRIAL, ask, attempt, finish, in_words, numbered, open_study, record_of, state_of, tell
from ..search_space import Plan, with_settings
from ..setup import Prepared
from ..trainer import RecipeTrainer
from .candidates import Candidates, settings_of, space_of, starts_of

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial

# Of the candidates that were evaluated as often, a third goes on.
REDUCTION = 3
ONE_OF_MANY: dict[str, Any] = {"early_stopping_patience": 0, "budget_minutes": None}

Report = Callable[[int, float], bool]


class Rungs(TrainerCallback):
    """Reports the best score of a candidate at each evaluation, keeps its heads, and stops it if others were ahead."""

    def __init__(self, report: Report):
        self.report = report
        self.values: list[float] = []
        self.heads: dict[str, Tensor] = {}
        self.stopped = False

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, model: Any = None, **kwargs: Any
    ) -> None:
        value = metrics[f"eval_{args.metric_for_best_model}"]
        known = state.best_metric  # None: the first evaluation, or an equal score with a lower loss
        self.values.append(value)
        best = max(self.values) if args.greater_is_better else min(self.values)
        if known is None or (value > known if args.greater_is_better else value < known):
            self.heads = {name: value.clone() for name, value in heads_of(model).items()}
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
        told = from_main(partial(told_before, study, trial, chosen))
        if not told:
            told = score_candidate(task, settings_of(candidates, chosen), parts, output_dir, trial, number)
        if study is not None and trial is not None:
            tell(study, trial, told)
            write_json(path, record_of(plan, study, metric[0]))
        say(f"Candidate {number}: {in_words(chosen)}: {told.get('error') or format(told['value'], '.4f')}")
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


def told_before(study: Study | None, trial: Trial | None, chosen: Mapping[str, str]) -> dict[str, Any]:
    """Return how an earlier trial of the same candidate ended, or nothing."""
    if study is None or trial is None:
        return {}
    for other in study.trials:
        if other.number < trial.number and other.params == chosen and state_of(other) in ("complete", "pruned"):
            return {"value": other.value, "pruned": state_of(other) == "pruned", "seconds": 0.0, "cpu_seconds": 0.0}
    return {}


def score_candidate(
    task: Task[Any],
    settings: Mapping[str, Any],
    parts: Sequence[Prepared],
    output_dir: Path,
    trial: Trial | None,
    number: int,
) -> dict[str, Any]:
    """Train a candidate, and return its score on validation and its time; where that cannot be, the error."""
    folder, report = output_dir / "auto" / str(number), partial(is_behind, trial)
    of_trial = with_arguments(candidate(task, settings, **OF_A_TRIAL, logging_strategy="no"), **ONE_OF_MANY)

    def score() -> dict[str, Any]:
        if len(parts) > 1:
            return score_in_folds(of_trial, parts, folder, report)
        return score_on_validation(of_trial, parts[0], folder, report, output_dir / PROBE_FOLDER / HEADS_FILE)

    return attempt(score, folder)


def is_behind(trial: Trial | None, step: int, value: float) -> bool:
    """Report a score to Optuna on the main process, and return to all whether others were ahead."""

    def report(known: Trial) -> bool:
        known.report(value, step)
        return known.should_prune()

    return from_main(lambda: trial is not None and report(trial))


def score_on_validation(
    task: Task[Any], prepared: Prepared, folder: Path, report: Report, best: Path
) -> dict[str, Any]:
    """Return the best score on the validation split, and whether the training was stopped because of others.

    Args:
        best: file of the heads of the best candidate until now; those that are better take their place.
    """
    rungs = Rungs(report)
    fitted = fit_phase(task, prepared, folder, callbacks=[rungs])
    value, more_is_better = float(fitted.record["best_metric"]), fitted.trainer.args.greater_is_better
    if is_main() and not rungs.stopped:
        known = read_weights(best)[1]["best_metric"] if best.is_file() else None
        if known is None or (value > known if more_is_better else value < known):
            best.parent.mkdir(parents=True, exist_ok=True)
            write_weights(best, rungs.heads, {**fitted.record, "run_state": asdict(fitted.run_state)})
    return {"value": value, "pruned": rungs.stopped}


def score_in_folds(task: Task[Any], parts: Sequence[Prepared], folder: Path, report: Report) -> dict[str, Any]:
    """Return the mean over folds of the score at the end, and whether folds were left out because of others."""
    values: list[float] = []
    of_fold, stopped = with_arguments(task, options=at_the_end(task)), False
    for number, part in enumerate(parts, start=1):
        values.append(final_score(fit_phase(of_fold, part, folder / str(number)).trainer))
        stopped = report(number, statistics.fmean(values)) and number < len(parts)
        if stopped:
            break
    return {"value": statistics.fmean(values), "pruned": stopped}


def at_the_end(task: Task[Any]) -> dict[str, Any]:
    """Return options under which a training is evaluated at its end alone."""
    return {**task.arguments.options, **OF_A_TRIAL, "eval_strategy": "no"}


def final_score(trainer: RecipeTrainer) -> float:
    """Return the score on validation at the end of a training."""
    return float(trainer.evaluate()[f"eval_{trainer.args.metric_for_best_model}"])
