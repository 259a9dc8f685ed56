"""Save a model beside its tokenizer, and see that what was saved is what was trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    output_dir: Path,
    tokens: Dataset,
    collate: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]],
) -> None:
    """Save the model and its tokenizer, open them again and compare the logits.

    Args:
        model: the merged model.
        tokenizer: its tokenizer.
        output_dir: folder of the run.
        tokens: a tokenised split, of which a few rows are compared.
        collate: makes a batch of rows.

    Raises:
        ValueError: if the saved model answers differently.
    """
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    rows = [{name: tokens[i][name] for name in tokenizer.model_input_names} for i in range(min(4, len(tokens)))]
    batch = {name: values.to(model.device) for name, values in collate(rows).items()}
    is_tagger = type(model).__name__.endswith("ForTokenClassification")
    auto_class = AutoModelForTokenClassification if is_tagger else AutoModelForSequenceClassification
    reopened = auto_class.from_pretrained(output_dir).to(model.device).eval()
    with torch.no_grad():
        difference = (model(**batch).logits - reopened(**batch).logits).abs().max().item()
    if difference > 1e-6 or reopened.config.id2label != model.config.id2label:
        raise ValueError(
            f"The model saved in {output_dir} answers differently when it is opened again (logits differ by "
            f"{difference:.1e}). The checkpoints in that folder are whole; please report this."
        )
