"""Images as the rows of a task: opened when they are read, changed a little in training, answered by a model."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image, ImageOps
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    PreTrainedConfig,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ...arguments import ModelArguments
from ...data.images import open_image
from ...data.images.load import IMAGES
from ...modeling.tiles_selfattn import keep_image_size, pad_images
from ..answers import Row
from ..backbone import Inputs, open_with
from .files import FileAnswers, file_content

# Of a training image, the least share of its area that a random crop keeps, and how far its sides may differ.
LEAST_AREA, MOST_STRETCH = 0.5, 4 / 3
# What an image that is answered counts as among tokens: so four of them make a batch on a CPU.
TOKENS_OF_AN_IMAGE = 256


def open_image_backbone(arguments: ModelArguments, side: int | None) -> tuple[PreTrainedConfig, Any]:
    """Return the configuration and the image processor of the backbone, for images of a side in pixels."""
    name = "image processor (preprocessor_config.json)"
    config, processor = open_with(AutoImageProcessor.from_pretrained, arguments, name)
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
    return Inputs(("image",), ImageCollator(processor), state, file_content, beside_features=(), says_length=False)


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
        return np.random.default_rng([self.seed, self.epoch, zlib.crc32(file_content(source))])

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


class ImageAnswers(FileAnswers):
    """Answers to an image: a file, or the bytes of one."""

    medium = IMAGES
    collate: ImageCollator
    fields = ("image",)
    example: Row = {"image": Image.new("RGB", (64, 64))}

    @property
    def inputs(self) -> Inputs:
        """How the model reads an image."""
        return image_inputs(self.processor)

    def look(self, source: Any) -> None:
        """Open an image; an error says what is wrong with it."""
        open_image(source)

    def length_of(self, source: Any) -> int:
        """Return as how many tokens an image counts in a batch."""
        return TOKENS_OF_AN_IMAGE
