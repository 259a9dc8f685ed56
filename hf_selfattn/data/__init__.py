"""Rows to checked, normalised data."""

from __future__ import annotations

from .check import check_classification, check_tagging, format_report
from .classification import ClassificationData, prepare_classification
from .load import load_splits
from .splits import deduplicate, fingerprint, k_folds, make_validation
from .tagging import TaggingData, by_document, prepare_tagging

__all__ = [
    "ClassificationData",
    "TaggingData",
    "by_document",
    "check_classification",
    "check_tagging",
    "deduplicate",
    "fingerprint",
    "format_report",
    "k_folds",
    "load_splits",
    "make_validation",
    "prepare_classification",
    "prepare_tagging",
]
