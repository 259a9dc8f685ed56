"""What a row means, its batch, its loss and its scores: one file a task."""

from __future__ import annotations

from typing import Any

from ..arguments import RunArguments, nearest
from .image_classification import ImageClassification, ImageClassificationArguments
from .object_detection import ObjectDetection, ObjectDetectionArguments
from .sentiment import SentimentAnalysis, SentimentArguments
from .task import Task, say
from .text_classification import TextClassification, TextClassificationArguments
from .token_classification import NerArguments, TokenClassification

TASKS: dict[str, type[Task[Any]]] = {}


def register_task(task: type[Task[Any]]) -> type[Task[Any]]:
    """Let `run` find a task by its name; it may stand above the class as a decorator."""
    TASKS[task.name] = task
    return task


def task_of(arguments: RunArguments) -> Task[Any]:
    """Return the task of a run."""
    if arguments.task not in TASKS:
        raise ValueError(f"There is no task {arguments.task!r}; there are {', '.join(TASKS)}. Call register_task.")
    return TASKS[arguments.task](arguments)


def task_called(name: str) -> type[Task[Any]]:
    """Return a task by its name, or by that of the command line; an error says the nearest."""
    commands = {task.command: task for task in TASKS.values() if task.command}
    known = {**TASKS, **commands}
    if name not in known:
        raise ValueError(f"There is no task {name!r}; there are {', '.join(commands)}.{nearest(name, known)}")
    return known[name]


for known in (TextClassification, SentimentAnalysis, TokenClassification, ImageClassification, ObjectDetection):
    register_task(known)

__all__ = [
    "ImageClassificationArguments",
    "NerArguments",
    "ObjectDetectionArguments",
    "SentimentArguments",
    "Task",
    "TextClassificationArguments",
    "register_task",
    "say",
    "task_called",
    "task_of",
]
