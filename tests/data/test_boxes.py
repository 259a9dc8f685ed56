"""Images with boxes: COCO, VOC, YOLO, tables and the hub to checked rows, and the report on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, List, Value
from PIL import Image

from hf_selfattn.data import format_report
from hf_selfattn.data.formats import ORIGIN
from hf_selfattn.data.images import BoxData, check_boxes, load_boxes, open_image, read_boxes
from hf_selfattn.data.images.boxes import turn_box

WIDTH, HEIGHT = 40, 30
NAMES = ["cat", "dog"]
# Boxes (x, y, width, height) and categories of three images.
TRUTH: list[list[tuple[list[float], str]]] = [
    [([4, 6, 10, 12], "dog"), ([20, 3, 16, 24], "cat")],
    [],
    [([0, 0, 40, 30], "cat")],
]


def draw(path: Path, seed: int, size: tuple[int, int] = (WIDTH, HEIGHT), **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(fields).resize(size, Image.Resampling.BICUBIC).save(path, **options)
    return path


def coco_of(folder: Path, **changes: Any) -> dict[str, Any]:
    """The content of a COCO file of the images in a folder, which are drawn."""
    images = [{"id": n, "file_name": f"{n}.jpg", "width": WIDTH, "height": HEIGHT} for n in range(3)]
    for image in images:
        draw(folder / str(image["file_name"]), int(image["id"]))
    boxes = [(n, box, name) for n, row in enumerate(TRUTH) for box, name in row]
    annotations = [
        {"id": i, "image_id": n, "bbox": box, "category_id": {"cat": 7, "dog": 3}[name], "iscrowd": 0}
        for i, (n, box, name) in enumerate(boxes)
    ]
    categories = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories, **changes}


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def xml_of(number: int, boxes: list[tuple[list[float], str]], size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    objects = "".join(
        f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
        f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
        for (x, y, w, h), name in boxes
    )
    side = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{number}.jpg</filename>{side}{objects}</annotation>"


def write_voc(images: Path, annotations: Path) -> None:
    annotations.mkdir(parents=True, exist_ok=True)
    for number, boxes in enumerate(TRUTH):
        draw(images / f"{number}.jpg", number)
        (annotations / f"{number}.xml").write_text(xml_of(number, boxes))


def write_yolo(images: Path, labels: Path) -> None:
    labels.mkdir(parents=True, exist_ok=True)
    for number, boxes in enumerate(TRUTH):
        draw(images / f"{number}.jpg", number)
        lines = [
            f"{NAMES.index(name)} {(x + w / 2) / WIDTH} {(y + h / 2) / HEIGHT} {w / WIDTH} {h / HEIGHT}"
            for (x, y, w, h), name in boxes
        ]
        if lines:
            (labels / f"{number}.txt").write_text("\n".join(lines) + "\n")


def make_coco_layout(folder: Path) -> dict[str, Any]:
    for year in ("train2017", "val2017"):
        write_json(folder / "annotations" / f"instances_{year}.json", coco_of(folder / year))
    write_json(folder / "annotations" / "captions_train2017.json", {"images": [], "annotations": []})
    return {"dataset": folder}


def make_roboflow_coco(folder: Path) -> dict[str, Any]:
    for part in ("train", "valid"):
        write_json(folder / part / "_annotations.coco.json", coco_of(folder / part))
    return {"dataset": folder}


def make_coco_file(folder: Path) -> dict[str, Any]:
    return {"train": write_json(folder / "boxes.json", coco_of(folder / "images"))}


def make_coco_elsewhere(folder: Path) -> dict[str, Any]:
    return {"train": write_json(folder / "boxes.json", coco_of(folder / "far")), "image_folder": folder / "far"}


def make_voc_layout(folder: Path) -> dict[str, Any]:
    write_voc(folder / "JPEGImages", folder / "Annotations")
    sets = folder / "ImageSets" / "Main"
    sets.mkdir(parents=True, exist_ok=True)
    (sets / "train.txt").write_text("0\n1\n2\n")
    (sets / "val.txt").write_text("0\n1\n2\n")
    return {"dataset": folder}


def make_voc_folder(folder: Path) -> dict[str, Any]:
    write_voc(folder / "mine", folder / "mine")
    return {"train": folder / "mine"}


def make_yolo_yaml(folder: Path) -> dict[str, Any]:
    for part in ("train", "val"):
        write_yolo(folder / "images" / part, folder / "labels" / part)
    (folder / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n")
    return {"dataset": folder / "data.yaml"}


def make_yolo_roboflow(folder: Path) -> dict[str, Any]:
    for part in ("train", "valid"):
        write_yolo(folder / part / "images", folder / part / "labels")
    (folder / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 2\nnames: [cat, dog]\n")
    return {"dataset": folder}


def make_yolo_classes(folder: Path) -> dict[str, Any]:
    for part in ("train", "val"):
        write_yolo(folder / "images" / part, folder / "labels" / part)
    (folder / "classes.txt").write_text("cat\ndog\n")
    return {"dataset": folder}


def make_yolo_beside(folder: Path) -> dict[str, Any]:
    write_yolo(folder, folder)
    (folder / "classes.txt").write_text("cat\ndog\n")
    return {"train": folder}


def objects_of(boxes: list[tuple[list[float], str]]) -> dict[str, Any]:
    return {"bbox": [box for box, _ in boxes], "category": [name for _, name in boxes]}


def make_jsonl(folder: Path) -> dict[str, Any]:
    images = [draw(folder / f"{number}.jpg", number) for number in range(3)]
    rows = [{"image": path.name, "objects": objects_of(boxes)} for path, boxes in zip(images, TRUTH, strict=True)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {"train": folder / "rows.jsonl"}


def make_metadata(folder: Path) -> dict[str, Any]:
    make_jsonl(folder)
    text = (folder / "rows.jsonl").read_text().replace('"image"', '"file_name"')
    (folder / "metadata.jsonl").write_text(text)
    (folder / "rows.jsonl").unlink()
    return {"train": folder}


def make_hub(folder: Path) -> dict[str, Any]:
    objects = {"bbox": List(List(Value("float32"))), "category": List(ClassLabel(names=NAMES))}
    rows = {
        "image": [str(draw(folder / f"{number}.jpg", number)) for number in range(3)],
        "objects": [objects_of(boxes) for boxes in TRUTH],
    }
    features = datasets.Features({"image": datasets.Image(), "objects": objects})
    return {"dataset": DatasetDict(train=Dataset.from_dict(rows, features=features))}


def make_corners(folder: Path) -> dict[str, Any]:
    """Lists side by side, of left, top, right and bottom."""
    rows = [
        {
            "image": draw(folder / f"{number}.jpg", number).name,
            "boxes": [[x, y, x + w, y + h] for (x, y, w, h), _ in boxes],
            "labels": [name for _, name in boxes],
        }
        for number, boxes in enumerate(TRUTH)
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    return {"train": folder / "rows.json", "box_format": "xyxy"}


def make_csv(folder: Path) -> dict[str, Any]:
    lines = ["image;objects"]
    for number, boxes in enumerate(TRUTH):
        listed = [{"bbox": box, "label": name} for box, name in boxes]
        lines.append(
            f'{draw(folder / f"{number}.jpg", number).name};"{json.dumps(listed).replace(chr(34), chr(34) * 2)}"'
        )
    (folder / "rows.csv").write_text("\n".join(lines))
    return {"train": folder / "rows.csv"}


MAKERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    name.removeprefix("make_"): make for name, make in list(globals().items()) if name.startswith("make_")
}


def read(arguments: dict[str, Any], **options: Any) -> BoxData:
    form = {key: arguments.pop(key) for key in ("box_format",) if key in arguments}
    return read_boxes(load_boxes(**arguments), **form, **options)


@pytest.mark.parametrize("name", MAKERS)
def test_every_form_gives_the_same_boxes(tmp_path: Path, name: str) -> None:
    data = read(MAKERS[name](tmp_path))
    assert data.label_names == NAMES
    for split in data.splits.values():
        rows = sorted(split.to_list(), key=lambda row: Path(row["image"]["path"]).name)
        assert [(row["width"], row["height"]) for row in rows] == [(WIDTH, HEIGHT)] * 3
        for row, boxes in zip(rows, TRUTH, strict=True):
            assert np.allclose(np.reshape(row["boxes"], (-1, 4)), np.reshape([box for box, _ in boxes], (-1, 4)))
            assert [data.label_names[label] for label in row["box_labels"]] == [category for _, category in boxes]
            assert open_image(row["image"]).size == (WIDTH, HEIGHT)
    wanted = {"train", "validation"} if "dataset" in MAKERS[name](tmp_path) and name != "hub" else {"train"}
    assert {*data.splits} == wanted
    again = read_boxes(data.splits)
    assert again.splits["train"]["boxes"][:] == data.splits["train"]["boxes"][:]


# name: what is done to the content of a COCO file, the place that is named, and what is said
Change = Callable[[dict[str, Any]], Any]
BAD_COCO: dict[str, tuple[Change, str, str]] = {
    "no area": (lambda c: c["annotations"][0].update(bbox=[4, 6, 0, 12]), "[annotations][0]", "has no area"),
    "negative": (lambda c: c["annotations"][1].update(bbox=[4, 6, 3, -12]), "[annotations][1]", "has no area"),
    "outside": (lambda c: c["annotations"][0].update(bbox=[40, 6, 5, 5]), "[annotations][0]", "outside of the image"),
    "three numbers": (lambda c: c["annotations"][0].update(bbox=[4, 6, 3]), "[annotations][0]", "not four finite"),
    "text": (lambda c: c["annotations"][0].update(bbox=["a", 6, 3, 3]), "[annotations][0]", "not four finite"),
    "no box": (lambda c: c["annotations"][0].pop("bbox"), "[annotations][0]", "not four finite"),
    "infinite": (lambda c: c["annotations"][0].update(bbox=[4, 6, 1e999, 3]), "[annotations][0]", "not four finite"),
    "category": (
        lambda c: c["annotations"][2].update(category_id=99),
        "[annotations][2]",
        "category of the box is unknown",
    ),
    "image": (lambda c: c["annotations"][0].update(image_id=99), "[annotations][0]", "belongs to no image"),
    "no name": (lambda c: c["images"][1].pop("file_name"), "[images][1]", "no file_name"),
    "twice": (lambda c: c["images"][1].update(id=0), "[images][1]", "no id of its own"),
    "missing": (lambda c: c["images"][1].update(file_name="x.jpg"), "[images][1]", "there is no such file"),
    "size": (lambda c: c["images"][0].update(width=80, height=60), "[images][0]", "drawn on an image of another size"),
}


@pytest.mark.parametrize("name", BAD_COCO)
def test_bad_rows_and_boxes_are_named_with_their_place(tmp_path: Path, name: str) -> None:
    change, place, said = BAD_COCO[name]
    content = coco_of(tmp_path)
    change(content)
    path = write_json(tmp_path / "boxes.json", content)
    splits = load_boxes(train=path)
    with pytest.raises(ValueError) as caught:
        read_boxes(splits)
    assert said in str(caught.value) and f"{path}{place}" in str(caught.value)
    data = read_boxes(splits, on_bad_row="drop")
    assert data.dropped and all(str(path) in row.place for row in data.dropped)
    kept = sum(map(len, data.splits["train"]["boxes"]))
    lost_rows = len(splits["train"]) - len(data.splits["train"])
    assert kept < 3 or lost_rows > 0


REFUSED_COCO = {
    "no JSON": ('{"images": [], "annotations": [}', "the JSON does not parse"),
    "no lists": ('{"images": {}, "annotations": []}', "'images' is no list of objects"),
    "no categories": ('{"images": [{"id": 1}], "annotations": []}', "'categories' is no list"),
    "no images": ('{"images": [], "annotations": [], "categories": []}', "names no images"),
    "name": ('{"images": [{}], "annotations": [], "categories": [{"id": 1}]}', "has an id of its own and a name"),
}


@pytest.mark.parametrize("name", REFUSED_COCO)
def test_files_that_are_no_coco(tmp_path: Path, name: str) -> None:
    text, said = REFUSED_COCO[name]
    (tmp_path / "boxes.json").write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        load_boxes(train=tmp_path / "boxes.json")
    assert "boxes.json" in str(caught.value)


def test_crowds_are_left_out_and_counted(tmp_path: Path) -> None:
    content = coco_of(tmp_path)
    content["annotations"][0]["iscrowd"] = 1
    data = read_boxes(load_boxes(train=write_json(tmp_path / "boxes.json", content)))
    assert sum(map(len, data.splits["train"]["boxes"])) == 2
    assert any("1 region(s) of a crowd left out" in note for note in data.notes)


def test_boxes_over_the_edge_are_cut_and_said(tmp_path: Path) -> None:
    content = coco_of(tmp_path)
    content["annotations"][0]["bbox"] = [-5, 20, 10, 30]
    content["annotations"][1]["bbox"] = [30, 10, 10.9, 5]  # rounding: cut, and not worth a word
    data = read_boxes(load_boxes(train=write_json(tmp_path / "boxes.json", content)))
    assert data.splits["train"][0]["boxes"] == [[0, 20, 5, 10], [30, 10, 10, 5]]
    assert any("1 box(es) reach over the edge of their image and are cut there" in note for note in data.notes)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_with_their_image(tmp_path: Path, orientation: int) -> None:
    """One bright box in a dark image, drawn on the stored pixels: in the upright image it is where the box says."""
    stored = np.zeros((30, 40, 3), dtype=np.uint8)
    x, y, width, height = 4, 6, 10, 5
    stored[y : y + height, x : x + width] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "0.png", exif=exif.tobytes())
    image = {"id": 0, "file_name": "0.png", "width": 40, "height": 30}
    content = {
        "images": [image],
        "annotations": [{"image_id": 0, "bbox": [x, y, width, height], "category_id": 1}],
        "categories": [{"id": 1, "name": "a"}],
    }
    data = read_boxes(load_boxes(train=write_json(tmp_path / "boxes.json", content)))
    row = data.splits["train"][0]
    found = np.asarray(open_image(row["image"]).convert("L")) > 128
    rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    bright = [columns[0], rows[0], len(columns), len(rows)]
    if orientation > 4:
        assert row["boxes"] == [bright] and (row["width"], row["height"]) == (30, 40)
        assert any("1 image(s) are turned upright, and their boxes with them" in note for note in data.notes)
    else:  # the sizes do not tell on which the boxes were drawn: on the upright image, as viewers show it
        assert row["boxes"] == [[x, y, width, height]] and (row["width"], row["height"]) == (40, 30)
    assert turn_box([0, 0, 40, 30], 6, (40, 30)) == [0, 0, 30, 40]


def test_voc_files_name_what_is_wrong(tmp_path: Path) -> None:
    write_voc(tmp_path, tmp_path)
    (tmp_path / "1.xml").write_text("<annotation><object>")
    (tmp_path / "2.xml").write_text(xml_of(2, [([3, 3, -2, 5], "cat"), ([3, 3, 5, 5], " ")]))
    draw(tmp_path / "extra.jpg", 9)
    splits = load_boxes(train=tmp_path)
    with pytest.raises(ValueError) as caught:
        read_boxes(splits)
    for said in (
        f"does not parse (no element found: line 1, column 20): 1 row(s), {tmp_path / '1.xml'}",
        "2.xml[object 0]",
    ):
        assert said in str(caught.value)
    assert f"{tmp_path / '2.xml'}[object 1]" in str(caught.value)
    data = read_boxes(splits, on_bad_row="drop")
    assert data.splits["train"]["boxes"][:] == [[[4, 6, 10, 12], [20, 3, 16, 24]], []]
    assert any("1 image(s) left out that have no XML file" in note and "extra.jpg" in note for note in data.notes)


def test_voc_finds_the_image_by_the_name_of_the_xml_file(tmp_path: Path) -> None:
    write_voc(tmp_path / "JPEGImages", tmp_path / "Annotations")
    text = xml_of(0, TRUTH[0]).replace("0.jpg", "C:\\photos\\IMG_1234")
    (tmp_path / "Annotations" / "0.xml").write_text(text)
    data = read_boxes(load_boxes(train=tmp_path))
    assert Path(data.splits["train"][0]["image"]["path"]) == tmp_path / "JPEGImages" / "0.jpg"


YOLO_LINES = {
    "class": ("7 .5 .5 .5 .5", "category of the box is unknown"),
    "name": ("cat .5 .5 .5 .5", "category of the box is unknown"),
    "three": ("0 .5 .5 .5", "not four finite"),
    "text": ("0 .5 .5 .5 x", "not four finite"),
    "flat": ("0 .5 .5 0 .5", "has no area"),
    "pixels": ("0 200 150 20 30", "outside of the image"),
    "not a number": ("0 nan .5 .5 .5", "not four finite"),
}


@pytest.mark.parametrize("name", YOLO_LINES)
def test_lines_of_yolo_are_named(tmp_path: Path, name: str) -> None:
    line, said = YOLO_LINES[name]
    write_yolo(tmp_path / "images", tmp_path / "labels")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "labels" / "0.txt").write_text(f"0 .5 .5 .5 .5\n{line}\n")
    with pytest.raises(ValueError, match=said) as caught:
        read_boxes(load_boxes(train=tmp_path))
    assert f"{tmp_path / 'labels' / '0.txt'}:2" in str(caught.value)


def test_yolo_polygons_confidences_and_files_that_have_no_pair(tmp_path: Path) -> None:
    write_yolo(tmp_path / "images", tmp_path / "labels")
    (tmp_path / "labels" / "0.txt").write_text("1 .1 .2 .5 .2 .5 .6 .1 .6\n0 .5 .5 .2 .2 .99\n")
    splits = load_boxes(train=tmp_path)
    data = read_boxes(splits)
    assert np.allclose(data.splits["train"][0]["boxes"], [[4, 6, 16, 12], [16, 12, 8, 6]])
    assert data.label_names == ["0", "1"]
    notes = "\n".join(data.notes)
    assert "1 polygon(s) are read as the boxes around them" in notes and "their numbers are their names" in notes
    assert f"1 image(s) have no label file and so no boxes: {tmp_path / 'images/1.jpg'}" in notes
    (tmp_path / "labels" / "lone.txt").write_text("0 .5 .5 .5 .5")
    with pytest.raises(ValueError, match=r"there is no image to this label file: 1 row\(s\), .*lone.txt"):
        read_boxes(load_boxes(train=tmp_path))


YAMLS = {
    "no names": ("train: images\n", "'names' must list the classes"),
    "twice": ("train: images\nnames: [a, a]\n", "each once"),
    "gaps": ("train: images\nnames: {0: a, 2: b}\n", "number them from 0"),
    "no folder": ("train: nowhere\nnames: [a]\n", "there is no 'nowhere'"),
    "no split": ("names: [a]\n", "names no train, val or test"),
    "broken": ("names: [a\n", "the YAML does not parse"),
    "a list": ("- a\n", "but a list"),
}


@pytest.mark.parametrize("name", YAMLS)
def test_yaml_files_that_are_refused(tmp_path: Path, name: str) -> None:
    text, said = YAMLS[name]
    write_yolo(tmp_path / "images", tmp_path / "labels")
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        load_boxes(dataset=tmp_path)
    assert "data.yaml" in str(caught.value)


BAD_OBJECTS: dict[str, tuple[Any, str]] = {
    "uneven lists": ({"bbox": [[1, 2, 3, 4]], "category": ["a", "b"]}, "not four finite"),
    "text": ("many", "not four finite"),
    "number": (7, "not four finite"),
    "list of texts": (["a"], "not four finite"),
    "no category": ([{"bbox": [1, 2, 3, 4]}], "category of the box is unknown"),
}


@pytest.mark.parametrize("name", BAD_OBJECTS)
def test_objects_that_are_none(tmp_path: Path, name: str) -> None:
    objects, said = BAD_OBJECTS[name]
    draw(tmp_path / "0.jpg", 0)
    right = {"bbox": [[1, 2, 3, 4]], "category": ["a"]}
    rows = [{"image": "0.jpg", "objects": right}, {"image": "0.jpg", "objects": objects}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=said) as caught:
        read_boxes(load_boxes(train=tmp_path / "rows.jsonl"))
    assert "rows.jsonl:2, object 0" in str(caught.value)


def test_categories_of_train_hold_for_all(tmp_path: Path) -> None:
    content = coco_of(tmp_path)
    path = write_json(tmp_path / "train.json", content)
    content["categories"][1]["name"] = "fox"
    other = write_json(tmp_path / "test.json", content)
    with pytest.raises(ValueError, match=r"test: the category of the box is unknown: 1 box\(es\)"):
        read_boxes(load_boxes(train=path, test=other))
    data = read_boxes(load_boxes(train=path, test=other), label_names=["fox", "dog", "cat"])
    assert data.splits["test"]["box_labels"][0] == [0, 2] and data.splits["train"]["box_labels"][0] == [1, 2]
    with pytest.raises(ValueError, match="must be different texts"):
        read_boxes(load_boxes(train=path), label_names=["a", "a"])
    with pytest.raises(ValueError, match="on_bad_row='x' is unknown"):
        read_boxes(load_boxes(train=path), on_bad_row="x")
    with pytest.raises(ValueError, match="box_format='yx' is unknown"):
        read_boxes({"train": Dataset.from_dict({"image": ["a.png"], "objects": [{"bbox": []}]})}, box_format="yx")


def test_without_boxes_there_is_nothing_to_learn(tmp_path: Path) -> None:
    path = write_json(tmp_path / "boxes.json", coco_of(tmp_path, annotations=[]))
    with pytest.raises(ValueError, match="none of its 3 images has a box"):
        read_boxes(load_boxes(train=path))
    with pytest.raises(ValueError, match="there is no column of boxes"):
        read_boxes({"train": Dataset.from_dict({"image": ["a.png"], "label": [1]})})
    with pytest.raises(ValueError, match="given twice"):
        load_boxes(dataset=make_coco_layout(tmp_path / "x")["dataset"], train=path)


def found(report: Mapping[str, Any], kind: str) -> dict[str, Any]:
    matching = [item for item in report["findings"] if item["kind"] == kind]
    assert len(matching) == 1, [item["kind"] for item in report["findings"]]
    return dict(matching[0])


def test_the_report_names_every_kind_with_its_place(tmp_path: Path) -> None:
    content = coco_of(tmp_path)
    draw(tmp_path / "copy.png", 0)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    exif = Image.Exif()
    exif[0x0112] = 6
    draw(tmp_path / "turned.jpg", 5, exif=exif.tobytes())
    for number, name in enumerate(("copy.png", "broken.jpg", "turned.jpg"), start=3):
        content["images"].append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
    boxes = [
        (0, [4, 6, 10, 12], 3),  # the first once more
        (0, [1, 1, 1.5, 9], 7),
        (3, [30, 20, 20, 20], 7),
        (3, [30, 20, 0, 20], 7),
        (3, [90, 20, 10, 20], 7),
        (3, [1, 2, 3, 4], 9),
        (5, [1, 2, 3, 4], 7),
    ]
    content["annotations"] += [{"image_id": n, "bbox": box, "category_id": kind} for n, box, kind in boxes]
    path = write_json(tmp_path / "boxes.json", content)
    report = check_boxes(load_boxes(train=path))
    for kind, place in {
        "box_doubled": f"{path}[annotations][3] = {path}[annotations][0]",
        "box_tiny": f"{path}[annotations][4]",
        "box_over_edge": f"{path}[annotations][5]",
        "box_no_area": f"{path}[annotations][6]",
        "box_outside": f"{path}[annotations][7]",
        "label_unknown": f"{path}[annotations][8]",
        "boxes_turned": f"{path}[images][5] ({tmp_path / 'turned.jpg'})",
        "image_rotated": f"{path}[images][5] ({tmp_path / 'turned.jpg'})",
        "image_broken": f"{path}[images][4] ({tmp_path / 'broken.jpg'})",
        "no_boxes": f"{path}[images][1]",
    }.items():
        assert found(report, kind)["places"] == [place], kind
    assert "near_duplicate" in {item["kind"] for item in report["findings"]}
    train = report["splits"]["train"]
    assert (train["rows"], train["boxes"], train["classes"]) == (6, 7, {"cat": 5, "dog": 2})
    assert json.loads(json.dumps(report)) == report
    text = format_report(report)
    assert "train: 6 rows, 7 boxes" in text and "labels: cat 5, dog 2" in text and "boxes of an image: " in text


def test_origins_are_kept(tmp_path: Path) -> None:
    data = read(make_jsonl(tmp_path))
    assert data.splits["train"][ORIGIN][:] == [f"{tmp_path / 'rows.jsonl'}:{number}" for number in (1, 2, 3)]
