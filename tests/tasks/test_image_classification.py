"""Images as a task: every way to tune, kept features, views, predictions, and a run that is killed."""

from __future__ import annotations

import base64
import csv
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hub_server import run_with_hub
from hub_state import USER, Hub
from image_runs import CLASSES, image_arguments, image_folders, image_settings, made_image
from runs import stopped_after
from starlette.testclient import TestClient
from tiny_images import tiny_image_processor
from transformers import AutoModelForImageClassification, pipeline
from warm_python import warm_environment, warm_launcher, warm_python

from hf_selfattn import (
    EvaluateArguments,
    ExportArguments,
    ImageClassificationArguments,
    PredictArguments,
    ReportArguments,
    ServeArguments,
    build_arguments,
    evaluate,
    export,
    open_predictor,
    predict,
    report,
    run,
)
from hf_selfattn.__main__ import main
from hf_selfattn.data.images import open_image
from hf_selfattn.inference.app import create_app
from hf_selfattn.tasks.media.images import ImageCollator, RandomViews, random_box, resize
from hf_selfattn.training import feature_cache

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a finished probe on kept features, and its data."""
    folder = tmp_path_factory.mktemp("images")
    run(image_arguments(folder, tuning="probe", num_train_epochs=12, heads_learning_rate=3e-3))
    return folder


def results_of(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((folder / "run/results.json").read_text(encoding="utf-8"))
    return results


def test_a_probe_learns_on_kept_features_beside_its_baselines(trained: Path) -> None:
    results = results_of(trained)
    assert results["label_names"] == sorted(CLASSES) and results["problem"] == "single_label_classification"
    scores = results["splits"]["test"]["scores"]
    assert scores["accuracy"]["value"] > 0.6 and "f1/circles" in scores
    baselines = {name: record["splits"]["test"]["scores"] for name, record in results["baseline"].items()}
    assert baselines["majority"]["accuracy"]["value"] == pytest.approx(1 / 3)
    assert baselines["linear_probe"]["accuracy"]["value"] > 0.5
    assert results["training"]["feature_cache"]["rows"] == 48
    assert "ece" in scores and "temperature" in results["calibration"]


def test_a_probe_starts_from_the_linear_model_of_its_features(tmp_path: Path) -> None:
    results = run(image_arguments(tmp_path, tuning="probe", linear_start=True, learning_rate=1e-9, num_train_epochs=1))
    scores = results["splits"]["test"]["scores"]
    beside = results["baseline"]["linear_probe"]["splits"]["test"]["scores"]
    assert scores["accuracy"]["value"] > 0.5
    assert scores["accuracy"]["value"] == pytest.approx(beside["accuracy"]["value"], abs=0.2)


@pytest.mark.parametrize("tuning", ["full", "lora", "probe+lora"])
def test_every_way_to_tune_is_stopped_and_goes_on(tuning: str, tmp_path: Path) -> None:
    arguments = image_arguments(tmp_path, tuning=tuning)
    with stopped_after(epochs=1):
        run(arguments)
    results = run(arguments)
    first = results["training"]["phases"]["probe"] if tuning == "probe+lora" else results
    assert first["run_state"]["starts"] == 2
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "run")
    assert type(model).__name__ == "SelfAttnForImageClassification"
    assert "linear_probe" not in results["baseline"], "the backbone was changed"


def test_a_stopped_run_ends_as_a_whole_one(tmp_path: Path) -> None:
    """Random views are those of the seed, the epoch and the image: the answers are the same to the last digit."""
    settings = image_settings(tmp_path, tuning="full", baseline=False)
    whole = build_arguments({**settings, "output_dir": str(tmp_path / "whole")}, ImageClassificationArguments)
    run(whole)
    stopped = build_arguments(settings, ImageClassificationArguments)
    with stopped_after(epochs=1):
        run(stopped)
    run(stopped)
    one, other = ((tmp_path / name / "predictions-test.jsonl").read_text() for name in ("whole", "run"))
    assert one == other


def test_kept_features_are_found_by_content_and_no_image_is_opened_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = image_settings(tmp_path, tuning="probe", baseline=False)
    read, features_of = [], feature_cache.features_of
    monkeypatch.setattr(
        feature_cache,
        "features_of",
        lambda model, batch: read.append(len(batch["pixel_values"])) or features_of(model, batch),
    )
    first = run(build_arguments(settings, ImageClassificationArguments))
    assert max(read) == feature_cache.IMAGES_ON_CPU
    (tmp_path / "train").rename(tmp_path / "moved")
    made_image("circles", 4711).save(tmp_path / "moved/circles/0.png")
    opened: list[Any] = []
    call = ImageCollator.pixels
    monkeypatch.setattr(ImageCollator, "pixels", lambda self, sources: opened.extend(sources) or call(self, sources))
    again = {**settings, "train": str(tmp_path / "moved"), "output_dir": str(tmp_path / "again")}
    record = run(build_arguments(again, ImageClassificationArguments))["training"]["feature_cache"]
    assert first["training"]["feature_cache"]["computed_rows"] == 48 and record["computed_rows"] == 1
    assert len(opened) < 48, "one for the features, those that are evaluated in the end, and a few that are compared"


def test_views_change_with_the_epoch_and_only_with_it(tmp_path: Path) -> None:
    image_folders(tmp_path, 1)
    source = {"bytes": None, "path": str(tmp_path / "circles/0.png")}
    one, other = RandomViews(0), RandomViews(0)
    assert np.array_equal(np.asarray(one.view(source)), np.asarray(other.view(source)))
    before = one.view(source)
    one.epoch = 1
    assert before.size != one.view(source).size or not np.array_equal(np.asarray(before), np.asarray(one.view(source)))
    random = np.random.default_rng(0)
    for _ in range(200):
        left, top, right, bottom = random_box(random, 30, 20)
        assert 0 <= left < right <= 30 and 0 <= top < bottom <= 20
        assert (right - left) * (bottom - top) > 0.4 * 600


def test_images_of_any_size_stand_in_one_batch(tmp_path: Path) -> None:
    images = [made_image("circles", seed) for seed in (0, 4)]
    collate = ImageCollator(tiny_image_processor(do_resize=False))
    batch = collate([{"image": image, "labels": 1} for image in images])
    assert batch["pixel_values"].shape[2:] == batch["pixel_mask"].shape[1:] == (40, 44)
    assert batch["pixel_mask"].sum(dim=(1, 2)).tolist() == [1600, 1760] and batch["labels"].tolist() == [1, 1]
    assert "pixel_mask" not in collate([{"image": images[0]}] * 2)


def test_images_may_be_brought_to_another_size() -> None:
    processor = tiny_image_processor()
    resize(processor, 48)
    assert ImageCollator(processor)([{"image": made_image("circles", 0)}])["pixel_values"].shape[2:] == (48, 48)
    with pytest.raises(ValueError, match="image_size=0 must be at least 1"):
        resize(processor, 0)


def test_folders_globs_and_tables_are_predicted_as_the_pipeline_answers(trained: Path, tmp_path: Path) -> None:
    classify = pipeline("image-classification", model=str(trained / "run"), top_k=3)
    path = trained / "test/circles/0.png"
    expected = {answer["label"]: answer["score"] for answer in classify(str(path))}

    def rows_of(given: Any, output: str, **options: Any) -> list[dict[str, str]]:
        arguments = {"model": str(trained / "run"), "input": given, "output": str(tmp_path / output), **options}
        predict(PredictArguments(**arguments, dtype="float32"))
        with (tmp_path / output).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    folder = rows_of(str(trained / "test"), "folder.csv", probabilities=True)
    assert len(folder) == 18 and folder[0]["image"] == str(path)
    assert json.loads(folder[0]["probabilities"]) == pytest.approx(expected, abs=1e-5)
    assert rows_of(str(trained / "test/circles/*.png"), "glob.csv")[0]["label"] == folder[0]["label"]
    table = trained / "table.csv"
    table.write_text("id,file_name\n7,test/circles/0.png\n8,test/none.png\n", encoding="utf-8")
    found = rows_of(str(table), "table_out.csv", on_bad_row="skip")
    assert [(row["id"], row["file_name"], row["label"]) for row in found] == [
        ("7", "test/circles/0.png", folder[0]["label"])
    ]
    with pytest.raises(ValueError, match=r"table.csv:3: column 'file_name': .*none.png"):
        rows_of(str(table), "stopped.csv")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/empty.png").touch()
    with pytest.raises(ValueError) as caught:
        rows_of(str(tmp_path / "odd"), "stopped.csv")
    assert str(caught.value).count("empty.png") == 1 and "the file is empty" in str(caught.value)


def test_labelled_images_are_scored_as_the_run_scored_them(trained: Path) -> None:
    scores = evaluate(EvaluateArguments(model=str(trained / "run"), input=str(trained / "test")))
    before = results_of(trained)["splits"]["test"]
    assert scores["splits"]["test"]["scores"]["nll"]["value"] == pytest.approx(
        before["scores"]["nll"]["value"], abs=1e-5
    )
    assert scores["splits"]["test"]["fingerprint"] == before["fingerprint"]


def test_bytes_are_answered_and_a_text_is_refused(trained: Path) -> None:
    predictor = open_predictor(trained / "run", dtype="float32")
    path = trained / "test/circles/0.png"
    rows = [{"image": str(path)}, {"image": {"bytes": path.read_bytes(), "path": None}}, {"image": open_image(path)}]
    one, *others = predictor.answers(rows)
    assert all(other["probability"] == pytest.approx(one["probability"], abs=1e-6) for other in others)
    with pytest.raises(ValueError, match="reads image, and not 'text'"):
        predictor.answers([{"text": "A text."}])
    with pytest.raises(ValueError, match="'image': .*no image but text"):
        predictor.answers([{"image": {"bytes": b"no image at all", "path": None}}])


def test_what_cannot_go_together_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sample_tokens=8 cuts texts, and files are none"):
        image_arguments(tmp_path, sample_tokens=8)
    arguments = image_arguments(tmp_path, image_size=64, heads={"tiles": True})
    with pytest.raises(ValueError, match="image_size=64, but with heads.tiles=true no image is resized"):
        run(arguments)


def test_a_multi_label_table_of_bytes(tmp_path: Path) -> None:
    rows = []
    for number in range(36):
        kind = [*CLASSES][number % 3]
        made_image(kind, number).save(content := io.BytesIO(), "PNG")
        rows.append({"image": content.getvalue(), "labels": [kind, "all"] if number % 2 else [kind]})
    Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet")
    arguments = image_arguments(tmp_path, train=str(tmp_path / "train.parquet"), test=None, tuning="probe")
    results = run(arguments)
    assert results["problem"] == "multi_label_classification" and len(results["thresholds"]) == 4
    assert "linear_probe" in results["baseline"]


@pytest.mark.parametrize(
    "setting", [{"seeds": 2}, {"folds": 2, "test": None}, {"sweep": {"learning_rate": [1e-3, 1e-2]}}]
)
def test_seeds_folds_and_sweeps_are_those_of_all_tasks(setting: dict[str, Any], tmp_path: Path) -> None:
    if "sweep" in setting:
        pytest.importorskip("optuna")
    results = run(image_arguments(tmp_path, tuning="probe", num_train_epochs=1, baseline=False, **setting))
    assert "sweep" in results if "sweep" in setting else len(results["runs"]) == 2


def test_images_are_answered_over_http(trained: Path) -> None:
    predictor = open_predictor(trained / "run", dtype="float32")
    path = trained / "test/circles/0.png"
    expected = predictor.answers([{"image": str(path)}])[0]
    coded = base64.b64encode(path.read_bytes()).decode()
    with TestClient(create_app(predictor, ServeArguments(model="m"), "mine")) as client:
        for image in (coded, f"data:image/png;base64,{coded}"):
            (answer,) = client.post("/predict", json={"inputs": [{"image": image}]}).json()["answers"]
            assert answer["probability"] == pytest.approx(expected["probability"], abs=1e-6)
        for image, said in (("!", "'image': no base64"), (base64.b64encode(b"none").decode(), "no image but text")):
            reply = client.post("/predict", json={"inputs": [{"image": image}]})
            assert reply.status_code == 422 and said in reply.json()["error"]
        reply = client.post("/predict", json={"inputs": ["a text"]})
        assert reply.status_code == 422 and "reads image, and not 'text'" in reply.json()["error"]
        page = client.get("/").text
        assert 'type="file"' in page and "<textarea" not in page


def test_the_report_shows_images_and_where_the_heads_looked(trained: Path, tmp_path: Path) -> None:
    page = report(ReportArguments(runs=[str(trained / "run")], output=str(tmp_path / "page.html"))).read_text("utf-8")
    wrong = sum(answer["reference"] != int(np.argmax(answer["output"])) for answer in predictions_of(trained))
    heads = page[page.index('id="run-1-heads"') :]
    assert heads.count("data:image/jpeg;base64,") == 4 * 3 and "read by the query of" in heads
    worst = page[page.index('id="run-1-wrong"') : page.index('id="run-1-label-errors"')]
    assert worst.count("data:image/jpeg;base64,") == wrong
    assert "Scores by size" in page and "linear probe" in page


def predictions_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "run/predictions-test.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.slow
def test_two_processes_answer_as_one(tmp_path: Path) -> None:
    """Each random view is a function of the seed, the epoch and the image: two processes see those that one sees."""
    given = image_settings(tmp_path, tuning="full", views="crops", baseline=False, max_steps=4)
    given |= {"train_sampling_strategy": "sequential", "heads": {**given["heads"], "classifier_dropout": 0.0}}
    launch = [*warm_launcher("accelerate"), "launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    ways = {"one": ([warm_python()], 8, {}), "two": (launch, 4, {"ACCELERATE_USE_CPU": "true"})}
    found = {}
    for name, (words, size, changes) in ways.items():
        settings = {**given, "output_dir": str(tmp_path / name), "per_device_train_batch_size": size}
        words = [*words, "recipes/image_classification.py", *(f"{key}={value}" for key, value in settings.items())]
        done = subprocess.run(
            words, cwd=ROOT, env=warm_environment(**changes), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        lines = (tmp_path / name / "predictions-test.jsonl").read_text(encoding="utf-8").splitlines()
        found[name] = np.array([json.loads(line)["output"] for line in lines])
    assert len(found["two"]) == 18 and np.abs(found["one"] - found["two"]).max() < 1e-4


@pytest.mark.slow
def test_a_graph_answers_as_the_model(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    export(ExportArguments(model=str(trained / "run"), folder=str(tmp_path / "graph")))
    rows = [{"image": str(trained / f"test/{kind}/0.png")} for kind in CLASSES]
    both = (open_predictor(folder, dtype="float32").answers(rows) for folder in (trained / "run", tmp_path / "graph"))
    for one, other in zip(*both, strict=True):
        assert other["probabilities"] == pytest.approx(one["probabilities"], abs=1e-4)


ANSWER = """
from pathlib import Path
from transformers import pipeline
from hf_selfattn.hub.push import push_run
push_run({folder!r}, {repo!r})
options = {{"model_kwargs": {{"backbone_name_or_path": {backbone!r}}}}}
for name in ({folder!r}, {repo!r}):
    print(pipeline("image-classification", model=name, **options)({image!r}, top_k=1)[0]["score"])
card = Path({folder!r}, "README.md").read_text()
assert "pipeline_tag: image-classification" in card and "one label for each image" in card
"""


@pytest.mark.slow
def test_an_adapter_goes_to_the_hub_and_back(tmp_path: Path, hub: Hub) -> None:
    arguments = image_arguments(tmp_path, tuning="lora", save="adapter", num_train_epochs=1)
    run(arguments)
    names = {"folder": arguments.output_dir, "repo": f"{USER}/photos", "backbone": arguments.model}
    code = ANSWER.format(**names, image=str(tmp_path / "test/circles/0.png"))
    here, there = map(float, run_with_hub(code, hub, tmp_path).stdout.split()[-2:])
    assert here == there


def test_check_and_new_look_at_the_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = image_settings(tmp_path)
    (tmp_path / "train/circles/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    report = run(build_arguments({**given, "check": True}, ImageClassificationArguments))
    assert report["splits"]["train"]["rows"] == 49 and not (tmp_path / "run").exists()
    said = capsys.readouterr().out
    assert "broken.png" in said and "A run would stop:" in said
    words = [f"model={given['model']}", f"train={given['train']}", f"path={tmp_path / 'new.yaml'}"]
    main(["new", "image-classification", *words])
    written = (tmp_path / "new.yaml").read_text(encoding="utf-8")
    assert "\nlabel_names: [circles, squares, stripes]\n" in written and "\nproblem: single_label" in written
    dropped = run(build_arguments({**given, "on_bad_row": "drop", "tuning": "probe"}, ImageClassificationArguments))
    assert any("broken.png" in note for note in dropped["notes"])
