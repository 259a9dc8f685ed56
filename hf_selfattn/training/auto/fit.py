"""`tuning: auto`: the best candidate for the heads, LoRA or full tuning after it, and what did best on validation."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...files import read_json, write_json
from ...machine import from_main, is_main
from ...tasks import Task, say
from ...tasks.backbone import is_tuned
from ..contrastive.phase import FEW_STEPS, fit_all_phases
from ..phases import ONE_PHASE, PROBE_FOLDER, Fitted, fit_phase, model_of_heads, probed_heads, with_arguments
from ..progress import Stopwatch
from ..resume import RunState
from ..search_space import with_settings
from ..setup import Prepared, build_trainer, cached_features, training_arguments
from .candidates import candidates_of, layers_to_keep, settings_of, settings_of_heads, table_of
from .pace import LEAST_OF_MINUTES, Outlook, measure, outlook
from .race import has_classes, is_lora_alone, is_settled, race, ways_to_train
from .trials import at_the_end, final_score, try_candidates

# With fewer training rows a small validation split says little, so that candidates are cross-validated; and LoRA does
# better from heads that have learned. With more it does better from fresh ones (benchmarks/README.md).
FEW_ROWS, FOLDS = 200, 4
MOST_ROWS = 5000  # on which candidates are tried; LoRA reads all
CHANCE = 0.5  # about the standard error of a score of one row, as a share of the score
FOLDER, OUTLOOK_FILE, FOLDS_FILE = "auto", "outlook.json", "tuned-folds.json"


def fit_auto(task: Task[Any], prepared: Prepared, output_dir: Path) -> Fitted:
    """Try candidates for the heads on kept features, tune the backbone with the best, and return what is ahead."""
    if is_tuned(task.arguments):
        raise ValueError(
            f"tuning=auto chooses the heads, and model={task.arguments.model!r} has heads that are trained. Set "
            "tuning=lora to go on from there, or give the plain backbone."
        )
    watch = Stopwatch()
    mixed, kept = layers_to_keep(task, prepared)
    of_heads = replace(prepared, kept_layers=kept, encoded=first_rows(prepared.encoded, task.arguments.seed))
    is_few = len(prepared.encoded["train"]) < FEW_ROWS
    parts = folds_of(task, of_heads) if is_few else [of_heads]
    plan = planned(task, prepared, of_heads, len(parts) if is_few else 0, output_dir / FOLDER)
    say(str(plan) + over_budget(plan, task.arguments.budget_minutes))
    options, _ = training_arguments(with_arguments(task, **ONE_PHASE), prepared.data, output_dir)
    metric = str(options.metric_for_best_model), bool(options.greater_is_better)
    candidates = candidates_of(task, mixed, kept)
    record = try_candidates(task, candidates, parts, plan.trials, metric, output_dir)
    best = settings_of(candidates, record["best"]["settings"])

    two_phases = with_arguments(task, tuning="probe+lora", budget_minutes=None)
    two_phases = type(task)(with_settings(two_phases.arguments, best))
    # They are those of its trial, unless that was a cross-validation.
    heads, probe = probed_heads(two_phases, of_heads, output_dir / PROBE_FOLDER)
    left = minutes_left(task, watch)
    if is_few:
        left = None if left is None else left / (1 + len(parts))  # each fold, and then all rows
        name, tuned = way_of_few(task, two_phases, prepared, left)
        scores = {"probe": record["best"]["value"]}
        scores[name] = tuned_in_folds(two_phases, tuned, parts, output_dir / FOLDER)
    else:
        with_heads = type(task)(with_settings(task.arguments, settings_of_heads(best)))
        ways = ways_to_train(with_heads, prepared, left)
        name, fitted = race(ways, prepared, output_dir / FOLDER, metric[1], is_settled(task.arguments))
        scores = linear_score(two_phases, of_heads, heads, metric[0])
        scores |= {"probe": probe["best_metric"], name: fitted.record["best_metric"]}
    rows = 0 if is_few else len(prepared.encoded["validation"])
    chosen = "probe" if is_ahead(scores["probe"], scores[name], metric[1], rows) else name
    if chosen == "probe":
        fitted = probe_answer(two_phases, of_heads, heads, probe, output_dir)
    elif is_few:
        fitted = fit_tuned(tuned, prepared, output_dir, heads if name == "lora" else None)
    where = f"{metric[0]} in a cross-validation of train" if is_few else f"{metric[0]} of validation"
    say(f"tuning=auto tried, by {where}:\n{table_of(candidates, record, scores)}\nIt keeps {chosen}.")
    record |= {"scores": scores, "outlook": asdict(plan), "chosen": chosen}
    return with_record(fitted, probe, record, watch)


def first_rows(encoded: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return the encoded splits with no more random training rows than candidates are tried on."""
    train = encoded["train"]
    if len(train) <= MOST_ROWS:
        return encoded
    rows = np.random.default_rng(seed).permutation(len(train))[:MOST_ROWS]
    return {**encoded, "train": train.select(np.sort(rows))}


def folds_of(task: Task[Any], prepared: Prepared) -> list[Prepared]:
    """Return the rows of train in folds, each of which is the validation split once."""
    folds = min(FOLDS, len(prepared.encoded["train"]))
    parts = task.cross_validation(prepared.data, folds)
    return [replace(prepared, data=part, encoded=task.encode(part, prepared.processor)) for part in parts]


def planned(task: Task[Any], prepared: Prepared, of_heads: Prepared, folds: int, folder: Path) -> Outlook:
    """Return what is going to be done: as it was planned at the first start, or by the pace that is measured now."""
    path = folder / OUTLOOK_FILE
    known = from_main(lambda: read_json(path) if path.is_file() else None)
    if known is not None:
        return Outlook(**known)
    pace = measure(task, prepared, folder / "pace")
    rows = [len(prepared.encoded["train"]), len(of_heads.encoded["train"]), len(prepared.encoded["validation"])]
    ways = 3 if has_classes(task, prepared) else 2
    plan: Outlook = from_main(lambda: outlook(task.arguments, pace, rows[0], rows[1], rows[2], folds, ways))
    if is_main():
        write_json(path, asdict(plan))
    return plan


def over_budget(plan: Outlook, minutes: float | None) -> str:
    """Say that the plan takes longer than the user gave, as where a few candidates take longer by themselves."""
    if minutes is None or plan.seconds <= 60 * minutes:
        return ""
    return f" That is more than budget_minutes={minutes:g}, for no part can be shorter; tuning=lora keeps to them."


def minutes_left(task: Task[Any], watch: Stopwatch) -> float | None:
    """Return what is left of `budget_minutes` after candidates and their features."""
    minutes, spent = task.arguments.budget_minutes, watch.record()["seconds"] / 60
    return None if minutes is None else max(minutes - spent, LEAST_OF_MINUTES * minutes)


def way_of_few(
    task: Task[Any], two_phases: Task[Any], prepared: Prepared, minutes: float | None
) -> tuple[str, Task[Any]]:
    """Return what few rows may tune the backbone by: a contrastive phase where they have classes, otherwise LoRA."""
    if is_lora_alone(task.arguments) or not has_classes(task, prepared):
        return "lora", with_arguments(two_phases, **ONE_PHASE, budget_minutes=minutes)
    probe = {**ONE_PHASE, "tuning": "probe", "budget_minutes": minutes}
    return "contrastive", with_arguments(task, **probe, contrastive_steps=FEW_STEPS)


def tuned_in_folds(two_phases: Task[Any], tuned: Task[Any], parts: Sequence[Prepared], folder: Path) -> float:
    """Return the mean score of tuning over the folds, LoRA after heads that learned there; each is written at once."""
    path = folder / FOLDS_FILE
    values: list[float] = from_main(lambda: read_json(path) if path.is_file() else [])
    for number, part in enumerate(parts[len(values) :], start=len(values)):
        of_fold, heads = folder / f"fold-{number}", None
        if tuned.arguments.tuning == "lora":
            heads, _ = probed_heads(two_phases, part, of_fold / PROBE_FOLDER)
        at_end = with_arguments(tuned, options=at_the_end(tuned))
        values.append(final_score(fit_tuned(at_end, part, of_fold, heads).trainer))
        if is_main():
            write_json(path, values)
    return statistics.fmean(values)


def fit_tuned(task: Task[Any], prepared: Prepared, folder: Path, heads: dict[str, Tensor] | None) -> Fitted:
    """Train LoRA from such heads, or, where there are none, as the arguments say."""
    return fit_all_phases(task, prepared, folder) if heads is None else fit_phase(task, prepared, folder, heads)


def linear_score(task: Task[Any], prepared: Prepared, heads: dict[str, Tensor], metric: str) -> dict[str, float]:
    """Return the score of a linear model on the means of the kept features, where the task has one."""
    cache = cached_features(
        task.arguments, prepared.encoded, task.inputs(prepared.processor), num_layers=prepared.kept_layers
    )
    if cache is None or len(prepared.encoded["train"]) != len(prepared.data.splits["train"]):
        return {}

    def means() -> Any:
        cache.prepare(model_of_heads(task, prepared, heads), "cpu")
        return cache.means()

    scores = task.linear_scores(prepared.data, means)
    return {"linear model": scores[metric]} if metric in scores else {}


def is_ahead(probe: float, tuned: float, more_is_better: bool, rows: int) -> bool:
    """Return whether the probe scores better than chance gives it: it is the best of many epochs of many candidates.

    Args:
        rows: of the validation split, or 0 for scores of a cross-validation, where chance is left out.
    """
    chance = CHANCE * abs(tuned) / math.sqrt(rows) if rows else 0.0
    return (probe - tuned if more_is_better else tuned - probe) > chance


def probe_answer(
    task: Task[Any], prepared: Prepared, heads: dict[str, Tensor], record: dict[str, Any], output_dir: Path
) -> Fitted:
    """Return the best candidate as a training that has come to its end."""
    probe = with_arguments(task, **{**ONE_PHASE, "tuning": "probe"})
    model = model_of_heads(task, prepared, heads)
    trainer = build_trainer(probe, prepared, model, output_dir, has_fresh_heads=False)
    return Fitted(trainer, RunState(**record["run_state"]), {k: v for k, v in record.items() if k != "run_state"})


def with_record(fitted: Fitted, probe: dict[str, Any], auto: dict[str, Any], watch: Stopwatch) -> Fitted:
    """Return the training with what was tried, and with the time of all since this start."""
    last, chosen = fitted.record, auto["chosen"]
    phases = {"probe": probe, chosen: {name: value for name, value in last.items() if name != "history"}}
    more = {} if chosen == "probe" else {"phases": phases}
    return replace(fitted, record={**last, **watch.record(), **more, "auto": auto})
