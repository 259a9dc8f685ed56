"""The command line: `hf-selfattn COMMAND …`, or `python -m hf_selfattn COMMAND …`.

Exit codes: 0 when done, 1 for a fault, said in one line, 2 for a wrong usage, 128 and the signal's number when ended
by one.
"""

from __future__ import annotations

import gc
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers.utils import logging

import hf_selfattn

from .arguments import nearest, parse_arguments

PROGRAM = "hf-selfattn"
# Of the command line; `tasks` has them, too, but takes long to import.
TASK_NAMES = (
    "text-classification, sentiment, ner, image-classification, object-detection, audio-classification or "
    "speech-recognition"
)


@dataclass(frozen=True)
class Command:
    """A public function and the dataclass of its arguments.

    Args:
        about: what it does.
        places: arguments that may be given without their key, in this order.
    """

    function: str
    arguments: str
    about: str
    places: tuple[str, ...] = ()

    def prepare(self, words: Sequence[str], program: str) -> Callable[[], Any]:
        """Return what the words ask for, to be called."""
        arguments = parse_arguments(words, getattr(hf_selfattn, self.arguments), self.places, program)
        return lambda: getattr(hf_selfattn, self.function)(arguments)


COMMANDS = {
    "evaluate": Command("evaluate", "EvaluateArguments", "score a model on labelled rows", ("model",)),
    "predict": Command("predict", "PredictArguments", "let a model answer new rows", ("model",)),
    "report": Command("report", "ReportArguments", "show a run, or several, on one HTML page", ("runs",)),
    "serve": Command("serve", "ServeArguments", "let a model answer over HTTP", ("model",)),
    "export": Command("export", "ExportArguments", "write a model as ONNX", ("model", "folder")),
    "push": Command("push_folder", "PushArguments", "push a finished run to the hub", ("folder", "repo_id")),
    "launch-files": Command(
        "write_launch_files", "LaunchFilesArguments", "write settings files of `accelerate launch`", ("folder",)
    ),
}


def train_task(kind: Any, words: Sequence[str], program: str) -> Callable[[], Any]:
    """Return the training that the words ask for."""
    arguments = parse_arguments(words, kind, program=program)
    return lambda: hf_selfattn.run(arguments)


def check_task(kind: Any, words: Sequence[str], program: str) -> Callable[[], Any]:
    """Return the check of the data that the words ask for."""
    return train_task(kind, ["output_dir=runs/check", *words, "check=true"], program)


def new_task(kind: Any, words: Sequence[str], program: str) -> Callable[[], Any]:
    """Return the writing of a settings file for the data that the words name; `path=FILE.yaml` says where."""
    from .new_settings import write_settings
    from .tasks import task_called, task_of

    paths = [word.partition("=")[2] for word in words if word.startswith(("path=", "--path="))]
    words = [word for word in words if not word.startswith(("path=", "--path="))]
    task = task_called(kind.task)
    name = task.command
    given = [f"model={task.example_model}", f"output_dir=runs/{name}", *words]
    arguments = parse_arguments(given, kind, program=f"{program} [path={name}.yaml]")
    path = Path(paths[-1] if paths else f"{name}.yaml")

    def write() -> None:
        found, notes = task_of(replace(arguments, check=True)).settings_found()
        write_settings(path, f"{PROGRAM} train {name}", arguments, found, notes)
        print("\n".join([*notes, f"Wrote {path}. Look it through, then: {PROGRAM} train {name} {path}"]))

    return write


OF_TASKS = {
    "new": (new_task, "write a commented settings file for your files"),
    "check": (check_task, "report on your data and train nothing"),
    "train": (train_task, "train a model and score it"),
}


def overview() -> str:
    """Return the help on the whole."""
    of_tasks = {f"{name} TASK": about for name, (_, about) in OF_TASKS.items()}
    others = {" ".join([name, *map(str.upper, command.places)]): command.about for name, command in COMMANDS.items()}
    lines = [f"  {usage:<24} {about}" for usage, about in {**of_tasks, **others}.items()]
    return "\n".join(
        [
            f"usage: {PROGRAM} COMMAND [SETTINGS.yaml ...] [KEY=VALUE ...]",
            "",
            *lines,
            "",
            textwrap.fill(f"TASK is {TASK_NAMES}.", 100),
            "KEY=VALUE and --KEY VALUE are the same.",
            f"`{PROGRAM} COMMAND --help` lists the options of a command, --version the version.",
        ]
    )


def asked_for(words: Sequence[str]) -> Callable[[], Any]:
    """Return what the words of a command line ask for, to be called.

    Raises:
        ValueError: for a wrong usage.
    """
    name, *rest = words
    if name in COMMANDS:
        return COMMANDS[name].prepare(rest, f"{PROGRAM} {name}")
    if name not in OF_TASKS:
        known = [*OF_TASKS, *COMMANDS]
        raise ValueError(f"There is no command {name!r}; there are {', '.join(known)}.{nearest(name, known)}")
    if not rest or rest[0].startswith("-"):
        if rest and rest[0] in ("-h", "--help"):
            print(overview())
            sys.exit()
        raise ValueError(f"`{PROGRAM} {name}` needs a task: {TASK_NAMES}.")
    from .tasks import task_called

    task, *settings = rest
    return OF_TASKS[name][0](task_called(task).arguments_class, settings, f"{PROGRAM} {name} {task}")


def main(words: Sequence[str] | None = None) -> None:
    """Carry out a command line: that of the process where no words are given."""
    if words is None:
        gc.freeze()  # what a program has imported stays to its end: the garbage collector need not look through it
        words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        sys.exit(0 if words else 2)
    if words[0] == "--version":
        print(f"{PROGRAM} {hf_selfattn.__version__}")
        sys.exit()
    try:
        with hf_selfattn.without_collector():
            asked = asked_for(words)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    with hf_selfattn.faults_explained():
        if not sys.stderr.isatty():
            logging.disable_progress_bar()
        asked()


if __name__ == "__main__":
    main()
