"""Is system A better than system B? The paired bootstrap, on arrays or on two results files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .inputs import Array, Predictions, check_predictions
from .intervals import Statistic, bca_interval, check_confidence, replicate
from .scores import statistic_of

Answers = dict[int, dict[str, Any]]  # of a predictions file, by row


@dataclass(frozen=True)
class PairedTest:
    """The difference of two systems on the same rows."""

    metric: str
    value_a: float
    value_b: float
    difference: float  # value_a - value_b
    low: float  # of the difference's confidence interval
    high: float
    p_value: float  # two-sided: how often chance alone gives at least this difference

    def as_dict(self) -> dict[str, str | float]:
        """Return the fields as a dictionary."""
        return asdict(self)

    def __str__(self) -> str:
        values = f"{self.value_a:.3f} - {self.value_b:.3f} = {self.difference:+.3f}"
        return f"{self.metric}: {values} [{self.low:+.3f}, {self.high:+.3f}], p = {self.p_value:.4f}"


def paired_bootstrap(
    problem: str,
    metric: str,
    references: ArrayLike,
    outputs_a: ArrayLike,
    outputs_b: ArrayLike,
    label_names: Sequence[str] | None = None,
    *,
    thresholds_a: ArrayLike | None = None,
    thresholds_b: ArrayLike | None = None,
    top_one_if_none: bool = True,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedTest:
    """Test whether two systems differ, by drawing the same rows for both (Koehn 2004; Berg-Kirkpatrick et al. 2012).

    With d the difference on the data and d* that on a resample, p = (1 + #{|d* - d| >= |d|}) / (1 + R): the resamples
    scatter around d as the data scatter around the truth, so d* - d shows what a true difference of 0 would give. The
    interval of d is BCa. The arguments are those of `score`.

    Raises:
        ValueError: the inputs do not fit each other, or the metric is unknown or undefined on the data.
    """
    check_confidence(confidence)
    systems = [
        check_predictions(problem, references, outputs, label_names, thresholds=least, top_one_if_none=top_one_if_none)
        for outputs, least in ((outputs_a, thresholds_a), (outputs_b, thresholds_b))
    ]
    return _compare(systems, metric, confidence, resamples, seed)


def compare(
    path_a: str | Path,
    path_b: str | Path,
    metric: str,
    split: str = "test",
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedTest:
    """Test whether the systems of two results files differ on a split, by `paired_bootstrap`.

    A results file is a JSON object with "problem", "label_names", optionally "thresholds" (C numbers) and
    "top_one_if_none", and "splits": {"test": {"predictions_file": FILE}}. FILE is relative to the results file; each
    line is {"row": i, "reference": ..., "output": [...] or a number}.

    Raises:
        ValueError: a file lacks something, or the files differ in problem, labels, rows or references.
    """
    check_confidence(confidence)
    paths = [Path(path_a), Path(path_b)]
    results = [_read_results(path) for path in paths]
    for field in ("problem", "label_names"):
        first, second = (_field(result, field, path) for result, path in zip(results, paths, strict=True))
        if first != second:
            raise ValueError(f"{field} is {first} in {path_a}, but {second} in {path_b}: these cannot be compared.")
    files = [_predictions_file(result, path, split) for result, path in zip(results, paths, strict=True)]
    rows = [_read_rows(file) for file in files]
    _check_same_rows(rows, files)
    systems = [_predictions(result, answers) for result, answers in zip(results, rows, strict=True)]
    return _compare(systems, metric, confidence, resamples, seed)


def compare_statistics(
    first: Statistic, second: Statistic, metric: str, rows: int, *, confidence: float, resamples: int, seed: int
) -> PairedTest:
    """Test whether two systems differ in a metric, as `paired_bootstrap` describes."""

    def both(weights: Array) -> dict[str, Array]:
        value_a, value_b = first(weights)[metric], second(weights)[metric]
        return {"a": value_a, "b": value_b, "difference": value_a - value_b}

    replicates = replicate(both, rows, resamples, seed)
    difference, resampled = replicates.values["difference"], replicates.resampled["difference"]
    low, high = bca_interval(difference, resampled, replicates.jackknife["difference"], confidence)
    defined = resampled[np.isfinite(resampled)]
    # Rounding must not hide a tie: differences of counts are exact only up to the last digits.
    by_chance = np.sum(np.abs(defined - difference) >= abs(difference) - 1e-12)
    p_value = float((1 + by_chance) / (1 + len(defined)))
    return PairedTest(metric, replicates.values["a"], replicates.values["b"], difference, low, high, p_value)


def _compare(systems: list[Predictions], metric: str, confidence: float, resamples: int, seed: int) -> PairedTest:
    first, second = (statistic_of(system, metric) for system in systems)
    rows = len(systems[0].outputs)
    return compare_statistics(first, second, metric, rows, confidence=confidence, resamples=resamples, seed=seed)


def _read_results(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, but holds a {type(content).__name__}.")
    return content


def _field(content: dict[str, Any], name: str, source: str | Path) -> Any:
    if name not in content:
        raise ValueError(f"{source} has no {name!r}; it has {', '.join(map(repr, content)) or 'nothing'}.")
    return content[name]


def _predictions_file(result: dict[str, Any], path: Path, split: str) -> Path:
    splits = _field(result, "splits", path)
    entry = _field(splits, split, f"'splits' of {path}")
    return path.parent / str(_field(entry, "predictions_file", f"split {split!r} of {path}"))


def _read_rows(path: Path) -> Answers:
    rows: Answers = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            answer = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is no JSON: {error}") from error
        for name in ("row", "reference", "output"):
            _field(answer, name, f"{path}, line {number}")
        if answer["row"] in rows:
            raise ValueError(f"{path}, line {number} answers row {answer['row']} again: give one answer per row.")
        rows[answer["row"]] = answer
    return rows


def _check_same_rows(systems: list[Answers], files: list[Path]) -> None:
    first, second = systems
    unpaired = first.keys() ^ second.keys()
    if unpaired:
        row = min(unpaired)
        have, lack = files if row in first else reversed(files)
        raise ValueError(
            f"{have} answers row {row}, but {lack} does not ({len(unpaired)} such rows): "
            "evaluate both on the same rows."
        )
    for row, answer in first.items():
        truth, other = answer["reference"], second[row]["reference"]
        if truth != other:
            raise ValueError(
                f"the reference of row {row} is {truth} in {files[0]}, but {other} in {files[1]}: "
                "evaluate both on the same data."
            )


def _predictions(result: dict[str, Any], answers: Answers) -> Predictions:
    ordered = [answers[row] for row in sorted(answers)]
    return check_predictions(
        result["problem"],
        [answer["reference"] for answer in ordered],
        [answer["output"] for answer in ordered],
        result["label_names"],
        thresholds=result.get("thresholds"),
        top_one_if_none=result.get("top_one_if_none", True),
    )
