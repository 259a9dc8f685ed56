"""Save a model beside its processor, see that it answers as trained, and put it into the place of an earlier one."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from ..adapters import base_model
from ..files import delete, link, sync, sync_folder, write_json
from ..modeling.adapter_selfattn import (
    ADAPTER_CONFIG,
    ADAPTER_NAME,
    ADAPTER_WEIGHTS,
    OTHER_WEIGHTS,
    save_adapter_checkpoint,
)
from ..modeling.configuration_selfattn import image_size

if TYPE_CHECKING:
    from peft import PeftModel

SIDE_FOLDER = ".saving"
CONFIG_FILE = "config.json"
WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
# The weights of a checkpoint, its adapter and what was moved aside for it; a user's own files are none of them.
WEIGHTS = ("model*.safetensors", "model*.safetensors.index.json", OTHER_WEIGHTS, f"{ADAPTER_NAME}*")
# What `Trainer` copies there to push it: Transformers would take the adapter for a part of the checkpoint.
OF_TRAINER = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, "training_args.bin")
# Fields of the configuration that decide answers beside the weights.
ANSWER_FIELDS = ("id2label", "problem_type", "temperature", "thresholds", "top_one_if_none", "decoding")


def save_model(
    model: PreTrainedModel,
    processor: Any,
    output_dir: str | os.PathLike[str],
    *,
    batch: Mapping[str, Tensor] | None = None,
) -> None:
    """Save a whole model and its processor; they take their place when, opened again, they answer alike.

    What else is in the folder stays; killed at any moment, the earlier model or the new one opens.

    Args:
        model: a model without adapters, or with its adapters merged.
        processor: its tokenizer, or its image processor, or its feature extractor.
        output_dir: takes the files; it is made.
        batch: what the model reads, such as input_ids (B, T), to compare; random where it is not given.

    Raises:
        ValueError: if the saved model answers differently; what was in the folder is left as it was.
    """
    with side_folder(Path(output_dir)) as side:
        model.save_pretrained(side)
        processor.save_pretrained(side)
        compare_answers(model, side, batch)


def save_adapter(
    model: PeftModel,
    processor: Any,
    output_dir: str | os.PathLike[str],
    *,
    batch: Mapping[str, Tensor] | None = None,
    backbone_name_or_path: str | None = None,
) -> None:
    """Save an adapter, its heads and processor without the backbone; they take their place when they answer alike.

    Args:
        model: a model of PEFT on one that `from_backbone` made.
        processor: its tokenizer, or its image processor, or its feature extractor.
        output_dir: takes the files, as in `save_model`.
        batch: what the model reads, such as input_ids (B, T), to compare; random where it is not given.
        backbone_name_or_path: where the backbone is, if it is in a folder; it is not written down.

    Raises:
        ValueError: if the saved adapter does not open or answers differently; what was in the folder is left as it
            was.
    """
    with side_folder(Path(output_dir)) as side:
        save_adapter_checkpoint(model, side)
        processor.save_pretrained(side)
        place = {"backbone_name_or_path": backbone_name_or_path} if backbone_name_or_path else {}
        compare_answers(model, side, batch, **place)


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
    columns: Sequence[str], encoded: Dataset, collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Return a batch of the first rows of an encoded split."""
    first = map(encoded.__getitem__, range(min(4, len(encoded))))
    return dict(collate([{name: row[name] for name in columns if name in row} for row in first]))


def random_batch(model: Any) -> dict[str, Tensor]:
    """Return two rows of random tokens, one longer than the backbone's window; or two random images, or sounds."""
    generator = torch.Generator().manual_seed(0)
    if model.base_model.main_input_name == "pixel_values":
        side, channels = (
            image_size(model.config.backbone_config),
            getattr(model.config.backbone_config, "num_channels", 3),
        )
        return {"pixel_values": torch.randn(2, channels, side, side, generator=generator)}
    length = model.config.subsequence_length * 3 // 2
    if model.base_model.main_input_name == "input_values":
        return {"input_values": torch.randn(2, length, generator=generator)}
    input_ids = torch.randint(model.config.vocab_size, (2, length), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, length // 4 :] = 0
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def compare_answers(model: Any, folder: Path, batch: Mapping[str, Tensor] | None, **options: Any) -> None:
    """Open a saved model and compare its answers with those of the model that was saved."""
    plain: Any = base_model(model)
    reopened = type(plain).from_pretrained(folder, **options).to(plain.device).eval()
    batch = random_batch(plain) if batch is None else batch
    on_device = {name: values.to(plain.device) for name, values in batch.items()}
    trained = model.training
    model.eval()
    with torch.no_grad():
        difference = greatest_difference(model(**on_device), reopened(**on_device))
    model.train(trained)
    before, after = plain.config, reopened.config
    changed = [name for name in ANSWER_FIELDS if getattr(before, name, None) != getattr(after, name, None)]
    if not difference <= 1e-6 or changed:
        raise ValueError(
            f"The model saved for {folder.parent} answers differently when it is opened again (logits differ by "
            f"{difference:.1e}; other fields: {changed}). It was not kept, and what was in that folder is whole; "
            "please report this."
        )


def greatest_difference(outputs: Any, others: Any) -> float:
    """Return how far the logits, and the boxes of a detector, of two models are apart."""
    names = [name for name in ("logits", "pred_boxes") if getattr(outputs, name, None) is not None]
    return max(float((getattr(outputs, name) - getattr(others, name)).abs().max()) for name in names)


def put_in_place(side: Path, folder: Path) -> None:
    """Move the files of a checkpoint from its side folder into their place.

    Whenever the process is killed, `from_pretrained(folder)` opens the earlier model or the new one, with the
    configuration that belongs to the weights; where there was no earlier one it opens the new one or none. That rests
    on a single rename: the new weights first stand beside the old ones under names of their own, then a configuration
    that names them takes the place of the old one, and only then the old weights are deleted, the new ones get their
    usual names too, and the usual configuration follows. Nothing but `config.json` decides what is read. Processor
    and code follow the weights one by one, each of them whole. Everything is on the disk before the first rename.

    Not guaranteed: that a process which reads the folder in the same instant sees one of the two alone; and that a
    Transformers without `transformers_weights` in configurations opens what was killed between the renames.
    """
    sync(side)
    for name in OF_TRAINER:
        (folder / name).unlink(missing_ok=True)
    beside: list[Path] = []
    if (folder / CONFIG_FILE).is_file():
        named, beside = put_beside(side, folder, version=uuid.uuid4().hex[:8])
        aside = side / f"named-{CONFIG_FILE}"
        write_json(aside, {**json.loads((side / CONFIG_FILE).read_text(encoding="utf-8")), **named})
        move_config(aside, folder)
    for path in {path for pattern in WEIGHTS for path in folder.glob(pattern)} - set(beside):
        delete(path)
    for path in sorted(side.iterdir()):
        if path.name != CONFIG_FILE:
            path.replace(folder / path.name)
    move_config(side / CONFIG_FILE, folder)
    for path in beside:
        delete(path)


def put_beside(side: Path, folder: Path, version: str) -> tuple[dict[str, Any], list[Path]]:
    """Let the new weights stand beside the earlier ones; return how a configuration names them, and their places."""
    if (side / ADAPTER_NAME).is_dir():
        adapter = folder / f"{ADAPTER_NAME}-{version}"
        adapter.mkdir()
        for path in (side / ADAPTER_NAME).iterdir():
            link(path, adapter / path.name)
        sync_folder(adapter)
        return {"adapter_subfolder": adapter.name}, [adapter]
    if (side / WEIGHTS_FILE).is_file():
        whole = folder / f"model-{version}.safetensors"
        link(side / WEIGHTS_FILE, whole)
        return {"transformers_weights": whole.name}, [whole]
    index = json.loads((side / INDEX_FILE).read_text(encoding="utf-8"))
    names = {name: f"model-{version}-{name}" for name in sorted(set(index["weight_map"].values()))}
    for name, other in names.items():
        link(side / name, folder / other)
    index["weight_map"] = {weight: names[name] for weight, name in index["weight_map"].items()}
    aside = folder / f"model-{version}.safetensors.index.json"
    aside.write_text(json.dumps(index), encoding="utf-8")  # nothing names it yet
    sync(aside)
    return {"transformers_weights": aside.name}, [aside, *(folder / other for other in names.values())]


def move_config(path: Path, folder: Path) -> None:
    """Let a configuration take the place of another in one rename, after all that it names is on the disk."""
    sync_folder(folder)
    path.replace(folder / CONFIG_FILE)
    sync_folder(folder)
