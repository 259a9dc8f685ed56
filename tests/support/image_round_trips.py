"""Both ends of a round trip of models on images: `python image_round_trips.py author|reader FOLDER TASK [remote]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForObjectDetection,
    pipeline,
)

USER = "tester"
FAMILIES = (
    *("resnet", "convnext", "convnextv2", "mobilenet_v2", "swin", "vit", "dinov2", "dinov2-registers"),
    *("dinov3", "dinov3-convnext", "siglip", "clip"),
)
TASKS = {"image-classification": AutoModelForImageClassification, "object-detection": AutoModelForObjectDetection}
TUNINGS = ("full", "lora", "probe")
NAMES = {0: "cat", 1: "dog", 2: "fish"}


def image_cases() -> Iterator[tuple[str, str, str]]:
    """Yield repository, family and tuning of every checkpoint."""
    for family in FAMILIES:
        for tuning in TUNINGS:
            yield f"{USER}/{family}-{tuning}".replace("_", "-"), family, tuning


def align(model: Any) -> None:
    """Copy weights to addresses that the allocator gives, as `tiny_models.aligned` does."""
    for weight in (*model.parameters(), *model.buffers()):
        weight.data = weight.data.clone()


def fresh_model(task: str, backbone: str) -> tuple[Any, Any, dict[str, Any]]:
    """Return a model of a task on a backbone, its image processor, and a batch to train on."""
    from shapes import shape_images
    from tiny_images import HEADS, SIDE, tiny_image_processor, tiny_pixels
    from transformers.models.detr import DetrImageProcessorPil

    from hf_selfattn import SelfAttnForImageClassification, SelfAttnForObjectDetection

    options = {"subsequence_length": SIDE, "id2label": NAMES, **HEADS}
    if task == "object-detection":
        images, labels = shape_images(3, (SIDE, SIDE), most=1)
        processor = DetrImageProcessorPil(size={"height": SIDE, "width": SIDE})
        model = SelfAttnForObjectDetection.from_backbone(backbone, num_proposals=12, **options)
        return model, processor, {"pixel_values": images, "labels": labels}
    model = SelfAttnForImageClassification.from_backbone(backbone, num_mixed_layers=2, **options)
    return model, tiny_image_processor(), {"pixel_values": tiny_pixels(3), "labels": torch.tensor([0, 1, 2])}


def answer_of(outputs: Any) -> torch.Tensor:
    """Return the logits, and the boxes of a detector."""
    return torch.cat([outputs[name] for name in ("logits", "pred_boxes") if name in outputs], dim=-1)


def author(folder: Path, task: str) -> None:
    """Push a tiny backbone of each family; train a model on it in each way for three steps, save and push it."""
    from tiny_images import IMAGE_BACKBONES

    from hf_selfattn.adapters import tune
    from hf_selfattn.hub.saving import save_adapter

    api, expected = HfApi(), {}
    for family in FAMILIES:
        torch.manual_seed(0)
        AutoModel.from_config(IMAGE_BACKBONES[family]).save_pretrained(folder / family)
        api.create_repo(f"{USER}/{family}")
        api.upload_folder(folder_path=folder / family, repo_id=f"{USER}/{family}")
    for repo, family, tuning in image_cases():
        torch.manual_seed(1)
        model, processor, batch = fresh_model(task, f"{USER}/{family}")
        align(model)
        model = tune(model, tuning, **({"r": 2} if tuning == "lora" else {})).train()
        optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
        model.eval().requires_grad_(False)  # which weights train decides which product of matrices PyTorch takes
        model.config.temperature = 1.7
        pixels, target = batch["pixel_values"], folder / repo
        with torch.no_grad():
            expected[repo] = answer_of(model(pixel_values=pixels))
        if tuning == "lora":
            save_adapter(model, processor, target, batch={"pixel_values": pixels})
        else:
            model.save_pretrained(target)
            processor.save_pretrained(target)
        api.create_repo(repo)
        api.upload_folder(folder_path=target, repo_id=repo)
    torch.save({"pixels": pixels, "answers": expected}, folder / "expected.pt")


def reader(folder: Path, task: str, remote: bool) -> None:
    """Pull every checkpoint, by its auto class and in a pipeline, and compare its answers."""
    if not remote:
        import hf_selfattn  # noqa: F401
    options = {"trust_remote_code": True} if remote else {}
    expected = torch.load(folder / "expected.pt")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 41, 3), dtype=np.uint8))
    for repo, _, _ in image_cases():
        model = TASKS[task].from_pretrained(repo, **options)
        assert type(model).__module__.split(".")[0] == ("transformers_modules" if remote else "hf_selfattn"), repo
        align(model.requires_grad_(False))
        with torch.no_grad():
            answer = answer_of(model(pixel_values=expected["pixels"]))
        assert torch.equal(answer, expected["answers"][repo]), (repo, (answer - expected["answers"][repo]).abs().max())
        assert model.config.id2label == NAMES and model.config.temperature == 1.7, repo
        processor = AutoImageProcessor.from_pretrained(repo)
        answers = pipeline(task, model=repo, **options)(image, **({"threshold": 0.3} if "object" in task else {}))
        with torch.no_grad():
            outputs = model(**processor(images=image, return_tensors="pt"))
        if task == "object-detection":
            found = processor.post_process_object_detection(outputs, threshold=0.3, target_sizes=[(50, 41)])[0]
            scores = torch.tensor([answer["score"] for answer in answers])
            assert torch.allclose(scores, found["scores"], atol=1e-5), repo
            assert [answer["label"] for answer in answers] == [NAMES[place] for place in found["labels"].tolist()], (
                repo
            )
            continue
        scores = outputs.logits.softmax(-1)[0]
        for answer in answers:
            place = list(NAMES.values()).index(answer["label"])
            assert abs(answer["score"] - float(scores[place])) < 1e-5, repo


if __name__ == "__main__":
    torch.set_num_threads(1)
    side, place, kind, *rest = sys.argv[1:]
    author(Path(place), kind) if side == "author" else reader(Path(place), kind, remote=rest == ["remote"])
