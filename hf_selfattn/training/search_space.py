"""What a search or a sweep may try: its argument read and checked, and settings put into arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments
from transformers.integrations import is_optuna_available

from ..arguments import RunArguments, nearest
from ..modeling.configuration_selfattn import SelfAttnConfig
from ..tasks import task_of

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

# What decides how well a model learns. The rest decides what is measured, and must be the same in all trials.
OPTIONS = tuple(
    (
        "adam_beta1 adam_beta2 adam_epsilon gradient_accumulation_steps label_smoothing_factor learning_rate "
        "lr_scheduler_type max_grad_norm max_steps num_train_epochs optim per_device_train_batch_size "
        "warmup_steps weight_decay"
    ).split()
)
OWN = ("heads_learning_rate", "probe_epochs", "probe_learning_rate")
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "use_rslora": False, "use_dora": False, "target_modules": None}
NOT_OF_HEADS = ("auto_map", "prefix_token_ids", "suffix_token_ids", "temperature", "thresholds", "top_one_if_none")
KEYS = ("trials", "space", "storage")


@dataclass(frozen=True)
class Choices:
    """A finite set of values, each a text, a number, a truth value or None."""

    values: list[Any]

    def draw(self, trial: BaseTrial, key: str) -> Any:
        """Return the value of a trial."""
        return trial.suggest_categorical(key, self.values)


@dataclass(frozen=True)
class Range:
    """A range of numbers, both ends included; of whole numbers where both ends are whole."""

    low: float
    high: float
    log: bool = False  # drawn evenly on the logarithmic scale
    step: float | None = None  # distance of the numbers

    def draw(self, trial: BaseTrial, key: str) -> Any:
        """Return the value of a trial."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(key, self.low, self.high, log=self.log, step=int(self.step or 1))
        return trial.suggest_float(key, self.low, self.high, log=self.log, step=self.step)


@dataclass(frozen=True)
class Plan:
    """A checked `search` or `sweep` argument."""

    kind: str  # `search` or `sweep`
    trials: int  # number of trainings
    space: Mapping[str, Choices | Range]  # what each setting may be, by its key
    given: dict[str, Any]  # the space as the user wrote it
    storage: str | None = None  # file or URL that several machines share; None keeps the trials with the run

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Yield the settings of each combination of a sweep; a search has none."""
        if self.kind == "sweep":
            values = [entry.values for entry in self.space.values() if isinstance(entry, Choices)]
            for chosen in product(*values):
                yield dict(zip(self.space, chosen, strict=True))


def read_plan(arguments: RunArguments) -> Plan | None:
    """Return what the arguments ask to search or to sweep, or None; an error names the nearest valid key."""
    if arguments.tuning == "auto":
        check_auto(arguments)
    if not (arguments.search or arguments.sweep):
        return None
    if arguments.search and arguments.sweep:
        raise ValueError("search and sweep cannot go together. A sweep tries every combination, a search draws some.")
    plan = read_sweep(arguments) if arguments.sweep else read_search(arguments)
    if folds := getattr(arguments, "folds", 0):
        raise ValueError(
            f"{plan.kind} and folds={folds} cannot go together: the rows that a fold tests would have taken part in "
            f"it. Give {plan.kind} first, then cross-validate the settings found with other rows."
        )
    if arguments.options.get("eval_strategy") == "no":
        raise ValueError(f"{plan.kind} picks by the validation split, and with eval_strategy=no there is no score.")
    if not is_optuna_available():
        raise ValueError(f"{plan.kind} needs the package optuna: pip install optuna")
    return plan


def check_auto(arguments: RunArguments) -> None:
    """Raise an error for what does not go together with `tuning: auto`."""
    if arguments.search or arguments.sweep:
        raise ValueError("tuning=auto searches by itself. Leave search and sweep out, or name another tuning.")
    if arguments.options.get("eval_strategy") == "no":
        raise ValueError("tuning=auto picks by the validation split, and with eval_strategy=no there is no score.")
    if not is_optuna_available():
        raise ValueError("tuning=auto needs the package optuna: pip install optuna")


def read_search(arguments: RunArguments) -> Plan:
    """Check the `search` argument."""
    given = arguments.search
    for key in given:
        if key not in KEYS:
            raise ValueError(f"search: there is no key {key!r}.{one_of(key, KEYS)}")
    trials, storage = given.get("trials", 20), given.get("storage")
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise ValueError(f"search.trials={trials!r} must be a whole number of at least 1.")
    if storage is not None and not isinstance(storage, str):
        raise ValueError(f"search.storage={storage!r} must be a file or the URL of a database.")
    space = given.get("space")
    if not isinstance(space, dict) or not space:
        raise ValueError(
            f"search.space={space!r} must map keys to what they may be, such as "
            "learning_rate: {low: 1e-4, high: 1e-3, log: true} or heads.num_groups: [8, 16]."
        )
    return Plan("search", trials, read_space(space, arguments, "search.space"), space, storage)


def read_sweep(arguments: RunArguments) -> Plan:
    """Check the `sweep` argument, and whether each combination of settings goes together."""
    for key, entry in flat(arguments.sweep).items():
        if not isinstance(entry, list) and key in searchable(arguments, seed=42):
            raise ValueError(f"sweep: {key}={entry!r} must be a list of values, such as [{entry!r}].")
    space = read_space(arguments.sweep, arguments, "sweep", seed=42)
    trials = prod(len(entry.values) for entry in space.values() if isinstance(entry, Choices))
    plan = Plan("sweep", trials, space, arguments.sweep)
    for settings in plan.combinations():
        with_settings(arguments, settings)
    return plan


def read_space(
    given: Mapping[str, Any], arguments: RunArguments, where: str, **more: Any
) -> dict[str, Choices | Range]:
    """Read the entries of a space: lists of values, or mappings with `low`, `high` and perhaps `log` or `step`."""
    known, space = searchable(arguments, **more), {}
    for key, entry in flat(given).items():
        if key not in known:
            raise ValueError(f"{where}: {key!r} cannot be searched.{one_of(key, known)}")
        if key.startswith("lora.") and not arguments.trains_lora:
            raise ValueError(f"{where}: {key} says nothing with tuning={arguments.tuning!r}; set tuning=lora.")
        space[key] = read_entry(f"{where}: {key}", entry, known[key])
    return space


def searchable(arguments: RunArguments, **more: Any) -> dict[str, Any]:
    """Return every key that can be searched, with its default."""
    own = (*OWN, *task_of(arguments).searchable)
    return {
        **{item.name: item.default for item in fields(TrainingArguments) if item.name in OPTIONS},
        **{item.name: item.default for item in fields(arguments) if item.name in own},
        **{f"heads.{name}": getattr(SelfAttnConfig, name) for name in head_fields()},
        **{f"lora.{name}": default for name, default in LORA.items()},
        **more,
    }


def head_fields() -> list[str]:
    """Return the fields of `SelfAttnConfig` that shape the heads."""
    names = list(SelfAttnConfig.__annotations__)
    return [name for name in names[names.index("num_self_attention_heads") :] if name not in NOT_OF_HEADS]


def flat(space: Mapping[str, Any]) -> dict[str, Any]:
    """Return a space whose keys have dots where it was nested."""
    found = {}
    for key, entry in space.items():
        if key in ("heads", "lora") and isinstance(entry, dict):
            found.update({f"{key}.{name}": inner for name, inner in entry.items()})
        else:
            found[str(key)] = entry
    return found


def read_entry(name: str, entry: Any, default: Any) -> Choices | Range:
    """Read what one setting may be."""
    counted = isinstance(default, int) and not isinstance(default, bool)
    if isinstance(entry, list):
        return read_choices(name, entry, counted)
    if not isinstance(entry, dict) or not {"low", "high"} <= entry.keys() <= {"low", "high", "log", "step"}:
        raise ValueError(
            f"{name}={entry!r} must be a list of values, or a mapping with low and high, and perhaps log or step."
        )
    if isinstance(default, (str, bool)):
        raise ValueError(f"{name} is no number, so it has no low and high. Give a list of its values.")
    low, high = (number(f"{name}.{end}", entry[end], counted) for end in ("low", "high"))
    log, step = entry.get("log", False), entry.get("step")
    if low >= high:
        raise ValueError(f"{name} has low={low} and high={high}; low must be below high.")
    if not isinstance(log, bool) or (log and (low <= 0 or step is not None)):
        raise ValueError(f"{name} has log={log!r}; it is true or false, with low above 0 and no step.")
    whole = isinstance(low, int) and isinstance(high, int)
    step = None if step is None else number(f"{name}.step", step, whole)
    if step is not None and step <= 0:
        raise ValueError(f"{name} has step={step}; it must be above 0.")
    return Range(low, high, log, step) if whole else Range(float(low), float(high), log, step)


def read_choices(name: str, values: list[Any], counted: bool) -> Choices:
    """Read a list of values; numbers become of one type."""
    if not values:
        raise ValueError(f"{name} is an empty list. Give at least one value.")
    for value in values:
        if value is not None and not isinstance(value, (bool, int, float, str)):
            raise ValueError(f"{name} holds {value!r}; a value is a text, a number, true, false or null.")
    if all(is_number(value) for value in values):
        values = [number(name, value, counted) for value in values]
        if not all(isinstance(value, int) for value in values):
            values = [float(value) for value in values]
    if len(set(map(repr, values))) < len(values):
        raise ValueError(f"{name}={values} holds a value twice.")
    return Choices(values)


def is_number(value: Any) -> bool:
    """Return whether a value is a number, or a text such as `1e-4`, which YAML reads as text."""
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bool)


def number(name: str, value: Any, counted: bool = False) -> int | float:
    """Return a finite number, a whole one where things are counted."""
    found = (float(value) if isinstance(value, str) else value) if is_number(value) else float("nan")
    if not abs(found) < float("inf"):
        raise ValueError(f"{name}={value!r} is no finite number.")
    if counted and not isinstance(found, int):
        raise ValueError(f"{name} takes whole numbers, not {value!r}.")
    return found


def one_of(key: str, known: Any) -> str:
    """Return the hint of an error on an unknown key."""
    return nearest(key, known) or f" It is one of {', '.join(known)}."


def with_settings(arguments: Any, settings: Mapping[str, Any]) -> Any:
    """Return arguments with other settings, by key; `heads.` and `lora.` reach inside."""
    for key, value in settings.items():
        room, _, name = key.rpartition(".")
        if not room and hasattr(arguments, key) and key != "seed":
            arguments = replace(arguments, **{key: value})
        else:
            room = room or "options"
            arguments = replace(arguments, **{room: {**getattr(arguments, room), name: value}})
    return arguments
