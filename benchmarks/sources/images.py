"""Labelled images, for classification: paths or bytes by row, three fixed splits whose test images are disjoint."""

from __future__ import annotations

import gzip
import io
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from .archives import Archive, Source, read_member, read_members
from .rows import SPLIT_SEEDS, SPLITS, Row, split, write_rows

TEST_FOLDS, VALIDATION_SHARE = 4, 0.15  # a quarter is tested; of the rest .15 chooses
LEAST_DEFECTIVE = 0.5  # probability from which a solar cell counts as defective
STAMPS = {
    "bird": "animals/birds",
    "fish": "animals/fish",
    "flower": "plants/flowers",
    "fruit": "food/fruit",
    "house": "town/houses",
    "insect": "animals/insects",
    "mammal": "animals/mammals",
    "roadsign": "town/roadsigns",
    "vegetable": "food/vegetables",
}
CLOTHES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
CLOTHES_ROWS = dict(zip(SPLITS, (3000, 500, 2000), strict=True))


def write_image_splits(folder: Path, rows: list[Row]) -> None:
    """Writes train-0.jsonl … test-2.jsonl; no image is tested in two of the three splits."""
    classes = [row["label"] for row in rows]
    folds = StratifiedKFold(TEST_FOLDS, shuffle=True, random_state=SPLIT_SEEDS[0]).split(rows, classes)
    for seed, (rest, tested) in zip(SPLIT_SEEDS, folds, strict=False):
        kept = [rows[number] for number in rest]
        parts = {"train": 1 - VALIDATION_SHARE, "validation": VALIDATION_SHARE}
        parts = split(kept, [row["label"] for row in kept], parts, seed)
        for part, chosen in {**parts, "test": [rows[number] for number in tested]}.items():
            write_rows(folder / f"{part}-{seed}.jsonl", chosen)


def unpack_elpv(archives: list[Path], folder: Path) -> None:
    table = read_member(archives[0], "elpv_dataset/data/labels.csv").decode("utf-8")
    contents, rows = {}, []
    for line in table.splitlines():
        name, probability, kind = line.split()
        label = "defective" if float(probability) >= LEAST_DEFECTIVE else "functional"
        rows.append({"image": name, "label": label, "probability": float(probability), "kind": kind})
    contents = read_members(archives[0], "elpv_dataset/data/images/*.png")
    write_files(folder / "images", contents)
    write_image_splits(folder, rows)


def unpack_stamps(archives: list[Path], folder: Path) -> None:
    rows = []
    for label, place in STAMPS.items():
        contents = read_members(archives[0], f"*/tuxpaint/stamps/{place}/*.png")
        write_files(folder / "images" / label, contents)
        rows += [{"image": f"images/{label}/{PurePosixPath(name).name}", "label": label} for name in contents]
    write_image_splits(folder, rows)


def write_files(folder: Path, contents: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / PurePosixPath(name).name).write_bytes(content)


def read_idx(content: bytes) -> NDArray[np.uint8]:
    """Reads an array in the format of MNIST: 3 bytes of type, the number of axes, their sizes, the values."""
    data = gzip.decompress(content)
    shape = [int.from_bytes(data[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(data[3])]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def unpack_fashion_mnist(archives: list[Path], folder: Path) -> None:
    """Writes three disjoint draws of the official training and test images as Parquet."""
    for stem, parts in {"train": ("train", "validation"), "t10k": ("test",)}.items():
        pixels, labels = (
            read_idx(read_member(archives[0], f"*/fashion-mnist/{stem}-{kind}-ubyte.gz"))
            for kind in ("images-idx3", "labels-idx1")
        )
        order = np.random.default_rng(SPLIT_SEEDS[0]).permutation(len(labels))
        for seed in SPLIT_SEEDS:
            for part in parts:
                chosen, order = np.split(order, [CLOTHES_ROWS[part]])
                write_parquet(folder / f"{part}-{seed}.parquet", pixels[chosen], labels[chosen])


def write_parquet(path: Path, pixels: NDArray[np.uint8], labels: Sequence[int]) -> None:
    from datasets import Dataset, Features, Image, Value

    rows: dict[str, list[Any]] = {
        "image": [{"bytes": as_png(image), "path": None} for image in pixels],
        "label": [CLOTHES[label] for label in labels],
    }
    Dataset.from_dict(rows, Features({"image": Image(decode=False), "label": Value("string")})).to_parquet(str(path))


def as_png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


TUXPAINT = Archive(
    "tuxpaint-stamps-default",
    "2022.06.04-1",
    "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    "deb",
)

IMAGES = {
    "elpv": Source(
        "2,624 electroluminescence photographs of solar cells, 300 x 300, functional or (probability of a defect at "
        "least .5) defective (Buerhop-Lutz et al. 2018), three fixed splits",
        "CC BY-NC-SA 4.0: no commercial use",
        (Archive("elpv-dataset", "1.0.0.post1", "85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c"),),
        unpack_elpv,
    ),
    "stamps": Source(
        "273 cut-out photographs and drawings of Tux Paint's stamps, 9 classes, three fixed splits",
        "GPL-2",
        (TUXPAINT,),
        unpack_stamps,
    ),
    "fashion-mnist": Source(
        "Fashion-MNIST (Xiao et al. 2017), 28 x 28, 10 classes: three disjoint draws of 3,000 training, 500 "
        "validation and 2,000 test images",
        "MIT",
        (
            Archive(
                "dataset-fashion-mnist",
                "0.0~git20200523.55506a9-1",
                "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
                "deb",
            ),
        ),
        unpack_fashion_mnist,
    ),
}
