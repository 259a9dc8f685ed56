"""Training on rows that no memory holds: read, checked and tokenised while the model trains.

Every process reads all rows, in the same order, and tokenises only those of its own batches: so a row is seen once in
a pass, the batches are those of one process, and a bad row stops all processes alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from torch.utils.data import IterableDataset, get_worker_info
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from ..data import ClassificationData, load_splits, prepare_classification
from ..data.columns import find_columns
from ..data.formats import ORIGIN, Reading, Row
from ..data.labels import read_scheme
from ..data.load import SPLIT_ALIASES, find_files, split_named
from ..data.streams import Stream, stream_files, stream_split, survey

if TYPE_CHECKING:
    from .text_classification import TextClassificationArguments

# A stream has no length: what is counted in epochs otherwise is counted in steps, and rows have no lengths to group.
STREAM_OPTIONS: dict[str, Any] = {
    "train_sampling_strategy": "random",
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "eval_steps": 0.2,
    "save_steps": 0.2,
    "remove_unused_columns": False,  # texts come to the collator
    "accelerator_config": {"dispatch_batches": False},  # batches differ in width: none can be cut out of another
}
NOT_STREAMED = {
    "deduplicate": "it compares all rows",
    "group_column": "no split is made of a stream",
    "class_weights": "it counts all labels first",
    "folds": "a stream is not divided",
    "search": "trials read the rows again and again",
    "sample_tokens": "excerpts are cut out of tokenised rows",
}


class ShuffledStream(IterableDataset[Row]):
    """The rows of a stream, each drawn at random among the next ones; in another order every epoch.

    The order is a function of the seed and the epoch alone.

    Args:
        stream: the rows of train.
        seed: of the draws.
        buffer: rows among which the next one is drawn; 1 keeps the order of the stream.
    """

    def __init__(self, stream: Stream, seed: int, buffer: int):
        self.stream, self.seed, self.buffer, self.epoch = stream, seed, buffer, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; accelerate calls this before each."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Row]:
        if get_worker_info() is not None:
            raise ValueError("streaming=true reads in the process that trains: set dataloader_num_workers=0.")
        random = np.random.default_rng([self.seed, self.epoch])
        waiting: list[Row] = []
        for row in self.stream:
            if len(waiting) < self.buffer:
                waiting.append(row)
                continue
            place = int(random.integers(self.buffer))
            yield waiting[place]
            waiting[place] = row
        random.shuffle(waiting)
        yield from waiting


def stream_collator(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[Row]], Any]:
    """Return what makes a batch of texts, or of rows that are tokenised already; no text is cut."""
    pad = DataCollatorWithPadding(tokenizer)

    def collate(rows: list[Row]) -> Any:
        if "text" in rows[0]:
            texts = [row["text"] for row in rows]
            pairs = [row["text_pair"] for row in rows] if "text_pair" in rows[0] else None
            encoded = tokenizer(texts, pairs, truncation=False, verbose=False)
            rows = [
                {"labels": row["labels"], **{name: values[number] for name, values in encoded.items()}}
                for number, row in enumerate(rows)
            ]
        wanted = {*tokenizer.model_input_names, "labels"}
        return pad([{name: value for name, value in row.items() if name in wanted} for row in rows])

    return collate


def load_stream(arguments: TextClassificationArguments) -> ClassificationData:
    """Open train as a stream, find its labels, and load and check the other splits.

    Where `label_names` are given, train is not read before training; else a first pass reads and checks it.
    """
    refuse_what_needs_all_rows(arguments)
    reading = Reading()
    with PartialState().local_main_process_first():
        read, evaluation = open_sources(arguments, reading)
    options = arguments.columns()
    names = {name: options[name] for name in ("text_column", "text_pair_column", "label_column")}
    columns, notes = find_columns(evaluation, **names)
    first = next(read(), None)
    missing = [name for name in (*columns.texts, columns.label) if first is not None and name not in first]
    if first is None or missing:
        trouble = f"has no column {missing[0]!r}; it has {sorted({*first} - {ORIGIN})}" if first else "has no rows"
        raise ValueError(f"train {trouble}. The columns are those of the validation split: {', '.join(notes)}")

    known = dict(evaluation)
    found = None
    if arguments.label_names is None:
        found = survey(read(), columns, arguments.on_bad_row)
        known = {"train": found.split(), **known}
    data = prepare_classification(DatasetDict(known), on_bad_row=arguments.on_bad_row, **options)
    scheme = read_scheme(known, columns.label, data.problem, data.label_names, arguments.label_separator)
    data.stream = Stream(read, columns, scheme, arguments.on_bad_row)
    if found is not None:
        del data.splits["train"]
        data.stream.rows = found.rows
        data.stream.label_counts = found.label_counts(columns, scheme)
        data.notes += [f"train is streamed: {found.rows} rows.", *(f"train: {note}" for note in reading.notes())]
    if arguments.baseline:
        data.notes.append("train is streamed: no TF-IDF baseline, which would read all rows at once.")
    return data


def refuse_what_needs_all_rows(arguments: TextClassificationArguments) -> None:
    """Raise an error for arguments that a stream cannot serve."""
    for name, reason in NOT_STREAMED.items():
        if getattr(arguments, name):
            raise ValueError(f"streaming=true and {name} do not go together: {reason}. Leave one of them out.")
    if isinstance(arguments.label_column, list):
        raise ValueError(f"streaming=true reads one column of labels, and not label_column={arguments.label_column}.")
    if int(arguments.options.get("max_steps", -1)) <= 0:
        raise ValueError("streaming=true needs max_steps: a stream has no length, so nothing else says when to end.")
    if arguments.options.get("dataloader_num_workers"):
        raise ValueError("streaming=true reads in the process that trains: set dataloader_num_workers=0.")
    if arguments.streaming_buffer < 1:
        raise ValueError(f"streaming_buffer={arguments.streaming_buffer} must be 1 (the order of the rows) or more.")
    if arguments.dataset is None and (arguments.train is None or arguments.validation is None):
        raise ValueError("streaming=true needs train=… and validation=…: no split can be made of a stream.")


def open_sources(
    arguments: TextClassificationArguments, reading: Reading
) -> tuple[Callable[[], Iterator[Row]], dict[str, Dataset]]:
    """Return what begins a pass over the raw rows of train, and the other splits, which are read whole."""
    if arguments.dataset is None:
        whole = load_splits(validation=arguments.validation, test=arguments.test, extra=arguments.test_files or None)
        return partial(stream_files, find_files(arguments.train or []), reading), dict(whole)
    try:
        streams = datasets.load_dataset(
            arguments.dataset, arguments.dataset_config, revision=arguments.revision, streaming=True
        )
    except (FileNotFoundError, ConnectionError, ValueError) as error:
        raise ValueError(
            f"dataset={arguments.dataset!r} cannot be streamed: {error}. Give a name on the hub; a folder of "
            "save_to_disk needs no streaming, since it is never read into memory whole."
        ) from error
    by_name = {SPLIT_ALIASES.get(name, name): split for name, split in streams.items()}
    given = {"train": arguments.train, "validation": arguments.validation, "test": arguments.test}
    wanted = {name: name if spec is None else split_named(spec, by_name) for name, spec in given.items()}
    wanted |= {name: split_named(spec, by_name) for name, spec in arguments.test_files.items()}
    if missing := [
        name for name, split in wanted.items() if split not in by_name and (name, split) != ("test", "test")
    ]:
        raise ValueError(
            f"dataset={arguments.dataset!r} has the splits {list(streams)}, of which streaming needs {missing}. Name "
            "them, such as validation=SPLIT."
        )
    places = {name: str(split) for name, split in wanted.items() if split in by_name}
    evaluation = {
        name: Dataset.from_list(list(stream_split(by_name[split], f"{arguments.dataset}/{split}")))
        for name, split in places.items()
        if name != "train"
    }
    train = places["train"]
    return partial(stream_split, by_name[train], f"{arguments.dataset}/{train}"), evaluation
