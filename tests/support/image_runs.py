"""Made images in folders, tiny backbones that read them, and settings of short runs on both."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tiny_images import HEADS, IMAGE_BACKBONES, tiny_image_processor
from transformers import AutoModel

from hf_selfattn import ImageClassificationArguments, ObjectDetectionArguments, build_arguments

CLASSES = {"circles": (220, 60, 60), "squares": (60, 200, 60), "stripes": (60, 60, 220)}
SCENES = {"train": (24, 0), "validation": (8, 1), "test": (8, 2)}  # images and seed
QUICK = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 8,
    "learning_rate": 3e-3,
    "bf16": False,
    "disable_tqdm": True,
    "seed": 0,
}


def image_backbone(folder: Path, family: str = "vit") -> str:
    """Save a tiny random backbone with its processor, and return where."""
    torch.manual_seed(0)
    AutoModel.from_config(deepcopy(IMAGE_BACKBONES[family])).save_pretrained(folder)
    tiny_image_processor().save_pretrained(folder)
    return str(folder)


def made_image(kind: str, seed: int, side: int = 40) -> Image.Image:
    """Return an image of noise in which a square of the colour of its class stands anywhere."""
    random = np.random.default_rng(seed)
    pixels = random.integers(100, 156, (side, side + seed % 9, 3)).astype(np.uint8)
    size = side // 3
    top, left = random.integers(0, side - size, 2)
    pixels[top : top + size, left : left + size] = CLASSES[kind]
    return Image.fromarray(pixels)


def image_folders(folder: Path, count: int, seed: int = 0) -> str:
    """Write so many images of each class into folders of their names, and return where."""
    for number, kind in enumerate(CLASSES):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for image in range(count):
            made_image(kind, 10_000 * seed + 100 * image + number).save(folder / kind / f"{image}.png")
    return str(folder)


def image_settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return settings of a short run on made images, whose validation split is made of train."""
    model = folder / "backbone"
    return {
        "model": str(model) if model.is_dir() else image_backbone(model),
        "train": image_folders(folder / "train", 16),
        "test": image_folders(folder / "test", 6, seed=1),
        "output_dir": str(folder / "run"),
        "feature_cache": str(folder / "features"),
        "heads": HEADS,
        **QUICK,
        **changes,
    }


def image_arguments(folder: Path, **changes: Any) -> ImageClassificationArguments:
    """Return arguments of a short run on made images."""
    return build_arguments(image_settings(folder, **changes), ImageClassificationArguments)


def coco_scenes(folder: Path, split: str, count: int, seed: int = 0) -> str:
    """Write images of noise with one to three squares of two colours, and their boxes as COCO; return where."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    names = [*CLASSES][:2]
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(names)]
    for image in range(count):
        pixels = random.integers(100, 156, (48, 64, 3)).astype(np.uint8)
        for place in random.permutation(3)[: random.integers(1, 4)]:
            kind, size = int(random.integers(2)), int(random.integers(12, 19))
            left, top = int(21 * place + random.integers(0, 22 - size)), int(random.integers(0, 48 - size))
            pixels[top : top + size, left : left + size] = CLASSES[names[kind]]
            box = {"bbox": [left, top, size, size], "area": size * size, "iscrowd": 0}
            identity = {"id": len(content["annotations"]), "image_id": image, "category_id": kind}
            content["annotations"].append({**identity, **box})
        name = f"{split}-{image}.png"
        Image.fromarray(pixels).save(folder / "images" / name)
        content["images"].append({"id": image, "file_name": name, "width": 64, "height": 48})
    path = folder / f"{split}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def box_settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return what a short run on made scenes is told."""
    model = folder / "backbone"
    return {
        "model": str(model) if model.is_dir() else image_backbone(model, "resnet"),
        **{name: coco_scenes(folder, name, *size) for name, size in SCENES.items()},
        "output_dir": str(folder / "run"),
        "heads": HEADS,
        **QUICK,
        **changes,
    }


def box_arguments(folder: Path, **changes: Any) -> ObjectDetectionArguments:
    """Return arguments of a short run on made scenes."""
    return build_arguments(box_settings(folder, **changes), ObjectDetectionArguments)
