"""Both ends of a round trip of image classifiers: `python image_round_trips.py author|reader FOLDER [remote]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

USER = "tester"
FAMILIES = (
    *("resnet", "convnext", "convnextv2", "mobilenet_v2", "swin", "vit", "dinov2", "dinov2-registers"),
    *("dinov3", "dinov3-convnext", "siglip", "clip"),
)
TUNINGS = ("full", "lora", "probe")
NAMES = {0: "cat", 1: "dog", 2: "fish"}


def image_cases() -> Iterator[tuple[str, str, str]]:
    """Yield repository, family and tuning of every checkpoint."""
    for family in FAMILIES:
        for tuning in TUNINGS:
            yield f"{USER}/{family}-{tuning}".replace("_", "-"), family, tuning


def author(folder: Path) -> None:
    """Push a tiny backbone of each family; train a classifier on it in each way for three steps, save and push it."""
    from tiny_images import HEADS, IMAGE_BACKBONES, SIDE, tiny_image_processor, tiny_pixels

    from hf_selfattn import SelfAttnForImageClassification
    from hf_selfattn.adapters import tune
    from hf_selfattn.hub.saving import save_adapter

    api, expected, pixels = HfApi(), {}, tiny_pixels(3)
    for family in FAMILIES:
        torch.manual_seed(0)
        AutoModel.from_config(IMAGE_BACKBONES[family]).save_pretrained(folder / family)
        api.create_repo(f"{USER}/{family}")
        api.upload_folder(folder_path=folder / family, repo_id=f"{USER}/{family}")
    for repo, family, tuning in image_cases():
        torch.manual_seed(1)
        model: Any = SelfAttnForImageClassification.from_backbone(
            f"{USER}/{family}", num_mixed_layers=2, subsequence_length=SIDE, id2label=NAMES, **HEADS
        )
        model = tune(model, tuning, **({"r": 2} if tuning == "lora" else {})).train()
        optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            model(pixel_values=pixels, labels=torch.tensor([0, 1, 2])).loss.backward()
            optimizer.step()
        model.eval()
        model.config.temperature = 1.7
        with torch.no_grad():
            expected[repo] = model(pixel_values=pixels).logits
        processor, target = tiny_image_processor(), folder / repo
        if tuning == "lora":
            save_adapter(model, processor, target, batch={"pixel_values": pixels})
        else:
            model.save_pretrained(target)
            processor.save_pretrained(target)
        api.create_repo(repo)
        api.upload_folder(folder_path=target, repo_id=repo)
    torch.save({"pixels": pixels, "logits": expected}, folder / "expected.pt")


def reader(folder: Path, remote: bool) -> None:
    """Pull every checkpoint, by its auto class and in a pipeline, and compare its answers."""
    if not remote:
        import hf_selfattn  # noqa: F401
    options = {"trust_remote_code": True} if remote else {}
    expected = torch.load(folder / "expected.pt")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 41, 3), dtype=np.uint8))
    for repo, _, _ in image_cases():
        model = AutoModelForImageClassification.from_pretrained(repo, **options)
        assert type(model).__module__.split(".")[0] == ("transformers_modules" if remote else "hf_selfattn"), repo
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        with torch.no_grad():
            logits = model(pixel_values=expected["pixels"]).logits
        assert torch.equal(logits, expected["logits"][repo]), (repo, (logits - expected["logits"][repo]).abs().max())
        assert model.config.id2label == NAMES and model.config.temperature == 1.7, repo
        processor = AutoImageProcessor.from_pretrained(repo)
        with torch.no_grad():
            scores = model(**processor(images=image, return_tensors="pt")).logits.softmax(-1)[0]
        for answer in pipeline("image-classification", model=repo, **options)(image):
            assert abs(answer["score"] - float(scores[model.config.label2id[answer["label"]]])) < 1e-5, repo


if __name__ == "__main__":
    torch.set_num_threads(1)
    side, place, *rest = sys.argv[1:]
    author(Path(place)) if side == "author" else reader(Path(place), remote=rest == ["remote"])
