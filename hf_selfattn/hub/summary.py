"""What a run found, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ..metrics import LOWER_IS_BETTER

WITHIN = "within_interval"  # of a split: the baselines against which no gain is shown


class NearBaseline(NamedTuple):
    """A baseline whose score is within the interval of the model's, or better."""

    split: str
    kind: str
    metric: str
    is_better: bool  # at least as good as the model

    def __str__(self) -> str:
        where = f"On {self.split} the baseline {self.kind} is"
        how = "at least as good" if self.is_better else "within the interval of the model"
        return f"{where} {how} by {self.metric}: no gain over it is shown."


def summary(results: dict[str, Any]) -> str:
    """Return a table of the scores of each evaluation split, the baseline beside the model."""
    if "summary" in results:
        return repeats_summary(results)
    blocks = []
    for name, split in results["splits"].items():
        baselines, polarity = baselines_of(results, name), results.get("polarity", {}).get(name, {})
        rows = [["", "model", *baselines]]
        for metric, value in overall_scores(split).items():
            rows.append([metric, *map(with_interval, (value, *(scores.get(metric) for scores in baselines.values())))])
        for metric in ("accuracy", "macro_f1") if polarity else ():
            rows.append([f"polarity {metric}", with_interval(polarity[metric]), *("" for _ in baselines)])
        blocks.append(f"{name}: {split['rows']} rows, 95 % intervals\n{table(rows)}")
    blocks += [str(baseline) for baseline in near_baselines(results)]
    if happened := story(results.get("run_state")):
        blocks.append(happened)
    return "\n\n".join(blocks)


def repeats_summary(results: dict[str, Any]) -> str:
    """Return a table of mean and standard deviation over several runs."""
    blocks = []
    for name, scores in results["summary"].items():
        overall = overall_scores({"scores": scores}).items()
        rows = [[metric, f"{score['mean']:.3f} ± {score['sd']:.3f}"] for metric, score in overall]
        blocks.append(f"{name}: mean ± standard deviation of {len(results['runs'])} runs\n{table(rows)}")
    return "\n\n".join(blocks)


def overall_scores(split: dict[str, Any]) -> dict[str, Any]:
    """Return the scores of a split that are not of single classes."""
    return {metric: value for metric, value in split["scores"].items() if "/" not in metric}


def baselines_of(results: dict[str, Any], split: str) -> dict[str, dict[str, Any]]:
    """Return the scores of each baseline on a split."""
    found = results.get("baseline", {}).items()
    return {kind: record["splits"][split]["scores"] for kind, record in found if split in record["splits"]}


def near_baselines(results: dict[str, Any]) -> Iterator[NearBaseline]:
    """Yield the baselines of each split that are within the interval of the model, or better, by the first score."""
    for name, split in results["splits"].items():
        metric, mine = next(iter(overall_scores(split).items()), ("", None))
        sign, worst = (-1, "high") if metric in LOWER_IS_BETTER else (1, "low")
        for kind, baseline in baselines_of(results, name).items():
            theirs = baseline.get(metric)
            if mine and theirs and sign * theirs["value"] >= sign * mine[worst]:
                yield NearBaseline(name, kind, metric, sign * theirs["value"] >= sign * mine["value"])


def with_near_baselines(results: dict[str, Any]) -> dict[str, Any]:
    """Return the results with the names of these baselines in each split that has baselines."""
    near = list(near_baselines(results))
    splits = {
        name: {**split, WITHIN: [baseline.kind for baseline in near if baseline.split == name]}
        if baselines_of(results, name)
        else split
        for name, split in results["splits"].items()
    }
    return {**results, "splits": splits}


def with_interval(value: dict[str, float] | None) -> str:
    """Return a score as text, such as `0.912 [0.901, 0.922]`."""
    return "-" if value is None else f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def table(rows: list[list[str]]) -> str:
    """Return rows of cells as aligned lines."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"  {line}".rstrip() for line in lines)


def story(state: dict[str, Any] | None) -> str:
    """Return what happened to a run in one line, or nothing where it went through at once."""
    if not state:
        return ""
    parts = []
    if state["starts"] > 1:
        steps = ", ".join(f"{step:,}" for step in state["resumed_from"])
        parts.append(f"started {state['starts']} times (resumed from step {steps})")
    if state["interruptions"]:
        parts.append(f"interrupted {state['interruptions']} times")
    if state["skipped"]:
        parts.append(f"{len(state['skipped'])} corrupt checkpoints passed over")
    changed = {name: value for record in state["smaller_batches"] for name, value in record.items()}
    if changed:
        parts.append("out of memory, gone on with " + ", ".join(f"{name}={value}" for name, value in changed.items()))
    return f"The run was {'; '.join(parts)}." if parts else ""
