"""Both ends of a round trip of models on images: `python image_round_trips.py author|reader FOLDER TASK [remote]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from field_round_trips import TUNINGS, parse_files_once, pull, push, repository, train_and_push
from huggingface_hub import HfApi
from PIL import Image
from transformers import AutoModel

FAMILIES = (
    *("resnet", "convnext", "convnextv2", "mobilenet_v2", "swin", "vit", "dinov2", "dinov2-registers"),
    *("dinov3", "dinov3-convnext", "siglip", "clip"),
)
TASKS = ("image-classification", "object-detection")
NAMES = {0: "cat", 1: "dog", 2: "fish"}


def image_cases() -> Iterator[tuple[str, str, str]]:
    """Yield repository, family and tuning of every checkpoint."""
    for family in FAMILIES:
        for tuning in TUNINGS:
            yield repository(family, tuning), family, tuning


def fresh_model(task: str, backbone: str) -> tuple[Any, Any, torch.Tensor, Any]:
    """Return a model of a task on a backbone, its image processor, and images with labels to train on."""
    from shapes import shape_images
    from tiny_images import HEADS, SIDE, tiny_image_processor, tiny_pixels
    from transformers.models.detr import DetrImageProcessorPil

    from hf_selfattn import SelfAttnForImageClassification, SelfAttnForObjectDetection

    options = {"subsequence_length": SIDE, "id2label": NAMES, **HEADS}
    if task == "object-detection":
        images, labels = shape_images(3, (SIDE, SIDE), most=1)
        processor = DetrImageProcessorPil(size={"height": SIDE, "width": SIDE})
        model = SelfAttnForObjectDetection.from_backbone(backbone, num_proposals=12, **options)
        return model, processor, images, labels
    model = SelfAttnForImageClassification.from_backbone(backbone, num_mixed_layers=2, **options)
    return model, tiny_image_processor(), tiny_pixels(3), torch.tensor([0, 1, 2])


def author(folder: Path, task: str) -> None:
    """Push a tiny backbone of each family; train a model on it in each way for three steps, save and push it."""
    from tiny_images import IMAGE_BACKBONES

    api, expected = HfApi(), {}
    for family in FAMILIES:
        torch.manual_seed(0)
        AutoModel.from_config(IMAGE_BACKBONES[family]).save_pretrained(folder / family)
        push(api, folder / family, repository(family))
    for repo, family, tuning in image_cases():
        torch.manual_seed(1)
        model, processor, pixels, labels = fresh_model(task, repository(family))
        batch = {"pixel_values": pixels}
        expected[repo] = train_and_push(api, folder / repo, repo, model, tuning, batch, labels, [processor])
    torch.save({"batch": batch, "answers": expected}, folder / "expected.pt")


def reader(folder: Path, task: str, remote: bool) -> None:
    """Pull every checkpoint into a pipeline and compare its answers."""
    if remote:
        parse_files_once()
    else:
        import hf_selfattn  # noqa: F401
    expected = torch.load(folder / "expected.pt")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 41, 3), dtype=np.uint8))
    for repo, _, _ in image_cases():
        pipe = pull(task, repo, remote, expected["batch"], expected["answers"][repo])
        assert pipe.model.config.id2label == NAMES, repo
        answers = pipe(image, **({"threshold": 0.3} if "object" in task else {}))
        with torch.no_grad():
            outputs = pipe.model(**pipe.image_processor(images=image, return_tensors="pt"))
        if task == "object-detection":
            found = pipe.image_processor.post_process_object_detection(
                outputs, threshold=0.3, target_sizes=[(50, 41)]
            )[0]
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
