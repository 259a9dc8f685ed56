"""Random image files and files of boxes, right and damaged: each is read, or refused by a line that names it."""

from __future__ import annotations

import io
import json
import resource
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from fuzz_files import our_error
from PIL import Image

from hf_selfattn.data.images import load_boxes, open_image, read_boxes
from hf_selfattn.data.images.open import ImageError

MEMORY = 2_000_000  # kilobytes that reading a file may add: an image of the most pixels, and what makes it RGB
MODES: dict[str, list[str]] = {
    "PNG": ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"],
    "JPEG": ["RGB", "L", "CMYK"],
    "GIF": ["P", "L"],
    "BMP": ["RGB", "L", "P", "1"],
    "TIFF": ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"],
    "WEBP": ["RGB", "RGBA"],
    "PPM": ["RGB", "L", "1", "I;16"],
    "JPEG2000": ["RGB", "L", "RGBA"],
    "AVIF": ["RGB", "RGBA"],
    "ICO": ["RGBA", "RGB"],
    "MPO": ["RGB"],
}
NUMBERS = [0, 1, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1]


def random_image(random: Random) -> bytes:
    """Return a right file of any format and mode, with what else such files hold."""
    kind = random.choice([*MODES])
    mode = random.choice(MODES[kind])
    width, height = random.choice([1, 7, 16, 33, 64]), random.choice([1, 5, 16, 40])
    values = np.random.default_rng(random.randrange(2**32))
    dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}.get(mode)
    if dtype is not None:
        image = Image.fromarray((values.random((height, width)) * (1 if mode == "F" else 60_000)).astype(dtype))
    else:
        size = len(Image.new(mode, (width, height)).tobytes())
        image = Image.frombytes(mode, (width, height), values.bytes(size))
        if mode == "P":
            image.putpalette(values.bytes(768))
    options: dict[str, Any] = {}
    if kind in ("JPEG", "PNG", "WEBP", "TIFF", "MPO") and random.random() < 0.4:
        exif = Image.Exif()
        exif[0x0112] = random.randrange(1 if kind == "TIFF" else 0, 9 if kind == "TIFF" else 12)
        exif[0x010E] = "a description"
        options["exif"] = exif.tobytes()
    if kind == "TIFF" and mode in ("RGB", "L") and random.random() < 0.7:
        options["compression"] = random.choice(["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
    if kind == "JPEG":
        options |= {"progressive": random.random() < 0.3, "quality": random.choice([20, 75, 95])}
    if kind in ("GIF", "PNG", "WEBP", "TIFF", "MPO", "AVIF") and (kind == "MPO" or random.random() < 0.2):
        options |= {"save_all": True, "append_images": [image.copy()]}
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def most_held() -> int:
    """The kilobytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def damaged_bytes(random: Random, data: bytes) -> bytes:
    """Flip, cut, lose, double or overwrite bytes, once or a few times; more often near the head, where sizes are."""
    for _ in range(random.choice([1, 1, 1, 2, 5, 20])):
        most = len(data) if random.random() < 0.5 else min(len(data), 120)
        start = random.randrange(most + 1)
        end = min(len(data), start + random.choice([1, 1, 2, 4, 30]))
        change = random.randrange(6)
        if change == 0:
            data = data[: start if random.random() < 0.3 else random.randrange(len(data) + 1)]
        elif change == 1:
            data = data[:start] + data[start:end] * 2 + data[end:]
        elif change == 2:
            data = data[:start] + data[end:]
        elif change == 3:
            number = struct.pack(random.choice("<>") + "I", random.choice(NUMBERS))
            data = data[:start] + number + data[start + 4 :]
        else:
            data = data[:start] + bytes(random.randrange(256) for _ in range(end - start)) + data[end:]
    return data


def try_image(random: Random, folder: Path) -> str:
    """An image file."""
    data = random_image(random)
    is_damaged = random.random() < 0.85
    path = folder / random.choice(["image.png", "image.jpg", "image.tif", "image"])
    path.write_bytes(damaged_bytes(random, data) if is_damaged else data)
    before = most_held()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            image = open_image(path)
    except ImageError as error:
        assert is_damaged, f"a right file is read: {error}"
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error), str(error)
        return "refused"
    finally:
        more = most_held() - before
        assert more < MEMORY, f"{more} kilobytes more are held"
    assert image.mode == "RGB" and min(image.size) > 0 and len(image.tobytes()) == 3 * image.width * image.height
    return "read"


def as_coco(folder: Path, boxes: list[list[float]]) -> dict[str, bytes]:
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 32, "height": 24} for n in range(2)],
        "annotations": [{"id": n, "image_id": n % 2, "bbox": box, "category_id": 1} for n, box in enumerate(boxes)],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    return {"boxes.json": json.dumps(content).encode()}


def as_voc(folder: Path, boxes: list[list[float]]) -> dict[str, bytes]:
    objects = "".join(
        f"<object><name>a</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax>"
        f"<ymax>{y + h}</ymax></bndbox></object>"
        for x, y, w, h in boxes
    )
    size = "<size><width>32</width><height>24</height></size>"
    return {
        f"{n}.xml": f"<annotation><filename>{n}.png</filename>{size}{objects}</annotation>".encode() for n in range(2)
    }


def as_yolo(folder: Path, boxes: list[list[float]]) -> dict[str, bytes]:
    lines = "".join(f"0 {(x + w / 2) / 32} {(y + h / 2) / 24} {w / 32} {h / 24}\n" for x, y, w, h in boxes)
    return {"0.txt": lines.encode(), "1.txt": lines.encode(), "classes.txt": b"a\nb\n"}


def as_objects(folder: Path, boxes: list[list[float]]) -> dict[str, bytes]:
    rows = [{"image": f"{n}.png", "objects": {"bbox": boxes, "category": ["a"] * len(boxes)}} for n in range(2)]
    return {"metadata.jsonl": "\n".join(map(json.dumps, rows)).encode()}


BOX_WRITERS: list[Callable[[Path, list[list[float]]], dict[str, bytes]]] = [as_coco, as_voc, as_yolo, as_objects]


def try_boxes(random: Random, folder: Path) -> str:
    """A folder of two images and their boxes, in any form."""
    for number in range(2):
        Image.new("RGB", (32, 24), (number * 90, 9, 9)).save(folder / f"{number}.png")
    sides = [(random.randrange(20), random.randrange(12), random.randrange(1, 12), random.randrange(1, 12))]
    boxes = [[float(value) for value in random.choice(sides)] for _ in range(random.randrange(1, 4))]
    files = random.choice(BOX_WRITERS)(folder, boxes)
    is_damaged, chosen = random.random() < 0.8, random.choice([*files])
    for name, data in files.items():
        (folder / name).write_bytes(damaged_bytes(random, data) if is_damaged and name == chosen else data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            splits = load_boxes(train=folder)
            data = read_boxes(splits, on_bad_row=random.choice(["error", "drop"]))
    except ValueError as error:
        our_error(error, folder)
        assert is_damaged, f"right files are read: {error}"
        return "refused"
    rows = data.splits["train"].to_list()
    assert len(rows) + len({row.index for row in data.dropped}) >= len(splits["train"])
    for row in rows:
        assert len(row["boxes"]) == len(row["box_labels"])
        for x, y, width, height in row["boxes"]:
            assert x >= 0 and y >= 0 and width > 0 and height > 0 and x + width <= 32.001 and y + height <= 24.001
    if not is_damaged:
        count = sum(len(row["boxes"]) for row in rows)
        assert len(rows) == 2 and count == len(boxes) * (1 if "boxes.json" in files else 2)
    return "read"
