"""Sentiment: polarity classes made of rated valence, stars in their order, or the valence as a number."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

import numpy as np
from datasets import DatasetDict

from ..data import ClassificationData
from ..data.polarity import POLARITIES, has_polarity, polarity_of, polarity_probabilities, to_polarity
from ..metrics import score
from ..metrics.baselines import joined_texts, vader_baseline
from .evaluation import score_answers
from .problems import PROBLEMS, Array, as_references
from .text_classification import TextClassification, TextClassificationArguments


@dataclass
class SentimentArguments(TextClassificationArguments):
    """Tune a sentiment model. It reads features as they are, and their mean, which hold best in other domains.

    Args:
        standardise: before training, set mean and scale of the features that the heads read, on a few training rows.
        lexicon: score the VADER sentiment lexicon, too (package vaderSentiment); where it is not given, if the package
            is there and the labels are a valence or polarities.
        neutral_band: make polarity classes of a rated valence; nearer to 0 than this is neutral. With
            `problem=regression` the valence is learned, and the classes that follow from it are scored as well.
        neutral: `drop` leaves neutral texts out, `class` keeps them as a class.
    """

    task: ClassVar[str] = "sentiment-analysis"

    standardise: bool = False
    lexicon: bool | None = None
    neutral_band: float | None = None
    neutral: Literal["drop", "class"] = "drop"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.heads = {"pooling": "mean", **self.heads}
        if self.streaming and self.neutral_band is not None:
            raise ValueError("streaming=true and neutral_band do not go together: it changes the rows first.")


class SentimentAnalysis(TextClassification):
    """Text classification of valence and of the polarities that follow from it, beside a lexicon."""

    name = "sentiment-analysis"
    command = "sentiment"
    arguments_class = SentimentArguments
    arguments: SentimentArguments

    def splits(self) -> tuple[DatasetDict, list[str]]:
        """Return the rows, with polarity classes where these are asked for, and what was done to them."""
        splits, notes = super().splits()
        arguments = self.arguments
        if arguments.neutral_band is None or arguments.problem == "regression":
            return splits, notes
        columns = arguments.text_column, arguments.label_column
        splits, note = to_polarity(splits, arguments.neutral_band, arguments.neutral, *columns)
        return splits, [*notes, note]

    def load(self) -> ClassificationData:
        """Load and check the data; a lexicon that is asked for and cannot answer is an error."""
        data = super().load()
        is_scored = "train" in data.splits and self.arguments.baseline and self.arguments.lexicon is not False
        if is_scored and (why := without_lexicon(data)):
            if self.arguments.lexicon:
                raise ValueError(f"lexicon=true, but {why}. Set lexicon=false.")
            data.notes.append(f"The VADER lexicon is not scored: {why}.")
        return data

    def further_scores(self, data: ClassificationData, logits: dict[str, Array]) -> dict[str, Any]:
        """Return scores of the polarity classes that a regression of valence implies."""
        if data.problem != "regression" or self.arguments.neutral_band is None:
            return {}
        values = {name: PROBLEMS[data.problem].probabilities(of_split) for name, of_split in logits.items()}
        return {"polarity": score_polarity(data, values, self.arguments.neutral_band)}

    def baselines(self, data: ClassificationData) -> dict[str, Any]:
        """Score TF-IDF and, unless it is left out, the lexicon."""
        record = super().baselines(data)
        if not record or self.arguments.lexicon is False or without_lexicon(data):
            return record
        started = time.perf_counter()
        answers = {
            name: vader_baseline(joined_texts(split), data.problem, data.label_names)
            for name, split in data.splits.items()
            if name != "train"
        }
        return {**record, "vader": score_answers(data, answers, time.perf_counter() - started)}


def without_lexicon(data: ClassificationData) -> str:
    """Return why the lexicon cannot answer, or nothing."""
    if not has_polarity(data.problem, data.label_names):
        return (
            f"the labels are {', '.join(data.label_names)}, and it knows a valence, or the classes negative, neutral "
            "and positive"
        )
    return "" if find_spec("vaderSentiment") else "the package vaderSentiment is missing (pip install vaderSentiment)"


def score_polarity(data: ClassificationData, values: dict[str, Array], band: float) -> dict[str, Any]:
    """Score the polarity classes that a regression of valence (N,) implies, by split; within the band is neutral."""
    truth = {name: as_references(data.splits[name]["label"][:], data.problem) for name in values}
    error = max(float(np.sqrt(np.mean((values["validation"] - truth["validation"]) ** 2))), 1e-6)
    record = {}
    for name, value in values.items():
        classes, outputs = polarity_of(truth[name], band), polarity_probabilities(value, band, error)
        scores = score("single_label_classification", classes, outputs, POLARITIES)
        record[name] = {metric: entry.as_dict() for metric, entry in scores.items()}
    return record
