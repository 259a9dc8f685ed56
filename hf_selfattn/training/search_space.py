"""What a hyper-parameter search may try: the `search` argument read and checked, and settings drawn from it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments

from ..arguments import NOT_OF_TAGS, NerArguments, RecipeArguments
from ..modeling.configuration_selfattn import SelfAttnConfig

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

# What decides how well a model learns. The rest decides what is measured, and must be the same in all trials.
OPTIONS = (
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "gradient_accumulation_steps",
    "label_smoothing_factor",
    "learning_rate",
    "lr_scheduler_type",
    "max_grad_norm",
    "max_steps",
    "num_train_epochs",
    "optim",
    "per_device_train_batch_size",
    "warmup_steps",
    "weight_decay",
)
OWN = ("class_weights", "focal_gamma", "heads_learning_rate", "layer_decay", "loss")
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "use_rslora": False, "use_dora": False, "target_modules": None}
NOT_OF_HEADS = ("auto_map", "prefix_token_ids", "suffix_token_ids", "temperature", "thresholds", "top_one_if_none")
KEYS = ("trials", "space", "pruner", "timeout")
PRUNERS = ("median", "hyperband")


@dataclass(frozen=True)
class Choices:
    """A finite set of values.

    Args:
        values: the values, of which each is a text, a number, a truth value or None.
    """

    values: list[Any]

    def draw(self, trial: BaseTrial, key: str) -> Any:
        """Return the value of a trial."""
        return trial.suggest_categorical(key, self.values)


@dataclass(frozen=True)
class Range:
    """A range of numbers, both ends included; of whole numbers where both ends are whole.

    Args:
        low, high: the ends.
        log: whether numbers are drawn evenly on the logarithmic scale.
        step: distance of the numbers.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def draw(self, trial: BaseTrial, key: str) -> Any:
        """Return the value of a trial."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(key, self.low, self.high, log=self.log, step=int(self.step or 1))
        return trial.suggest_float(key, self.low, self.high, log=self.log, step=self.step)


@dataclass(frozen=True)
class SearchPlan:
    """A checked `search` argument.

    Args:
        trials: number of trainings.
        space: what each setting may be, by its key.
        pruner: one of `PRUNERS`, which stops a trial that falls behind; None stops none.
        timeout: seconds after which no further trial begins.
    """

    trials: int
    space: dict[str, Choices | Range]
    pruner: str | None = None
    timeout: float | None = None


def read_search(arguments: RecipeArguments) -> SearchPlan:
    """Check the `search` argument of a recipe.

    Raises:
        ValueError: names the key that is wrong, what is allowed, and the nearest valid key.
    """
    given = arguments.search
    for key in given:
        if key not in KEYS:
            raise ValueError(f"search: there is no key {key!r}.{nearest(key, KEYS)}")
    trials, pruner = given.get("trials", 20), given.get("pruner")
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise ValueError(f"search.trials={trials!r} must be a whole number of at least 1.")
    if pruner not in (None, *PRUNERS):
        raise ValueError(f"search.pruner={pruner!r} is unknown; it is {' or '.join(map(repr, PRUNERS))}.")
    timeout = None if given.get("timeout") is None else number("search.timeout", given["timeout"])
    if timeout is not None and timeout <= 0:
        raise ValueError(f"search.timeout={timeout} must be above 0 (seconds).")
    if arguments.folds:
        raise ValueError(
            f"search and folds={arguments.folds} cannot go together: the rows that a fold tests would have taken part "
            "in the search. Search first, then cross-validate the settings found with other rows."
        )
    if arguments.tuning == "probe+lora":
        raise ValueError("search trains one phase only. With tuning='probe+lora' give sweep instead.")
    space = read_space(given.get("space"), type(arguments))
    for key in space:
        check_tuning(key, arguments.tuning, "search.space")
    return SearchPlan(trials, space, pruner, timeout)


def check_tuning(key: str, tuning: str, where: str) -> None:
    """Refuse a setting that says nothing to the way of tuning.

    Raises:
        ValueError: names the key and the tuning that it needs.
    """
    needed = ("lora", "probe+lora") if key.startswith("lora.") else ("full",) if key == "layer_decay" else (tuning,)
    if tuning not in needed:
        raise ValueError(f"{where}: {key} says nothing with tuning={tuning!r}; set tuning={needed[0]}.")


def read_space(given: Any, kind: type[RecipeArguments] = RecipeArguments) -> dict[str, Choices | Range]:
    """Read the entries of a search space.

    Args:
        given: by key a list of values, or a mapping with `low` and `high` and perhaps `log` or `step`.

    Raises:
        ValueError: names the key that is wrong and what is allowed.
    """
    if not isinstance(given, dict) or not given:
        raise ValueError(
            f"search.space={given!r} must map keys to what they may be, such as "
            "learning_rate: {low: 1e-4, high: 1e-3, log: true} or heads.num_groups: [8, 16]."
        )
    known, space = searchable(kind), {}
    for key, entry in flat(given).items():
        if key not in known:
            raise ValueError(f"search.space: {key!r} cannot be searched.{nearest(key, known)}")
        space[key] = read_entry(key, entry, known[key])
    return space


def searchable(kind: type[RecipeArguments]) -> dict[str, Any]:
    """Return every key that can be searched, with its default."""
    trainer = {item.name: item.default for item in fields(TrainingArguments) if item.name in OPTIONS}
    own = {item.name: item.default for item in fields(kind) if item.name in OWN}
    heads = {f"heads.{name}": getattr(SelfAttnConfig, name) for name in head_fields()}
    lora = {f"lora.{name}": default for name, default in LORA.items()}
    known = {**trainer, **own, **heads, **lora}
    unknown = (*NOT_OF_TAGS, "label_smoothing_factor") if issubclass(kind, NerArguments) else ()
    return {name: default for name, default in known.items() if name not in unknown}


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


def read_entry(key: str, entry: Any, default: Any) -> Choices | Range:
    """Read what one setting may be.

    Raises:
        ValueError: names the key and what is wrong with it.
    """
    if isinstance(entry, list):
        choices = read_choices(key, entry)
        check_whole(key, choices.values, default)
        return choices
    if not isinstance(entry, dict) or not {"low", "high"} <= entry.keys() <= {"low", "high", "log", "step"}:
        raise ValueError(
            f"search.space: {key}={entry!r} must be a list of values, or a mapping with low and high, and perhaps log "
            "or step."
        )
    if isinstance(default, (str, bool)):
        raise ValueError(f"search.space: {key} is no number, so it has no low and high. Give a list of its values.")
    low, high = (number(f"search.space: {key}.{end}", entry[end]) for end in ("low", "high"))
    check_whole(key, [low, high], default)
    log, step = entry.get("log", False), entry.get("step")
    if low >= high:
        raise ValueError(f"search.space: {key} has low={low} and high={high}; low must be below high.")
    if not isinstance(log, bool) or (log and (low <= 0 or step is not None)):
        raise ValueError(f"search.space: {key} has log={log!r}; it is true or false, with low above 0 and no step.")
    step = None if step is None else number(f"search.space: {key}.step", step)
    whole = isinstance(low, int) and isinstance(high, int)
    if step is not None and (step <= 0 or (whole and not isinstance(step, int))):
        raise ValueError(f"search.space: {key} has step={step}; it must be above 0, and whole between whole numbers.")
    return Range(low, high, log, step) if whole else Range(float(low), float(high), log, step)


def check_whole(key: str, values: list[Any], default: Any, where: str = "search.space") -> None:
    """Refuse fractions where a size is counted.

    Raises:
        ValueError: names the key and its values.
    """
    counted = ("." in key or key == "seed") and isinstance(default, int) and not isinstance(default, bool)
    if counted and any(isinstance(value, float) for value in values):
        raise ValueError(f"{where}: {key} takes whole numbers, not {values}.")


def read_choices(key: str, values: list[Any], where: str = "search.space") -> Choices:
    """Read a list of values; numbers become of one type.

    Raises:
        ValueError: for a list that is empty, or holds something twice or of another kind.
    """
    if not values:
        raise ValueError(f"{where}: {key} is an empty list. Give at least one value.")
    for value in values:
        if value is not None and not isinstance(value, (bool, int, float, str)):
            raise ValueError(f"{where}: {key} holds {value!r}; a value is a text, a number, true, false or null.")
    if all(is_number(value) for value in values):
        values = [number(f"{where}: {key}", value) for value in values]
        if not all(isinstance(value, int) for value in values):
            values = [float(value) for value in values]
    if len(set(map(repr, values))) < len(values):
        raise ValueError(f"{where}: {key}={values} holds a value twice.")
    return Choices(values)


def is_number(value: Any) -> bool:
    """Return whether a value is a number, or a text such as `1e-4`, which YAML reads as text."""
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return False
        return True
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def number(name: str, value: Any) -> int | float:
    """Return a finite number.

    Raises:
        ValueError: if it is none.
    """
    found = (float(value) if isinstance(value, str) else value) if is_number(value) else float("nan")
    if not abs(found) < float("inf"):
        raise ValueError(f"{name}={value!r} is no finite number.")
    return found


def nearest(key: str, known: Any) -> str:
    """Return the hint of an error on an unknown key."""
    near = difflib.get_close_matches(str(key), list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else f" It is one of {', '.join(known)}."


def with_settings(arguments: RecipeArguments, settings: Mapping[str, Any]) -> RecipeArguments:
    """Return arguments with the settings of a trial."""
    for key, value in settings.items():
        room, _, name = key.rpartition(".")
        if not room and hasattr(arguments, key):
            changes: dict[str, Any] = {key: value}
        else:
            room = room or "options"
            changes = {room: {**getattr(arguments, room), name: value}}
        arguments = replace(arguments, **changes)
    return arguments
