"""The model card: what `results.json` holds, as a page that the hub renders. No number is written by hand."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .card_text import REDACTED, escape, is_hub_name, last_part, plain, table, without_secrets
from .metrics import LOWER_IS_BETTER
from .report import with_interval

TAGS = ["selfattn", "self-attention", "grouped-attention"]
NEEDED = ("task", "problem", "label_names", "arguments", "parameters", "training", "environment", "splits")
TASKS = {"text-classification": "Text classification", "token-classification": "Token classification"}
PROBLEMS = {
    "single_label_classification": "one label for each text",
    "multi_label_classification": "any number of labels for each text",
    "ordinal": "one of several ordered labels for each text",
    "regression": "one number for each text",
}
TUNING = {"lora": "low-rank adapters (LoRA), merged into the weights", "full": "all weights"}

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

# Shown elsewhere, or no part of the method.
UNLISTED_ARGUMENTS = ("model", "dataset", "label_names", "options")


def model_card(results: dict[str, Any], *, name: str | None = None) -> str:
    """Return the model card of a run, metadata and text, as it stands in `README.md`.

    Text from data and arguments is escaped; of a path only the last part is shown, of a secret nothing.

    Args:
        results: the content of `results.json`.
        name: of the repository, such as `user/model`; where it is not given, the text has a placeholder.

    Raises:
        ValueError: if the results are those of several runs or lack an entry, or `name` is no repository's name.
    """
    check_results(results)
    if name is not None and not is_hub_name(name):
        raise ValueError(f"name={name!r} is no name of a repository. Give one such as 'user/model'.")
    title = name.split("/")[-1] if name else f"{plain(last_part(str(results['arguments']['model'])))}-selfattn"
    sections = [
        f"# {escape(title)}",
        description(results),
        usage(results, name or "USER/MODEL"),
        *scores(results),
        *labels(results),
        calibration(results),
        data(results),
        arguments(results),
        environment(results),
        limits(results),
    ]
    text = "\n\n".join(section for section in sections if section)
    return str(ModelCard(f"---\n{metadata(results, title).to_yaml()}\n---\n\n{text}\n"))


def check_results(results: dict[str, Any]) -> None:
    """Check that there is everything that a card is written from.

    Args:
        results: the content of `results.json`.

    Raises:
        ValueError: names what is missing.
    """
    if "runs" in results:
        names = ", ".join(results["runs"])
        raise ValueError(f"These results are of several runs ({names}), each a model of its own. Give those of one.")
    missing = [key for key in NEEDED if key not in results]
    if missing:
        raise ValueError(f"The results have no {', '.join(missing)}. Give the content of the results.json of a run.")


def metadata(results: dict[str, Any], title: str) -> ModelCardData:
    """Return what the hub reads: task, backbone, data set and the score of every split.

    Args:
        results: the content of `results.json`.
        title: name of the model.
    """
    given = results["arguments"]
    backbone, dataset = given["model"], given.get("dataset")
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=results["task"],
        base_model=backbone if is_hub_name(backbone) else None,
        datasets=[dataset] if is_hub_name(dataset) else None,
        tags=TAGS,
        model_name=title,
        eval_results=list(eval_results(results)) or None,
    )


def eval_results(results: dict[str, Any]) -> Iterator[EvalResult]:
    """Yield one entry of the model index for each score that is a number, those of single classes left out.

    Args:
        results: the content of `results.json`.
    """
    given = results["arguments"]
    for name, split in results["splits"].items():
        on_hub = is_hub_name(given.get("dataset")) and name not in (given.get("test_files") or {})
        for metric, value in overall(split).items():
            if value is not None and math.isfinite(value["value"]):
                yield EvalResult(
                    task_type=results["task"],
                    task_name=TASKS.get(results["task"]),
                    dataset_type=given["dataset"] if on_hub else "custom",
                    dataset_name=dataset_name(given, name),
                    dataset_config=given.get("dataset_config") if on_hub else None,
                    dataset_revision=given.get("revision") if on_hub else None,
                    dataset_split=plain(name),
                    metric_type=HUB_METRICS.get(metric, metric),
                    metric_name=metric,
                    metric_value=value["value"],
                )


def dataset_name(given: dict[str, Any], split: str) -> str:
    """Return a readable name of the data of a split: the data set's, or that of the file.

    Args:
        given: the arguments of the run.
        split: name of the split.
    """
    if split in (given.get("test_files") or {}):
        return plain(split)
    source = given.get("dataset") or given.get(split) or given.get("train") or split
    first = source[0] if isinstance(source, list) else source
    return plain(first if is_hub_name(first) else last_part(str(first)))


def overall(split: dict[str, Any]) -> dict[str, dict[str, float] | None]:
    """Return the scores of a split that are not of single classes.

    Args:
        split: the record of a split in `results.json`.
    """
    return {metric: value for metric, value in split["scores"].items() if "/" not in metric}


def description(results: dict[str, Any]) -> str:
    """Return what the model is, in one paragraph.

    Args:
        results: the content of `results.json`.
    """
    given, count = results["arguments"], results["parameters"]
    task = TASKS.get(results["task"], escape(results["task"]))
    problem = PROBLEMS.get(results["problem"], escape(results["problem"]))
    tuned = given.get("tuning", "full")
    return (
        f"{task}: {problem}. The model puts self-attention and grouped-attention heads on the encoder "
        f"{public(given['model'])} and reads a text of any length whole: nothing is cut. Trained with hf_selfattn: "
        f"{TUNING.get(tuned, escape(tuned))}; {count['trainable']:,} of {count['all']:,} parameters were trained."
    )


def usage(results: dict[str, Any], name: str) -> str:
    """Return how the model is used, with the package and without it.

    Args:
        results: the content of `results.json`.
        name: of the repository.
    """
    call = f'pipeline("{plain(results["task"])}", model="{name}"'
    return (
        "## Use\n\nWith the package (`pip install hf-selfattn`):\n\n"
        f"```python\nimport hf_selfattn\nfrom transformers import pipeline\nanswer = {call})\n```\n\n"
        "Without it, by the code that travels with the model; read that code first:\n\n"
        f"```python\nfrom transformers import pipeline\nanswer = {call}, trust_remote_code=True)\n```"
    )


def scores(results: dict[str, Any]) -> Iterator[str]:
    """Yield a table for each split: the scores with their intervals beside those of the baselines.

    Args:
        results: the content of `results.json`.
    """
    yield "## Scores\n\nEach with its 95 % interval. ↓: lower is better."
    for name, split in results["splits"].items():
        baselines = baselines_of(results, name)
        rows = [
            [f"{metric} ↓" if metric in LOWER_IS_BETTER else escape(metric), with_interval(value)]
            + [with_interval(baseline.get(metric)) for baseline in baselines.values()]
            for metric, value in overall(split).items()
        ]
        header = ["", "model", *map(escape, baselines)]
        yield f"### {escape(name)}: {split['rows']:,} rows\n\n{table(header, rows)}"


def baselines_of(results: dict[str, Any], split: str) -> dict[str, dict[str, Any]]:
    """Return the scores of each baseline on a split.

    Args:
        results: the content of `results.json`.
        split: name of the split.
    """
    found = results.get("baseline", {}).items()
    return {kind: record["splits"][split]["scores"] for kind, record in found if split in record["splits"]}


def labels(results: dict[str, Any]) -> Iterator[str]:
    """Yield the label names, and the scores of single classes on the last split.

    Args:
        results: the content of `results.json`.
    """
    names = results["label_names"]
    if names:
        yield f"## Labels\n\n{table(['id', 'label'], [[str(i), escape(label)] for i, label in enumerate(names)])}"
    splits = results["splits"]
    last = list(splits)[-1] if splits else ""
    by_class: dict[str, dict[str, Any]] = {}
    for metric, value in splits[last]["scores"].items() if splits else ():
        kind, found, label = metric.partition("/")
        if found:
            by_class.setdefault(label, {})[kind] = value
    kinds = list(dict.fromkeys(kind for values in by_class.values() for kind in values))
    if by_class:
        rows = [[escape(name), *(with_interval(of.get(kind)) for kind in kinds)] for name, of in by_class.items()]
        yield f"Scores of single classes on {escape(last)}:\n\n{table(['', *map(escape, kinds)], rows)}"


def calibration(results: dict[str, Any]) -> str:
    """Return temperature and thresholds, if the run fitted them.

    Args:
        results: the content of `results.json`.
    """
    found = results.get("calibration")
    if not found:
        return ""
    text = f"## Calibration\n\nLogits are divided by the temperature {found['temperature']:.3f}."
    if not found.get("thresholds"):
        return text
    pairs = zip(results["label_names"], found["thresholds"], strict=True)
    rows = [[escape(label), f"{threshold:.3f}"] for label, threshold in pairs]
    return f"{text} A label is given from its threshold on:\n\n{table(['label', 'threshold'], rows)}"


def data(results: dict[str, Any]) -> str:
    """Return rows and fingerprint of each split.

    Args:
        results: the content of `results.json`.
    """
    rows = [
        [escape(name), escape(dataset_name(results["arguments"], name)), f"{split['rows']:,}", split["fingerprint"]]
        for name, split in results["splits"].items()
    ]
    return f"## Data\n\nEvaluated on:\n\n{table(['split', 'data', 'rows', 'fingerprint'], rows)}"


def arguments(results: dict[str, Any]) -> str:
    """Return the training arguments, but secrets.

    Args:
        results: the content of `results.json`.
    """
    given = results["arguments"]
    listed = {key: value for key, value in given.items() if key not in UNLISTED_ARGUMENTS}
    pairs = flat(without_secrets({**listed, **(given.get("options") or {}), "seed": results.get("seed")}))
    return f"## Training\n\n{table(['argument', 'value'], [[escape(key), value] for key, value in pairs])}"


def flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the settings that have a value, with dots for what lies inside another, values ready to be shown.

    Args:
        settings: values by key.
        prefix: of the keys.
    """
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif value not in (None, "", []):
            values = value if isinstance(value, list) else [value]
            yield f"{prefix}{key}", ", ".join(map(public, values))


def public(value: Any) -> str:
    """Return an argument's value as it is shown: escaped, of a path the last part.

    Args:
        value: a text or number.
    """
    return escape(value if is_hub_name(value) else last_part(str(value)))


def environment(results: dict[str, Any]) -> str:
    """Return versions, hardware and time.

    Args:
        results: the content of `results.json`.
    """
    machine, training = results["environment"], results["training"]
    devices = ", ".join(machine.get("accelerators") or []) or "none"
    rows = {
        "training time": f"{training['seconds']:,.0f} s",
        "steps": f"{training['steps']:,}",
        "epochs": training["epochs"],
        "processes": training["processes"],
        "device": training["device"],
        "bfloat16": "yes" if training["bf16"] else "no",
        "processor": f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads",
        "accelerators": devices,
        "system": machine["platform"],
        "Python": machine["python"],
        **machine["versions"],
    }
    return f"## Environment\n\n{table(['', ''], [[escape(key), escape(value)] for key, value in rows.items()])}"


def limits(results: dict[str, Any]) -> str:
    """Return what the scores do not say.

    Args:
        results: the content of `results.json`.
    """
    points = [
        "An interval speaks of other rows of the same kind. It does not cover other kinds of text, later times or "
        "another random seed.",
        "The checkpoint was chosen on the split validation: its scores there are too good.",
        *beaten(results),
        "The model repeats what its training data hold, their errors and prejudices included. Try it on texts of your "
        "own before it decides anything.",
    ]
    if not results.get("calibration") and results["problem"] != "regression":
        points.append("Its probabilities were not calibrated.")
    return "## Limits\n\n" + "\n".join(f"- {point}" for point in points)


def beaten(results: dict[str, Any]) -> Iterable[str]:
    """Yield a sentence for each split and baseline that is at least as good as the model by the first score.

    Args:
        results: the content of `results.json`.
    """
    for name, split in results["splits"].items():
        metric, mine = next(iter(overall(split).items()), ("", None))
        sign = -1 if metric in LOWER_IS_BETTER else 1
        for kind, baseline in baselines_of(results, name).items():
            theirs = baseline.get(metric)
            if mine and theirs and sign * theirs["value"] >= sign * mine["value"]:
                yield f"On {escape(name)} the baseline {escape(kind)} is at least as good by {escape(metric)}."
