"""The metrics as `evaluate` modules that need no network, for `evaluate.combine` and `evaluate.evaluator`."""

from __future__ import annotations

from typing import Any

import evaluate
import numpy as np
from datasets import Features, Sequence, Value

from .inputs import PROBLEMS, Array, check_predictions, check_problem
from .intervals import values_of
from .scores import statistic_of

OF_LABELS = ("accuracy", "balanced_accuracy", "macro_f1", "micro_f1", "weighted_f1", "mcc")
OF_PROBABILITIES = ("ece", "brier", "nll")
# Metrics of predicted labels (or values), and metrics of probabilities.
EVALUATE_METRICS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "single_label_classification": (OF_LABELS, ("roc_auc", *OF_PROBABILITIES)),
    "ordinal": ((*OF_LABELS, "mae", "quadratic_kappa"), ("roc_auc", *OF_PROBABILITIES)),
    "multi_label_classification": (
        ("micro_f1", "macro_f1", "subset_accuracy"),
        ("mean_average_precision", *OF_PROBABILITIES),
    ),
    "regression": (("pearson", "spearman", "mae", "rmse"), ()),
}


class SelfAttnMetric(evaluate.Metric):  # type: ignore[misc]
    """One metric of `score` as an `evaluate.Metric`; build it with `as_evaluate_module`."""

    def __init__(self, metric: str, problem: str, **options: Any) -> None:
        self.metric = metric
        self.problem = problem
        super().__init__(config_name=f"{problem}-{metric}", **options)
        self.info.module_name = metric  # the prefix that `combine` writes

    def _info(self) -> evaluate.EvaluationModuleInfo:
        multi = self.problem == "multi_label_classification"
        number = Value("float64" if self.problem == "regression" else "int64")
        references = Sequence(number) if multi else number
        of_labels, _ = EVALUATE_METRICS[self.problem]
        predictions = references if self.metric in of_labels else Sequence(Value("float64"))
        return evaluate.EvaluationModuleInfo(
            description=f"{self.metric} of {self.problem}, computed without a network.",
            citation="",
            inputs_description="Args: predictions, references: one per row, as in hf_selfattn.metrics.score.",
            features=Features({"predictions": predictions, "references": references}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        outputs, truth = np.asarray(predictions), np.asarray(references)
        of_labels, _ = EVALUATE_METRICS[self.problem]
        if self.metric in of_labels and self.problem in ("single_label_classification", "ordinal"):
            outputs = _one_hot(outputs, truth)
        checked = check_predictions(self.problem, truth, outputs, top_one_if_none=False)
        values = values_of(statistic_of(checked), len(outputs))
        return {name: value for name, value in values.items() if name == self.metric}


def as_evaluate_module(
    metric: str, problem: str = "single_label_classification", **options: Any
) -> evaluate.EvaluationModule:
    """Make a metric an `evaluate` module, for `evaluate.combine([...])` and `evaluate.evaluator(task).compute(...)`.

    Its `compute` takes label ids (0/1 lists for multi-label, values for regression) as predictions, but probabilities
    for roc_auc, mean_average_precision, ece, brier and nll. The result has no entry where the metric is undefined.
    """
    check_problem(problem)
    known = sum(EVALUATE_METRICS[problem], ())
    if metric not in known:
        elsewhere = [other for other in PROBLEMS if metric in sum(EVALUATE_METRICS[other], ())]
        hint = f" It is a metric of {', '.join(elsewhere)}: pass problem=." if elsewhere else ""
        raise ValueError(f"metric is {metric!r}, but {problem} has {', '.join(known)}.{hint}")
    return SelfAttnMetric(metric, problem, **({"keep_in_memory": True} | options))


def _one_hot(labels: Array, references: Array) -> Array:
    lowest = min(labels.min(), references.min())
    if lowest < 0:
        raise ValueError(f"predictions and references must be label ids from 0, but there is {lowest}.")
    return np.eye(max(labels.max(), references.max()) + 1)[labels]
