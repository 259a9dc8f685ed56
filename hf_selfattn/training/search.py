"""Settings searched on the validation split with Optuna: drawn from a space (`search`), or all of a grid (`sweep`).

A trial is an ordinary training, asked of Optuna and told to it again. So it can be stopped and goes on, trials that
fail are kept with their error, and several machines can share one search through a storage that all of them reach.
"""

from __future__ import annotations

import json
import math
import shutil
import socket
import statistics
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from accelerate import PartialState
from datasets import DatasetDict
from huggingface_hub.errors import StrictDataclassError

from ..arguments import RunArguments
from ..files import read_json, write_json
from ..hub.summary import table
from ..machine import from_main
from ..tasks import say, task_of
from .contrastive.phase import fit_all_phases
from .phases import prepare
from .progress import Stopwatch
from .search_space import Choices, Plan, with_settings
from .setup import Prepared, training_arguments

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, Trial

SECONDS_BETWEEN_LOOKS = 1.0
# A trial of another machine that takes so many times as long as the longest is taken for dead.
PATIENCE = 3.0
# A trial leaves its score, and nothing else; of two phases the first one's best checkpoint is needed.
OF_A_TRIAL = {"save_strategy": "no", "load_best_model_at_end": False, "push_to_hub": False}
# What settings that do not go together, or do not fit into memory, raise: the trial fails, the search goes on.
FAILURES = (ValueError, RuntimeError, StrictDataclassError)


def search(plan: Plan, arguments: RunArguments, data: Any, output_dir: Path) -> tuple[RunArguments, dict[str, Any]]:
    """Carry out the trials that are left, and return the arguments with the best settings and the record.

    No evaluation split but validation is read. The score of a trial is the best that it reached, as training keeps its
    best checkpoint; in a sweep over seeds the best is that in the mean over them.
    """
    path = output_dir / f"{plan.kind}.json"
    arguments = replace(arguments, search={}, sweep={})
    if isinstance(seeds := plan.space.get("seed"), Choices):
        arguments = with_settings(arguments, {"seed": seeds.values[0]})
    done = from_main(lambda: read_json(path) if path.is_file() else {})
    if done.get("best"):
        return with_settings(arguments, done["best"]["settings"]), done
    options, _ = training_arguments(task_of(arguments), data, output_dir)
    metric, larger = str(options.metric_for_best_model), bool(options.greater_is_better)
    study = open_study(plan, arguments, output_dir, larger)
    say(f"{plan.kind.capitalize()} of {', '.join(plan.space)}: {left(plan, study)} of {plan.trials} trials are left.")
    splits = {name: data.splits[name] for name in ("train", "validation") if name in data.splits}
    prepared = prepare(task_of(arguments), replace(data, splits=DatasetDict(splits)))
    while True:
        trial = ask(plan, study, output_dir)
        number, settings = from_main(partial(numbered, plan, trial))
        if number < 0:
            break
        told = outcome(arguments, settings, prepared, output_dir / plan.kind / str(number))
        if study is not None and trial is not None:
            tell(study, trial, told)
            write_json(path, record_of(plan, study, metric))
        say(f"Trial {number}: {in_words(settings)}: {told.get('error', told['value'])}")
    record = from_main(lambda: finish(plan, study, metric, path))
    if record["best"] is None:
        errors = [trial["error"] for trial in record["trials"] if "error" in trial]
        raise ValueError(f"No trial of the {plan.kind} ended well; the first error: {errors[0] if errors else 'none'}")
    if plan.kind == "sweep":
        say(f"Sweep by {metric} of the validation split:\n{sweep_table(record['combinations'], metric)}")
    best = record["best"]
    say(f"Best of {len(record['trials'])} trials: {metric} {best['value']:.4f} with {in_words(best['settings'])}.")
    return with_settings(arguments, best["settings"]), record


def open_study(plan: Plan, arguments: RunArguments, output_dir: Path, larger: bool) -> optuna.Study | None:
    """Open the study on the main process; a trial of this run that was cut off is put on the list again."""
    if not PartialState().is_main_process:
        return None
    import optuna
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    output_dir.mkdir(parents=True, exist_ok=True)
    study = create_study(plan, output_dir, "maximize" if larger else "minimize")
    mine = json.loads(json.dumps({**arguments.without_places(), "space": plan.given}))
    theirs = study.user_attrs.get("arguments", mine)
    if differing := sorted(key for key in mine if mine[key] != theirs.get(key)):
        raise ValueError(
            f"search.storage={plan.storage!r} holds another search; it differs in {', '.join(differing)}. "
            "Give another storage."
        )
    study.set_user_attr("arguments", mine)
    # A search that goes on, or on another machine, must not draw again what was drawn first.
    here = zlib.crc32(worker(output_dir).encode()) if plan.storage else 0
    seed = (arguments.seed + len(study.trials) + here) % 2**32
    study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=plan.storage is not None)
    if not study.trials:
        for settings in plan.combinations():
            study.enqueue_trial(settings)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if plan.storage is None or trial.user_attrs.get("worker") == worker(output_dir):
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)
    return study


def create_study(plan: Plan, output_dir: Path, direction: Literal["maximize", "minimize"]) -> optuna.Study:
    """Make the study, or open the one that is there; try it again, for two machines may make it at the same moment."""
    import optuna

    tries = 5
    while True:
        try:
            storage = storage_of(plan, output_dir)
            return optuna.create_study(storage=storage, study_name=plan.kind, direction=direction, load_if_exists=True)
        except Exception as error:  # of whatever driver the URL names
            tries -= 1
            if not tries:
                raise ValueError(
                    f"search.storage={plan.storage!r} cannot be opened ({error}). Give a journal file, or a "
                    "URL such as sqlite:////shared/trials.db."
                ) from error
            time.sleep(SECONDS_BETWEEN_LOOKS)


def storage_of(plan: Plan, output_dir: Path) -> Any:
    """Return where the trials are kept: a file of the run, or a database or journal that several machines share."""
    if plan.storage is None:
        return f"sqlite:///{output_dir / f'{plan.kind}.db'}"
    if "://" in plan.storage:
        return plan.storage
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    Path(plan.storage).parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(plan.storage))


def worker(output_dir: Path) -> str:
    """Return the name of this run among those that share a search."""
    return f"{socket.gethostname()}:{output_dir.absolute()}"


def left(plan: Plan, study: optuna.Study | None) -> int:
    """Return how many trials are still to begin."""
    return 0 if study is None else plan.trials - begun(study)


def begun(study: optuna.Study, before: float = math.inf) -> int:
    """Return how many trials with a smaller number than `before` have begun and count."""
    return sum(
        trial.number < before and state_of(trial) in ("complete", "pruned", "failed", "running")
        for trial in study.trials
    )


def ask(plan: Plan, study: optuna.Study | None, output_dir: Path) -> Trial | None:
    """Return the next trial, or None where all have begun."""
    if study is None or left(plan, study) <= 0:
        return None
    from optuna.trial import TrialState

    trial = study.ask()
    trial.set_user_attr("worker", worker(output_dir))
    if begun(study, before=trial.number) >= plan.trials:  # another machine asked in the same moment
        trial.set_user_attr("surplus", True)
        study.tell(trial, state=TrialState.FAIL)
        return None
    return trial


def numbered(plan: Plan, trial: Trial | None) -> tuple[int, dict[str, Any]]:
    """Return number and settings of a trial, below 0 where there is none."""
    if trial is None:
        return -1, {}
    return trial.number, {key: entry.draw(trial, key) for key, entry in plan.space.items()}


def outcome(arguments: RunArguments, settings: Mapping[str, Any], prepared: Prepared, folder: Path) -> dict[str, Any]:
    """Train with settings, and return score and time; where that cannot be, the error."""

    def score() -> dict[str, Any]:
        changed = with_settings(arguments, settings)
        kept = {"push_to_hub": False} if changed.tuning == "probe+lora" else OF_A_TRIAL
        changed = replace(changed, options={**changed.options, **kept})
        return {"value": fit_all_phases(task_of(changed), prepared, folder).trainer.state.best_metric}

    return attempt(score, folder)


def attempt(score: Callable[[], dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Return the score of a trial and its time, or, where it cannot be trained, the error; its folder is deleted."""
    watch = Stopwatch()
    try:
        found = score()
        if found["value"] is None or not math.isfinite(found["value"]):
            raise ValueError(f"the score is {found['value']}")
    except FAILURES as error:
        if PartialState().num_processes > 1:  # the others wait for this one inside of a step
            raise
        return {"value": None, **watch.record(), "error": f"{type(error).__name__}: {error}"}
    finally:
        if PartialState().is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
    PartialState().wait_for_everyone()
    return {**found, **watch.record()}


def tell(study: optuna.Study, trial: Trial, told: Mapping[str, Any]) -> None:
    """Tell Optuna how a trial ended."""
    from optuna.trial import TrialState

    for name in ("seconds", "cpu_seconds", "error"):
        if name in told:
            trial.set_user_attr(name, told[name])
    if told["value"] is None:
        study.tell(trial, state=TrialState.FAIL)
    elif told.get("pruned"):
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, told["value"])


def finish(plan: Plan, study: optuna.Study | None, metric: str, path: Path) -> dict[str, Any]:
    """Wait for the trials that other machines have begun, and return the record, with the best."""
    if study is None:
        return {}
    if is_waited_for(record := record_of(plan, study, metric)):
        say(f"Waiting for {record['counts']['running']} trials that others have begun.")
    while is_waited_for(record := record_of(plan, study, metric)):
        time.sleep(SECONDS_BETWEEN_LOOKS)
    entries = record["combinations" if plan.kind == "sweep" else "trials"]
    scored = [entry for entry in entries if entry["value"] is not None and entry.get("state") != "pruned"]
    if scored:
        best = (max if record["direction"] == "maximize" else min)(scored, key=lambda entry: float(entry["value"]))
        record["best"] = {name: best[name] for name in ("number", "value", "settings") if name in best}
    write_json(path, record)
    return record


def is_waited_for(record: Mapping[str, Any]) -> bool:
    """Return whether a trial is running that may still end."""
    running = [trial["seconds"] for trial in record["trials"] if trial["state"] == "running"]
    ended = [trial["seconds"] for trial in record["trials"] if trial["state"] != "running" and "seconds" in trial]
    return any(not ended or seconds < PATIENCE * max(ended) for seconds in running)


def record_of(plan: Plan, study: optuna.Study, metric: str) -> dict[str, Any]:
    """Return what is known of a search: its space, its trials and how each ended."""
    trials = [trial_record(trial) for trial in study.trials if state_of(trial) not in ("waiting", "surplus")]
    record = {
        "metric": metric,
        "direction": study.direction.name.lower(),
        "space": plan.given,
        "planned": plan.trials,
        "counts": dict(Counter(trial["state"] for trial in trials)),
        "trials": trials,
        "best": None,
    }
    return {**record, "combinations": combined(trials)} if plan.kind == "sweep" else record


def trial_record(trial: FrozenTrial) -> dict[str, Any]:
    """Return settings, score and end of a trial."""
    record: dict[str, Any] = {"number": trial.number, "state": state_of(trial), "value": trial.value}
    record["settings"] = trial.params
    if record["state"] == "running" and trial.datetime_start is not None:
        record["seconds"] = time.time() - trial.datetime_start.timestamp()
    shown = ("seconds", "cpu_seconds", "error")
    return {**record, **{name: trial.user_attrs[name] for name in shown if name in trial.user_attrs}}


def state_of(trial: FrozenTrial) -> str:
    """Return how a trial ended: `complete`, `failed`, `stopped` where the search was, `surplus`; or how it is."""
    name = trial.state.name.lower()
    if name != "fail":
        return name
    return "failed" if "error" in trial.user_attrs else "surplus" if "surplus" in trial.user_attrs else "stopped"


def combined(trials: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return mean and standard deviation over the seeds of each combination; one with a failure has none."""
    found: list[dict[str, Any]] = []
    for trial in trials:
        if trial["state"] not in ("complete", "failed"):
            continue
        settings = {key: value for key, value in trial["settings"].items() if key != "seed"}
        entry = next((entry for entry in found if entry["settings"] == settings), None)
        if entry is None:
            found.append(entry := {"settings": settings, "values": []})
        entry["values"].append(trial["value"])
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
