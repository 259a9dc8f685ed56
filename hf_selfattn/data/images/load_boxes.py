"""Open images with boxes: COCO, Pascal VOC and YOLO in their usual layouts, tables and the hub."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset, DatasetDict

from ..load import SPLIT_ALIASES, Sources, is_saved
from ..media.folders import split_folders
from ..media.load import gather_splits
from .coco import is_coco, read_coco
from .load import load_images
from .open import image_endings
from .voc import read_voc, voc_files, voc_splits
from .yolo import NAME_FILES, read_yolo, yolo_names, yolo_splits

if TYPE_CHECKING:
    from typing_extensions import Unpack

COCO_FILE = re.compile(r"(?:instances?_)?(train|valid|validation|val|test)\d*")


def load_boxes(
    *,
    image_column: str | None = None,
    image_folder: str | os.PathLike[str] | None = None,
    **sources: Unpack[Sources],
) -> DatasetDict:
    """Open the splits of a data set of images with boxes; no image is decoded, and every row carries its place.

    Args:
        image_column: column of the images of a table, found where it is not given.
        image_folder: where the images are, in layouts that are not the usual ones.
        sources: train, validation, test: a JSON file of COCO, a folder of XML files (VOC) or of label files (YOLO)
            with its images, or a table with the columns image and objects. dataset: a folder in the layout of COCO,
            VOC or YOLO, the YAML file of YOLO, or whatever `load_images` opens.

    Raises:
        ValueError: no data given, a split given twice, or files that cannot be read.
    """
    images = Path(image_folder).expanduser() if image_folder is not None else None
    return gather_splits(
        sources,
        lambda path: _open_layout(path, images),
        lambda spec, _: _open_boxes(Path(spec).expanduser(), images) if isinstance(spec, (str, os.PathLike)) else None,
        partial(load_images, image_column=image_column, image_folder=image_folder),
    )


def _open_layout(path: Path, images: Path | None) -> dict[str, Dataset]:
    """Open the splits of a data set that is a folder, or a YAML file of YOLO; none where it is another thing."""
    if path.suffix.lower() in (".yaml", ".yml") and path.is_file() or (path.is_dir() and not is_saved(path)):
        if told := yolo_splits(path):
            folders, names = told
            return {name: read_yolo(parts, names) for name, parts in folders.items()}
    if not path.is_dir() or is_saved(path):
        return {}
    if coco := _coco_splits(path):
        return {name: read_coco(file, images) for name, file in coco.items()}
    if voc := voc_splits(path):
        return {name: read_voc(files, images, is_whole=False) for name, files in voc.items()}
    parts = split_folders(path)
    if not parts and (path / "images").is_dir():
        parts = split_folders(path / "images")
    splits = {name: split for name, part in parts.items() if (split := _open_boxes(part, images)) is not None}
    if splits and (without := [str(parts[name]) for name in parts if name not in splits]):
        raise ValueError(f"{path}: there are boxes in {[*splits]}, and none in {without}.")
    if not parts and (split := _open_boxes(path, images)) is not None:
        return {"train": split}
    return splits


def _coco_splits(folder: Path) -> dict[str, Path]:
    """Find the COCO file of each split by its name."""
    found: dict[str, Path] = {}
    for place in (folder / "annotations", folder):
        for path in sorted(place.glob("*.json")):
            match = COCO_FILE.fullmatch(path.stem.lower())
            name = SPLIT_ALIASES.get(match[1], match[1]) if match else ""
            if name and is_coco(path):
                if name in found:
                    raise ValueError(f"{folder}: '{found[name].name}' and '{path.name}' both are {name}; keep one.")
                found[name] = path
        if found:
            break
    return found


def _open_boxes(path: Path, images: Path | None) -> Dataset | None:
    """Open one split: a file of COCO, or a folder with one, or with files of VOC or of YOLO; None if it is neither."""
    if is_coco(path):
        return read_coco(path, images)
    if not path.is_dir():
        return None
    files = [file for file in sorted(path.glob("*.json")) if is_coco(file)]
    if len(files) > 1:
        raise ValueError(f"{path}: holds several files of COCO ({[file.name for file in files]}); name one of them.")
    if files:
        return read_coco(files[0], images)
    if found := voc_files(path):
        return read_voc(found, images)
    if _is_yolo(path):
        return read_yolo([path], yolo_names(path))
    return None


def _is_yolo(folder: Path) -> bool:
    """Tell whether a folder of images has label files, beside them or in `labels` where they stand in `images`."""
    parts = ["labels" if part == "images" else part for part in folder.parts]
    if (folder / "labels").is_dir() or (Path(*parts) != folder and any(Path(*parts).rglob("*.txt"))):
        return True
    stems = {path.stem for path in folder.iterdir() if path.suffix.lower() in image_endings()}
    return any(path.stem in stems for path in folder.glob("*.txt") if path.name not in NAME_FILES)
