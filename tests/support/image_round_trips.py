"""Both ends of a round trip of image classifiers: `python image_round_trips.py author|reader FOLDER [remote]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from field_round_trips import TUNINGS, pull, push, repository, train_and_push
from huggingface_hub import HfApi
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

FAMILIES = (
    *("resnet", "convnext", "convnextv2", "mobilenet_v2", "swin", "vit", "dinov2", "dinov2-registers"),
    *("dinov3", "dinov3-convnext", "siglip", "clip"),
)
NAMES = {0: "cat", 1: "dog", 2: "fish"}


def image_cases() -> Iterator[tuple[str, str, str]]:
    """Yield repository, family and tuning of every checkpoint."""
    for family in FAMILIES:
        for tuning in TUNINGS:
            yield repository(family, tuning), family, tuning


def author(folder: Path) -> None:
    """Push a tiny backbone of each family; train a classifier on it in each way for three steps, save and push it."""
    from tiny_images import HEADS, IMAGE_BACKBONES, SIDE, tiny_image_processor, tiny_pixels

    from hf_selfattn import SelfAttnForImageClassification

    api, expected, pixels = HfApi(), {}, tiny_pixels(3)
    for family in FAMILIES:
        torch.manual_seed(0)
        AutoModel.from_config(IMAGE_BACKBONES[family]).save_pretrained(folder / family)
        push(api, folder / family, repository(family))
    for repo, family, tuning in image_cases():
        torch.manual_seed(1)
        model: Any = SelfAttnForImageClassification.from_backbone(
            repository(family), num_mixed_layers=2, subsequence_length=SIDE, id2label=NAMES, **HEADS
        )
        batch, processors = {"pixel_values": pixels}, [tiny_image_processor()]
        expected[repo] = train_and_push(
            api, folder / repo, repo, model, tuning, batch, torch.tensor([0, 1, 2]), processors
        )
    torch.save({"pixels": pixels, "logits": expected}, folder / "expected.pt")


def reader(folder: Path, remote: bool) -> None:
    """Pull every checkpoint, by its auto class and in a pipeline, and compare its answers."""
    if not remote:
        import hf_selfattn  # noqa: F401
    options = {"trust_remote_code": True} if remote else {}
    expected = torch.load(folder / "expected.pt")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 41, 3), dtype=np.uint8))
    for repo, _, _ in image_cases():
        batch = {"pixel_values": expected["pixels"]}
        model = pull(AutoModelForImageClassification, repo, remote, batch, expected["logits"][repo])
        assert model.config.id2label == NAMES, repo
        processor = AutoImageProcessor.from_pretrained(repo)
        with torch.no_grad():
            scores = model(**processor(images=image, return_tensors="pt")).logits.softmax(-1)[0]
        for answer in pipeline("image-classification", model=repo, **options)(image):
            place = list(NAMES.values()).index(answer["label"])
            assert abs(answer["score"] - float(scores[place])) < 1e-5, repo


if __name__ == "__main__":
    torch.set_num_threads(1)
    side, place, *rest = sys.argv[1:]
    author(Path(place)) if side == "author" else reader(Path(place), remote=rest == ["remote"])
