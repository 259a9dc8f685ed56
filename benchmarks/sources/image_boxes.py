"""Images with boxes, as COCO JSON: scenes composed of real cut-outs, and tiles of aerial photographs of trees.

The scenes are real objects on composed backgrounds: a coloured field with noise, one to five cut-outs, exact boxes.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .archives import Archive, Source, read_member, read_members
from .images import STAMPS, TUXPAINT

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels
Scene = tuple["Image", list[Box], list[str]]
SCENES = {"train": 400, "validation": 60, "test": 100}
SHARES = {"test": 1 / 4, "validation": 1 / 8}  # of each class's stamps; the others are for train
SCENE_LABELS = tuple(label for label in STAMPS if label != "fish")
SIDE, MOST_OBJECTS, LONG_SIDE, TRIES, LEAST_SIDE, MOST_OVERLAP = 320, 5, (50, 140), 20, 8, 0.05
VISIBLE_ALPHA = 20
TILE, LEAST_INSIDE = 400, 0.5  # a box belongs to a tile that holds so much of it
AERIAL = {
    "train": ("2019_YELL_2_528000_4978000_image_crop2",),
    "test": ("2019_YELL_2_541000_4977000_image_crop", "OSBS_029", "SOAP_061"),
}
VALIDATION_ROWS = 1  # of tiles, at the bottom of the photograph of train


def write_coco(folder: Path, part: str, scenes: Iterator[Scene], labels: Sequence[str]) -> None:
    """Writes a COCO file of a part, and its images beside it."""
    (folder / "images").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (image, boxes, names) in enumerate(scenes):
        path = f"images/{part}-{number:03d}.jpg"
        image.save(folder / path, quality=95)
        images.append({"id": number, "file_name": path, "width": image.width, "height": image.height})
        for (left, top, right, bottom), name in zip(boxes, names, strict=True):
            size = right - left, bottom - top
            found = {"id": len(annotations), "image_id": number, "category_id": labels.index(name), "iscrowd": 0}
            annotations.append({**found, "bbox": [left, top, *size], "area": size[0] * size[1]})
    categories = [{"id": number, "name": name} for number, name in enumerate(labels)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{part}.json").write_text(json.dumps(content), encoding="utf-8")


def unpack_stamp_scenes(archives: list[Path], folder: Path) -> None:
    cutouts: dict[str, dict[str, list[Image]]] = defaultdict(dict)
    for label in SCENE_LABELS:
        contents = read_members(archives[0], f"*/tuxpaint/stamps/{STAMPS[label]}/*.png")
        names = sorted(contents, key=lambda name: hashlib.sha1(name.partition("/stamps/")[2].encode()).hexdigest())
        start = 0
        for part in ("test", "validation", "train"):
            stop = start + round(SHARES[part] * len(names)) if part in SHARES else len(names)
            cutouts[part][label] = [cutout(contents[name]) for name in names[start:stop]]
            start = stop
    for part, count in SCENES.items():
        random_source = random.Random(f"0-{part}")
        scenes = (make_scene(random_source, cutouts[part]) for _ in range(count))
        write_coco(folder, part, scenes, SCENE_LABELS)


def cutout(content: bytes) -> Image:
    """Returns a stamp without its transparent border."""
    from PIL import Image

    image = Image.open(io.BytesIO(content)).convert("RGBA")
    return image.crop(image.getchannel("A").point(lambda alpha: 255 * (alpha > VISIBLE_ALPHA)).getbbox())


def make_scene(random_source: random.Random, cutouts: dict[str, list[Image]]) -> Scene:
    """Returns a coloured field with one to five cut-outs that hardly overlap."""
    from PIL import Image

    scene, boxes, names = background(random_source), [], []
    for _ in range(random_source.randint(1, MOST_OBJECTS)):
        name = random_source.choice(sorted(cutouts))
        stamp = random_source.choice(cutouts[name])
        if random_source.random() < 0.5:
            stamp = stamp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        scale = random_source.randint(*LONG_SIDE) / max(stamp.size)
        width, height = (max(LEAST_SIDE, int(scale * size)) for size in stamp.size)
        for _ in range(TRIES):
            left, top = random_source.randint(0, SIDE - width), random_source.randint(0, SIDE - height)
            box = (left, top, left + width, top + height)
            if all(overlap(box, other) < MOST_OVERLAP for other in boxes):
                resized = stamp.resize((width, height), Image.Resampling.LANCZOS)
                scene.paste(resized, (left, top), resized)
                boxes.append(box)
                names.append(name)
                break
    return scene, boxes, names


def background(random_source: random.Random) -> Image:
    """Returns a smooth field of random colours with noise."""
    from PIL import Image

    corners = np.array([random_source.randint(30, 225) for _ in range(48)], np.uint8).reshape(4, 4, 3)
    field = np.asarray(Image.fromarray(corners).resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.int16)
    noise = np.random.default_rng(random_source.randrange(1 << 30)).integers(-18, 19, field.shape)
    return Image.fromarray(np.clip(field + noise, 0, 255).astype(np.uint8))


def area(box: Box) -> int:
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])


def common(one: Box, other: Box) -> Box:
    return max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])


def overlap(one: Box, other: Box) -> float:
    """Returns intersection over union."""
    shared = area(common(one, other))
    return shared / (area(one) + area(other) - shared)


def unpack_trees(archives: list[Path], folder: Path) -> None:
    parts: dict[str, list[tuple[int, Scene]]] = {part: list(tiles(archives[0], AERIAL[part])) for part in AERIAL}
    last = max(row for row, _ in parts["train"]) - VALIDATION_ROWS
    scenes = {
        "train": (scene for row, scene in parts["train"] if row <= last),
        "validation": (scene for row, scene in parts["train"] if row > last),
        "test": (scene for _, scene in parts["test"]),
    }
    for part, chosen in scenes.items():
        write_coco(folder, part, chosen, ("tree",))


def tiles(archive: Path, stems: Sequence[str]) -> Iterator[tuple[int, Scene]]:
    """Yields the tiles of photographs, each with its row and the boxes of which it holds at least the half, cut."""
    from PIL import Image

    for stem in stems:
        image = Image.open(io.BytesIO(read_member(archive, f"deepforest/data/{stem}.png"))).convert("RGB")
        boxes = boxes_of(read_member(archive, f"deepforest/data/{stem}.xml"))
        for row, (top, bottom) in enumerate(pairwise(borders(image.height))):
            for left, right in pairwise(borders(image.width)):
                tile = (left, top, right, bottom)
                inside = [common(box, tile) for box in boxes if area(common(box, tile)) >= LEAST_INSIDE * area(box)]
                moved = [(box[0] - left, box[1] - top, box[2] - left, box[3] - top) for box in inside]
                yield row, (image.crop(tile), moved, ["tree"] * len(moved))


def borders(size: int) -> list[int]:
    """Returns where a side is cut into equal parts of about the length of a tile."""
    return np.linspace(0, size, round(size / TILE) + 1).astype(int).tolist()


def boxes_of(content: bytes) -> list[Box]:
    """Reads the boxes of a file of Pascal VOC."""
    found = []
    for box in ElementTree.fromstring(content).iter("bndbox"):
        left, top, right, bottom = (int(float(box.findtext(name, ""))) for name in ("xmin", "ymin", "xmax", "ymax"))
        found.append((left, top, right, bottom))
    return found


IMAGE_BOXES = {
    "stamp-scenes": Source(
        "560 composed scenes of real objects, 320 x 320: one to five cut-outs of Tux Paint's stamps on coloured "
        "fields, 8 classes, exact boxes; no object of validation and test is in train",
        "GPL-2",
        (TUXPAINT,),
        unpack_stamp_scenes,
    ),
    "trees": Source(
        "951 boxes of trees on 4 aerial photographs (Weinstein et al. 2019), in tiles of about 400 x 400; one "
        "is for train and validation, three for test",
        "MIT",
        (Archive("deepforest", "2.1.0", "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54"),),
        unpack_trees,
    ),
}
