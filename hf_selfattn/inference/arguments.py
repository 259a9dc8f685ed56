"""What prediction and evaluation are told in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..arguments import PathSpec
from .predictor import Dtype, Predictor, open_predictor


@dataclass
class InferenceArguments:
    """The model, and the rows that it reads.

    Args:
        model: folder of a run or of a saved model, or a name on the hub.
        input: files, globs or lists of them (CSV, TSV, JSON, JSONL, Parquet, Arrow, lines of text, column files,
            compressed), or `-` for the standard input.
        model_revision: branch, tag or commit of a model on the hub.
        backbone_name_or_path: of an adapter, its backbone, where that was a folder.
        dataset: a data set on the hub, or a folder of `save_to_disk`, instead of files.
        dataset_config: configuration of that data set.
        revision: branch, tag or commit of that data set.
        split: of that data set, where it has several.
        text_column: column of the texts; that of the training, or a well-known name, is found.
        text_pair_column: column of the second texts, likewise.
        token_column: column of the words, or its number in a column file, likewise.
        device: to run on, such as `cpu` or `cuda:1`; an accelerator where there is one.
        dtype: `bfloat16` computes matrix products in it, `auto` does so where the processor has it, `float32` never.
    """

    required: ClassVar[tuple[str, ...]] = ("model",)

    model: str = ""
    input: PathSpec | None = None
    model_revision: str | None = None
    backbone_name_or_path: str | None = None
    dataset: str | None = None
    dataset_config: str | None = None
    revision: str | None = None
    split: str | None = None
    text_column: str | None = None
    text_pair_column: str | None = None
    token_column: str | int | None = None
    device: str | None = None
    dtype: Dtype = "auto"

    def __post_init__(self) -> None:
        if (self.input is None) == (self.dataset is None):
            raise ValueError("Give exactly one of input=… (files, or - for the standard input) and dataset=….")

    def predictor(self, device: str | None = None) -> Predictor:
        """Open the model."""
        return open_predictor(
            self.model,
            device=self.device or device,
            dtype=self.dtype,
            revision=self.model_revision,
            backbone_name_or_path=self.backbone_name_or_path,
        )

    def columns(self) -> dict[str, str | int | None]:
        """Return what the user said of the columns."""
        return {name: getattr(self, name) for name in ("text_column", "text_pair_column", "token_column")}


OnBadRow = Literal["error", "skip"]
