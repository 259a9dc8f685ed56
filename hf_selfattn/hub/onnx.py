"""Export of a model to ONNX: one graph for batches of any size and inputs of any length, checked with onnxruntime."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import PreTrainedModel

from ..modeling.base_selfattn import SelfAttnPreTrainedModel
from ..modeling.modeling_selfattn import SelfAttnForTokenClassification

TOLERANCE = 1e-5  # greatest difference to the model, in units of its largest score
LARGEST_FILE = 2**31 - 2**20  # bytes; protobuf takes no more, and larger weights stand in a file beside the graph

EXAMPLE = (12, 7)
CHECKED = ((5,), (200,), (7, 64, 63))  # tokens of the rows of each batch; the last one has one beyond the window, too


class Scores(nn.Module):
    """The model with one tensor as its output: the scores of a classifier, the features of a model without a task."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        word_starts: Tensor | None = None,
    ) -> Tensor:
        options = {} if word_starts is None else {"word_starts": word_starts}
        outputs = self.model(input_ids, attention_mask, token_type_ids, return_dict=True, **options)
        return cast(Tensor, outputs[output_name(self.model)])


class ImageScores(nn.Module):
    """The same of a model that reads images."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return cast(Tensor, self.model(pixel_values=pixel_values, return_dict=True)[output_name(self.model)])


def reads_images(model: PreTrainedModel) -> bool:
    """Return whether a model reads `pixel_values`."""
    return bool(model.config.main_input == "pixel_values")


def output_name(model: PreTrainedModel) -> str:
    """Return the name of the model's output."""
    return "last_hidden_state" if model.base_model is model else "logits"


def input_names(model: PreTrainedModel, word_starts: bool) -> list[str]:
    """Return the names of the graph's inputs, as tokenizers and image processors name them."""
    if reads_images(model):
        return ["pixel_values"]
    types = model.base_model.reads_token_types and getattr(model.config.backbone_config, "type_vocab_size", 0) > 1
    return ["input_ids", "attention_mask", *["token_type_ids"] * types, *["word_starts"] * word_starts]


def export_onnx(model: PreTrainedModel, path: str | PathLike[str], *, word_starts: bool = False) -> Path:
    """Write a model as an ONNX graph for batches of any size and texts of any length, and return the path.

    The inputs are int64 of shape (batch_size, sequence_length) with padding on any side: `input_ids`,
    `attention_mask`, and `token_type_ids` where the backbone tells them apart. The output is `logits`, or
    `last_hidden_state` of a model without a task. A token classifier's logits are its scores before decoding: see
    `decode_logits`. The input of a model that reads images is `pixel_values` (batch_size, channels, height, width), of
    `subsequence_length` pixels a side. Weights of more than 2 GB stand in a file beside the graph. Where onnxruntime
    is installed, the graph's output is compared with the model's.

    Args:
        model: a model of this package in float32, with its adapters merged; it stays as it is.
        word_starts: whether the graph of a token classifier has the input `word_starts`, 1 at the first token of each
            word; otherwise words are those that the tokenizer marks.

    Raises:
        ValueError: if the model cannot be exported, or the graph's output differs from the model's.
        ImportError: if onnx or onnxscript is missing.
    """
    refuse_unexportable(model, word_starts)
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ImportError(f"ONNX export needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    path, was_training = Path(path), model.training
    batch = example_batch(model, EXAMPLE, word_starts)
    try:
        with warnings.catch_warnings():
            # PyTorch copies a structure of its own by a way that it calls deprecated.
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            logging.disable(logging.WARNING)  # of torchvision, which it misses
            torch.onnx.export(
                (ImageScores if reads_images(model) else Scores)(model).eval(),
                (),
                path,
                kwargs=batch,
                input_names=list(batch),
                output_names=[output_name(model)],
                dynamic_shapes=dynamic_shapes(list(batch)),
                external_data=sum(weight.nbytes for weight in model.state_dict().values()) > LARGEST_FILE,
                dynamo=True,
                verbose=False,
            )
        if find_spec("onnxruntime") is not None:
            compare_with_onnxruntime(model, path, word_starts)
    finally:
        logging.disable(logging.NOTSET)
        model.train(was_training)
    return path


def dynamic_shapes(names: Sequence[str]) -> dict[str, dict[int, Any]]:
    """Return what `torch.export.export` is told so that batch and length stay open, but not the size of images."""
    of_tokens = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    return {name: {0: Dim.DYNAMIC} if name == "pixel_values" else of_tokens for name in names}


def refuse_unexportable(model: Any, word_starts: bool) -> None:
    """Raise an error for a model that cannot be exported, or not with these inputs."""
    if isinstance(model, nn.Module) and any(type(module).__module__.startswith("peft.") for module in model.modules()):
        raise ValueError(
            f"The {type(model).__name__} has adapters that are not merged. Merge them: "
            "model = hf_selfattn.adapters.merge_adapters(model)."
        )
    if not isinstance(model, SelfAttnPreTrainedModel):
        raise ValueError(
            f"{type(model).__name__} is no model of this package. Give a SelfAttnModel, "
            "SelfAttnForSequenceClassification, SelfAttnForTokenClassification or SelfAttnForImageClassification."
        )
    if model.config.backbone_quantization != "none":
        raise ValueError(
            f"The backbone is quantised ({model.config.backbone_quantization}), which ONNX has no operators for. Open "
            "the model with backbone_quantization='none' and export that."
        )
    if model.config.main_input == "input_values":
        raise ValueError("Sound is cut into windows by its length, which a graph cannot do: it has no ONNX export.")
    if model.config.tiles:
        raise ValueError("A graph cuts no images into tiles. Open the model with tiles=False and export that.")
    if model.dtype != torch.float32:
        raise ValueError(f"The weights are {model.dtype}. Export float32: model.float().")
    if word_starts and not isinstance(model, SelfAttnForTokenClassification):
        raise ValueError(f"word_starts=True is for a token classifier; {type(model).__name__} reads no words.")


def example_batch(model: PreTrainedModel, lengths: Sequence[int], word_starts: bool) -> dict[str, Tensor]:
    """Return a batch of random tokens in the frame of the special tokens, padded on the right, or of random images."""
    config, shape = model.config, (len(lengths), max(lengths))
    generator = torch.Generator().manual_seed(0)
    if reads_images(model):
        channels, side = getattr(config.backbone_config, "num_channels", None) or 3, config.subsequence_length
        return {"pixel_values": torch.randn(shape[0], channels, side, side, generator=generator).to(model.device)}
    input_ids = torch.randint(config.vocab_size, shape, generator=generator)
    attention_mask = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    for row, length in enumerate(lengths):
        frame = config.prefix_token_ids, config.suffix_token_ids
        if length >= sum(map(len, frame)):
            input_ids[row, : len(frame[0])] = torch.tensor(frame[0])
            input_ids[row, length - len(frame[1]) : length] = torch.tensor(frame[1])
    batch = {
        "input_ids": input_ids.masked_fill(~attention_mask, config.pad_token_id or 0),
        "attention_mask": attention_mask.long(),
        "token_type_ids": attention_mask.long() * (torch.arange(shape[1]) >= shape[1] // 2),
        "word_starts": (torch.arange(shape[1]) % 2).expand(shape).contiguous(),
    }
    return {name: batch[name].to(model.device) for name in input_names(model, word_starts)}


def compare_with_onnxruntime(model: PreTrainedModel, path: Path, word_starts: bool) -> None:
    """Raise an error where a graph's output differs from the model's, in batches of several sizes and lengths."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    *batches, (first, *others) = CHECKED
    for lengths in (*batches, (first + model.base_model.window, *others)):
        batch = example_batch(model, lengths, word_starts)
        expected = model_scores(model, batch).cpu()
        actual = torch.from_numpy(session.run(None, {name: ids.cpu().numpy() for name, ids in batch.items()})[0])
        difference = (actual - expected).abs()
        if expected.dim() == 3:  # what stands at padding means nothing
            difference = difference[batch["attention_mask"].cpu().bool()]
        limit = TOLERANCE * float(expected.abs().max())
        if not float(difference.max()) <= limit:
            raise ValueError(
                f"The graph in {path} answers differently from the model: for rows of {list(lengths)} tokens by up to "
                f"{float(difference.max()):.1e}, more than {limit:.1e}. Do not use it; another version of torch, "
                "onnxscript or onnxruntime may mend it."
            )


@torch.no_grad()
def model_scores(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """Return what the graph is to answer: the model's output, a token classifier's before decoding."""
    if not isinstance(model, SelfAttnForTokenClassification):
        return cast(Tensor, model(**batch)[output_name(model)])
    words = model.words_of(batch["input_ids"], batch["attention_mask"], batch.get("word_starts"))
    inputs = {name: values for name, values in batch.items() if name != "word_starts"}
    return model.label_scores(model.model(**inputs).last_hidden_state, words)


@torch.no_grad()
def decode_logits(
    model: SelfAttnForTokenClassification,
    logits: Any,
    input_ids: Any,
    attention_mask: Any = None,
    word_starts: Any = None,
) -> Tensor:
    """Return the logits (batch_size, sequence_length, num_labels) of the answer, as the model itself returns them.

    An exported token classifier gives its scores before decoding. Decoding needs the model's labels and tables, and
    no run of it.
    """
    device = model.device
    scores, ids = torch.as_tensor(logits, device=device), torch.as_tensor(input_ids, device=device)
    mask, starts = (None if x is None else torch.as_tensor(x, device=device) for x in (attention_mask, word_starts))
    return model.decode(scores, model.words_of(ids, mask, starts))
