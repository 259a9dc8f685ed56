"""The sections of a card, each from the content of `results.json`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..metrics import LOWER_IS_BETTER
from .card_metadata import TASKS, dataset_name, is_backbone_on_hub, overall
from .card_text import escape, is_hub_name, last_part, plain, public, table, without_secrets
from .summary import story, with_interval

PROBLEMS = {
    "single_label_classification": "one label for each text",
    "multi_label_classification": "any number of labels for each text",
    "ordinal": "one of several ordered labels for each text",
    "regression": "one number for each text",
}
PROBABILITIES = ("single_label_classification", "multi_label_classification", "ordinal")
TUNING = {
    "probe": "the heads, on a frozen backbone",
    "lora": "low-rank adapters (LoRA)",
    "probe+lora": "the heads first, on a frozen backbone, then low-rank adapters (LoRA) with them",
    "full": "all weights",
}
SAVED = {
    "merged": ", merged into the weights",
    "adapter": ", saved without the weights of the backbone, which must be at hand",
}

# Shown elsewhere.
UNLISTED_ARGUMENTS = ("model", "label_names", "options")


def page(results: dict[str, Any], title: str, name: str) -> str:
    """Return the text of a card."""
    sections = (
        f"# {escape(title)}",
        description(results),
        usage(results, name),
        *scores(results),
        *labels(results),
        calibration(results),
        data(results),
        arguments(results),
        environment(results),
        limits(results),
    )
    return "\n\n".join(section for section in sections if section)


def description(results: dict[str, Any]) -> str:
    """Return what the model is, in one paragraph."""
    given, count = results["arguments"], results["parameters"]
    task = TASKS.get(results["task"], escape(results["task"]))
    kind = [task, PROBLEMS[results["problem"]]] if results.get("problem") in PROBLEMS else [task]
    tuned = given.get("tuning", "full")
    trained = TUNING.get(tuned, escape(tuned))
    if tuned in ("lora", "probe+lora"):
        trained += SAVED.get(given.get("save", "merged"), "")
    return (
        f"{': '.join(kind)}. The model puts self-attention and grouped-attention heads on the encoder "
        f"{backbone(results)} and reads a text of any length whole: nothing is cut. Trained with hf_selfattn: "
        f"{trained}; {count['trainable']:,} of {count['all']:,} parameters were trained."
    )


def backbone(results: dict[str, Any]) -> str:
    """Return the name of the backbone, with its commit where it is known."""
    name = results["arguments"]["model"]
    shown = escape(name) if is_backbone_on_hub(results) else escape(last_part(name))
    commit = results.get("backbone", {}).get("commit")
    return f"{shown} (commit {escape(commit)})" if commit else shown


def usage(results: dict[str, Any], name: str) -> str:
    """Return how the model is used, with the package and without it."""
    call = f'pipeline("{plain(results["task"])}", model="{name}"'
    given = results["arguments"]
    if given.get("save") == "adapter" and not is_hub_name(given["model"]):
        call += ', model_kwargs={"backbone_name_or_path": "FOLDER-OF-THE-BACKBONE"}'
    return (
        "## Use\n\nWith the package (`pip install hf-selfattn`):\n\n"
        f"```python\nimport hf_selfattn\nfrom transformers import pipeline\nanswer = {call})\n```\n\n"
        "Without it, by the code that travels with the model; read that code first:\n\n"
        f"```python\nfrom transformers import pipeline\nanswer = {call}, trust_remote_code=True)\n```"
    )


def scores(results: dict[str, Any]) -> Iterator[str]:
    """Yield a table for each split: the scores with their intervals beside those of the baselines."""
    yield "## Scores\n\nEach with its 95 % interval. ↓: lower is better."
    for name, split in results["splits"].items():
        baselines = baselines_of(results, name)
        rows = [
            [f"{metric} ↓" if metric in LOWER_IS_BETTER else escape(metric), with_interval(value)]
            + [with_interval(baseline.get(metric)) for baseline in baselines.values()]
            for metric, value in overall(split).items()
        ]
        rows += [
            [f"polarity {escape(metric)}", with_interval(value), *("" for _ in baselines)]
            for metric, value in results.get("polarity", {}).get(name, {}).items()
            if "/" not in metric
        ]
        header = ["", "model", *map(escape, baselines)]
        yield f"### {public(name)}: {split['rows']:,} rows\n\n{table(header, rows)}"


def baselines_of(results: dict[str, Any], split: str) -> dict[str, dict[str, Any]]:
    """Return the scores of each baseline on a split."""
    found = results.get("baseline", {}).items()
    return {kind: record["splits"][split]["scores"] for kind, record in found if split in record["splits"]}


def labels(results: dict[str, Any]) -> Iterator[str]:
    """Yield the label names, and the scores of single classes on the last split."""
    names, counts = results["label_names"], results.get("train", {}).get("labels") or {}
    if names:
        by_label = set(counts) == set(names)
        header = ["id", "label", "rows of train"] if by_label else ["id", "label"]
        rows = [[str(i), escape(label), *(f"{counts[label]:,}" for _ in header[2:])] for i, label in enumerate(names)]
        yield f"## Labels\n\n{table(header, rows)}"
        if counts and not by_label:
            rows = [[escape(kind), f"{count:,}"] for kind, count in counts.items()]
            yield table(["entities", "in train"], rows)
    last, split = list(results["splits"].items())[-1]
    by_class: dict[str, dict[str, Any]] = {}
    for metric, value in split["scores"].items():
        kind, found, label = metric.partition("/")
        if found:
            by_class.setdefault(label, {})[kind] = value
    kinds = list(dict.fromkeys(kind for values in by_class.values() for kind in values))
    if by_class:
        rows = [[escape(name), *(with_interval(of.get(kind)) for kind in kinds)] for name, of in by_class.items()]
        yield f"Scores of single classes on {public(last)}:\n\n{table(['', *map(escape, kinds)], rows)}"


def is_calibrated(results: dict[str, Any]) -> bool:
    """Return whether the run found a temperature or thresholds that change an answer."""
    found = results.get("calibration") or {"temperature": 1.0}
    return found["temperature"] != 1 or bool(found.get("thresholds"))


def calibration(results: dict[str, Any]) -> str:
    """Return temperature and thresholds where there are any, and the calibration error without and with them."""
    if not is_calibrated(results):
        return ""
    found = results["calibration"]
    parts = [
        f"## Calibration\n\nThe model divides its logits by the temperature {found['temperature']:.3f}, fitted on the "
        "split validation."
    ]
    if found.get("thresholds"):
        pairs = zip(results["label_names"], found["thresholds"], strict=True)
        rows = [[escape(label), f"{threshold:.3f}"] for label, threshold in pairs]
        parts.append(f"A label is given from its threshold on:\n\n{table(['label', 'threshold'], rows)}")
    rows = [
        [public(name), f"{split['uncalibrated']['ece']:.3f}", with_interval(split["scores"]["ece"])]
        for name, split in results["splits"].items()
        if "ece" in split.get("uncalibrated", {}) and "ece" in split["scores"]
    ]
    if rows:
        parts.append(table(["calibration error (ece)", "before", "after"], rows))
    return "\n\n".join(parts)


def data(results: dict[str, Any]) -> str:
    """Return source, rows and fingerprint of each split."""
    rows = []
    for name, split in results["splits"].items():
        source = dataset_name(results["arguments"], name)
        rows.append([public(name), escape(source), f"{split['rows']:,}", escape(split["fingerprint"])])
    trained = trained_on(results["train"]) if results.get("train") else ""
    return f"## Data\n\n{trained}Evaluated on:\n\n{table(['split', 'data', 'rows', 'fingerprint'], rows)}"


def trained_on(train: dict[str, Any]) -> str:
    """Say which rows the model was trained on; those of a stream have no fingerprint, and perhaps were not counted."""
    if train.get("streamed"):
        count = f"{train['rows']:,} rows" if train["rows"] else "rows"
        return f"Trained on {count} that were streamed.\n\n"
    return f"Trained on {train['rows']:,} rows (fingerprint {escape(train['fingerprint'])}).\n\n"


def arguments(results: dict[str, Any]) -> str:
    """Return the training arguments, but secrets."""
    given = results["arguments"]
    listed = {key: value for key, value in given.items() if key not in UNLISTED_ARGUMENTS}
    pairs = flat(without_secrets({**listed, **(given.get("options") or {}), "seed": results.get("seed")}))
    return f"## Training\n\n{table(['argument', 'value'], [[escape(key), value] for key, value in pairs])}"


def flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the settings that have a value, with dots for what lies inside another, values ready to be shown."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{last_part(key)}.")
        elif value not in (None, "", []):
            values = value if isinstance(value, list) else [value]
            yield f"{prefix}{last_part(key)}", ", ".join(map(public, values))


def environment(results: dict[str, Any]) -> str:
    """Return versions, hardware and time."""
    machine, training = results["environment"], results["training"]
    devices = ", ".join(machine.get("accelerators") or []) or "none"
    rows = {
        "training time": f"{training['seconds']:,.0f} s",
        "steps": f"{training['steps']:,}",
        "epochs": training["epochs"],
        "processes": training["processes"],
        "device": training["device"],
        "bfloat16": "yes" if training["bf16"] else "no",
        "processor": machine["processor"],
        "cores": machine["cores"],
        "threads": machine["threads"],
        "accelerators": devices,
        "system": machine["platform"],
        "Python": machine["python"],
        **machine["versions"],
    }
    shown = table(["", ""], [[escape(key), escape(value)] for key, value in rows.items()])
    happened = story(results.get("run_state"))
    return f"## Environment\n\n{shown}" + (f"\n\n{escape(happened)}" if happened else "")


def limits(results: dict[str, Any]) -> str:
    """Return what the scores do not say."""
    points = [
        "An interval speaks of other rows of the same kind. It does not cover other kinds of text, later times or "
        "another random seed."
    ]
    if "validation" in results["splits"]:
        points.append("The checkpoint was chosen on the split validation, so its scores there are too good.")
    points += beaten(results)
    if results.get("problem") in PROBABILITIES and not is_calibrated(results):
        points.append("Its probabilities are not calibrated.")
    points.append(
        "The model repeats what its training data hold, their errors and prejudices included. Try it on texts of your "
        "own before it decides anything."
    )
    return "## Limits\n\n" + "\n".join(f"- {point}" for point in points)


def beaten(results: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence for each split and baseline that is at least as good as the model by the first score."""
    for name, split in results["splits"].items():
        metric, mine = next(iter(overall(split).items()), ("", None))
        sign = -1 if metric in LOWER_IS_BETTER else 1
        for kind, baseline in baselines_of(results, name).items():
            theirs = baseline.get(metric)
            if mine and theirs and sign * theirs["value"] >= sign * mine["value"]:
                yield f"On {public(name)} the baseline {escape(kind)} is at least as good by {escape(metric)}."
