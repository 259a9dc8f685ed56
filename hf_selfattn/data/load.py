"""Open data from files, folders, the hub or Python as one `DatasetDict` whose rows know their origin."""

from __future__ import annotations

import difflib
import glob
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Union

import datasets
import pyarrow as pa
from datasets import Dataset, DatasetDict

from ..files import digest_of
from .formats import ORIGIN, Reading, read_table
from .readers.brat import ANNOTATION, is_brat

DataFiles = Union[str, "os.PathLike[str]", Sequence[Union[str, "os.PathLike[str]"]]]  # paths or globs
STANDARD_SPLITS = ("train", "validation", "test")
SPLIT_ALIASES = {"valid": "validation", "val": "validation", "dev": "validation", "eval": "validation"}
CACHE_FORMAT = "3"  # raise it when the same bytes are read into another table
NOTES = b"hf_selfattn_notes"  # of the readers, in the metadata of a table


class Sources(TypedDict, total=False):
    """Where the splits of a data set are, as `load_splits` takes it."""

    train: DataFiles | None
    validation: DataFiles | None
    test: DataFiles | None
    dataset: str | os.PathLike[str] | Dataset | DatasetDict | None
    dataset_config: str | None
    revision: str | None
    extra: Mapping[str, DataFiles] | None


def load_splits(
    *,
    train: DataFiles | None = None,
    validation: DataFiles | None = None,
    test: DataFiles | None = None,
    dataset: str | os.PathLike[str] | Dataset | DatasetDict | None = None,
    dataset_config: str | None = None,
    revision: str | None = None,
    extra: Mapping[str, DataFiles] | None = None,
) -> DatasetDict:
    """Open the splits of a data set; every row carries its place in the text column ``__origin__``.

    Args:
        train, validation, test: a path, a glob or a list of them, of the formats of docs/formats.md; the files of one
            split are joined. Or the name of a split of ``dataset``.
        dataset: a hub name, a folder written by ``save_to_disk``, a `Dataset` (becomes train) or a `DatasetDict`.

    Returns:
        The splits, in the order train, validation, test, extra. Files are read once per content into the cache of
        `datasets` and memory-mapped from there; nothing is written beside the user's files.

    Raises:
        ValueError: no data given, a split given twice, or a source that cannot be read (with file and line).
    """
    extra = dict(extra or {})
    standard = zip(STANDARD_SPLITS, (train, validation, test), strict=True)
    files = {name: spec for name, spec in standard if spec is not None}
    if dataset is None and not files and not extra:
        raise ValueError(
            "no data: set train=… (a path, a glob or a list of them) or dataset=… (a hub name or folder)."
        )
    check_extra(extra)
    given = {} if dataset is None else _open_dataset(dataset, dataset_config, revision)
    named = {
        name: split for name, spec in {**files, **extra}.items() if (split := split_named(spec, given)) is not None
    }
    twice = [name for name in files if name in given and name not in named]
    if twice:
        raise ValueError(
            f"split(s) {twice} are given as files and stand in dataset={dataset!r} too; give only one, or the name of "
            f"one of its splits {[*given]}."
        )
    splits = {name: split for name, split in given.items() if name in STANDARD_SPLITS}
    for name, spec in {**files, **extra}.items():
        splits[name] = given[named[name]] if name in named else _open_files(spec, name)
    used = {*named.values(), *(name for name in STANDARD_SPLITS if name not in named)}
    unused = [name for name in given if name not in used]
    if unused:
        logging.getLogger(__name__).warning(
            "Splits %s of the data set are not used; test_files.NAME=SPLIT makes one of them a test set, "
            "validation=SPLIT or test=SPLIT that split.",
            unused,
        )
    order = [name for name in STANDARD_SPLITS if name in splits] + list(extra)
    return DatasetDict({name: splits[name] for name in order})


def check_extra(names: Collection[str]) -> None:
    """Refuse further test sets with the name of a split."""
    if clash := [name for name in names if name in STANDARD_SPLITS]:
        raise ValueError(f"extra test set(s) {clash}: these names are taken; choose others than {STANDARD_SPLITS}.")


def split_named(spec: Any, splits: Collection[str]) -> str | None:
    """Return the split that is meant where a split of the data set may stand for files."""
    name = SPLIT_ALIASES.get(spec, spec) if isinstance(spec, str) else None
    return name if name in splits else None


def find_files(spec: DataFiles, split: str = "train", annotated: bool = True) -> list[Path]:
    """List the files of a path, a glob or a list of them, sorted within each glob; each must match.

    Args:
        annotated: whether the annotations of brat stand for a text that has some beside it.
    """
    patterns = [spec] if isinstance(spec, (str, os.PathLike)) else list(spec)
    files: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        matches = [path] if path.is_file() else sorted(map(Path, glob.glob(str(path), recursive=True)))
        found = [match for match in matches if match.is_file()]
        if not found:
            raise ValueError(f"{split}: no file matches '{pattern}'. {_similar_names(path)}")
        found = [match.with_suffix(ANNOTATION) if annotated and is_brat(match) else match for match in found]
        files.update(dict.fromkeys(found))
    if not files:
        raise ValueError(f"{split}: the list of files is empty.")
    return list(files)


def _similar_names(path: Path) -> str:
    if path.is_dir():
        return f"It is a folder: write '{path / '*.csv'}' for its files, or dataset='{path}' if save_to_disk wrote it."
    if not path.parent.is_dir():
        return f"The folder '{path.parent}' does not exist (looked from '{Path.cwd()}')."
    names = sorted(entry.name for entry in path.parent.iterdir())
    if similar := difflib.get_close_matches(path.name, names, n=5, cutoff=0.4):
        return f"Names like it in the folder '{path.parent}': {', '.join(similar)}."
    more = ", …" if len(names) > 5 else ""
    return (
        f"The folder '{path.parent}' holds: {', '.join(names[:5])}{more}." if names else f"'{path.parent}' is empty."
    )


def _open_files(spec: DataFiles, split: str) -> Dataset:
    files = find_files(spec, split)
    texts = [text for path in files if is_brat(path) and (text := path.with_suffix(".txt")).is_file()]
    return _cached([f"{path}\0{digest_of(path)}" for path in (*files, *texts)], lambda: _join_files(files, split))


def _join_files(files: list[Path], split: str) -> pa.Table:
    reading = Reading()
    tables = [read_table(path, reading) for path in files]
    names = tables[0].column_names
    for path, table in zip(files, tables, strict=True):
        if set(table.column_names) != set(names):
            first, other = ([name for name in found if name != ORIGIN] for found in (names, table.column_names))
            raise ValueError(
                f"{split}: the files have different columns: {files[0]} has {first}, {path} has {other}. "
                "Rename the columns, or give the files as different splits."
            )
    try:
        joined = pa.concat_tables([table.select(names) for table in tables], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"{split}: the columns of {[str(f) for f in files]} have different types: {error}") from error
    return joined.replace_schema_metadata({**(joined.schema.metadata or {}), NOTES: json.dumps(reading.notes())})


def _open_dataset(
    dataset: str | os.PathLike[str] | Dataset | DatasetDict, config: str | None, revision: str | None
) -> dict[str, Dataset]:
    if isinstance(dataset, Dataset):
        return {"train": with_origin(dataset, "train")}
    if isinstance(dataset, Mapping):
        return _named_splits(dataset, "")
    if not isinstance(dataset, (str, os.PathLike)):
        raise ValueError(
            f"dataset is a {type(dataset).__name__}; it must be a name, a folder, Dataset or DatasetDict."
        )
    path = Path(dataset).expanduser()
    if path.is_dir():
        return _open_folder(path)
    if path.is_file() or path.is_absolute() or str(dataset).startswith((".", "~")):
        raise ValueError(
            f"dataset='{dataset}' is no folder. Give files as train=…, validation=…, test=…; dataset= is a hub name "
            "or a folder written by save_to_disk."
        )
    try:
        loaded = datasets.load_dataset(str(dataset), config, revision=revision)
    except (FileNotFoundError, ConnectionError, ValueError) as error:
        raise ValueError(
            f"The hub data set '{dataset}' (config {config}, revision {revision}) could not be opened: {error}. "
            "Check its name and the network; local files are given as train=…, test=…."
        ) from error
    return _named_splits(loaded, f"{dataset}/")


def is_saved(folder: Path) -> bool:
    """Tell whether `save_to_disk` wrote a folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _open_folder(folder: Path) -> dict[str, Dataset]:
    """Copy a `save_to_disk` folder into the cache, so that later `map` calls write nothing into it."""
    if not is_saved(folder):
        raise ValueError(
            f"dataset='{folder}' was not written by save_to_disk (no dataset_dict.json or state.json). For a folder "
            f"of files write train='{folder / 'train*.csv'}' and so on."
        )
    contents = "".join(digest_of(path) for path in sorted(folder.rglob("*")) if path.is_file())
    splits = _named_splits(datasets.load_from_disk(str(folder)), f"{folder}/")
    return {
        name: _cached([str(folder), name, contents], partial(_table_of_split, split)) for name, split in splits.items()
    }


def _table_of_split(split: Dataset) -> pa.Table:
    batches = split.with_format("arrow").iter(batch_size=1000)
    return pa.concat_tables(batches).cast(split.features.arrow_schema)


def _named_splits(loaded: Dataset | Mapping[str, Dataset], prefix: str) -> dict[str, Dataset]:
    parts = {"train": loaded} if isinstance(loaded, Dataset) else dict(loaded)
    renamed = {SPLIT_ALIASES.get(name, name): name for name in parts}
    if len(renamed) != len(parts):
        raise ValueError(f"{prefix}: of the splits {list(parts)} two are validation splits; keep one of them.")
    return {new: with_origin(parts[old], f"{prefix}{old}") for new, old in renamed.items()}


def with_origin(split: Dataset, name: str) -> Dataset:
    """Add the column ``__origin__`` (``name[index]``, from 0) to a data set that has none."""
    if not isinstance(split, Dataset):
        raise ValueError(f"split '{name}' is a {type(split).__name__}; load it without streaming, as a Dataset.")
    if ORIGIN in split.column_names or len(split) == 0:
        return split
    return split.add_column(ORIGIN, [f"{name}[{index}]" for index in range(len(split))])


def reading_notes(splits: Mapping[str, Dataset]) -> list[str]:
    """List what the readers of the files of each split have to say, which stands in its description."""
    return [
        f"{name}: {note}" for name, split in splits.items() for note in (split.info.description or "").splitlines()
    ]


def with_origins(splits: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """Add the column ``__origin__`` to all splits, none of which may be empty."""
    splits = {name: with_origin(split, name) for name, split in splits.items()}
    for name, split in splits.items():
        if len(split) == 0:
            raise ValueError(f"{name}: the split has no rows. Leave it out, or give it rows.")
    return splits


def _cached(contents: Sequence[str], read: Callable[[], pa.Table]) -> Dataset:
    """Open a table from the cache of `datasets`, into which it is read once per content."""
    key = hashlib.sha256("\0".join([CACHE_FORMAT, *contents]).encode()).hexdigest()
    target = Path(datasets.config.HF_DATASETS_CACHE) / "hf_selfattn" / key / "rows.arrow"
    if not target.exists():
        _write_table(read(), target)
    split = Dataset.from_file(str(target))
    with pa.memory_map(str(target)) as source:  # `datasets` keeps its own metadata only
        metadata = pa.ipc.open_stream(source).schema.metadata or {}
    split.info.description = "\n".join(json.loads(metadata.get(NOTES, b"[]")))
    return split


def _write_table(table: pa.Table, target: Path) -> None:
    """Write through a temporary file, so that several processes may do it at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=".part")
    os.close(handle)
    try:
        with pa.OSFile(temporary, "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=1000)
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)
