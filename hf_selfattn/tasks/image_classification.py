"""Classes, sets of labels, ordered classes or a number for an image."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from accelerate import PartialState
from datasets import Dataset, DatasetDict
from transformers import AutoImageProcessor, PreTrainedConfig, TrainingArguments

from ..data import format_report
from ..data.images import ImageData, check_images, deduplicate_images, load_images, read_images
from ..data.images.read import raw_images
from ..metrics import LOWER_IS_BETTER, metric_values
from ..metrics.baselines import linear_probe, majority_baseline
from ..modeling.image_selfattn import SelfAttnForImageClassification
from .backbone import Inputs
from .classification import Classification, ClassificationArguments
from .evaluation import score_answers
from .images import OPTIONS_OF_IMAGES, ImageAnswers, RandomViews, image_inputs, open_image_backbone, splits_of
from .problems import PROBLEMS, Array, as_references
from .task import say


@dataclass
class ImageClassificationArguments(ClassificationArguments):
    """Tune a classifier of images: folders of images, whose folders are the labels, or tables with their paths.

    Args:
        image_column: column of the images, as paths or bytes; found where it is not given.
        image_folder: what the paths in a table are relative to; the folder of the table where it is not given.
        deduplicate: drop repeated training files, and training files that stand in an evaluation split.
        image_size: side in pixels to which images are brought, where it is not to be that of the image processor.
        views: what training sees of an image where the backbone trains: random `crops`, half of them `mirrored`, or
            all of it, `whole`. A probe with kept features sees all of it.
        baseline: score the most frequent class and, where features are kept, a linear model on their mean, beside the
            model.
    """

    task: ClassVar[str] = "image-classification"

    image_column: str | None = None
    image_folder: str | None = None
    deduplicate: bool = False
    image_size: int | None = None
    views: Literal["mirrored", "crops", "whole"] = "mirrored"
    baseline: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sample_tokens:
            raise ValueError(f"sample_tokens={self.sample_tokens} cuts texts, and images are none. Leave it out.")

    def columns(self) -> dict[str, Any]:
        """Return what the user said of the columns and labels."""
        names = ("image_column", "label_column", "problem", "label_names", "label_separator")
        return {name: getattr(self, name) for name in names}


class ImageClassification(Classification[ImageClassificationArguments]):
    """A row is an image with its labels; it is opened when it is read, and answers are calibrated."""

    name = pipeline = command = "image-classification"
    example_model = "facebook/dinov2-small"
    model_class = SelfAttnForImageClassification
    encodes_by = "found"
    processor_class = AutoImageProcessor
    answers = ImageAnswers
    arguments_class = ImageClassificationArguments
    columns_trained = ("image_column", "label_column")
    top = 5

    def raw_rows(self) -> DatasetDict:
        """Return the rows that the arguments name, as they are; no image is opened."""
        return splits_of(load_images, self.arguments, self.arguments.image_column, self.arguments.image_folder)

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
        return {name: unopened(split, data.problem) for name, split in data.splits.items()}

    def training_defaults(self) -> dict[str, Any]:
        """Return the options of `Trainer` that images need."""
        return OPTIONS_OF_IMAGES

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

    def rows(self, data: ImageData) -> list[dict[str, Any]]:
        """Return the images, unopened."""
        return [{"image": image} for image in data.splits["test"]["image"]]

    def baselines(self, data: ImageData) -> dict[str, Any]:
        """Score the shares of the classes in train, given to every row alike."""
        if not self.arguments.baseline:
            return {}
        started = time.perf_counter()
        references = as_references(data.splits["train"]["label"][:], data.problem)
        rows = {name: len(split) for name, split in data.splits.items() if name != "train"}
        answers = majority_baseline(data.problem, references, rows, len(data.label_names))
        return {"majority": score_answers(data, answers, time.perf_counter() - started, self.top)}

    def feature_baselines(self, data: ImageData, features: Callable[[], dict[str, Array]]) -> dict[str, Any]:
        """Score a linear model on the means of the kept features, its regularisation chosen on validation."""
        if not self.arguments.baseline:
            return {}
        means, started = features(), time.perf_counter()
        truth = {name: as_references(split["label"][:], data.problem) for name, split in data.splits.items()}
        metric = PROBLEMS[data.problem].selection_metric
        sign = -1 if metric in LOWER_IS_BETTER else 1

        def score(outputs: Array) -> float:
            return sign * metric_values(data.problem, truth["validation"], outputs, data.label_names)[metric]

        answers = linear_probe(
            data.problem, means, truth["train"], len(data.label_names), score, seed=self.arguments.seed
        )
        return {"linear_probe": score_answers(data, answers, time.perf_counter() - started, self.top)}


def unopened(split: Dataset, problem: str) -> Dataset:
    """Return the images of a split as they are, with the columns `labels` and `length`, which all have in common."""
    labels = as_references(split["label"][:], problem).tolist()
    images = split.select_columns(["image"]).add_column("labels", labels)
    return images.add_column("length", [1] * len(split))
