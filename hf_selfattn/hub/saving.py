"""Save a model beside its tokenizer, and see that what was saved is what was trained."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..modeling.adapter_selfattn import save_adapter_checkpoint
from .placing import put_in_place

SIDE_FOLDER = ".saving"
# Fields of the configuration that decide answers beside the weights.
ANSWER_FIELDS = ("id2label", "problem_type", "temperature", "thresholds", "top_one_if_none", "decoding")


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    output_dir: Path,
    tokens: Dataset,
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
) -> None:
    """Save a whole model and its tokenizer; they take their place when, opened again, they answer alike.

    Raises:
        ValueError: if the saved model answers differently; what was in the folder is left as it was.
    """
    with side_folder(output_dir) as side:
        model.save_pretrained(side)
        tokenizer.save_pretrained(side)
        compare(model, side, sample_batch(tokenizer, tokens, collate))


def save_adapter(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    output_dir: str | os.PathLike[str],
    *,
    batch: Mapping[str, Tensor] | None = None,
    backbone_name_or_path: str | None = None,
) -> None:
    """Save an adapter, its heads and tokenizer without the backbone; they take their place when they answer alike.

    Args:
        batch: input_ids, attention_mask (B, T) and the like to compare; random tokens where it is not given.

    Raises:
        ValueError: if the saved adapter does not open or answers differently; what was in the folder is left as it
            was.
    """
    with side_folder(Path(output_dir)) as side:
        save_adapter_checkpoint(model, side)
        tokenizer.save_pretrained(side)
        place = {"backbone_name_or_path": backbone_name_or_path} if backbone_name_or_path else {}
        compare(model, side, random_batch(model) if batch is None else batch, **place)


@contextmanager
def side_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder for a checkpoint, whose files take their place in `folder` when all went well."""
    side = folder / SIDE_FOLDER
    shutil.rmtree(side, ignore_errors=True)  # left by a process that was killed
    side.mkdir(parents=True)
    try:
        yield side
        put_in_place(side, folder)
    finally:
        shutil.rmtree(side, ignore_errors=True)


def sample_batch(
    tokenizer: PreTrainedTokenizerBase,
    tokens: Dataset,
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """Return a batch of the first rows of a tokenised split."""
    rows = [{name: tokens[i][name] for name in tokenizer.model_input_names} for i in range(min(4, len(tokens)))]
    return dict(collate(rows))


def random_batch(model: Any) -> dict[str, Tensor]:
    """Return two rows of random tokens, one longer than the backbone's window."""
    length = model.config.subsequence_length * 3 // 2
    input_ids = torch.randint(model.config.vocab_size, (2, length), generator=torch.Generator().manual_seed(0))
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, length // 4 :] = 0
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def compare(model: Any, folder: Path, batch: Mapping[str, Tensor], **options: Any) -> None:
    """Open a saved model and compare its answers with those of the model that was saved.

    Raises:
        ValueError: if they differ.
    """
    plain: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    is_tagger = type(plain).__name__.endswith("ForTokenClassification")
    auto_class = AutoModelForTokenClassification if is_tagger else AutoModelForSequenceClassification
    reopened = auto_class.from_pretrained(folder, **options).to(plain.device).eval()
    on_device = {name: values.to(plain.device) for name, values in batch.items()}
    trained = model.training
    model.eval()
    with torch.no_grad():
        difference = (model(**on_device).logits - reopened(**on_device).logits).abs().max().item()
    model.train(trained)
    before, after = plain.config, reopened.config
    changed = [name for name in ANSWER_FIELDS if getattr(before, name, None) != getattr(after, name, None)]
    if not difference <= 1e-6 or changed:
        raise ValueError(
            f"The model saved for {folder.parent} answers differently when it is opened again (logits differ by "
            f"{difference:.1e}; other fields: {changed}). It was not kept, and what was in that folder is whole; "
            "please report this."
        )
