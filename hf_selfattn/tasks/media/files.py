"""What images and sounds have in common as the rows of a task: files that are opened when they are read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import PreTrainedModel

from ...data.formats import ORIGIN
from ...data.media.load import path_from
from ...data.media.medium import Medium
from ..answers import ClassAnswers, EncodedRows, Row
from ..backbone import Inputs
from ..problems import as_references
from ..task import AnyRunArguments, Task

FILES_KEPT_IN_MIND = 4096  # that were looked at, and are not opened again to see whether they are right
OPTIONS_OF_FILES: dict[str, Any] = {
    "remove_unused_columns": False,  # files come to the collator unopened
    "include_num_input_tokens_seen": "no",
}


def file_content(source: Any) -> bytes:
    """Return the bytes of a file, from what a row holds of it."""
    content = source.get("bytes")
    return Path(source["path"]).read_bytes() if content is None else bytes(content)


def unopened(split: Dataset, medium: Medium, problem: str, lengths: Sequence[int]) -> Dataset:
    """Return the files of a split as they are, with the columns `labels` and `length`, which all have in common."""
    labels = as_references(split["label"][:], problem).tolist()
    return split.select_columns([medium.name]).add_column("labels", labels).add_column("length", list(lengths))


class FileTask(Task[AnyRunArguments]):
    """A row is a file, which is opened when it is read.

    Attributes:
        medium: what the files are.
    """

    medium: ClassVar[Medium]
    encodes_by = "found"

    def raw_rows(self, **options: Any) -> DatasetDict:
        """Return the rows that the arguments name, unopened; `evaluate` gives rows that are read already."""
        if isinstance(self.arguments.dataset, DatasetDict):
            return self.arguments.dataset
        names = (f"{self.medium.name}_column", f"{self.medium.name}_folder")
        return super().raw_rows(**{name: getattr(self.arguments, name) for name in names}, **options)

    def training_defaults(self) -> dict[str, Any]:
        """Return the options of `Trainer` that files need."""
        return OPTIONS_OF_FILES

    def rows(self, data: Any) -> list[dict[str, Any]]:
        """Return the files, unopened."""
        name = self.medium.name
        return [{name: source} for source in data.splits["test"][name]]


class FileAnswers(ClassAnswers):
    """Answers to a file: its path, or the bytes of it.

    Attributes:
        medium: what the file is.
    """

    medium: ClassVar[Medium]
    details = (ORIGIN,)

    def __init__(self, model: PreTrainedModel, processor: Any):
        super().__init__(model, processor)
        self.collate: Any = self.inputs.collate
        self.mistake_of_file = lru_cache(FILES_KEPT_IN_MIND)(self.mistake_of)

    @property
    @abstractmethod
    def inputs(self) -> Inputs:
        """How the model reads a file."""

    @abstractmethod
    def look(self, source: Any) -> None:
        """Open a file; an error says what is wrong with it."""

    @property
    def processor_state(self) -> Any:
        """All of the processor that decides what is read, as `json` writes it."""
        return self.inputs.state

    def columns(self, split: Dataset, **given: Any) -> tuple[dict[str, str], list[str]]:
        """Return the column of the files, by the name given, its type, a known name or what its cells are."""
        name = self.medium.name
        return {name: self.medium.find_column(split, given.get(f"{name}_column"))}, []

    def mistake(self, row: Row) -> tuple[str, str]:
        """Return what is wrong with a file, which is opened for that."""
        source = self.source_of(row)
        looked_at = self.mistake_of_file(source) if isinstance(source, str) else self.mistake_of(source)
        return self.medium.name, looked_at

    def mistake_of(self, source: Any) -> str:
        """Return what is wrong with a file, or nothing."""
        try:
            self.look(source)
        except ValueError as error:
            return str(error).rstrip(".")
        return ""

    def source_of(self, row: Row) -> Any:
        """Return the file of a row; a path in a table leads from the folder of the table."""
        source = row.get(self.medium.name)
        return path_from(source, row[ORIGIN]) if ORIGIN in row else source

    def encode(self, rows: Sequence[Row]) -> EncodedRows:
        """Return files that are still to be opened, batch by batch."""
        sources = [self.source_of(row) for row in rows]
        return EncodedRows({self.medium.name: sources, "length": [self.length_of(source) for source in sources]})

    @abstractmethod
    def length_of(self, source: Any) -> int:
        """Return as how many tokens a file counts in a batch."""

    def batch(self, encoded: EncodedRows, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Return the files of these numbers as a batch."""
        name = self.medium.name
        batch = self.collate([{name: encoded.inputs[name][number]} for number in numbers])
        return {name: values.to(self.model.device) for name, values in batch.items()}
