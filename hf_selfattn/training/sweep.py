"""A plain grid of settings: every combination is trained, and the best by the validation split is the run's."""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import DatasetDict

from ..arguments import RecipeArguments
from ..files import read_json, write_json
from ..hub.summary import table
from ..tasks.preparation import say
from .fitting import from_main
from .phases import Prepared, fit_phases, prepare
from .search_space import check_tuning, check_whole, flat, nearest, read_choices, searchable, with_settings
from .setup import training_arguments
from .stopwatch import Stopwatch
from .trials import FAILURES, OF_A_TRIAL

SWEEP_FILE = "sweep.json"
SWEEP_FOLDER = "sweep"
ALSO_SWEPT = {"seed": 42, "probe_epochs": None, "probe_learning_rate": None}


def plan_sweep(arguments: RecipeArguments) -> list[dict[str, Any]]:
    """Return the combinations of settings that the arguments ask for; none without a sweep.

    Raises:
        ValueError: names what is wrong with the sweep, or what it does not go with.
    """
    if not arguments.sweep:
        return []
    if arguments.search:
        raise ValueError("search and sweep cannot go together. A sweep tries every combination, a search draws some.")
    if arguments.folds:
        raise ValueError(
            f"sweep and folds={arguments.folds} cannot go together: the rows that a fold tests would have taken part "
            "in the sweep. Sweep first, then cross-validate the settings found with other rows."
        )
    if arguments.options.get("eval_strategy") == "no":
        raise ValueError("sweep picks by the validation split, and with eval_strategy=no there is no score.")
    values = read_sweep(arguments)
    combinations = [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]
    for settings in combinations:
        with_settings(arguments, settings)  # arguments that do not go together are refused now
    return combinations


def read_sweep(arguments: RecipeArguments) -> dict[str, list[Any]]:
    """Return the values of each setting that is swept.

    Raises:
        ValueError: names the key that is wrong and what is allowed.
    """
    known = {**searchable(type(arguments)), **ALSO_SWEPT}
    values: dict[str, list[Any]] = {}
    for key, entry in flat(arguments.sweep).items():
        if key not in known:
            raise ValueError(f"sweep: {key!r} cannot be swept.{nearest(key, known)}")
        if not isinstance(entry, list):
            raise ValueError(f"sweep: {key}={entry!r} must be a list of values, such as [{entry!r}].")
        check_tuning(key, arguments.tuning, "sweep")
        values[key] = read_choices(key, entry, "sweep").values
        check_whole(key, values[key], known[key], "sweep")
    return values


def sweep(
    combinations: Sequence[Mapping[str, Any]], arguments: RecipeArguments, data: Any, output_dir: Path
) -> tuple[RecipeArguments, dict[str, Any]]:
    """Train the combinations that are left, and return the arguments with the best settings and the record.

    The score of a combination is the best of its evaluations on the validation split, in the mean over the seeds where
    these are swept. No other evaluation split is read.

    Raises:
        ValueError: if every combination failed.
    """
    path = output_dir / SWEEP_FILE
    runs: list[dict[str, Any]] = from_main(lambda: read_json(path)["runs"] if path.is_file() else [])
    arguments = replace(arguments, sweep={})
    options = training_arguments(arguments, data, output_dir)
    metric, sign = str(options.metric_for_best_model), 1 if options.greater_is_better else -1
    say(f"Sweep: {len(combinations) - len(runs)} of {len(combinations)} combinations are to be trained.")
    splits = {name: data.splits[name] for name in ("train", "validation") if name in data.splits}
    prepared = prepare(arguments, replace(data, splits=DatasetDict(splits)))
    for settings in combinations[len(runs) :]:
        folder = output_dir / SWEEP_FOLDER / str(len(runs))
        runs.append({"settings": dict(settings), **outcome(with_settings(arguments, settings), prepared, folder)})
        say(f"{len(runs)} of {len(combinations)}: {in_words(settings)}: {runs[-1].get('error', runs[-1]['value'])}")
        if PartialState().is_main_process:
            write_json(path, {"runs": runs})
            shutil.rmtree(folder, ignore_errors=True)
        PartialState().wait_for_everyone()
    scored = together(runs)
    if not scored:
        raise ValueError(f"No combination of the sweep could be trained; the first error: {runs[0]['error']}")
    best = max(scored, key=lambda entry: sign * entry["value"])
    record = {"metric": metric, "combinations": scored, "runs": runs, "best": best}
    say(f"Sweep by {metric} of the validation split:\n{sweep_table(scored, metric)}")
    say(f"Best: {in_words(best['settings'])}.")
    return with_settings(arguments, best["settings"]), record


def outcome(arguments: RecipeArguments, prepared: Prepared, folder: Path) -> dict[str, Any]:
    """Train a combination and return its score and time; where it cannot be trained, the error.

    Args:
        folder: takes what the training writes; of two phases the first one's best checkpoint is needed.
    """
    kept = {"push_to_hub": False} if arguments.tuning == "probe+lora" else OF_A_TRIAL
    arguments = replace(arguments, options={**arguments.options, **kept})
    watch = Stopwatch()
    try:
        value = fit_phases(arguments, prepared, folder).trainer.state.best_metric
        if value is None or not math.isfinite(value):
            raise ValueError(f"the score is {value}")
    except FAILURES as error:
        if PartialState().num_processes > 1:  # the others wait for this one inside of a step
            raise
        return {"value": None, **watch.record(), "error": f"{type(error).__name__}: {error}"}
    return {"value": value, **watch.record()}


def together(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return mean and standard deviation over the seeds of each combination; one with a failure has none."""
    found: list[dict[str, Any]] = []
    for run in runs:
        settings = {key: value for key, value in run["settings"].items() if key != "seed"}
        entry = next((entry for entry in found if entry["settings"] == settings), None)
        if entry is None:
            found.append(entry := {"settings": settings, "values": []})
        entry["values"].append(run["value"])
    return [
        {**entry, "value": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}
        for entry in found
        if None not in (values := entry["values"])
    ]


def sweep_table(scored: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Return the scores of all combinations as a table."""
    rows = [[*scored[0]["settings"], metric]]
    for entry in scored:
        deviation = "" if entry["sd"] is None else f" ± {entry['sd']:.4f}"
        rows.append([*map(str, entry["settings"].values()), f"{entry['value']:.4f}{deviation}"])
    return table(rows)


def in_words(settings: Mapping[str, Any]) -> str:
    """Return settings in one line."""
    return ", ".join(f"{key}={value}" for key, value in settings.items()) or "as given"
