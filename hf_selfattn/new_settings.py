"""A settings file to start from: what the user's files say, and every option with what it is for."""

from __future__ import annotations

import textwrap
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import yaml
from docstring_parser import parse

from .arguments import RunArguments
from .files import write_text

WIDTH = 110
LAST = """
# --- Every option of transformers.TrainingArguments may stand here, too, such as
# num_train_epochs: 3
# per_device_train_batch_size: 16
# learning_rate: 1e-3
# seed: 42
"""


def write_settings(path: Path, title: str, arguments: RunArguments, found: dict[str, Any], notes: list[str]) -> None:
    """Write a commented YAML file: what was given and found as settings, every other option as a comment.

    Args:
        path: of the new file.
        title: the command that it is for.
        arguments: as the user gave them.
        found: values of arguments that the data answers.
        notes: on the data.

    Raises:
        ValueError: if there is such a file.
    """
    if path.exists():
        raise ValueError(f"{path} exists and stays as it is. Give another path=FILE.yaml, or delete it.")
    lines = [f"# {(arguments.__doc__ or '').splitlines()[0]}", f"#   {title} {path}", *map(comment, notes)]
    for part in reversed([part for part in type(arguments).__mro__ if part is not object]):
        about = parse(part.__doc__ or "")
        help_of = {item.arg_name: item.description or "" for item in about.params}
        lines += ["", f"# --- {about.short_description}"]
        for item in fields(part):
            if item.name in part.__annotations__ and item.name not in ("options", "check"):
                lines += ["", comment(help_of[item.name]), setting(item, getattr(arguments, item.name), found)]
    given = yaml.safe_dump(arguments.options, allow_unicode=True) if arguments.options else ""
    write_text(path, "\n".join(lines) + "\n" + LAST + given)


def setting(item: Field[Any], value: Any, found: dict[str, Any]) -> str:
    """Return the line of an option, a comment where its value is the default."""
    default = item.default_factory() if item.default_factory is not MISSING else item.default
    value = found.get(item.name, value) if value == default else value
    written = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=10**6).strip()[1:-1]
    line = f"{item.name}:" if value is None else f"{item.name}: {written}"
    return f"# {line}" if value == default else line


def comment(text: str) -> str:
    """Return a text as lines of comment."""
    return textwrap.fill(" ".join(text.split()), WIDTH, initial_indent="# ", subsequent_indent="#   ")
