"""A folder with a model as ONNX, its configuration and its processor: all that `predict` and `serve` need of it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)

from ..adapters import merge_adapters, model_class_of
from ..modeling.configuration_selfattn import SelfAttnConfig
from ..modeling.decoding_selfattn import LinearChainCRF
from .onnx import export_onnx

GRAPH, DECODING = "model.onnx", "decoding.safetensors"  # the second of taggers: what decoding needs beside the scores


@dataclass
class ExportArguments:
    """Write a tuned model as an ONNX graph, with all that `predict` and `serve` need to answer by it (extra onnx).

    Args:
        model: a folder that a run wrote, or a name on the hub.
        folder: that takes the graph, the configuration and the processor.
        revision: branch, tag or commit of a model on the hub.
        backbone_name_or_path: of an adapter, its backbone, where that was a folder.
    """

    required: ClassVar[tuple[str, ...]] = ("model", "folder")

    model: str = ""
    folder: str = ""
    revision: str | None = None
    backbone_name_or_path: str | None = None


def export(arguments: ExportArguments) -> Path:
    """Write a tuned model as ONNX and return its folder.

    Raises:
        ValueError: if the model cannot be opened or exported, or the folder holds one already.
    """
    folder = Path(arguments.folder)
    if (folder / GRAPH).exists():
        raise ValueError(f"{folder / GRAPH} exists and stays as it is. Give another folder, or delete it.")
    options = {"revision": arguments.revision} if arguments.revision else {}
    backbone = {"backbone_name_or_path": arguments.backbone_name_or_path} if arguments.backbone_name_or_path else {}
    try:
        config = AutoConfig.from_pretrained(arguments.model, **options)
        processor = processor_class_of(config).from_pretrained(arguments.model, **options)
    except (OSError, ValueError) as error:
        raise ValueError(f"The model {arguments.model!r} cannot be opened. {error}") from error
    opened = class_of(config).from_pretrained(arguments.model, dtype=torch.float32, **options, **backbone)
    model = merge_adapters(opened).eval()
    folder.mkdir(parents=True, exist_ok=True)
    decoding = {name: value for name, value in model.state_dict().items() if is_for_decoding(name)}
    if decoding:
        save_file(decoding, folder / DECODING)
    processor.save_pretrained(folder)
    model.config.to_json_file(folder / "config.json")
    export_onnx(model, folder / GRAPH)
    print(f"Wrote {folder}. Let it answer: hf-selfattn serve {shlex.quote(str(folder))}")
    return folder


def class_of(config: PreTrainedConfig) -> Any:
    """Return the class of this package that a model was saved as."""
    if not isinstance(config, SelfAttnConfig):
        raise ValueError(f"This is a {config.model_type}, and no model of this package: tune it first.")
    return model_class_of(config)


def processor_class_of(config: PreTrainedConfig) -> Any:
    """Return what opens the processor of a model: its tokenizer, or what makes tensors of images or sounds."""
    opens = {"pixel_values": AutoImageProcessor, "input_values": AutoFeatureExtractor}
    return opens.get(getattr(config, "main_input", ""), AutoTokenizer)


def is_for_decoding(name: str) -> bool:
    """Return whether a weight of a tagger is read when scores are decoded."""
    return name.split(".")[0] in ("marks", "crf")


class OnnxModel:
    """Stands where a model does in a `Predictor`: the graph computes, configuration and tables read its scores.

    Args:
        folder: that `export` wrote.
        config: of the model.

    Raises:
        ImportError: if onnxruntime is missing.
    """

    def __init__(self, folder: str | Path, config: PreTrainedConfig) -> None:
        try:
            from onnxruntime import InferenceSession
        except ImportError as error:
            raise ImportError("A model as ONNX needs onnxruntime: pip install onnxruntime") from error
        with torch.device("meta"):  # no weights but those of decoding
            self.model: PreTrainedModel = class_of(config)(config)
        self.config, self.device, self.dtype = config, torch.device("cpu"), torch.float32
        self.graph = Path(folder, GRAPH)
        self.session = InferenceSession(self.graph, providers=["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.is_decoded = Path(folder, DECODING).is_file()
        if self.is_decoded:
            if self.model.crf is not None:
                self.model.crf = LinearChainCRF(self.model.label_names)
            self.model.load_state_dict(load_file(Path(folder, DECODING)), strict=False, assign=True)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the bytes of the graph, which hold the weights."""
        return {GRAPH: torch.from_numpy(np.fromfile(self.graph, dtype=np.uint8))}

    def eval(self) -> OnnxModel:
        """Return the model, which is always in evaluation mode."""
        return self

    def predict_labels(self, logits: Tensor) -> Tensor:
        """Return the labels as the model itself does."""
        labels: Tensor = self.model.predict_labels(logits)
        return labels

    def __call__(self, **batch: Tensor) -> SimpleNamespace:
        """Return the logits of the answer."""
        # Not every tokenizer gives token_type_ids.
        given = {name: batch[name] if name in batch else torch.zeros_like(batch["input_ids"]) for name in self.inputs}
        scores = self.session.run(None, {name: values.numpy() for name, values in given.items()})[0]
        logits = torch.from_numpy(scores)
        if self.is_decoded:
            words = self.model.words_of(batch["input_ids"], batch.get("attention_mask"), None)
            logits = self.model.decode(logits, words)
        return SimpleNamespace(logits=logits)
