"""What prediction, evaluation and the server are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ..arguments import PathSpec

if TYPE_CHECKING:
    from .predictor import Predictor

Dtype = Literal["auto", "float32", "bfloat16"]


@dataclass
class InferenceArguments:
    """The model, and the rows that it reads.

    Args:
        model: folder of a run or of a saved model, or a name on the hub.
        input: files, globs or lists of them (CSV, TSV, JSON, JSONL, Parquet, Arrow, lines of text, column files,
            compressed; for a model of images or sounds also these and folders of them). For `predict`, `-` is the
            standard input.
        model_revision: branch, tag or commit of a model on the hub.
        backbone_name_or_path: of an adapter, its backbone, where that was a folder.
        dataset: a data set on the hub, or a folder of `save_to_disk`, instead of files.
        dataset_config: configuration of that data set.
        revision: branch, tag or commit of that data set.
        split: of that data set, where it has several.
        text_column: column of the texts; that of the training, or a well-known name, is found.
        text_pair_column: column of the second texts, likewise.
        token_column: column of the words, or its number in a column file, likewise.
        image_column: column of the images, as paths or bytes, likewise.
        sound_column: column of the sounds, likewise.
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
    image_column: str | None = None
    sound_column: str | None = None
    device: str | None = None
    dtype: Dtype = "auto"

    def __post_init__(self) -> None:
        if (self.input is None) == (self.dataset is None):
            raise ValueError("Give exactly one of input=… (files) and dataset=….")

    def predictor(self, device: str | None = None) -> Predictor:
        """Open the model."""
        from .predictor import open_predictor  # here, for whoever asks for help waits for no model

        return open_predictor(
            self.model,
            device=self.device or device,
            dtype=self.dtype,
            revision=self.model_revision,
            backbone_name_or_path=self.backbone_name_or_path,
        )

    def columns(self) -> dict[str, str | int | None]:
        """Return what the user said of the columns."""
        names = ("text_column", "text_pair_column", "token_column", "image_column", "sound_column")
        return {name: getattr(self, name) for name in names}


OnBadRow = Literal["error", "skip"]


@dataclass
class ServeArguments:
    """Let a tuned model answer over HTTP (extra serve), on a page to try it at `/`, and for programs at `/predict`.

    Args:
        model: a folder that a run or `export` wrote, or a name on the hub.
        host: address that is listened to; `0.0.0.0` lets other machines in. There is no password.
        port: of it; 0 takes a free one.
        device: to run on; an accelerator where there is one.
        dtype: `bfloat16` is faster and less precise; `auto` takes it where the processor has it.
        revision: branch, tag or commit of a model on the hub.
        backbone_name_or_path: of an adapter, its backbone, where that was a folder.
        max_body: bytes of a request; where it is not given, 1 MiB, and 16 MiB for a model of images or sounds.
        max_texts: of a request.
        max_waiting: texts that may wait for the model; a request beyond them is told to come again (503).
        timeout: seconds until a request without an answer is refused (504).
        batch_tokens: tokens that are answered at once, about.
        window: milliseconds that a request waits for others to be answered with, where the model is idle.
        drain: seconds after SIGTERM in which requests are still accepted, while `/ready` says no.
    """

    required: ClassVar[tuple[str, ...]] = ("model",)

    model: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    device: str | None = None
    dtype: Dtype = "auto"
    revision: str | None = None
    backbone_name_or_path: str | None = None
    max_body: int | None = None
    max_texts: int = 64
    max_waiting: int = 256
    timeout: float = 30.0
    batch_tokens: int = 4096
    window: float = 4.0
    drain: float = 1.0

    def __post_init__(self) -> None:
        for name in ("max_body", "max_texts", "max_waiting", "timeout", "batch_tokens"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0.")
        for name in ("window", "drain"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be below 0.")
        if not 0 <= self.port < 2**16:
            raise ValueError(f"port={self.port} must be from 0 to {2**16 - 1}.")
        if self.max_texts > self.max_waiting:
            raise ValueError(f"max_texts={self.max_texts} cannot be more than max_waiting={self.max_waiting}.")
