"""A tuned tiny model, saved in either way, and what it answers when it is opened again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_models import aligned, tiny_batch, tiny_tokenizer
from transformers import AutoModelForSequenceClassification

from hf_selfattn import SelfAttnForSequenceClassification
from hf_selfattn.adapters import add_lora, merge_adapters
from hf_selfattn.hub.saving import save_adapter, save_model

SMALL: dict[str, Any] = {"head_dim": 8, "group_dim": 8, "num_groups": 4, "block_size": 8, "subsequence_stride": 4}


def tuned(backbone: str, seed: int) -> Any:
    """A model with fresh adapters and heads."""
    torch.manual_seed(seed)
    model = SelfAttnForSequenceClassification.from_backbone(backbone, num_labels=3, **SMALL)
    model.config.temperature = float(seed)
    return add_lora(model, "SEQ_CLS", r=4).eval()


def save(model: Any, backbone: str, folder: Path, how: str) -> None:
    """Save the adapter alone, or the whole model."""
    if how == "adapter":
        save_adapter(model, tiny_tokenizer(), folder, backbone_name_or_path=backbone)
    else:
        save_model(merge_adapters(model), tiny_tokenizer(), folder)


def answer(folder: Path, backbone: str, how: str) -> torch.Tensor:
    """The logits (B, C) of the reopened model."""
    place = {"backbone_name_or_path": backbone} if how == "adapter" else {}
    with torch.no_grad():
        opened = AutoModelForSequenceClassification.from_pretrained(folder, **place)
        return aligned(opened)(**tiny_batch([70, 9])).logits


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
