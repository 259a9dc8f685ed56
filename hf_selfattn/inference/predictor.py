"""Open a tuned model and let it answer rows: nothing is cut, and rows of like length are read together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, PreTrainedConfig

from ..cpu_attention import use_fast_attention
from ..hub.export import GRAPH, OnnxModel
from ..hub.results import RESULTS_FILE
from ..machine import has_bf16
from ..modeling.backbone_selfattn import weights_hash
from ..modeling.configuration_selfattn import SelfAttnConfig
from ..tasks import Task, task_of_model
from ..tasks.answers import Answer, padded_width
from .arguments import Dtype

FIELDS = ("text", "text_pair", "tokens", "image", "sound")  # that models of some kind read
# Tokens of a batch, padding included: of 512, 1,024, 2,048 and more a CPU answers long texts fastest with 1,024.
TOKENS_ON_CPU, TOKENS_ON_ACCELERATOR = 1_024, 65_536


class Predictor:
    """A tuned model that answers rows.

    Args:
        task: which says how its models read a row.
        model: of this package, or one as ONNX.
        processor: of the model: its tokenizer, or what makes tensors of images or sounds.
        in_bfloat16: whether matrix products are computed in bfloat16.

    Attributes:
        name: of the pipeline that serves such models.
    """

    def __init__(self, task: type[Task[Any]], model: Any, processor: Any, in_bfloat16: bool):
        if task.answers is None:
            raise ValueError(f"The task {task.name!r} does not say how its models answer. Set its `answers`.")
        self.task, self.name = task, task.pipeline
        self.model, self.processor, self.config = model.eval(), processor, model.config
        self.in_bfloat16 = in_bfloat16
        self.kind = task.answers(model, processor)
        self.batch_tokens = TOKENS_ON_CPU if model.device.type == "cpu" else TOKENS_ON_ACCELERATOR

    def checked(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the model reads of a row: `text`, perhaps `text_pair`, or `tokens`, `image` or `sound`.

        Raises:
            ValueError: says what is wrong with the row.
        """
        given = {name: value for name in FIELDS if (value := row.get(name)) is not None}
        if more := [name for name in given if name not in self.kind.fields]:
            raise ValueError(f"A model for {self.name} reads {' or '.join(self.kind.fields)}, and not '{more[0]}'.")
        details = {name: row[name] for name in self.kind.details if name in row}
        field, message = self.kind.mistake({**given, **details})
        if message:
            raise ValueError(f"'{field}': {message}.")
        if len(given) > 1 and "tokens" in given:
            raise ValueError("A row holds a 'text', or 'tokens', and not both.")
        return {**given, **details}

    def answers(self, rows: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """Return the answer of each row, in their order.

        A classifier's is `label` (a list of them for several, a number for a regression), `probability` and
        `probabilities`; a tagger's `entities` and, of a row of tokens, `tags`; a detector's `objects`; a
        recogniser's `text`, `confidence` and `words`.
        """
        rows = [self.checked(row) for row in rows]
        if not rows:
            return []
        encoded = self.kind.encode(rows)
        found: list[Answer] = [{}] * len(rows)
        with torch.inference_mode(), self.autocast():
            for numbers in batches(encoded.lengths, self.batch_tokens):
                logits = self.kind.scores_of(self.model(**self.kind.batch(encoded, numbers)))
                for number, answer in zip(numbers, self.kind.read(logits, rows, encoded, numbers), strict=True):
                    found[number] = answer
        return found

    def digest(self) -> str:
        """Return a hash of all that answers depend on beside the rows."""
        config = self.config.to_dict()
        for name in ("_name_or_path", "transformers_version", "dtype"):
            config.pop(name, None)
        parts = [weights_hash(self.model), config, self.kind.processor_state, str(self.model.dtype)]
        parts += [self.in_bfloat16, self.model.device.type, self.batch_tokens]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def autocast(self) -> torch.autocast:
        """Return the context in which the model runs."""
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.in_bfloat16)


def batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield the numbers of rows of like length, the longest first, at most so many tokens at once, or one row.

    In bfloat16 PyTorch keeps a compiled product for every shape that it has met on a CPU: so there are few. A width
    has one number of rows, and what is left of the rows makes batches of 1, 2, 4, 8, …
    """
    order = np.argsort([-length for length in lengths], kind="stable").tolist()
    while order:
        size = max(1, most // padded_width(lengths[order[0]]))
        size = size if size <= len(order) else 1 << (len(order).bit_length() - 1)
        yield order[:size]
        order = order[size:]


def open_predictor(
    model: str | PathLike[str],
    *,
    device: str | torch.device | None = None,
    dtype: Dtype = "auto",
    revision: str | None = None,
    backbone_name_or_path: str | None = None,
) -> Predictor:
    """Open a tuned model to let it answer.

    Args:
        model: a folder that a run, `save_pretrained` or `export` wrote, whole or an adapter, or a name on the hub.
        device: to run on; an accelerator where there is one.
        dtype: `bfloat16` computes matrix products in it, in about half of the time and less precisely; `auto` does so
            where the processor has it.
        revision: branch, tag or commit of a model on the hub.
        backbone_name_or_path: of an adapter, its backbone, where that was a folder.

    Raises:
        ValueError: for a model that cannot be opened, or that is none of this package.
    """
    options = {"revision": revision} if revision else {}
    config = open_config(str(model), options)
    task = task_of_model(config, str(model))
    device = existing_device(device)
    if dtype not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"dtype={dtype!r} is unknown; it is auto, float32 or bfloat16.")
    if (Path(model) / GRAPH).is_file():
        return Predictor(
            task, OnnxModel(Path(model), config), task.processor_class.from_pretrained(str(model)), in_bfloat16=False
        )
    backbone = {} if backbone_name_or_path is None else {"backbone_name_or_path": backbone_name_or_path}
    weights = {"dtype": torch.float32} if dtype == "float32" else {}
    opened = task.model_class.from_pretrained(str(model), **options, **backbone, **weights)
    processor = task.processor_class.from_pretrained(str(model), **options)
    in_bfloat16 = dtype == "bfloat16" or (dtype == "auto" and has_bf16(device.type))
    if in_bfloat16 and device.type == "cpu":
        use_fast_attention(opened)
    return Predictor(task, opened.to(device), processor, in_bfloat16)


def existing_device(name: str | torch.device | None) -> torch.device:
    """Return the device of a name, or the accelerator where there is one; an error says that it cannot be used."""
    try:
        device = torch.device(name or torch.accelerator.current_accelerator() or "cpu")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"device={str(name)!r} cannot be used: {why}. Give cpu, or leave it out.") from error
    return device


def open_config(model: str, options: dict[str, str]) -> PreTrainedConfig:
    """Return the configuration of a model of this package; an error says what else the folder is."""
    folder = Path(model)
    if folder.is_dir() and not (folder / "config.json").is_file():
        runs = sorted(path.parent.name for path in folder.glob("*/config.json"))
        found = f"It holds {', '.join(runs[:5])}: give one of them." if runs else "Is the run of this folder done?"
        raise ValueError(f"{model} holds no model (config.json). {found}")
    if not folder.exists() and (runs := sorted(path.parent.name for path in folder.parent.glob(f"*/{RESULTS_FILE}"))):
        # a folder of runs, and no organisation on the hub
        raise ValueError(f"There is no folder {model}. {folder.parent} holds {', '.join(runs[:5])}: give one of them.")
    try:
        config = AutoConfig.from_pretrained(model, **options)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The model {model!r} cannot be opened. Give the folder of a run or a name on the hub. {error}"
        ) from error
    if not isinstance(config, SelfAttnConfig):
        raise ValueError(f"{model} is a model of the type {config.model_type!r}, and none of this package: tune it.")
    return config
