"""The model card: the content of `results.json` as the hub renders it. `card_template.md` holds the words.

Whatever the template is given is fit to be shown: escaped, without secrets, of a path only the last part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..metrics import LOWER_IS_BETTER
from .sanitize import escape, has_hub_form, is_hub_name, last_part, plain, public, without_secrets
from .summary import baselines_of, near_baselines, overall_scores, story, with_interval

TEMPLATE = Path(__file__).with_name("card_template.md")
NEEDED = ("task", "label_names", "arguments", "parameters", "training", "environment", "splits")
TAGS = ["selfattn", "self-attention", "grouped-attention"]

TASK_TITLES = {
    "text-classification": "Text classification",
    "token-classification": "Token classification",
    "image-classification": "Image classification",
    "object-detection": "Object detection",
    "audio-classification": "Audio classification",
    "automatic-speech-recognition": "Speech recognition",
}
PROBABILITIES = ("single_label_classification", "multi_label_classification", "ordinal")
# What a row is, where it is no text.
ROWS = {
    "image-classification": "image",
    "object-detection": "image",
    "audio-classification": "sound",
    "automatic-speech-recognition": "sound",
}
SHOWN_ELSEWHERE = ("model", "label_names", "options")

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


def model_card(results: dict[str, Any], *, name: str | None = None) -> str:
    """Return the model card of a run, metadata and text, to stand as `README.md` beside the model.

    Text from data and arguments is escaped; of a path only the last part is shown, of a secret nothing.

    Args:
        results: the content of the `results.json` of one run.
        name: the repository, such as `user/model`; without it the card shows `USER/MODEL` where one goes.

    Raises:
        ValueError: if the results are those of several runs or lack an entry, or `name` is no repository's name.
    """
    check_results(results)
    if name is not None and not has_hub_form(name):
        raise ValueError(f"name={name!r} is no name of a repository. Give one such as 'user/model'.")
    title = name.split("/")[-1] if name else f"{plain(last_part(results['arguments']['model']))}-selfattn"
    values = {"title": escape(title), "pipeline": pipeline_arguments(results, name or "USER/MODEL")}
    values |= {**description(results), **score_tables(results), **background(results)}
    return f"{ModelCard.from_template(card_metadata(results, title), str(TEMPLATE), **values)}\n"


def check_results(results: dict[str, Any]) -> None:
    """Check that there is everything that a card is written from; an error names what is missing."""
    if "runs" in results:
        names = ", ".join(results["runs"])
        raise ValueError(f"These results are of several runs ({names}), each a model of its own. Give those of one.")
    missing = [key for key in NEEDED if results.get(key) in (None, "", {})]
    if missing:
        raise ValueError(f"The results have no {', '.join(missing)}. Give the content of the results.json of a run.")


def card_metadata(results: dict[str, Any], title: str) -> ModelCardData:
    """Return what the hub reads: task, backbone, data set and the score of every split."""
    given = results["arguments"]
    entries = list(eval_results(results))
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=plain(results["task"]),
        base_model=given["model"] if is_backbone_on_hub(results) else None,
        datasets=[given["dataset"]] if is_hub_name(given.get("dataset")) else None,
        tags=TAGS,
        model_name=title if entries else None,
        eval_results=entries or None,
    )


def eval_results(results: dict[str, Any]) -> Iterator[EvalResult]:
    """Yield one entry of the model index for each score that is a number, those of single classes left out."""
    given = results["arguments"]
    for name, split in results["splits"].items():
        on_hub = is_hub_name(given.get("dataset")) and name not in (given.get("test_files") or {})
        for metric, value in overall_scores(split).items():
            if value is not None and math.isfinite(value["value"]):
                yield EvalResult(
                    task_type=plain(results["task"]),
                    task_name=TASK_TITLES.get(results["task"]),
                    dataset_type=given["dataset"] if on_hub else "custom",
                    dataset_name=data_name(given, name),
                    dataset_config=plain(config) if on_hub and (config := given.get("dataset_config")) else None,
                    dataset_revision=plain(revision) if on_hub and (revision := given.get("revision")) else None,
                    dataset_split=plain(last_part(name)),
                    metric_type=HUB_METRICS.get(metric, metric),
                    metric_name=metric,
                    metric_value=value["value"],
                )


def is_backbone_on_hub(results: dict[str, Any]) -> bool:
    """Return whether the backbone is a name on the hub: as the run recorded it, where it did."""
    name = results["arguments"]["model"]
    if "backbone" in results:
        return bool(results["backbone"]["source"] == "hub" and has_hub_form(name))
    return is_hub_name(name)


def data_name(given: dict[str, Any], split: str) -> str:
    """Return a readable name of the data of a split: the data set's, or that of the file."""
    if split in (given.get("test_files") or {}):
        return plain(last_part(split))
    source = given.get("dataset") or given.get(split) or given.get("train") or split
    first = source[0] if isinstance(source, list) else source
    return plain(first if is_hub_name(first) else last_part(str(first)))


def pipeline_arguments(results: dict[str, Any], name: str) -> str:
    """Return the arguments of `pipeline` that open the model, as code."""
    given, arguments = results["arguments"], f'"{plain(results["task"])}", model="{name}"'
    if given.get("save") == "adapter" and not is_hub_name(given["model"]):
        arguments += ', model_kwargs={"backbone_name_or_path": "FOLDER-OF-THE-BACKBONE"}'
    return arguments


def description(results: dict[str, Any]) -> dict[str, str]:
    """Return what the model is and what of it was trained."""
    given, count = results["arguments"], results["parameters"]
    return {
        "task": TASK_TITLES.get(results["task"], escape(results["task"])),
        "problem": escape(results.get("problem") or ""),
        "row": ROWS.get(results["task"], "text"),
        "backbone": escape(given["model"] if is_backbone_on_hub(results) else last_part(given["model"])),
        "commit": escape(results.get("backbone", {}).get("commit") or ""),
        "tuning": escape(given.get("tuning", "full")),
        "saved": escape(given.get("save", "merged")),
        "trainable": f"{count['trainable']:,}",
        "parameters": f"{count['all']:,}",
    }


def score_tables(results: dict[str, Any]) -> dict[str, Any]:
    """Return the scores of each split, of single labels and of the calibration, and what they do not say."""
    return {
        "splits": [
            {"name": public(name), "rows": f"{split['rows']:,}", "scores": score_table(results, name)}
            for name, split in results["splits"].items()
        ],
        **label_tables(results),
        "class_scores": class_score_table(list(results["splits"].values())[-1]),
        "calibration": calibration_tables(results),
        "has_validation": "validation" in results["splits"],
        "near_baselines": [
            near._replace(split=public(near.split), kind=escape(near.kind), metric=escape(near.metric))
            for near in near_baselines(results)
        ],
        "gives_probabilities": results.get("problem") in PROBABILITIES,
    }


def score_table(results: dict[str, Any], split: str) -> list[list[str]]:
    """Return the scores of a split with their intervals, beside those of the baselines."""
    baselines, polarity = baselines_of(results, split), results.get("polarity", {}).get(split, {})
    rows = [["", "model", *map(escape, baselines)]]
    for metric, value in overall_scores(results["splits"][split]).items():
        name = f"{metric} ↓" if metric in LOWER_IS_BETTER else escape(metric)
        rows.append([name, *map(with_interval, (value, *(scores.get(metric) for scores in baselines.values())))])
    for metric, value in overall_scores({"scores": polarity}).items():
        rows.append([f"polarity {escape(metric)}", with_interval(value), *("" for _ in baselines)])
    return rows


def label_tables(results: dict[str, Any]) -> dict[str, list[list[str]]]:
    """Return the labels with how often each occurs in train; counts of entities stand in a table of their own."""
    names, counts = results["label_names"], results.get("train", {}).get("labels") or {}
    if not names:
        return {}
    labels = [["id", "label"], *([str(index), escape(label)] for index, label in enumerate(names))]
    if set(counts) == set(names):
        cells = ["rows of train", *(f"{counts[label]:,}" for label in names)]
        return {"labels": [[*row, cell] for row, cell in zip(labels, cells, strict=True)]}
    entities = [["entities", "in train"], *([escape(kind), f"{count:,}"] for kind, count in counts.items())]
    return {"labels": labels, "entities": entities if counts else []}


def class_score_table(split: dict[str, Any]) -> list[list[str]]:
    """Return the scores of single classes, a class in each row; nothing where there are none."""
    by_class: dict[str, dict[str, Any]] = {}
    for metric, value in split["scores"].items():
        kind, found, label = metric.partition("/")
        if found:
            by_class.setdefault(label, {})[kind] = value
    kinds = list(dict.fromkeys(kind for scores in by_class.values() for kind in scores))
    rows = [[escape(label), *(with_interval(of.get(kind)) for kind in kinds)] for label, of in by_class.items()]
    return [["", *map(escape, kinds)], *rows] if rows else []


def calibration_tables(results: dict[str, Any]) -> dict[str, Any] | None:
    """Return temperature, thresholds and calibration error; None where neither of them changes an answer."""
    found = results.get("calibration") or {"temperature": 1.0}
    thresholds = found.get("thresholds") or []
    if found["temperature"] == 1 and not thresholds:
        return None
    names = results["label_names"] if thresholds else []
    by_label = [[escape(label), f"{value:.3f}"] for label, value in zip(names, thresholds, strict=True)]
    errors = [
        [public(name), f"{split['uncalibrated']['ece']:.3f}", with_interval(split["scores"]["ece"])]
        for name, split in results["splits"].items()
        if "ece" in split.get("uncalibrated", {}) and "ece" in split["scores"]
    ]
    return {
        "temperature": f"{found['temperature']:.3f}",
        "thresholds": [["label", "threshold"], *by_label] if by_label else [],
        "errors": [["calibration error (ece)", "before", "after"], *errors] if errors else [],
    }


def background(results: dict[str, Any]) -> dict[str, Any]:
    """Return data, arguments, machine and time of a run."""
    given = results["arguments"]
    data = [
        [public(name), escape(data_name(given, name)), f"{split['rows']:,}", escape(split.get("fingerprint") or "")]
        for name, split in results["splits"].items()
    ]
    listed = {key: value for key, value in given.items() if key not in SHOWN_ELSEWHERE}
    settings = without_secrets({**listed, **(given.get("options") or {}), "seed": results.get("seed")})
    return {
        "train": train_rows(results["train"]) if results.get("train") else None,
        "data": [["split", "data", "rows", "fingerprint"], *data],
        "arguments": [["argument", "value"], *([escape(key), value] for key, value in shown_settings(settings))],
        "environment": [["", ""], *([escape(key), escape(value)] for key, value in machine_rows(results))],
        "story": escape(story(results.get("run_state"))),
    }


def train_rows(train: dict[str, Any]) -> dict[str, Any]:
    """Return number and fingerprint of the rows of train; a stream has none, and perhaps was not counted."""
    count = f"{train['rows']:,} rows" if train["rows"] else "rows"
    return {"count": count, "fingerprint": escape(train.get("fingerprint") or ""), "streamed": train.get("streamed")}


def shown_settings(
    settings: dict[str, Any], prefix: str = "", shown: Callable[[Any], str] = public
) -> Iterator[tuple[str, str]]:
    """Yield the settings that have a value, with dots for what lies inside another, values ready to be shown."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from shown_settings(value, f"{prefix}{last_part(key)}.", shown)
        elif value not in (None, "", []):
            values = value if isinstance(value, list) else [value]
            yield f"{prefix}{last_part(key)}", ", ".join(map(shown, values))


def machine_rows(results: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield time, hardware and versions, each with its name."""
    machine, training = results["environment"], results["training"]
    yield "training time", f"{training['seconds']:,.0f} s"
    yield "steps", f"{training['steps']:,}"
    for key in ("epochs", "processes", "device"):
        yield key, training[key]
    yield "bfloat16", "yes" if training["bf16"] else "no"
    for key in ("processor", "cores", "threads"):
        yield key, machine[key]
    yield "accelerators", ", ".join(machine.get("accelerators") or []) or "none"
    yield "system", machine["platform"]
    yield "Python", machine["python"]
    yield from machine["versions"].items()
