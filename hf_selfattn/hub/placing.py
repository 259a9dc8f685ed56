"""Put a new checkpoint into the place of an earlier one, so that one of the two opens at every moment."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..files import delete, link, sync, sync_folder, write_synced
from ..modeling.adapter_selfattn import ADAPTER_CONFIG, ADAPTER_NAME, ADAPTER_WEIGHTS, OTHER_WEIGHTS

CONFIG_FILE = "config.json"
WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
# The weights of a checkpoint, its adapter and what was moved aside for it; a user's own files are none of them.
WEIGHTS = ("model*.safetensors", "model*.safetensors.index.json", OTHER_WEIGHTS, f"{ADAPTER_NAME}*")
# What `Trainer` copies there to push it: Transformers would take the adapter for a part of the checkpoint.
OF_TRAINER = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, "training_args.bin")


def put_in_place(side: Path, folder: Path) -> None:
    """Move the files of a checkpoint from its side folder into their place.

    Whenever the process is killed, `from_pretrained(folder)` opens the earlier model or the new one, with the
    configuration that belongs to the weights; where there was no earlier one it opens the new one or none. That rests
    on a single rename: the new weights first stand beside the old ones under names of their own, then a configuration
    that names them takes the place of the old one, and only then the old weights are deleted, the new ones get their
    usual names too, and the usual configuration follows. Nothing but `config.json` decides what is read. Tokenizer
    and code follow the weights one by one, each of them whole. Everything is on the disk before the first rename.

    Not guaranteed: that a process which reads the folder in the same instant sees one of the two alone; and that a
    Transformers without `transformers_weights` in configurations opens what was killed between the renames.
    """
    sync(side)
    for name in OF_TRAINER:
        (folder / name).unlink(missing_ok=True)
    beside: list[Path] = []
    if (folder / CONFIG_FILE).is_file():
        version = uuid.uuid4().hex[:8]
        named, beside = put_beside(side, folder, version)
        replace_config({**json.loads((side / CONFIG_FILE).read_text(encoding="utf-8")), **named}, side, folder)
    for path in set(weights_in(folder)) - set(beside):
        delete(path)
    for path in sorted(side.iterdir()):
        if path.name != CONFIG_FILE:
            path.replace(folder / path.name)
    sync_folder(folder)
    (side / CONFIG_FILE).replace(folder / CONFIG_FILE)
    sync_folder(folder)
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
    write_synced(aside, index)
    return {"transformers_weights": aside.name}, [aside, *(folder / other for other in names.values())]


def replace_config(config: dict[str, Any], side: Path, folder: Path) -> None:
    """Let a configuration take the place of another in one rename."""
    written = side / f"named-{CONFIG_FILE}"
    write_synced(written, config)
    sync_folder(folder)
    written.replace(folder / CONFIG_FILE)
    sync_folder(folder)


def weights_in(folder: Path) -> Iterator[Path]:
    """Yield the files and folders with weights of checkpoints."""
    for pattern in WEIGHTS:
        yield from folder.glob(pattern)
