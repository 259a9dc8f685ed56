"""Score a tuned model on labelled rows, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import DatasetDict
from transformers.utils import logging

from ..data.columns import found_columns
from ..files import write_json
from ..hub.results import environment
from ..hub.summary import summary
from ..machine import join_processes
from ..tasks import Task, say
from ..tasks.answers import Answer
from .arguments import Dtype, InferenceArguments
from .predictor import Predictor
from .reading import open_split
from .record import read_record, with_columns_of

BLOCK_ROWS = 2000  # that are answered at once
COLUMNS = (
    *("text_column", "text_pair_column", "image_column", "sound_column", "transcript_column", "label_column"),
    *("token_column", "tag_column", "span_column", "document_column", "scheme"),
)


@dataclass
class EvaluateArguments(InferenceArguments):
    """Score a tuned model on labelled rows: every score with its interval.

    Args:
        label_column: column of the labels, or a list of columns of 0 and 1; a well-known name is found.
        tag_column: column of the tags, or its number in a column file; found where it is not given.
        transcript_column: column of the transcripts; a well-known name is found.
        span_column: character spans of `text_column`, instead of tokens and tags.
        document_column: the id of a row's document.
        scheme: of the tags, such as `IOB2`; detected where it is not given.
        on_bad_row: `error`, or `drop` to leave bad rows out and count them.
        output: JSON file that takes the scores.
        dtype: as in `predict`; scores are those of the model as it was saved where this is `float32`.
    """

    label_column: str | list[str] | None = None
    tag_column: str | int | None = None
    transcript_column: str | None = None
    span_column: str | None = None
    document_column: str | None = None
    scheme: str | None = None
    on_bad_row: Literal["error", "drop"] = "error"
    output: str | None = None
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.input == "-":
            raise ValueError("evaluate reads no standard input: write the rows to a file, and give input=FILE.")

    def rows(self, task: type[Task[Any]]) -> DatasetDict:
        """Return the labelled rows, as they are and as a task reads them."""
        if self.dataset is None:
            return task.read_files(test=self.input)
        return DatasetDict({"test": open_split(self.dataset, self.dataset_config, self.revision, self.split)})

    def task_options(self, splits: DatasetDict) -> dict[str, Any]:
        """Return what the task of the model is told, but what it takes from the model."""
        columns = {name: value for name in COLUMNS if (value := getattr(self, name)) is not None}
        return {**columns, "on_bad_row": self.on_bad_row, "dataset": splits}


def evaluate(arguments: EvaluateArguments) -> dict[str, Any]:
    """Score a tuned model on labelled rows, print the scores and return them.

    Columns and labels are found as in training, and the labels are those of the model.

    Returns:
        `splits` with `rows` and `scores` (value, low and high of each), and what they belong to.

    Raises:
        ValueError: for a model or rows that cannot be used; a label that the model does not have is named.
    """
    join_processes()
    state = PartialState()
    predictor = arguments.predictor(str(state.device) if state.num_processes > 1 else None)
    splits = arguments.rows(predictor.task)
    record = read_record(arguments.model, arguments.model_revision)
    trained = with_columns_of(found_columns(splits["test"]), record)
    task = predictor.task.of_model(predictor.config, trained, arguments.task_options(splits))
    data = task.load()
    predictor.kind.answer_all()
    for note in data.notes:
        say(note)
    answers = shared_answers(predictor, task.rows(data))
    results = {
        "task": predictor.name,
        "label_names": data.label_names,
        "notes": data.notes,
        "bfloat16": predictor.in_bfloat16,
        "environment": environment(),
        "splits": {"test": task.score_answers(data, answers, predictor.config)},
    }
    if arguments.output is not None and state.is_main_process:
        write_json(Path(arguments.output), results)
    say(summary(results))
    return results


def shared_answers(predictor: Predictor, rows: Sequence[Mapping[str, Any]]) -> list[Answer]:
    """Return the answers to rows, of which each process answers a share."""
    state, answers = PartialState(), list[Answer]()
    with state.split_between_processes(list(rows)) as share:
        for start in logging.tqdm(range(0, len(share), BLOCK_ROWS), disable=None):
            answers += predictor.answers(share[start : start + BLOCK_ROWS])
    gathered: list[Answer] = gather_object(answers) if state.num_processes > 1 else answers
    return gathered
