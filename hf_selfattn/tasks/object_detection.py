"""Objects in images: a box and a class for each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    DetrImageProcessorPil,
    EvalPrediction,
    PreTrainedConfig,
    Trainer,
    TrainingArguments,
)

from ..arguments import RunArguments
from ..data import fingerprint
from ..data.images import BoxData, check_boxes, load_boxes, read_boxes
from ..data.images.boxes import box_names, raw_boxes
from ..data.images.load import IMAGES
from ..files import write_text
from ..metrics.detection import box_metric_values, score_boxes
from ..metrics.intervals import Score
from ..modeling.detection_selfattn import SelfAttnForObjectDetection
from .backbone import Inputs
from .evaluation import order_by_length, plain_model
from .media.boxes import (
    BoxAnswers,
    BoxCollator,
    Boxes,
    MirroredBoxes,
    best_threshold,
    corners_of,
    found_boxes,
    pixels_of,
    true_boxes,
)
from .media.files import FileTask
from .media.images import image_inputs, open_image_backbone, sides_of

METRICS = ["map", "map_50", "map_75"]


@dataclass
class ObjectDetectionArguments(RunArguments):
    """Tune a detector of objects: COCO, Pascal VOC or YOLO in their usual layouts, or tables with boxes.

    Args:
        image_column: of a table, column of the images, as paths or bytes; found where it is not given.
        image_folder: where the images are, in layouts that are not the usual ones.
        image_size: side in pixels to which images are brought, where it is not to be that of the image processor.
        box_column: of a table, column of the boxes or objects, likewise.
        box_format: of boxes in a table: `xywh` (left, top, width, height) or `xyxy` (left, top, right, bottom).
        label_names: the categories in the order wanted.
        mirror: in training, mirror half of the images, with their boxes.
    """

    task: ClassVar[str] = "object-detection"

    image_column: str | None = None
    image_folder: str | None = None
    image_size: int | None = None
    box_column: str | None = None
    box_format: Literal["xywh", "xyxy"] = "xywh"
    label_names: list[str] | None = None
    mirror: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sample_tokens:
            raise ValueError(f"sample_tokens={self.sample_tokens} cuts texts, and images are none. Leave it out.")

    @property
    def caches_features(self) -> bool:
        """Whether features are kept: not here, since regions are cut out of maps that training draws anew."""
        return False

    def columns(self) -> dict[str, Any]:
        """Return what the user said of the columns and labels."""
        return {name: getattr(self, name) for name in ("image_column", "box_column", "box_format", "label_names")}


class ObjectDetection(FileTask[ObjectDetectionArguments]):
    """A row is an image with the boxes and classes of its objects."""

    name = pipeline = command = "object-detection"
    model_class = SelfAttnForObjectDetection
    medium = IMAGES
    processor_class = AutoImageProcessor
    answers = BoxAnswers
    arguments_class = ObjectDetectionArguments
    columns_trained = ("image_column", "box_column", "box_format")

    def load(self) -> BoxData:
        """Load and check the data; every image is opened once."""
        with PartialState().local_main_process_first():
            return read_boxes(self.raw_rows(), on_bad_row=self.arguments.on_bad_row, **self.arguments.columns())

    def with_validation(self, data: BoxData) -> BoxData:
        """Return the data with a validation split, drawn from the images of train where there is none."""
        if "validation" in data.splits:
            return data
        train = data.splits["train"]
        if len(train) < 2:
            raise ValueError("train is one image, so no validation split can be made of it. Give validation=….")
        order = np.random.default_rng(self.arguments.seed).permutation(len(train))
        count = min(max(1, round(self.arguments.validation_fraction * len(train))), len(train) - 1)
        parts = {"train": train.select(sorted(order[count:])), "validation": train.select(sorted(order[:count]))}
        note = f"{count} of {len(train)} images of train are the validation split."
        return replace(data, splits=DatasetDict({**data.splits, **parts}), notes=[*data.notes, note])

    def report(self) -> dict[str, Any]:
        """Return the report on the rows."""
        return check_boxes(self.raw_rows(), **self.arguments.columns())

    def settings_found(self) -> tuple[dict[str, Any], list[str]]:
        """Return the categories of the data, and notes on them."""
        given = self.arguments.columns()
        raw, notes = raw_boxes(self.raw_rows(), given["image_column"], given["box_column"], given["box_format"])
        return {"label_names": box_names(raw, given["label_names"])}, notes

    def open_processor(self) -> tuple[PreTrainedConfig, Any]:
        """Return the configuration of the backbone, and a processor of DETR that shows images as its own does."""
        backbone_config, processor = open_image_backbone(self.arguments, self.arguments.image_size)
        return backbone_config, detection_processor(processor)

    def inputs(self, processor: Any) -> Inputs:
        """Return how a backbone reads images."""
        return replace(image_inputs(processor), collate=BoxCollator(processor))

    def encode(self, data: BoxData, processor: Any) -> dict[str, Dataset]:
        """Return the splits with their images unopened."""
        columns = ["image", "width", "height", "boxes", "box_labels"]
        return {
            name: split.select_columns(columns).add_column("length", [1] * len(split))
            for name, split in data.splits.items()
        }

    def trainer_options(
        self, data: BoxData, encoded: dict[str, Dataset], options: TrainingArguments, processor: Any
    ) -> dict[str, Any]:
        """Return collator and metrics for `Trainer`, and mirrored images of train; the loss is the model's own."""
        given: dict[str, Any] = {
            "data_collator": self.inputs(processor).collate,
            "compute_metrics": box_metrics(data, encoded["validation"]),
            "preprocess_logits_for_metrics": surest_boxes,
        }
        if not self.arguments.mirror or self.arguments.tuning == "probe":
            return given
        views = MirroredBoxes(self.arguments.seed)
        return {**given, "train_dataset": views.of(encoded["train"]), "callbacks": [views]}

    def metrics(self, data: BoxData) -> list[str]:
        """Return the metrics of the validation split."""
        return METRICS

    def selection_metric(self, data: BoxData) -> str:
        """Return the metric that picks the checkpoint."""
        return "map"

    def train_record(self, data: BoxData) -> dict[str, Any]:
        """Return images, fingerprint and how many boxes of each class stand in train."""
        train = data.splits["train"]
        counts = Counter(data.label_names[label] for labels in train["box_labels"] for label in labels)
        labels = {name: counts[name] for name in data.label_names}
        return {"rows": len(train), "fingerprint": fingerprint(train), "labels": labels}

    def evaluate(
        self, data: BoxData, encoded: dict[str, Dataset], evaluator: Trainer, output_dir: Path
    ) -> dict[str, Any]:
        """Score every evaluation split with intervals over images, and write what was found."""
        found = {
            name: pixels_of(np.asarray(evaluator.predict(split).predictions), split)
            for name, split in encoded.items()
            if name != "train"
        }
        truth = {name: true_boxes(encoded[name]) for name in found}
        least = best_threshold(truth["validation"], found["validation"])
        plain_model(evaluator).config.thresholds = [least] * len(data.label_names)
        record = {}
        for name, boxes in found.items():
            if PartialState().is_main_process:
                write_boxes(output_dir / f"predictions-{name}.jsonl", truth[name], boxes)
            scores = score_boxes(truth[name], boxes, data.label_names)
            record[name] = {**box_record(data.splits[name], scores), "predictions_file": f"predictions-{name}.jsonl"}
        return {"problem": "object_detection", "threshold": least, "splits": record}

    @classmethod
    def model_options(cls, config: PreTrainedConfig, trained: dict[str, Any]) -> dict[str, Any]:
        """Return the categories and the columns of a model."""
        names = [config.id2label[number] for number in range(config.num_labels)]
        return {**super().model_options(config, trained), "label_names": names}

    @classmethod
    def read_files(cls, **files: Any) -> DatasetDict:
        """Return the rows of splits with boxes, as they are."""
        return load_boxes(**files)

    def score_answers(self, data: BoxData, answers: list[dict[str, Any]], config: PreTrainedConfig) -> dict[str, Any]:
        """Return the scores of all boxes that were found, sure or not."""
        numbers = {name: number for number, name in enumerate(data.label_names)}
        found = [
            {
                "boxes": corners_of([one["box"] for one in answer["objects"]]),
                "labels": np.array([numbers[one["label"]] for one in answer["objects"]], dtype=int),
                "scores": np.array([one["score"] for one in answer["objects"]], dtype=float),
            }
            for answer in answers
        ]
        split = data.splits["test"]
        return box_record(split, score_boxes(true_boxes(split), found, data.label_names))


def detection_processor(processor: Any) -> Any:
    """Return a processor of DETR, which pipelines need, with the size and the colours of another one.

    It cuts nothing off: an image that is not square is brought to a square.
    """
    if hasattr(processor, "post_process_object_detection"):
        return processor
    size = sides_of(getattr(processor, "crop_size", None)) or sides_of(processor.size)
    edge = size.get("shortest_edge")
    square = {side: size.get(side, edge) for side in ("height", "width")}
    names = ("do_resize", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
    same = {name: value for name in names if (value := getattr(processor, name, None)) is not None}
    return DetrImageProcessorPil(size=square, do_pad=False, **same)


def box_record(split: Dataset, scores: Mapping[str, Score]) -> dict[str, Any]:
    """Return what the results hold of an evaluation split, of its scores."""
    return {
        "rows": len(split),
        "fingerprint": fingerprint(split),
        "boxes": sum(map(len, split["boxes"])),
        "scores": {metric: value.as_dict() for metric, value in scores.items()},
    }


def surest_boxes(outputs: Any, labels: Any) -> Tensor:
    """Return of the outputs of a batch, which may begin with single losses, the surest boxes of each image."""
    logits, boxes = [value for value in outputs if isinstance(value, Tensor)][:2]
    return found_boxes(logits, boxes)


def box_metrics(data: BoxData, encoded: Dataset) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return what `Trainer` calls after each evaluation of the validation split, whose rows come by length."""
    split = encoded.select(order_by_length(encoded))

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        found = pixels_of(np.asarray(prediction.predictions), split)
        values = box_metric_values(true_boxes(split), found, data.label_names)
        return {name: values.get(name, 0.0) for name in METRICS}

    return compute


def write_boxes(path: Path, truth: Sequence[Boxes], found: Sequence[Boxes]) -> None:
    """Write one line for each image: its number, its boxes (corners in pixels) with labels, and those found."""
    lines = []
    for number, (boxes, output) in enumerate(zip(truth, found, strict=True)):
        sides = {"reference": boxes, "output": output}
        written = {side: {name: values.tolist() for name, values in of.items()} for side, of in sides.items()}
        lines.append(json.dumps({"row": number, **written}))
    write_text(path, "".join(f"{line}\n" for line in lines))
