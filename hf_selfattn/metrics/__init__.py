"""Scores with confidence intervals, paired tests and calibration, all without a network."""

from .abstention import Abstention, abstention, abstention_curve
from .calibration import fit_temperature, fit_thresholds
from .comparison import PairedTest, compare, paired_bootstrap
from .detection import box_metric_values, paired_bootstrap_boxes, score_boxes
from .inputs import PROBLEMS, predicted_labels
from .intervals import Score
from .scores import LOWER_IS_BETTER, metric_values, score
from .span_errors import entity_strings, error_analysis
from .spans import paired_bootstrap_spans, score_spans

__all__ = [
    "Abstention",
    "LOWER_IS_BETTER",
    "PROBLEMS",
    "PairedTest",
    "Score",
    "abstention",
    "abstention_curve",
    "box_metric_values",
    "compare",
    "entity_strings",
    "error_analysis",
    "fit_temperature",
    "fit_thresholds",
    "metric_values",
    "paired_bootstrap",
    "paired_bootstrap_boxes",
    "paired_bootstrap_spans",
    "predicted_labels",
    "score",
    "score_boxes",
    "score_spans",
]
