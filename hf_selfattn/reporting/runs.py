"""A finished run as a report reads it: its results, its predictions, and the rows that they answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer

from ..arguments import build_arguments
from ..data import fingerprint
from ..data.columns import column_values, found_columns
from ..data.formats import ORIGIN
from ..data.load import with_origins
from ..files import read_json
from ..hub.results import RESULTS_FILE
from ..hub.sanitize import last_part
from ..metrics.inputs import Predictions, check_predictions
from ..tasks import TASKS, Task, task_called, task_of
from .options import ReportArguments


@dataclass
class FinishedRun:
    """A run whose rows of one evaluation split are looked at."""

    folder: Path
    name: str
    results: dict[str, Any]
    split: str
    options: ReportArguments

    @property
    def problem(self) -> str:
        """What its labels pose."""
        return str(self.results.get("problem"))

    @property
    def scored(self) -> dict[str, Any]:
        """What the results hold of the split."""
        found: dict[str, Any] = self.results["splits"][self.split]
        return found

    @property
    def label_names(self) -> list[str]:
        """The labels in the order of their numbers."""
        return [str(name) for name in self.results["label_names"]]

    @cached_property
    def answers(self) -> list[dict[str, Any]]:
        """The lines of the predictions file, in the order of the rows."""
        return self.answers_of(self.split)

    def answers_of(self, split: str) -> list[dict[str, Any]]:
        """Return the lines of the predictions file of a split, in the order of the rows."""
        path = self.folder / self.results["splits"][split]["predictions_file"]
        if not path.is_file():
            raise ValueError(f"{path} is missing, which a report is made of. Copy the whole folder of the run.")
        with path.open(encoding="utf-8") as file:
            return sorted((json.loads(line) for line in file if line.strip()), key=lambda answer: int(answer["row"]))

    def tags_of(self, answers: Iterable[dict[str, Any]], side: str) -> list[list[int]]:
        """Return the tags of sentences, of their labels (`reference`) or found (`output`), as numbers of labels."""
        ids = {name: number for number, name in enumerate(self.label_names)}
        return [[ids[tag] for tag in answer[side]] for answer in answers]

    @cached_property
    def predictions(self) -> Predictions:
        """Right answers and outputs of the split, calibrated."""
        return check_predictions(
            self.problem,
            [answer["reference"] for answer in self.answers],
            [answer["output"] for answer in self.answers],
            None if self.problem == "regression" else self.label_names,
            thresholds=self.results.get("thresholds"),
            top_one_if_none=self.results.get("top_one_if_none", True),
        )

    @cached_property
    def task(self) -> Task[Any]:
        """The task of the run, with the arguments that it was trained with."""
        name = self.results.get("task_name")
        try:
            kind = task_called(str(name)).arguments_class
        except ValueError:
            kind = None
        if kind is None:
            raise ValueError(f"no task {name!r} with an `arguments_class` is known here; there are {', '.join(TASKS)}")
        return task_of(build_arguments({**self.results["arguments"], "output_dir": str(self.folder)}, kind))

    @cached_property
    def rows(self) -> Dataset:
        """The rows of the split, read again by the arguments of the run.

        Raises:
            ValueError: they are gone, or others than those that were scored.
        """
        data = self.task.load()
        if self.split not in data.splits:
            data = self.task.with_validation(data)
        rows: Dataset = data.splits[self.split]
        if fingerprint(rows) != self.scored.get("fingerprint"):
            raise ValueError("what the arguments of the run name are not the rows that were scored")
        return rows

    @cached_property
    def missing(self) -> str:
        """Why the rows cannot be read again; nothing where they can."""
        try:
            return "" if len(self.rows) else "there are none"
        except (ValueError, OSError, KeyError) as error:
            return str(error).splitlines()[0]

    @cached_property
    def medium(self) -> str:
        """What its rows are, `image` or `sound`; nothing where they are texts."""
        return next((name for name in ("image", "sound") if name in self.rows.column_names), "")

    def text_and_pair(self, row: int) -> tuple[str, str | None]:
        """Return the text of a row, its words joined, and the second text of a pair."""
        content = self.rows[row]
        return (" ".join(content["tokens"]) if "tokens" in content else content["text"]), content.get("text_pair")

    def text(self, row: int) -> str:
        """Return the text of a row, those of a pair in one; of a file nothing."""
        if self.medium:
            return ""
        return " ⏎ ".join(text for text in self.text_and_pair(row) if text is not None)

    def place(self, row: int) -> str:
        """Return where a row stands: its file, without the path, and line."""
        return last_part(str(self.rows[row][ORIGIN]))

    def lengths(self) -> list[float]:
        """Return how many tokens each row has, or how many pixels or seconds."""
        if self.medium == "sound":
            return [round(seconds, 2) for seconds in self.rows["seconds"]]
        if self.medium == "image":
            from ..data.images import open_image

            return [image.width * image.height for image in map(open_image, self.rows["image"])]
        tokenizer, lengths = AutoTokenizer.from_pretrained(self.folder), list[float]()
        for start in range(0, len(self.rows), 1000):
            texts = [self.text(row) for row in range(start, min(start + 1000, len(self.rows)))]
            lengths += map(len, tokenizer(texts, truncation=False, verbose=False)["input_ids"])
        return lengths

    def column(self, name: str) -> list[Any]:
        """Return the values of a column of the data for the rows of the split.

        Raises:
            ValueError: no split of the data has such a column.
        """
        raw = with_origins(self.task.raw_rows())
        values: dict[str, Any] = {}
        for split in raw.values():
            if name in split.column_names:
                values.update(zip(column_values(split, ORIGIN), column_values(split, name), strict=True))
        if not values:
            found = found_columns(next(iter(raw.values())))
            raise ValueError(f"columns={self.options.columns}: there is no column {name!r}; there are {found}.")
        return [values.get(place) for place in column_values(self.rows, ORIGIN)]


def open_runs(options: ReportArguments) -> list[FinishedRun]:
    """Open the runs of a report; a folder with several seeds or folds is as many runs.

    Raises:
        ValueError: a folder holds no finished run, or a run has no such split.
    """
    if not options.runs:
        raise ValueError("runs is empty: give the folder of a finished run, such as runs/mine.")
    folders = []
    for folder in map(Path, options.runs):
        if not (folder / RESULTS_FILE).is_file():
            raise ValueError(f"{folder} holds no {RESULTS_FILE}: give the folder of a run that has ended.")
        parts = read_json(folder / RESULTS_FILE).get("runs", {})
        folders += [folder / part for part in parts] or [folder]
    return [finished_run(folder, name, options) for folder, name in zip(folders, distinct_names(folders), strict=True)]


def finished_run(folder: Path, name: str, options: ReportArguments) -> FinishedRun:
    """Return a run with the split that is looked at."""
    results = read_json(folder / RESULTS_FILE)
    splits = list(results.get("splits", {}))
    split = options.split or ("test" if "test" in splits else splits[0] if splits else "test")
    if split not in splits:
        raise ValueError(f"split={split}: {folder} has scores of {', '.join(splits) or 'no split'}.")
    return FinishedRun(folder, name, results, split, options)


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Return so many last parts of the paths of folders that those of different ones differ."""
    paths = [folder.resolve() for folder in folders]
    for count in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            break
    return names
