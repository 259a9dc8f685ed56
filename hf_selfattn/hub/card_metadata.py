"""The head of a card: what the hub reads, with the score of every split."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from .card_text import has_hub_form, is_hub_name, last_part, plain

TAGS = ["selfattn", "self-attention", "grouped-attention"]
TASKS = {"text-classification": "Text classification", "token-classification": "Token classification"}

# Ours to the hub's identifier of a metric, where they differ.
HUB_METRICS = {
    "macro_f1": "f1",
    "micro_f1": "f1",
    "weighted_f1": "f1",
    "mcc": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
    "brier": "brier_score",
}


def metadata(results: dict[str, Any], title: str) -> ModelCardData:
    """Return what the hub reads: task, backbone, data set and the score of every split."""
    given = results["arguments"]
    dataset = given.get("dataset")
    entries = list(eval_results(results))
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=plain(results["task"]),
        base_model=given["model"] if is_backbone_on_hub(results) else None,
        datasets=[dataset] if is_hub_name(dataset) else None,
        tags=TAGS,
        model_name=title if entries else None,
        eval_results=entries or None,
    )


def is_backbone_on_hub(results: dict[str, Any]) -> bool:
    """Return whether the backbone is a name on the hub: as the run recorded it, where it did."""
    name = results["arguments"]["model"]
    if "backbone" in results:
        return bool(results["backbone"]["source"] == "hub" and has_hub_form(name))
    return is_hub_name(name)


def eval_results(results: dict[str, Any]) -> Iterator[EvalResult]:
    """Yield one entry of the model index for each score that is a number, those of single classes left out."""
    given = results["arguments"]
    for name, split in results["splits"].items():
        on_hub = is_hub_name(given.get("dataset")) and name not in (given.get("test_files") or {})
        for metric, value in overall(split).items():
            if value is not None and math.isfinite(value["value"]):
                yield EvalResult(
                    task_type=plain(results["task"]),
                    task_name=TASKS.get(results["task"]),
                    dataset_type=given["dataset"] if on_hub else "custom",
                    dataset_name=dataset_name(given, name),
                    dataset_config=plain(config) if on_hub and (config := given.get("dataset_config")) else None,
                    dataset_revision=plain(revision) if on_hub and (revision := given.get("revision")) else None,
                    dataset_split=plain(last_part(name)),
                    metric_type=HUB_METRICS.get(metric, metric),
                    metric_name=metric,
                    metric_value=value["value"],
                )


def dataset_name(given: dict[str, Any], split: str) -> str:
    """Return a readable name of the data of a split: the data set's, or that of the file."""
    if split in (given.get("test_files") or {}):
        return plain(last_part(split))
    source = given.get("dataset") or given.get(split) or given.get("train") or split
    first = source[0] if isinstance(source, list) else source
    return plain(first if is_hub_name(first) else last_part(str(first)))


def overall(split: dict[str, Any]) -> dict[str, dict[str, float] | None]:
    """Return the scores of a split that are not of single classes."""
    return {metric: value for metric, value in split["scores"].items() if "/" not in metric}
