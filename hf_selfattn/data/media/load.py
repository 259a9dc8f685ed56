"""Open images or sounds from folders, tables, the hub or Python as one `DatasetDict` whose rows know their origin."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from ..columns import column_values
from ..findings import listed
from ..formats import ORIGIN, Row, table_from_rows
from ..load import STANDARD_SPLITS, DataFiles, Sources, check_extra, find_files, is_saved, load_splits
from .folders import folder_rows, metadata_file, split_folders
from .medium import Medium, first_cells

# file:line or file[index]; file:sheet:row
PLACES = (re.compile(r"(.*)(?::\d+|\[\d+\])"), re.compile(r"(.*):[^:]*:\d+"))


def load_media(
    medium: Medium, sources: Sources, column: str | None, folder: str | os.PathLike[str] | None
) -> DatasetDict:
    """Open the splits of a data set of files; none is decoded, and every row carries its place.

    Args:
        column, folder: of the files in a table, as `load_images` and `load_sounds` take them.
    """

    def open_rest(**rest: Any) -> dict[str, Dataset]:
        loaded = load_splits(**rest)
        return {name: with_paths(medium, medium.undecoded(split), column, folder) for name, split in loaded.items()}

    return gather_splits(
        sources,
        lambda path: _open_splits(medium, path, column) if path.is_dir() and not is_saved(path) else {},
        lambda spec, name: _open_media(medium, spec, name, column) if _holds_files(medium, spec) else None,
        open_rest,
    )


def gather_splits(
    sources: Sources,
    open_dataset: Callable[[Path], dict[str, Dataset]],
    open_split: Callable[[DataFiles, str], Dataset | None],
    open_rest: Callable[..., Mapping[str, Dataset]],
) -> DatasetDict:
    """Open the splits of files from sources of several kinds, and bring them into their order.

    Args:
        open_dataset, open_split: open what they know; of another kind they open none.
        open_rest: opens what is left, with the arguments of `load_splits`.
    """
    hub: dict[str, Any] = dict(sources)
    standard = {name: hub.pop(name, None) for name in STANDARD_SPLITS}
    extra, dataset = hub.pop("extra", None) or {}, hub.pop("dataset", None)
    check_extra(extra)
    files = {name: spec for name, spec in {**standard, **extra}.items() if spec is not None}
    opened: dict[str, Dataset] = {}
    if isinstance(dataset, (str, os.PathLike)):
        opened = open_dataset(Path(dataset).expanduser())
        dataset = None if opened else dataset
    twice = [name for name in files if name in opened]
    for name in [name for name in files if name not in opened]:
        if (split := open_split(files[name], name)) is not None:
            opened[name] = split
            del files[name]
    if not twice and (files or dataset is not None or not opened):
        left = {name: files.pop(name) for name in STANDARD_SPLITS if name in files}
        loaded = open_rest(**left, extra=files, dataset=dataset, **hub)
        twice = [name for name in loaded if name in opened]
        opened |= loaded
    if twice:
        raise ValueError(f"split(s) {twice} are given twice: by themselves, and in the data set; give them once.")
    order = [*filter(opened.__contains__, STANDARD_SPLITS), *(name for name in opened if name not in STANDARD_SPLITS)]
    return DatasetDict({name: opened[name] for name in order})


def with_paths(
    medium: Medium, split: Dataset, column: str | None = None, folder: str | os.PathLike[str] | None = None
) -> Dataset:
    """Write paths of files, which in a table are relative to it, so that they lead there from here."""
    column = medium.find_column(split, column)
    feature = split.features[column]
    if getattr(feature, "dtype", "") not in ("string", "large_string"):
        if not isinstance(feature, medium.feature) or all(
            cell and cell["bytes"] for cell in first_cells(split, column)
        ):
            return split
    folders = [folder or _folder_of(place) for place in column_values(split, ORIGIN)]
    cells = [_file_place(cell, where) for cell, where in zip(column_values(split, column), folders, strict=True)]
    placed = split.remove_columns(column).add_column(column, cells, feature=feature)
    return placed.select_columns(split.column_names)


def path_from(cell: Any, place: str) -> Any:
    """Return the file of a cell; a path in a table is relative to it, and becomes one that leads there from here."""
    return _file_place(cell, _folder_of(place))


def _file_place(cell: Any, folder: str | os.PathLike[str]) -> Any:
    if isinstance(cell, dict):
        return cell if cell["bytes"] is not None else {**cell, "path": _file_place(cell["path"], folder)}
    if not isinstance(cell, str) or not cell.strip() or re.match("https?:", cell):
        return cell
    path = Path(folder) / cell
    windows = Path(folder) / cell.replace("\\", "/")
    return str(windows if not path.exists() and windows.exists() else path)


def _folder_of(place: str) -> str:
    """Return the folder of the file in which a row stands; "" where it stands in none."""
    matches = (pattern.fullmatch(place) for pattern in PLACES)
    return next((str(Path(match[1]).parent) for match in matches if match and Path(match[1]).is_file()), "")


def _open_splits(medium: Medium, folder: Path, column: str | None) -> dict[str, Dataset]:
    """Open the splits that the folders of a data set are, or the only one."""
    parts = split_folders(folder)
    if not parts:
        return {"train": _open_media(medium, folder, "train", column)}
    splits = {name: _open_media(medium, part, name, column) for name, part in parts.items()}
    beside = sorted(str(path) for path in folder.iterdir() if path not in parts.values() and path.name[0] != ".")
    if beside:
        first = next(iter(splits.values()))
        said = f"Not read, beside the folders of the splits: {listed(beside, len(beside))}."
        first.info.description = "\n".join(filter(None, [first.info.description, said]))
    return splits


def _holds_files(medium: Medium, spec: DataFiles) -> bool:
    """Tell whether a source of a split is a folder, or files of a medium by their suffixes."""
    specs: Iterable[Any] = [spec] if isinstance(spec, (str, os.PathLike)) else spec
    return any((path := Path(one).expanduser()).is_dir() or path.suffix.lower() in medium.endings() for one in specs)


def _open_media(medium: Medium, spec: DataFiles, split: str, column: str | None) -> Dataset:
    """Open folders of files, or files, as one split."""
    rows: list[Row] = []
    notes: list[str] = []
    for one in [spec] if isinstance(spec, (str, os.PathLike)) else spec:
        folder = Path(one).expanduser()
        if not folder.is_dir():
            rows += [{medium.name: str(path), ORIGIN: str(path)} for path in find_files(one, split, annotated=False)]
            continue
        if table := metadata_file(folder):
            return _open_metadata(medium, table, column)
        if parts := split_folders(folder):
            raise ValueError(
                f"{split}: the folder '{folder}' holds the splits {[*parts]}: give dataset='{folder}', or one of its "
                f"folders, such as {split}='{next(iter(parts.values()))}'."
            )
        found, said = folder_rows(medium, folder)
        if not found:
            raise ValueError(f"{split}: the folder '{folder}' holds no {medium.name}s. {' '.join(said)}".strip())
        rows, notes = rows + found, notes + said
    opened = Dataset(table_from_rows(rows))
    opened.info.description = "\n".join(notes)
    return opened


def _open_metadata(medium: Medium, table: Path, column: str | None) -> Dataset:
    """Open the table in a folder of files, and say which of them it does not list."""
    split = with_paths(medium, load_splits(train=table)["train"], column)
    listed_there = {*map(str, column_values(split, medium.find_column(split, column)))}
    rows, notes = folder_rows(medium, table.parent)
    notes = [note for note in notes if f"that are no {medium.name}s" not in note]
    if missing := [row[medium.name] for row in rows if row[medium.name] not in listed_there]:
        count = f"{len(missing)} {medium.name}(s)"
        notes.append(f"{count} left out that {table.name} does not list: {listed(missing, len(missing))}.")
    split.info.description = "\n".join(filter(None, [split.info.description, *notes]))
    return split
