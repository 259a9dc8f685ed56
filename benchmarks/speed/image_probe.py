"""What an epoch on kept features costs beside one pass over the images: `python -m benchmarks.speed.image_probe`.

Backbones with random weights, which cost what trained ones do: 64 images of 224 x 224 through the frozen backbone, and
the heads of a probe trained on their features, read from disk, in batches of 32; both as the recipe does it, so heads
train in bfloat16 where the processor has it. CPU seconds of one thread for an image, median over the rounds, in which
the two take turns. Written to `benchmarks/results/image_probe.json`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import MobileNetV2Config, PreTrainedConfig, ResNetConfig, ViTConfig, set_seed

from hf_selfattn import SelfAttnConfig, SelfAttnForImageClassification
from hf_selfattn.hub.results import environment
from hf_selfattn.machine import has_bf16

from ..records import RESULTS, write_results

IMAGES, BATCH, CLASSES, ROUNDS = 64, 32, 10, 3
BACKBONES: dict[str, PreTrainedConfig] = {
    "MobileNetV2": MobileNetV2Config(tf_padding=False),
    "ResNet-50": ResNetConfig(),
    "ViT-B/16": ViTConfig(),
}


def features_of(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Return what the heads read of images, (B, N, L, D)."""
    with torch.no_grad():
        return torch.stack(model.model.backbone_features(pixels).layers, dim=2).half()


def epoch(model: Any, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Train the heads once on all kept features."""
    for path in sorted(folder.glob("*.safetensors")):
        batch = load_file(path)
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16()):
            logits = model(features=batch["features"].float()).logits
        F.cross_entropy(logits.float(), batch["labels"]).backward()
        optimizer.step()
        optimizer.zero_grad()


def cpu_seconds(work: Callable[[], Any]) -> float:
    """Return the processor time of some work for an image."""
    started = time.process_time()
    work()
    return (time.process_time() - started) / IMAGES


def measure(config: PreTrainedConfig, folder: Path) -> dict[str, float]:
    """Return CPU seconds for an image: of a pass of the backbone, and of an epoch of the heads."""
    set_seed(0)
    model = SelfAttnForImageClassification(SelfAttnConfig(backbone_config=config, num_labels=CLASSES, fusion_init=0.1))
    model.model.backbone.requires_grad_(False)
    model.train()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-3)
    images = torch.randn(IMAGES, 3, 224, 224).split(BATCH)
    for number, pixels in enumerate(images):
        kept = {"features": features_of(model, pixels), "labels": torch.randint(CLASSES, (len(pixels),))}
        save_file(kept, folder / f"{number}.safetensors")
    epoch(model, optimizer, folder)
    rounds = [
        (
            cpu_seconds(lambda: [features_of(model, pixels) for pixels in images]),
            cpu_seconds(lambda: epoch(model, optimizer, folder)),
        )
        for _ in range(ROUNDS)
    ]
    return {
        "pass": statistics.median(one for one, _ in rounds),
        "epoch": statistics.median(other for _, other in rounds),
        "epoch / pass": statistics.median(other / one for one, other in rounds),
    }


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for name, config in BACKBONES.items():
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"backbone": name, **measure(config, Path(folder))})
        print(rows[-1])
    record = {
        "command": "python -m benchmarks.speed.image_probe",
        "images": IMAGES,
        "batch": BATCH,
        "bf16": has_bf16(),
        "rows": rows,
        "environment": environment(),
    }
    write_results(RESULTS / "image_probe.json", record)


if __name__ == "__main__":
    main()
