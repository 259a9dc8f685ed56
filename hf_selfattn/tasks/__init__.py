"""What a row means, its batch, its loss and its scores: one file a task."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from transformers import PreTrainedConfig

from ..arguments import RunArguments, nearest
from .sentiment import SentimentAnalysis, SentimentArguments
from .task import Task, say
from .text_classification import TextClassification, TextClassificationArguments
from .token_classification import NerArguments, TokenClassification

TASKS: dict[str, type[Task[Any]]] = {}
# Those on files, by name, with their extra and their model: imported when they are asked for, since not every user of
# texts has these extras.
OF_FILES = {
    "image-classification": ("ImageClassification", "images", "SelfAttnForImageClassification"),
    "object-detection": ("ObjectDetection", "images", "SelfAttnForObjectDetection"),
    "audio-classification": ("AudioClassification", "audio", "SelfAttnForAudioClassification"),
    "speech-recognition": ("SpeechRecognition", "audio", "SelfAttnForCTC"),
}


def register_task(task: type[Task[Any]]) -> type[Task[Any]]:
    """Let `run` find a task by its name; it may stand above the class as a decorator."""
    TASKS[task.name] = task
    return task


def task_of(arguments: RunArguments) -> Task[Any]:
    """Return the task of a run."""
    import_task(arguments.task)
    if arguments.task not in TASKS:
        raise ValueError(f"There is no task {arguments.task!r}; there are {', '.join(TASKS)}. Call register_task.")
    return TASKS[arguments.task](arguments)


def task_called(name: str) -> type[Task[Any]]:
    """Return a task by its name, or by that of the command line; an error says the nearest."""
    import_task(name)
    commands = {task.command: task for task in TASKS.values() if task.command}
    known = {**TASKS, **commands}
    if name not in known:
        there_are = dict.fromkeys([*commands, *OF_FILES])
        raise ValueError(f"There is no task {name!r}; there are {', '.join(there_are)}.{nearest(name, there_are)}")
    return known[name]


def task_of_model(config: PreTrainedConfig, model: str) -> type[Task[Any]]:
    """Return the first registered task whose models are of the class that a model was saved as."""
    saved_as = (config.architectures or [""])[0]
    for name, (_, _, model_class) in OF_FILES.items():
        if saved_as == model_class:
            import_task(name)
    for task in TASKS.values():
        if task.model_class.__name__ == saved_as and task.answers is not None:
            return task
    raise ValueError(
        f"{model} was saved as {saved_as or 'no class'}, whose answers no task knows; there are "
        f"{', '.join(TASKS)}. Call register_task for one of your own."
    )


def import_task(name: str) -> None:
    """Register a task on files; nothing is done for the name of another one."""
    if name not in OF_FILES or name in TASKS:
        return
    task_name, extra, _ = OF_FILES[name]
    try:
        register_task(getattr(import_module(f".{name.replace('-', '_')}", __name__), task_name))
    except ModuleNotFoundError as error:
        raise ImportError(f"{name} needs the package {error.name}: pip install '.[{extra}]' in the clone") from error


for known in (TextClassification, SentimentAnalysis, TokenClassification):
    register_task(known)

__all__ = [
    "NerArguments",
    "SentimentArguments",
    "Task",
    "TextClassificationArguments",
    "register_task",
    "say",
    "task_called",
    "task_of",
    "task_of_model",
]
