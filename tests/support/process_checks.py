"""What `test_distributed.py` starts as two processes with torchrun: checks that need them, and their numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import config
from tiny_models import tiny_batch, tiny_labels, tiny_model
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from hf_selfattn import TextClassificationArguments
from hf_selfattn.adapters import add_lora
from hf_selfattn.tasks import task_of
from hf_selfattn.tasks.backbone import open_backbone
from hf_selfattn.training.feature_cache import CachedFeatures


def fresh(task: str, lora: bool) -> torch.nn.Module:
    model = tiny_model(task).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return add_lora(model, {"single_label": "SEQ_CLS", "token": "TOKEN_CLS"}[task], r=4) if lora else model


def batch_of(task: str) -> dict[str, Tensor]:
    batch = tiny_batch([40, 9, 33, 20])
    return {**batch, **tiny_labels(task, batch)}


def whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def step(model: torch.nn.Module, batch: dict[str, Tensor], items: Tensor) -> dict[str, Any]:
    """One step of AdamW; loss, gradient norm, and the weights after it."""
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=0.01)
    loss = model(**batch, num_items_in_batch=items).loss
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    weights = {name: whole(value.detach()) for name, value in model.named_parameters()}
    return {"loss": loss.detach(), "norm": whole(norm), "weights": weights}


def check_sharding(task: str, lora: bool) -> dict[str, Any]:
    """Train one step on all rows unsharded, and on half of them in each of two processes, sharded at our blocks."""
    state = PartialState()
    batch = batch_of(task)
    items = (batch["labels"] != -100).sum()
    expected = step(fresh(task, lora), batch, items)

    model = fresh(task, lora)
    mesh = init_device_mesh("cpu", (state.num_processes,))
    blocks = [module for module in model.modules() if type(module).__name__ in model._no_split_modules]
    for block in reversed(blocks):  # those inside of others first
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    with state.split_between_processes(list(range(4))) as rows:
        part = {name: values[rows] for name, values in batch.items()}
    # Gradients are averaged over processes, the loss is a sum: as `Trainer` does, it is scaled by their number.
    found = step(model, part, items / state.num_processes)
    torch.distributed.all_reduce(found["loss"])
    differences = [float((value - expected["weights"][name]).abs().max()) for name, value in found["weights"].items()]
    return {
        "blocks": sorted({type(block).__name__.removeprefix("FSDP") for block in blocks}),
        "sharded": sum(isinstance(module, FSDPModule) for module in model.modules()),
        "local": sum(value.to_local().numel() for value in model.parameters() if isinstance(value, DTensor)),
        "all": sum(value.numel() for value in model.parameters()),
        "loss": [float(found["loss"]) / state.num_processes, float(expected["loss"])],
        "norm": [float(found["norm"]), float(expected["norm"])],
        "weights": max(differences),
    }


def check_tokenising(folder: Path) -> int:
    """Load and tokenise a file as a recipe does; how many files of the cache this process has written."""
    arguments = TextClassificationArguments(model=str(folder / "backbone"), train=str(folder / "train.jsonl"))
    task = task_of(arguments)
    data = task.load()
    with PartialState().local_main_process_first():
        before = cached_files()
        tokens = task.encode(data, open_backbone(arguments)[1])
        written = cached_files() - before
    assert len(tokens["train"]) == len((folder / "train.jsonl").read_text().splitlines())
    return len(written)


def check_features(folder: Path) -> dict[str, Any]:
    """Keep the features of train in one folder; how many rows this process has written, and how many it can read."""
    arguments = TextClassificationArguments(model=str(folder / "backbone"), train=str(folder / "train.jsonl"))
    task, tokenizer = task_of(arguments), open_backbone(arguments)[1]
    tokens = task.encode(task.load(), tokenizer)["train"]
    cache = CachedFeatures({"train": tokens}, task.inputs(tokenizer), folder / "features", "float32")
    written, add = [], cache.store.add
    cache.store.add = lambda keys, rows: (written.extend(keys), add(keys, rows))  # type: ignore[func-returns-value]
    cache.prepare(tiny_model(), "cpu")
    lengths = [len(row["features"]) for row in cache.rows["train"]]
    return {"written": len(written), "of": len(set(cache.keys)), "right": lengths == tokens["length"][:]}


def cached_files() -> set[tuple[str, int]]:
    """Names and inodes: a file that is written anew has another."""
    return {(str(path), path.stat().st_ino) for path in Path(config.HF_DATASETS_CACHE).rglob("*.arrow")}


def main() -> None:
    torch.set_num_threads(1)
    state = PartialState(cpu=True)
    folder = Path(sys.argv[1])
    record = {
        "sharding": {
            f"{task}, lora={lora}": check_sharding(task, lora)
            for task in ("single_label", "token")
            for lora in (False, True)
        },
        "written": check_tokenising(folder),
        "features": check_features(folder),
    }
    (folder / f"{state.process_index}.json").write_text(json.dumps(record))
    state.destroy_process_group()


if __name__ == "__main__":
    main()
