"""Classes, sets of labels, ordered classes or a number for an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from accelerate import PartialState
from datasets import Dataset, DatasetDict
from transformers import AutoImageProcessor, PreTrainedConfig, TrainingArguments

from ..data import format_report
from ..data.images import ImageData, check_images, deduplicate_images, load_images, read_images
from ..data.images.load import IMAGES
from ..data.images.read import raw_images
from ..modeling.image_selfattn import SelfAttnForImageClassification
from .backbone import Inputs
from .media.classification import MediaClassification, MediaClassificationArguments
from .media.files import splits_of, unopened
from .media.images import ImageAnswers, RandomViews, image_inputs, open_image_backbone
from .task import say


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

    image_column: str | None = None
    image_folder: str | None = None
    image_size: int | None = None
    views: Literal["mirrored", "crops", "whole"] = "mirrored"

    def columns(self) -> dict[str, Any]:
        """Return what the user said of the columns and labels."""
        names = ("image_column", "label_column", "problem", "label_names", "label_separator")
        return {name: getattr(self, name) for name in names}


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

    def raw_rows(self) -> DatasetDict:
        """Return the rows that the arguments name, as they are; no image is opened."""
        names = ("image_column", "image_folder")
        return splits_of(load_images, self.arguments, **{name: getattr(self.arguments, name) for name in names})

    def load(self) -> ImageData:
        """Load and check the data; every image is opened once."""
        arguments = self.arguments
        kept = [arguments.group_column] if arguments.group_column else []
        with PartialState().local_main_process_first():
            data = read_images(
                self.raw_rows(), on_bad_row=arguments.on_bad_row, keep_columns=kept, **arguments.columns()
            )
        return deduplicate_images(data) if arguments.deduplicate else data

    def check(self) -> dict[str, Any]:
        """Print the report on the rows that a run would read, bad ones and all, and return it."""
        report = check_images(self.raw_rows(), **self.arguments.columns())
        report["notes"] += self.outlook(report["notes"])
        say(format_report(report))
        return report

    def settings_found(self) -> tuple[dict[str, Any], list[str]]:
        """Return the columns, the problem and the labels of the data, and notes on them."""
        raw = raw_images(self.raw_rows(), **self.arguments.columns())
        found = {"image_column": next(iter(raw.file_columns.values())), "label_column": raw.columns.label}
        found |= {"problem": raw.scheme.problem}
        return found | ({} if raw.scheme.problem == "regression" else {"label_names": raw.scheme.names}), raw.notes

    def open_processor(self) -> tuple[PreTrainedConfig, Any]:
        """Return the configuration of the backbone and its image processor."""
        return open_image_backbone(self.arguments, self.arguments.image_size)

    def inputs(self, processor: Any) -> Inputs:
        """Return how a backbone reads images."""
        return image_inputs(processor)

    def encode(self, data: ImageData, processor: Any) -> dict[str, Dataset]:
        """Return the splits with their images unopened."""
        return {name: unopened(split, IMAGES, data.problem, [1] * len(split)) for name, split in data.splits.items()}

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
