"""Scores with confidence intervals, paired tests, calibration and `evaluate` modules, all without a network."""

from hf_selfattn.metrics.calibration import fit_temperature, fit_thresholds
from hf_selfattn.metrics.comparison import PairedTest, compare_results, paired_bootstrap
from hf_selfattn.metrics.evaluate_modules import as_evaluate_module
from hf_selfattn.metrics.inputs import PROBLEMS, predicted_labels
from hf_selfattn.metrics.intervals import Score
from hf_selfattn.metrics.scores import LOWER_IS_BETTER, metric_values, score
from hf_selfattn.metrics.span_errors import entity_strings, error_analysis
from hf_selfattn.metrics.spans import paired_bootstrap_spans, score_spans

__all__ = [
    "LOWER_IS_BETTER",
    "PROBLEMS",
    "PairedTest",
    "Score",
    "as_evaluate_module",
    "compare_results",
    "entity_strings",
    "error_analysis",
    "fit_temperature",
    "fit_thresholds",
    "metric_values",
    "paired_bootstrap",
    "paired_bootstrap_spans",
    "predicted_labels",
    "score",
    "score_spans",
]
