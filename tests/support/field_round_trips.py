"""What the round trips of image and sound models through the hub share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from torch import Tensor
from transformers import dynamic_module_utils, pipeline

USER = "tester"
TUNINGS = ("full", "lora", "probe")


def parse_files_once() -> None:
    """See that Transformers looks for imports once in files of remote code that are the same in every repository."""
    imports_of = dynamic_module_utils.get_imports
    known: dict[bytes, list[str]] = {}

    def imports_once(path: str) -> list[str]:
        content = Path(path).read_bytes()
        if content not in known:
            known[content] = imports_of(path)
        return known[content]

    dynamic_module_utils.get_imports = imports_once


def repository(*parts: str) -> str:
    """Return the name of a repository."""
    return f"{USER}/{'-'.join(parts)}".replace("_", "-")


def push(api: HfApi, folder: Path, repo: str) -> None:
    """Make a repository of the files of a folder."""
    api.create_repo(repo)
    api.upload_folder(folder_path=folder, repo_id=repo)


def align(model: Any) -> None:
    """Copy weights to addresses that the allocator gives, as `tiny_models.aligned` does."""
    for weight in (*model.parameters(), *model.buffers()):
        weight.data = weight.data.clone()


def answer_of(outputs: Any) -> Tensor:
    """Return the logits, and the boxes of a detector."""
    return torch.cat([outputs[name] for name in ("logits", "pred_boxes") if name in outputs], dim=-1)


def train_and_push(
    api: HfApi,
    folder: Path,
    repo: str,
    model: Any,
    tuning: str,
    batch: Mapping[str, Tensor],
    labels: Any,
    processors: Sequence[Any],
) -> Tensor:
    """Tune a model for three steps, save it, of LoRA the adapter alone, push it, and return its answer."""
    from hf_selfattn.adapters import tune
    from hf_selfattn.hub.saving import save_adapter

    align(model)
    model = tune(model, tuning, **({"r": 2} if tuning == "lora" else {})).train()
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
    model.eval().requires_grad_(False)  # which weights train decides which product of matrices PyTorch takes
    model.config.temperature = 1.7
    with torch.no_grad():
        answer = answer_of(model(**batch))
    if tuning == "lora":
        save_adapter(model, processors[0], folder, batch=batch)
    else:
        model.save_pretrained(folder)
    for processor in processors:
        processor.save_pretrained(folder)
    push(api, folder, repo)
    return answer


def pull(task: str, repo: str, remote: bool, batch: Mapping[str, Tensor], expected: Tensor) -> Any:
    """Return the pipeline of a repository, which opens its model by the auto class; it answers as before the push."""
    pipe = pipeline(task, model=repo, **({"trust_remote_code": True} if remote else {}))
    model = pipe.model
    assert type(model).__module__.split(".")[0] == ("transformers_modules" if remote else "hf_selfattn"), repo
    align(model.requires_grad_(False))
    with torch.no_grad():
        answer = answer_of(model(**batch))
    assert torch.equal(answer, expected), (repo, (answer - expected).abs().max())
    assert model.config.temperature == 1.7, repo
    return pipe
