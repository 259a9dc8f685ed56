"""Open images from folders, tables, the hub or Python as one `DatasetDict` whose rows know their origin."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, DatasetDict

from ..columns import column_values, found_columns
from ..findings import listed
from ..formats import ORIGIN, Row, table_from_rows
from ..load import STANDARD_SPLITS, DataFiles, check_extra, find_files, is_saved, load_splits
from .folders import folder_rows, image_endings, metadata_file, split_folders

IMAGE_NAMES = (
    "image img image_path img_path image_file image_name file_name filename filepath file_path path file picture "
    "photo jpg jpeg png"
).split()
# file:line or file[index]; file:sheet:row
PLACES = (re.compile(r"(.*)(?::\d+|\[\d+\])"), re.compile(r"(.*):[^:]*:\d+"))


def load_images(
    *,
    train: DataFiles | None = None,
    validation: DataFiles | None = None,
    test: DataFiles | None = None,
    dataset: str | os.PathLike[str] | Dataset | DatasetDict | None = None,
    dataset_config: str | None = None,
    revision: str | None = None,
    extra: Mapping[str, DataFiles] | None = None,
    image_column: str | None = None,
    image_folder: str | os.PathLike[str] | None = None,
) -> DatasetDict:
    """Open the splits of a data set of images; no image is decoded, and every row carries its place.

    Args:
        train, validation, test: a folder of images (its folders are the labels), image files, or a table with a
            column of paths or of bytes: a path, a glob or a list of them.
        dataset: a folder that holds the folders train, validation and test, or those of the labels (it is train
            then), or whatever `load_splits` opens.
        image_column: column of the images, found by its name or its cells where it is not given.
        image_folder: what the paths in a table are relative to: the folder of the table where it is not given.

    Raises:
        ValueError: no data given, a split given twice, no images, or a source that cannot be read.
    """

    def open_rest(**files: Any) -> dict[str, Dataset]:
        loaded = load_splits(**files, dataset_config=dataset_config, revision=revision)
        return {name: with_paths(undecoded(split), image_column, image_folder) for name, split in loaded.items()}

    return gather_splits(
        dict(zip(STANDARD_SPLITS, (train, validation, test), strict=True)),
        extra or {},
        dataset,
        lambda path: _open_splits(path, image_column) if path.is_dir() and not is_saved(path) else {},
        lambda spec, name: _open_images(spec, name, image_column) if _holds_images(spec) else None,
        open_rest,
    )


def gather_splits(
    standard: Mapping[str, DataFiles | None],
    extra: Mapping[str, DataFiles],
    dataset: Any,
    open_dataset: Callable[[Path], dict[str, Dataset]],
    open_split: Callable[[DataFiles, str], Dataset | None],
    open_rest: Callable[..., Mapping[str, Dataset]],
) -> DatasetDict:
    """Open the splits of images from sources of several kinds, and bring them into their order.

    Args:
        standard, extra, dataset: sources as `load_splits` takes them.
        open_dataset, open_split: open what they know; of another kind they open none.
        open_rest: opens what is left, with the arguments of `load_splits`.
    """
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
        loaded = open_rest(**left, extra=files, dataset=dataset)
        twice = [name for name in loaded if name in opened]
        opened |= loaded
    if twice:
        raise ValueError(f"split(s) {twice} are given twice: by themselves, and in the data set; give them once.")
    order = [*filter(opened.__contains__, STANDARD_SPLITS), *(name for name in opened if name not in STANDARD_SPLITS)]
    return DatasetDict({name: opened[name] for name in order})


def undecoded(split: Dataset) -> Dataset:
    """Return a split whose images stay bytes or paths: `datasets` would decode each row that is looked at."""
    for name, feature in split.features.items():
        if isinstance(feature, datasets.Image) and feature.decode:
            split = split.cast_column(name, datasets.Image(decode=False))
    return split


def find_image_column(split: Dataset, image_column: str | None = None) -> str:
    """Find the column of images by the name given, its type, a known name, or its first cells."""
    found = found_columns(split)
    if image_column is not None:
        if image_column not in found:
            raise ValueError(f"there is no column '{image_column}' (image_column); the columns found are {found}.")
        return image_column
    typed = [name for name in found if isinstance(split.features[name], datasets.Image)]
    named = [name for known in IMAGE_NAMES for name in found if name.lower() == known][:1]
    candidates = typed or named or [name for name in found if _are_images(_first_cells(split, name))]
    if len(candidates) != 1:
        trouble = f"several columns hold images ({candidates})" if candidates else "no column of images is known"
        raise ValueError(f"{trouble} among the columns found: {found}. Set image_column=… to one of them.")
    return candidates[0]


def with_paths(
    split: Dataset, image_column: str | None = None, image_folder: str | os.PathLike[str] | None = None
) -> Dataset:
    """Write paths of images, which in a file are relative to it, so that they lead there from here."""
    column = find_image_column(split, image_column)
    feature = split.features[column]
    if getattr(feature, "dtype", "") not in ("string", "large_string"):
        if not isinstance(feature, datasets.Image) or all(
            cell and cell["bytes"] for cell in _first_cells(split, column)
        ):
            return split
    folders = [image_folder or _folder_of(place) for place in column_values(split, ORIGIN)]
    cells = [_image_place(cell, folder) for cell, folder in zip(column_values(split, column), folders, strict=True)]
    return split.remove_columns(column).add_column(column, cells, feature=feature)


def path_from(cell: Any, place: str) -> Any:
    """Return the image of a cell; a path in a file is relative to it, and becomes one that leads there from here."""
    return _image_place(cell, _folder_of(place))


def _image_place(cell: Any, folder: str | os.PathLike[str]) -> Any:
    if isinstance(cell, dict):
        return cell if cell["bytes"] is not None else {**cell, "path": _image_place(cell["path"], folder)}
    if not isinstance(cell, str) or not cell.strip() or re.match("https?:", cell):
        return cell
    path = Path(folder) / cell
    windows = Path(folder) / cell.replace("\\", "/")
    return str(windows if not path.exists() and windows.exists() else path)


def _folder_of(place: str) -> str:
    """Return the folder of the file in which a row stands; "" where it stands in none."""
    matches = (pattern.fullmatch(place) for pattern in PLACES)
    return next((str(Path(match[1]).parent) for match in matches if match and Path(match[1]).is_file()), "")


def _open_splits(folder: Path, image_column: str | None) -> dict[str, Dataset]:
    """Open the splits that the folders of a data set are, or the only one."""
    parts = split_folders(folder)
    if not parts:
        return {"train": _open_images(folder, "train", image_column)}
    splits = {name: _open_images(part, name, image_column) for name, part in parts.items()}
    beside = sorted(str(path) for path in folder.iterdir() if path not in parts.values() and path.name[0] != ".")
    if beside:
        first = next(iter(splits.values()))
        first.info.description += f"\nNot read, beside the folders of the splits: {listed(beside, len(beside))}."
    return splits


def _holds_images(spec: DataFiles) -> bool:
    """Tell whether a source of a split is a folder, or files that are images by their suffixes."""
    specs: Iterable[Any] = [spec] if isinstance(spec, (str, os.PathLike)) else spec
    return any((path := Path(one).expanduser()).is_dir() or path.suffix.lower() in image_endings() for one in specs)


def _open_images(spec: DataFiles, split: str, image_column: str | None) -> Dataset:
    """Open folders of images, or image files, as one split."""
    rows: list[Row] = []
    notes: list[str] = []
    for one in [spec] if isinstance(spec, (str, os.PathLike)) else spec:
        folder = Path(one).expanduser()
        if not folder.is_dir():
            rows += [{"image": str(path), ORIGIN: str(path)} for path in find_files(one, split, annotated=False)]
            continue
        if table := metadata_file(folder):
            return _open_metadata(table, image_column)
        if parts := split_folders(folder):
            raise ValueError(
                f"{split}: the folder '{folder}' holds the splits {[*parts]}: give dataset='{folder}', or one of its "
                f"folders, such as {split}='{next(iter(parts.values()))}'."
            )
        found, said = folder_rows(folder)
        if not found:
            raise ValueError(f"{split}: the folder '{folder}' holds no images. {' '.join(said)}".strip())
        rows, notes = rows + found, notes + said
    opened = Dataset(table_from_rows(rows))
    opened.info.description = "\n".join(notes)
    return opened


def _open_metadata(table: Path, image_column: str | None) -> Dataset:
    """Open the table in a folder of images, and say which of them it does not list."""
    split = with_paths(load_splits(train=table)["train"], image_column)
    listed_there = {*map(str, column_values(split, find_image_column(split, image_column)))}
    rows, notes = folder_rows(table.parent)
    notes = [note for note in notes if "that are no images" not in note]
    if missing := [row["image"] for row in rows if row["image"] not in listed_there]:
        notes.append(
            f"{len(missing)} image(s) left out that {table.name} does not list: {listed(missing, len(missing))}."
        )
    split.info.description = "\n".join(filter(None, [split.info.description, *notes]))
    return split


def _first_cells(split: Dataset, column: str) -> list[Any]:
    return list(split.with_format(None).select_columns([column])[:100][column])


def _are_images(cells: list[Any]) -> bool:
    """Tell whether cells hold bytes, or paths that end as images do."""
    endings = image_endings()
    held = [cell for cell in cells if cell]
    return bool(held) and all(
        isinstance(cell, bytes)
        or (isinstance(cell, dict) and {"bytes", "path"} <= cell.keys())
        or (isinstance(cell, str) and Path(cell).suffix.lower() in endings)
        for cell in held
    )
