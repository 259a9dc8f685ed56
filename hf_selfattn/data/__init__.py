"""Rows to checked, normalised data."""

from __future__ import annotations

from .check import check_classification, format_report
from .classification import ClassificationData, prepare
from .sources import load_splits
from .splits import deduplicate, fingerprint, k_folds, make_validation

__all__ = [
    "ClassificationData",
    "check_classification",
    "deduplicate",
    "fingerprint",
    "format_report",
    "k_folds",
    "load_splits",
    "make_validation",
    "prepare",
]
