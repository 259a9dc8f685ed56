"""Images as the rows of a task: opened when they are read, changed a little in training, answered by a model."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from PIL import Image, ImageOps
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ..arguments import DataArguments, ModelArguments
from ..data.formats import ORIGIN
from ..data.images import open_image
from ..data.images.load import find_image_column, path_from
from ..modeling.tiles_selfattn import keep_image_size, pad_images
from .answers import ClassAnswers, EncodedRows, Row
from .backbone import Inputs, open_with

# Of a training image, the least share of its area that a random crop keeps, and how far its sides may differ.
LEAST_AREA, MOST_STRETCH = 0.5, 4 / 3
# What an image that is answered counts as among tokens: so eight of them make a batch on a CPU.
TOKENS_OF_AN_IMAGE = 128
FILES_KEPT_IN_MIND = 4096  # that were looked at, and are not opened again to see whether they are right
OPTIONS_OF_IMAGES: dict[str, Any] = {
    "remove_unused_columns": False,  # images come to the collator unopened
    "include_num_input_tokens_seen": "no",
}


def splits_of(
    load: Callable[..., DatasetDict], arguments: DataArguments, image_column: str | None, image_folder: str | None
) -> DatasetDict:
    """Read the splits that the arguments name, as they are; `evaluate` gives rows that are read already."""
    if isinstance(arguments.dataset, DatasetDict):
        return arguments.dataset
    return load(
        train=arguments.train,
        validation=arguments.validation,
        test=arguments.test,
        dataset=arguments.dataset,
        dataset_config=arguments.dataset_config,
        revision=arguments.revision,
        extra=arguments.test_files or None,
        image_column=image_column,
        image_folder=image_folder,
    )


def open_image_backbone(arguments: ModelArguments, side: int | None) -> tuple[PreTrainedConfig, Any]:
    """Return the configuration and the image processor of the backbone, for images of a side in pixels."""
    config, processor = open_with(AutoImageProcessor, arguments, "image processor (preprocessor_config.json)")
    if arguments.heads.get("tiles", getattr(config, "tiles", False)):
        if side is not None:
            raise ValueError(
                f"image_size={side}, but with heads.tiles=true no image is resized. Leave one of them out."
            )
        keep_image_size(processor)
    elif side is not None:
        resize(processor, side)
    return getattr(config, "backbone_config", config), processor


def resize(processor: Any, side: int) -> None:
    """Let a processor bring images to a side in pixels; where it cuts their middle out, in the same proportion."""
    if side < 1:
        raise ValueError(f"image_size={side} must be at least 1.")
    if not hasattr(processor, "size"):
        raise ValueError(f"image_size={side}, but {type(processor).__name__} has a size of its own. Leave it out.")
    size, square = sides_of(processor.size), {"height": side, "width": side}
    cut = sides_of(getattr(processor, "crop_size", None)) if getattr(processor, "do_center_crop", False) else {}
    if "shortest_edge" in size:
        square_before = cut.get("height", size["shortest_edge"])
        processor.size = {"shortest_edge": round(side * size["shortest_edge"] / square_before)}
    else:
        processor.size = square
    if cut:
        processor.crop_size = square


def sides_of(size: Any) -> dict[str, int]:
    """Return those sides that the size of a processor names, such as `height` and `width`, or `shortest_edge`."""
    return {name: int(value) for name, value in dict(size or {}).items() if value is not None}


def image_content(source: Any) -> bytes:
    """Return the bytes of an image file, from what a row holds of it."""
    content = source.get("bytes")
    return Path(source["path"]).read_bytes() if content is None else bytes(content)


class ImageCollator:
    """Makes a batch of rows: opens their images, lets the processor make tensors of them, and adds the labels.

    Args:
        processor: of the backbone.
    """

    def __init__(self, processor: Any):
        self.processor = processor

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        batch: dict[str, Tensor] = {}
        if "image" in rows[0]:
            batch.update(self.pixels([row["image"] for row in rows]))
        if "labels" in rows[0]:
            batch["labels"] = torch.tensor([row["labels"] for row in rows])
        return batch

    def pixels(self, sources: Sequence[Any]) -> dict[str, Tensor]:
        """Return images as a batch, those of different sizes with a mask."""
        images = (source if isinstance(source, Image.Image) else open_image(source) for source in sources)
        tensors = [self.processor(image, return_tensors="pt")["pixel_values"][0] for image in images]
        if len({values.shape for values in tensors}) == 1:
            return {"pixel_values": torch.stack(tensors)}
        return pad_images(tensors)


def image_inputs(processor: Any) -> Inputs:
    """Return how a backbone reads images; beside kept features nothing is needed, so that no image is opened."""
    state = json.loads(processor.to_json_string())
    return Inputs(("image",), ImageCollator(processor), state, image_content, beside_features=())


class RandomViews(TrainerCallback):
    """Crops training images at random and mirrors half of them, in another way every epoch.

    What is done to an image is a function of the seed, the epoch and the image alone, so that a resumed training, or
    one in several processes, reads the same.

    Args:
        seed: of the draws.
        mirror: whether images may be mirrored; letters may not.
    """

    def __init__(self, seed: int, mirror: bool = True):
        self.seed, self.mirror, self.epoch = seed, mirror, 0

    def __deepcopy__(self, memo: dict[int, Any]) -> RandomViews:
        return self  # copies of a data set are to know the epoch, too

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.dataloader_persistent_workers:
            raise ValueError(
                "dataloader_persistent_workers=true: workers that stay do not hear of a new epoch, and would show the "
                "same views in all. Leave it out."
            )

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.epoch = int(state.epoch or 0)

    def of(self, split: Dataset) -> Dataset:
        """Return a split whose images are opened and changed whenever they are read."""
        return split.with_transform(self.change)

    def change(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Return rows with changed images."""
        return {**rows, "image": [self.view(source) for source in rows["image"]]} if "image" in rows else rows

    def random(self, source: Any) -> np.random.Generator:
        """Return what draws the view of an image in this epoch."""
        return np.random.default_rng([self.seed, self.epoch, zlib.crc32(image_content(source))])

    def view(self, source: Any) -> Image.Image:
        """Return the view of an image in this epoch."""
        random = self.random(source)
        whole = open_image(source)
        image = whole.crop(random_box(random, *whole.size))
        return ImageOps.mirror(image) if self.mirror and random.random() < 0.5 else image


def random_box(random: np.random.Generator, width: int, height: int) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a random part of an image."""
    area = width * height * random.uniform(LEAST_AREA, 1)
    ratio = width / height * np.exp(random.uniform(-np.log(MOST_STRETCH), np.log(MOST_STRETCH)))
    wide = max(1, min(width, round(float(np.sqrt(area * ratio)))))
    high = max(1, min(height, round(float(np.sqrt(area / ratio)))))
    left, top = int(random.integers(width - wide + 1)), int(random.integers(height - high + 1))
    return left, top, left + wide, top + high


class ImageAnswers(ClassAnswers):
    """Answers to an image: a file, or the bytes of one."""

    fields = ("image",)
    details = (ORIGIN,)
    example: ClassVar[Row] = {"image": Image.new("RGB", (64, 64))}

    def __init__(self, model: PreTrainedModel, processor: Any):
        super().__init__(model, processor)
        self.collate = ImageCollator(processor)
        self.mistake_of_file = lru_cache(FILES_KEPT_IN_MIND)(mistake_of)

    @property
    def processor_state(self) -> Any:
        """All of the processor that decides what is read, as `json` writes it."""
        return image_inputs(self.processor).state

    def columns(self, split: Dataset, **given: Any) -> tuple[dict[str, str], list[str]]:
        """Return the column of the images, by the name given, its type, a known name or what its cells are."""
        return {"image": find_image_column(split, given.get("image_column"))}, []

    def mistake(self, row: Row) -> tuple[str, str]:
        """Return what is wrong with an image, which is opened for that."""
        source = image_of(row)
        return "image", self.mistake_of_file(source) if isinstance(source, str) else mistake_of(source)

    def encode(self, rows: Sequence[Row]) -> EncodedRows:
        """Return images that are still to be opened, batch by batch."""
        return EncodedRows({"image": [image_of(row) for row in rows], "length": [TOKENS_OF_AN_IMAGE] * len(rows)})

    def batch(self, encoded: EncodedRows, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Return the images of these numbers as a batch."""
        batch = self.collate([{"image": encoded.inputs["image"][number]} for number in numbers])
        return {name: values.to(self.model.device) for name, values in batch.items()}


def mistake_of(source: Any) -> str:
    """Return what is wrong with an image, or nothing."""
    try:
        open_image(source)
    except ValueError as error:
        return str(error).rstrip(".")
    return ""


def image_of(row: Row) -> Any:
    """Return the image of a row; a path in a table leads from the folder of the table."""
    image = row.get("image")
    return path_from(image, row[ORIGIN]) if ORIGIN in row else image
