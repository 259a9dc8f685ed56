"""What `tuning: auto` tries on kept features: a few choices, each between a few settings that have a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...arguments import RunArguments
from ...hub.summary import table
from ...tasks import Task
from ...tasks.backbone import head_settings
from ..feature_cache import bytes_of_token
from ..search_space import Choices
from ..setup import Prepared

# Settings of arguments by the name of the choice and by that of what is chosen; trials start with the first of each.
Candidates = Mapping[str, Mapping[str, Mapping[str, Any]]]
# Kept features may take so much, or the last layers alone are kept.
MOST_BYTES = 2 * 2**30
# The trials that come first, by what they choose otherwise than the first one; Optuna draws the others.
STARTS: tuple[dict[str, str], ...] = (
    {},
    {"attention": "from .1", "layers": "all", "rate": "3e-3"},
    {"attention": "none", "pooling": "mean", "layers": "all", "rate": "1e-2"},
    {"rate": "3e-3"},
)


def layers_to_keep(task: Task[Any], prepared: Prepared) -> tuple[int, int]:
    """Return how many of the backbone's last layers a probe mixes, and how many there are to keep for candidates."""
    arguments = task.arguments
    two_phases = replace(arguments, tuning="probe+lora")
    mixed = int(head_settings(two_phases, prepared.backbone_config, None)["num_mixed_layers"])
    every = getattr(prepared.backbone_config, "num_hidden_layers", None) or 1
    tokens = sum(sum(prepared.encoded[name]["length"][:]) for name in ("train", "validation"))
    width = getattr(prepared.backbone_config, "hidden_size", None) or 0
    fits = tokens * bytes_of_token(arguments.feature_dtype, every, width) <= MOST_BYTES
    is_open = "num_mixed_layers" not in arguments.heads and mixed < every and fits
    return mixed, every if is_open else mixed


def candidates_of(task: Task[Any], mixed: int, kept: int) -> Candidates:
    """Return the choices that are open: those of the task, and of layers, but what the user has settled."""
    layers = {"last four": {"heads.num_mixed_layers": mixed}, "all": {"heads.num_mixed_layers": kept}}
    offered = {**task.candidates, **({"layers": layers} if kept > mixed else {})}
    settled = settled_by(task.arguments)
    return {
        name: choices
        for name, choices in offered.items()
        if settled.isdisjoint(key for settings in choices.values() for key in settings)
    }


def settled_by(arguments: RunArguments) -> set[str]:
    """Return the keys of settings that the user gave."""
    rate = set() if arguments.probe_learning_rate is None else {"probe_learning_rate"}
    return {f"heads.{name}" for name in arguments.heads} | rate | (set() if arguments.standardise else {"standardise"})


def space_of(candidates: Candidates) -> dict[str, Choices]:
    """Return the choices as Optuna draws them."""
    return {name: Choices(list(choices)) for name, choices in candidates.items()}


def starts_of(candidates: Candidates) -> list[dict[str, str]]:
    """Return what the first trials choose."""
    first = {name: next(iter(choices)) for name, choices in candidates.items()}
    found = []
    for start in STARTS:
        known = {name: chosen for name, chosen in start.items() if chosen in candidates.get(name, ())}
        if {**first, **known} not in found:
            found.append({**first, **known})
    return found


def settings_of(candidates: Candidates, chosen: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of arguments that stand behind what is chosen."""
    return {key: value for name, choice in chosen.items() for key, value in candidates[name][choice].items()}


def settings_of_heads(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a tuned backbone takes from the best candidate: its attention heads, but no layers to mix.

    Where the pooling is open, a tuned backbone is read by the mean: what is best on frozen features says little of it.
    """
    heads = {key: value for key, value in settings.items() if key.startswith("heads.") and "num_mixed" not in key}
    return {**heads, **({"heads.pooling": "mean"} if "heads.pooling" in heads else {})}


def table_of(candidates: Candidates, record: Mapping[str, Any], others: Mapping[str, float]) -> str:
    """Return what was tried with its scores, as a table: what was stopped early, then the others, the best last."""
    scored = {str(trial["settings"]): trial for trial in record["trials"][::-1] if trial["value"] is not None}
    trials = list(scored.values())  # of a candidate that was drawn twice the first
    trials.sort(key=lambda trial: trial["value"], reverse=record["direction"] == "minimize")
    trials.sort(key=lambda trial: trial["state"] != "pruned")  # whose scores are of fewer epochs, or folds
    rows = [["heads on frozen features", *candidates, record["metric"]]]
    for trial in trials:
        chosen = [str(trial["settings"].get(name, "")) for name in candidates]
        stopped = " (stopped early)" if trial["state"] == "pruned" else ""
        rows.append([f"candidate {trial['number']}", *chosen, f"{trial['value']:.4f}{stopped}"])
    rows += [[name, *[""] * len(candidates), f"{value:.4f}"] for name, value in others.items()]
    return table(rows)
