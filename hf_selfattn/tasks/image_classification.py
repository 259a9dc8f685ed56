"""Classes, sets of labels, ordered classes or a number for an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from datasets import Dataset, DatasetDict
from transformers import AutoImageProcessor, PreTrainedConfig, TrainingArguments

from ..data.images import ImageData, check_images, deduplicate_images, load_images, read_images
from ..data.images.load import IMAGES
from ..modeling.image_selfattn import SelfAttnForImageClassification
from .backbone import Inputs
from .media.classification import MediaClassification, MediaClassificationArguments
from .media.images import ImageAnswers, RandomViews, image_inputs, open_image_backbone


@dataclass
class ImageClassificationArguments(MediaClassificationArguments):
    """Tune a classifier of images: folders of images, whose folders are the labels, or tables with their paths.

    Args:
        image_column: column of the images, as paths or bytes; found where it is not given.
        image_folder: what the paths in a table are relative to; the folder of the table where it is not given.
        image_size: side in pixels to which images are brought, where it is not to be that of the image processor.
        views: what training sees of an image where the backbone trains: random `crops`, half of them `mirrored`, or
            all of it, `whole`. A probe with kept features sees all of it.
    """

    task: ClassVar[str] = "image-classification"
    medium = "image"

    image_column: str | None = None
    image_folder: str | None = None
    image_size: int | None = None
    views: Literal["mirrored", "crops", "whole"] = "mirrored"


class ImageClassification(MediaClassification[ImageClassificationArguments]):
    """A row is an image with its labels; it is opened when it is read, and answers are calibrated."""

    name = pipeline = command = "image-classification"
    example_model = "facebook/dinov2-small"
    model_class = SelfAttnForImageClassification
    processor_class = AutoImageProcessor
    answers = ImageAnswers
    arguments_class = ImageClassificationArguments
    columns_trained = ("image_column", "label_column")
    medium = IMAGES
    read_rows = staticmethod(read_images)
    without_repeats = staticmethod(deduplicate_images)

    def report(self) -> dict[str, Any]:
        """Return the report on the rows."""
        return check_images(self.raw_rows(), **self.arguments.columns())

    def open_processor(self) -> tuple[PreTrainedConfig, Any]:
        """Return the configuration of the backbone and its image processor."""
        return open_image_backbone(self.arguments, self.arguments.image_size)

    def inputs(self, processor: Any) -> Inputs:
        """Return how a backbone reads images."""
        return image_inputs(processor)

    def trainer_options(
        self, data: ImageData, encoded: dict[str, Dataset], options: TrainingArguments, processor: Any
    ) -> dict[str, Any]:
        """Return loss, collator and metrics for `Trainer`, and random views of train where the backbone trains."""
        given = super().trainer_options(data, encoded, options, processor)
        if self.arguments.views == "whole" or self.arguments.tuning == "probe":
            return given
        views = RandomViews(self.arguments.seed, mirror=self.arguments.views == "mirrored")
        return {**given, "train_dataset": views.of(encoded["train"]), "callbacks": [views]}

    @classmethod
    def read_files(cls, **files: Any) -> DatasetDict:
        """Return the rows of folders of images, or of tables, of splits, as they are."""
        return load_images(**files)
