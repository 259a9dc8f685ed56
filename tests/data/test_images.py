"""Images with labels: folders, tables and data sets of the hub to checked rows, and the report on them."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict
from PIL import Image

from hf_selfattn.data import fingerprint, format_report, k_folds, make_validation
from hf_selfattn.data.formats import ORIGIN
from hf_selfattn.data.images import (
    ImageData,
    check_images,
    deduplicate_images,
    load_images,
    open_image,
    read_images,
)


def picture(seed: int, side: int = 32) -> Image.Image:
    """A picture of eight by eight random fields, unlike that of any other seed."""
    fields = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(fields).resize((side, side), Image.Resampling.BICUBIC)


def draw(path: Path, seed: int, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of three images in train, of one in val."""
    for number in range(6):
        draw(tmp_path / "photos" / "train" / ("cat", "dog")[number % 2] / f"{number}.png", number)
    draw(tmp_path / "photos" / "val" / "cat" / "a.png", 10)
    draw(tmp_path / "photos" / "val" / "dog" / "b.png", 11)
    return tmp_path / "photos"


def places(split: Dataset, folder: Path) -> list[str]:
    return [os.path.relpath(place, folder) for place in split[ORIGIN]]


def test_folders_of_splits_and_labels(folder: Path) -> None:
    data = read_images(load_images(dataset=folder))
    assert isinstance(data, ImageData) and data.problem == "single_label_classification"
    assert data.label_names == ["cat", "dog"] and data.splits.num_rows == {"train": 6, "validation": 2}
    assert data.splits["train"]["label"][:] == [0, 0, 0, 1, 1, 1]
    assert places(data.splits["train"], folder)[3] == "train/dog/1.png"
    cell = data.splits["train"][3]["image"]
    assert cell == {"bytes": None, "path": str(folder / "train/dog/1.png")}
    assert (np.asarray(open_image(cell)) == np.asarray(picture(1))).all()


def test_a_folder_of_labels_is_train(folder: Path) -> None:
    one = load_images(dataset=folder / "train")
    other = load_images(train=folder / "train", test=str(folder / "val"))
    assert list(one) == ["train"] and list(other) == ["train", "test"]
    assert one["train"].to_list() == other["train"].to_list()


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for label in ("bus", "car", "train"):
        draw(tmp_path / label / "1.png", len(label))
    assert read_images(load_images(dataset=tmp_path)).label_names == ["bus", "car", "train"]
    with pytest.raises(ValueError, match=r"holds the splits \['test', 'train'\].*give dataset="):
        draw(tmp_path / "test" / "1.png", 9)
        load_images(train=tmp_path)


def test_what_is_no_image_is_named_and_nothing_is_lost(folder: Path) -> None:
    train = folder / "train"
    (train / "cat" / ".DS_Store").write_bytes(b"x")
    (train / ".cache").mkdir()
    draw(train / ".cache" / "hidden.png", 1)
    (train / "cat" / "notes.txt").write_text("none")
    draw(train / "cat" / "bare.png", 12).rename(train / "cat" / "bare")
    draw(train / "dog" / "deep" / "er" / "x.jpeg", 13)
    draw(train / "dog" / "Y.PNG", 14)
    data = read_images(load_images(dataset=folder))
    assert data.splits.num_rows["train"] == 9
    notes = "\n".join(data.notes)
    assert "train: 2 hidden file(s) left out" in notes and "hidden.png" in notes
    assert f"1 file(s) left out that are no images: {train / 'cat' / 'notes.txt'}" in notes
    assert (
        f"1 file(s) read as images by their content, whose suffix does not say so: {train / 'cat' / 'bare'}" in notes
    )
    assert data.splits["train"]["label"][:].count(1) == 5  # also of the folders below


def test_photographs_of_phones_are_refused_rather_than_left_out(folder: Path) -> None:
    (folder / "train" / "cat" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(ValueError, match=r"no image but HEIF.*export it as JPEG\): 1 row\(s\), .*IMG_1.HEIC"):
        read_images(load_images(dataset=folder))


def test_links_are_followed_once(folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "cat").symlink_to(folder / "train" / "cat")
    (linked / "dog").symlink_to(folder / "train" / "dog")
    (folder / "train" / "dog" / "round").symlink_to(folder / "train" / "dog")
    (folder / "train" / "dog" / "gone.png").symlink_to(folder / "nowhere.png")
    with pytest.raises(ValueError, match=r"there is no such file: 1 row\(s\), .*gone.png"):
        read_images(load_images(train=linked))
    assert len(read_images(load_images(train=linked), on_bad_row="drop").splits["train"]) == 6


def test_an_image_beside_the_folders_has_no_label(folder: Path) -> None:
    draw(folder / "train" / "lost.png", 12)
    with pytest.raises(ValueError, match=r"no label .*: 1 row\(s\), .*lost.png"):
        read_images(load_images(dataset=folder))


def test_what_stands_beside_the_splits_is_said(folder: Path) -> None:
    (folder / "readme.md").write_text("x")
    assert any(
        "Not read, beside the folders of the splits" in note for note in read_images(load_images(dataset=folder)).notes
    )


EMPTY = {
    "no image": (lambda folder: (folder / "a.txt").write_text("x"), "holds no images. 1 file"),
    "two validations": (
        lambda folder: [draw(folder / n / "a/1.png", 1) for n in ("val", "dev")],
        "both are validation",
    ),
}


@pytest.mark.parametrize("case", EMPTY)
def test_folders_that_are_refused(tmp_path: Path, case: str) -> None:
    fill, said = EMPTY[case]
    fill(tmp_path)
    with pytest.raises(ValueError, match=said):
        load_images(dataset=tmp_path)


def test_a_split_is_given_once(folder: Path) -> None:
    with pytest.raises(ValueError, match="given twice"):
        load_images(dataset=folder, train=folder / "train")
    with pytest.raises(ValueError, match="no data"):
        load_images()
    with pytest.raises(ValueError, match="these names are taken"):
        load_images(dataset=folder, extra={"test": folder / "val"})


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [{"path": f"train/{('cat', 'dog')[n % 2]}/{n}.png", "label": ("cat", "dog")[n % 2]} for n in range(6)]


def as_csv(rows: list[dict[str, Any]], separator: str = ",") -> str:
    return (
        "\n".join(separator.join(map(str, values)) for values in [rows[0].keys(), *(row.values() for row in rows)])
        + "\n"
    )


WRITERS = {
    "rows.csv": as_csv,
    "rows.tsv": lambda rows: as_csv(rows, "\t"),
    "rows.jsonl": lambda rows: "".join(json.dumps(row) + "\n" for row in rows),
    "rows.json": json.dumps,
}


@pytest.mark.parametrize("name", WRITERS)
def test_tables_with_paths_relative_to_them(folder: Path, name: str) -> None:
    (folder / name).write_text(WRITERS[name](rows_of(folder)))
    data = read_images(load_images(train=folder / name))
    assert [cell["path"] for cell in data.splits["train"]["image"]] == [
        str(folder / row["path"]) for row in rows_of(folder)
    ]
    assert data.splits["train"]["label"][:] == [0, 1] * 3
    assert "Columns: image 'path', label 'label'." in data.notes


def test_paths_of_windows_absolute_ones_and_another_folder(folder: Path, tmp_path: Path) -> None:
    rows = rows_of(folder)
    rows[0]["path"] = rows[0]["path"].replace("/", "\\")
    rows[1]["path"] = str(folder / rows[1]["path"])
    (tmp_path / "rows.csv").write_text(as_csv(rows))
    data = read_images(load_images(train=tmp_path / "rows.csv", image_folder=folder))
    assert [cell["path"] for cell in data.splits["train"]["image"]][:2] == [
        str(folder / "train/cat/0.png"),
        str(folder / "train/dog/1.png"),
    ]


def test_each_bad_row_is_named(folder: Path) -> None:
    rows = rows_of(folder)
    rows[1]["path"], rows[2]["path"], rows[3]["label"] = "none.png", "", " "
    (folder / "train/cat/4.png").write_bytes((folder / "train/cat/4.png").read_bytes()[:-30])
    rows.append({"path": "https://a.example/1.png", "label": "dog"})
    (folder / "rows.csv").write_text(as_csv(rows))
    splits = load_images(train=folder / "rows.csv")
    with pytest.raises(ValueError) as caught:
        read_images(splits)
    for said in (
        f"no such file: 1 row(s), {folder}/rows.csv:3 ({folder}/none.png)",
        f"no image (empty or null): 1 row(s), {folder}/rows.csv:4",
        f"truncated or broken: 1 row(s), {folder}/rows.csv:6 ({folder}/train/cat/4.png)",
        f"a web address is not read: download the image, and write its path: 1 row(s), {folder}/rows.csv:8",
        f"no label (empty, null or NaN): 1 row(s), {folder}/rows.csv:5",
    ):
        assert said in str(caught.value)
    data = read_images(splits, on_bad_row="drop")
    assert len(data.splits["train"]) == 2 and sorted(row.index for row in data.dropped) == [1, 2, 3, 4, 6]
    assert len(read_images(splits, on_bad_row="drop", verify_images=False).splits["train"]) == 6
    with pytest.raises(ValueError, match="on_bad_row='skip' is unknown"):
        read_images(splits, on_bad_row="skip")


def test_all_rows_bad_is_an_error(folder: Path) -> None:
    splits = load_images(train=folder / "train")
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="all 6 rows are bad. train: column 'image': the file is empty"):
        read_images(splits, on_bad_row="drop")


def test_one_label_teaches_nothing(tmp_path: Path) -> None:
    draw(tmp_path / "cat" / "1.png", 1)
    draw(tmp_path / "cat" / "2.png", 2)
    with pytest.raises(ValueError, match="there is one class only: 'cat'"):
        read_images(load_images(train=tmp_path))


LABELS: dict[str, tuple[list[Any], dict[str, Any], str, list[str], list[Any]]] = {
    "classes": (["b", "a", "b", "a", "a", "a"], {}, "single_label_classification", ["a", "b"], [1, 0]),
    "lists": ([["a"], ["a", "b"], [], ["b"], [], []], {}, "multi_label_classification", ["a", "b"], [[1, 0], [1, 1]]),
    "separator": (
        ["a", "a;b", "b", "b", "a", "a"],
        {"label_separator": ";"},
        "multi_label_classification",
        ["a", "b"],
        [[1, 0], [1, 1]],
    ),
    "numbers": ([0.5, 1.25, 1, 2, 3, 4], {}, "regression", ["label"], [0.5, 1.25]),
    "ordinal": ([3, 1, 2, 1, 2, 3], {"problem": "ordinal"}, "ordinal", ["1", "2", "3"], [2, 0]),
    "names": ([1, 0, 1, 0, 0, 0], {"label_names": ["n", "y"]}, "single_label_classification", ["n", "y"], [1, 0]),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_are_read_as_those_of_texts(folder: Path, case: str) -> None:
    labels, options, problem, names, first = LABELS[case]
    rows = [{**row, "label": label} for row, label in zip(rows_of(folder), labels, strict=True)]
    (folder / "rows.jsonl").write_text(WRITERS["rows.jsonl"](rows))
    data = read_images(load_images(train=folder / "rows.jsonl"), **options)
    assert (data.problem, data.label_names) == (problem, names)
    assert data.splits["train"]["label"][:2] == first


def test_columns_of_zeros_and_ones(folder: Path) -> None:
    rows = [{"path": row["path"], "rain": n % 2, "sun": int(n > 2)} for n, row in enumerate(rows_of(folder))]
    (folder / "rows.csv").write_text(as_csv(rows))
    data = read_images(load_images(train=folder / "rows.csv"))
    assert data.label_names == ["rain", "sun"] and data.splits["train"]["label"][3] == [1.0, 1.0]


def test_bytes_in_parquet(folder: Path, tmp_path: Path) -> None:
    held = [{"bytes": (folder / row["path"]).read_bytes(), "path": None} for row in rows_of(folder)]
    plain = Dataset.from_dict(
        {"picture": [cell["bytes"] for cell in held], "label": [r["label"] for r in rows_of(folder)]}
    )
    typed = Dataset.from_dict({"image": held, "label": [0, 1] * 3})
    typed = typed.cast_column("image", datasets.Image()).cast_column("label", ClassLabel(names=["cat", "dog"]))
    for name, split in (("plain", plain), ("typed", typed)):
        split.to_parquet(tmp_path / f"{name}.parquet")
        data = read_images(load_images(train=tmp_path / f"{name}.parquet"))
        assert data.label_names == ["cat", "dog"]
        assert (np.asarray(open_image(data.splits["train"][1]["image"])) == np.asarray(picture(1))).all()
        assert data.splits["train"][1][ORIGIN] == f"{tmp_path / name}.parquet[1]"


def test_a_data_set_of_the_hub_is_not_decoded(folder: Path, tmp_path: Path) -> None:
    (folder / "train/cat/0.png").write_bytes(b"GIF89a")
    rows = {"image": [str(folder / row["path"]) for row in rows_of(folder)], "label": [0, 1] * 3}
    hub = DatasetDict(train=Dataset.from_dict(rows).cast_column("image", datasets.Image()))
    with pytest.raises(ValueError, match=r"truncated or broken: 1 row\(s\), train\[0\]"):
        read_images(load_images(dataset=hub))
    assert len(read_images(hub, on_bad_row="drop").splits["train"]) == 5
    hub.save_to_disk(tmp_path / "saved")
    assert len(read_images(load_images(dataset=tmp_path / "saved"), on_bad_row="drop").splits["train"]) == 5


def test_the_table_of_a_folder(folder: Path) -> None:
    train = folder / "train"
    rows = [
        {"file_name": row["path"].removeprefix("train/"), "label": n // 3} for n, row in enumerate(rows_of(folder)[:5])
    ]
    (train / "metadata.jsonl").write_text(WRITERS["rows.jsonl"](rows))
    data = read_images(load_images(train=train))
    assert data.splits["train"]["label"][:] == [0, 0, 0, 1, 1]
    assert any(
        f"1 image(s) left out that metadata.jsonl does not list: {train / 'dog/5.png'}" in n for n in data.notes
    )


def test_columns_are_found_or_asked_for(folder: Path) -> None:
    rows = [{"a": row["path"], "b": row["path"], "label": row["label"]} for row in rows_of(folder)]
    (folder / "rows.csv").write_text(as_csv(rows))
    with pytest.raises(ValueError, match=r"several columns hold images \(\['a', 'b'\]\).*Set image_column="):
        load_images(train=folder / "rows.csv")
    with pytest.raises(ValueError, match="no column 'c' .image_column.; the columns found are"):
        load_images(train=folder / "rows.csv", image_column="c")
    splits = load_images(train=folder / "rows.csv", image_column="b")
    data = read_images(splits, image_column="b", keep_columns=["a"])
    assert {*data.splits["train"].column_names} == {"a", ORIGIN, "image", "label"}
    with pytest.raises(ValueError, match="no column of images is known"):
        read_images({"train": Dataset.from_dict({"x": ["a b", "c"], "label": ["y", "z"]})})


def test_files_without_labels_can_be_listed(folder: Path) -> None:
    splits = load_images(test=str(folder / "train" / "cat" / "*.png"))
    assert splits["test"].column_names == ["image", ORIGIN] and len(splits["test"]) == 3


def test_splitting_and_folds_are_those_of_texts(tmp_path: Path) -> None:
    for number in range(20):
        draw(tmp_path / ("a", "b")[number % 2] / f"{number}.png", number)
    data = read_images(load_images(dataset=tmp_path))
    parted = make_validation(data, fraction=0.2)
    assert parted.splits.num_rows == {"train": 16, "validation": 4} and isinstance(parted, ImageData)
    assert [fold.splits.num_rows["test"] for fold in k_folds(data, 5)] == [4] * 5


def test_fingerprints_and_repeated_files(folder: Path) -> None:
    data = read_images(load_images(dataset=folder))
    before = fingerprint(data.splits["train"])
    assert before == fingerprint(read_images(load_images(train=folder / "train")).splits["train"])
    (folder / "train/dog/1.png").write_bytes((folder / "val/dog/b.png").read_bytes())
    (folder / "train/cat/2.png").write_bytes((folder / "train/cat/0.png").read_bytes())
    data = read_images(load_images(dataset=folder))
    assert fingerprint(data.splits["train"]) != before
    single = deduplicate_images(data)
    assert places(single.splits["train"], folder) == [f"train/{n}.png" for n in ("cat/0", "cat/4", "dog/3", "dog/5")]
    assert "Dropped 1 exact duplicate(s) inside train." in single.notes
    assert "Dropped 1 row(s) of train whose image stands in an evaluation split." in single.notes


def found(report: Mapping[str, Any], kind: str, split: str = "train") -> dict[str, Any]:
    matching = [item for item in report["findings"] if (item["kind"], item["split"]) == (kind, split)]
    assert len(matching) == 1, [item["kind"] for item in report["findings"]]
    return dict(matching[0])


@pytest.fixture
def messy(folder: Path) -> Path:
    """The folder with one of every kind of finding."""
    train, val = folder / "train", folder / "val"
    rotated = Image.Exif()
    rotated[0x0112] = 6
    draw(train / "cat" / "rotated.jpg", 20, exif=rotated.tobytes())
    picture(21).convert("CMYK").save(train / "cat" / "cmyk.jpg")
    picture(22).save(train / "cat" / "frames.gif", save_all=True, append_images=[picture(23)])
    draw(train / "cat" / "jpeg.png", 24, format="JPEG")
    Image.new("RGB", (32, 32), "red").save(train / "dog" / "blank.png")
    picture(25).resize((4, 100)).save(train / "dog" / "narrow.png")
    (train / "dog" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (train / "dog" / "empty.png").write_bytes(b"")
    draw(train / "dog" / "copy.bmp", 0)  # the pixels of cat/0.png, in another class
    picture(2, 64).save(train / "cat" / "near.jpg", quality=80)
    picture(10, 48).save(train / "dog" / "leak.webp", quality=80)
    draw(val / "dog" / "seen.png", 4)
    return folder


def test_the_report_names_every_kind_with_its_files(messy: Path) -> None:
    report = check_images(load_images(dataset=messy))
    train = messy / "train"
    for kind, names in {
        "image_rotated": ["cat/rotated.jpg"],
        "image_cmyk": ["cat/cmyk.jpg"],
        "image_animated": ["cat/frames.gif"],
        "image_wrong_suffix": ["cat/jpeg.png"],
        "image_blank": ["dog/blank.png"],
        "image_narrow": ["dog/narrow.png"],
        "image_tiny": ["dog/narrow.png"],
        "image_broken": ["dog/broken.png"],
        "image_empty": ["dog/empty.png"],
        "conflicting_labels": [
            f"dog/copy.bmp = {train / 'cat/0.png'}",
            f"cat/4.png = {messy / 'val/dog/seen.png'}",
        ],
        "in_two_splits": [f"cat/4.png = {messy / 'val/dog/seen.png'}"],
        "duplicate": [f"dog/copy.bmp = {train / 'cat/0.png'}"],
        "near_duplicate": [f"cat/near.jpg = {train / 'cat/2.png'}"],
        "near_in_two_splits": [f"dog/leak.webp = {messy / 'val/cat/a.png'}"],
        "near_conflicting_labels": [f"dog/leak.webp = {messy / 'val/cat/a.png'}"],
    }.items():
        places = [item["places"] for item in report["findings"] if (item["kind"], item["split"]) == (kind, "train")]
        assert sum(places, []) == [f"{train}/{name}" for name in names], kind
    assert report["splits"]["train"]["rows"] == 17 and report["splits"]["train"]["classes"] == {"cat": 8, "dog": 9}
    assert report["splits"]["train"]["formats"]["PNG"] == 8 and report["splits"]["train"]["widths"]["max"] == 64
    assert json.loads(json.dumps(report)) == report
    text = format_report(report)
    assert "train: 17 rows" in text and "labels: cat 8, dog 9" in text and "files: PNG 8" in text
    assert "[image_rotated] train: turned upright as its EXIF data says: 1 image(s), " in text


def test_the_report_names_more_than_three_files(folder: Path) -> None:
    for path in (folder / "train").rglob("*.png"):
        path.write_bytes(b"")
    report = check_images(load_images(dataset=folder))
    assert len(found(report, "image_empty")["places"]) == 6


def test_prepared_sets_of_labels_give_the_same_report(folder: Path) -> None:
    labels = [["a"], ["a", "b"], [], ["b"], [], []]
    rows = [{**row, "label": label} for row, label in zip(rows_of(folder), labels, strict=True)]
    (folder / "rows.jsonl").write_text(WRITERS["rows.jsonl"](rows))
    splits = load_images(train=folder / "rows.jsonl")
    before, after = check_images(splits), check_images(read_images(splits))
    assert before["splits"] == after["splits"] and before["splits"]["train"]["classes"] == {
        "a": 2,
        "b": 2,
        "(no label)": 3,
    }


def test_a_clean_set_has_no_finding_but_rare_classes(folder: Path) -> None:
    report = check_images(read_images(load_images(dataset=folder)))
    assert {item["kind"] for item in report["findings"]} == {"rare_class"}


def test_look_alikes_are_found_among_many_and_others_are_not(tmp_path: Path) -> None:
    """Copies of another size and quality, against pictures of their own."""
    chosen = random.Random(0).sample(range(200), 20)
    for seed in range(200):
        draw(tmp_path / "a" / f"{seed:03}.png", seed)
    for seed in chosen:
        (tmp_path / "b").mkdir(exist_ok=True)
        picture(seed, 50).save(tmp_path / "b" / f"{seed:03}.jpg", quality=60)
    report = check_images(load_images(train=tmp_path))
    expected = {f"{tmp_path}/b/{seed:03}.jpg = {tmp_path}/a/{seed:03}.png" for seed in chosen}
    assert {*found(report, "near_duplicate")["places"]} == expected
