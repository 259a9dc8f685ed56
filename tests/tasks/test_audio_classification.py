"""Sounds as a task: a probe on kept features, every way to tune, predictions, the server and the report."""

from __future__ import annotations

import base64
import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import soundfile
from runs import stopped_after
from sound_runs import PITCHES, made_sound, sound_arguments, sound_settings
from starlette.testclient import TestClient
from tiny_sounds import RATE
from transformers import AutoModelForAudioClassification, pipeline
from warm_python import warm_python

from hf_selfattn import (
    AudioClassificationArguments,
    EvaluateArguments,
    PredictArguments,
    ReportArguments,
    ServeArguments,
    build_arguments,
    evaluate,
    open_predictor,
    predict,
    report,
    run,
)
from hf_selfattn.__main__ import main
from hf_selfattn.inference.app import create_app
from hf_selfattn.tasks.media.sounds import SoundCollator

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a finished probe on kept features, and its data."""
    folder = tmp_path_factory.mktemp("sounds")
    run(sound_arguments(folder, tuning="probe", num_train_epochs=12, heads_learning_rate=3e-3))
    return folder


def results_of(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((folder / "run/results.json").read_text(encoding="utf-8"))
    return results


def test_a_probe_learns_on_kept_features_beside_its_baselines(trained: Path) -> None:
    results = results_of(trained)
    assert results["label_names"] == sorted(PITCHES) and results["problem"] == "single_label_classification"
    scores = results["splits"]["test"]["scores"]
    assert scores["accuracy"]["value"] > 0.6 and scores["macro_f1"]["low"] < scores["macro_f1"]["high"]
    baselines = {name: record["splits"]["test"]["scores"] for name, record in results["baseline"].items()}
    assert baselines["majority"]["accuracy"]["value"] == pytest.approx(1 / 3)
    assert baselines["linear_probe"]["accuracy"]["value"] > 0.5
    assert results["training"]["feature_cache"]["rows"] == 36
    assert "temperature" in results["calibration"]
    card = (trained / "run/README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: audio-classification" in card and "one label for each sound" in card


@pytest.mark.parametrize("tuning", ["full", "lora", "probe+lora"])
def test_every_way_to_tune_is_stopped_and_goes_on(tuning: str, tmp_path: Path) -> None:
    arguments = sound_arguments(tmp_path, tuning=tuning)
    with stopped_after(epochs=1):
        run(arguments)
    results = run(arguments)
    first = results["training"]["phases"]["probe"] if tuning == "probe+lora" else results
    assert first["run_state"]["starts"] == 2
    model = AutoModelForAudioClassification.from_pretrained(tmp_path / "run")
    assert type(model).__name__ == "SelfAttnForAudioClassification"


def test_no_sound_is_opened_beside_kept_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = sound_settings(tmp_path, tuning="probe", baseline=False)
    run(build_arguments(settings, AudioClassificationArguments))
    opened: list[Any] = []
    waves = SoundCollator.waves
    monkeypatch.setattr(SoundCollator, "waves", lambda self, sources: opened.extend(sources) or waves(self, sources))
    again = {**settings, "output_dir": str(tmp_path / "again")}
    record = run(build_arguments(again, AudioClassificationArguments))["training"]["feature_cache"]
    assert record["computed_rows"] == 0 and len(opened) < 36, "those that are evaluated and compared in the end"


def test_a_column_of_speakers_keeps_them_on_one_side(tmp_path: Path) -> None:
    settings = sound_settings(tmp_path, tuning="probe", num_train_epochs=1, baseline=False)
    rows = [f"train/{kind}/{n:02}.wav,{kind},{n % 4}" for kind in PITCHES for n in range(12)]
    (tmp_path / "train.csv").write_text("\n".join(["path,label,speaker", *rows]), encoding="utf-8")
    given = {**settings, "train": str(tmp_path / "train.csv"), "test": None, "group_column": "speaker"}
    arguments = build_arguments(given, AudioClassificationArguments)
    results = run(arguments)
    assert results["splits"]["validation"]["rows"] in (9, 18) and any("speaker" in note for note in results["notes"])


def test_folders_and_tables_are_predicted_as_the_pipeline_answers(trained: Path, tmp_path: Path) -> None:
    path = trained / "test/bell/00.wav"
    classify = pipeline("audio-classification", model=str(trained / "run"), top_k=3)
    expected = {answer["label"]: answer["score"] for answer in classify(soundfile.read(path)[0])}

    def rows_of(given: str, output: str, **options: Any) -> list[dict[str, str]]:
        arguments = {"model": str(trained / "run"), "input": given, "output": str(tmp_path / output), **options}
        predict(PredictArguments(**arguments, dtype="float32"))
        with (tmp_path / output).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    folder = rows_of(str(trained / "test"), "folder.csv", probabilities=True)
    assert len(folder) == 12 and folder[0]["sound"] == str(path)
    assert json.loads(folder[0]["probabilities"]) == pytest.approx(expected, abs=1e-5)
    table = trained / "table.csv"
    table.write_text("id,file_name\n7,test/bell/00.wav\n8,test/none.wav\n", encoding="utf-8")
    found = rows_of(str(table), "table_out.csv", on_bad_row="skip")
    assert [(row["id"], row["label"]) for row in found] == [("7", folder[0]["label"])]
    with pytest.raises(ValueError, match=r"table.csv:3: column 'file_name': .*none.wav"):
        rows_of(str(table), "stopped.csv")


def test_labelled_sounds_are_scored_as_the_run_scored_them(trained: Path) -> None:
    scores = evaluate(EvaluateArguments(model=str(trained / "run"), input=str(trained / "test")))
    before, after = results_of(trained)["splits"]["test"], scores["splits"]["test"]
    assert after["scores"]["nll"]["value"] == pytest.approx(before["scores"]["nll"]["value"], abs=1e-5)
    assert after["fingerprint"] == before["fingerprint"]


def test_samples_and_bytes_are_answered_and_a_text_is_refused(trained: Path) -> None:
    predictor = open_predictor(trained / "run", dtype="float32")
    path = trained / "test/bell/00.wav"
    samples = soundfile.read(path, dtype="float32")[0]
    rows = [{"sound": str(path)}, {"sound": {"bytes": path.read_bytes(), "path": None}}, {"sound": samples}]
    one, *others = predictor.answers([*rows, {"sound": made_sound("hum", 5).astype("float32").repeat(40)}])[:3]
    assert all(other["probability"] == pytest.approx(one["probability"], abs=1e-5) for other in others)
    with pytest.raises(ValueError, match="reads sound, and not 'text'"):
        predictor.answers([{"text": "A text."}])
    with pytest.raises(ValueError, match="'sound': .*no sound but text"):
        predictor.answers([{"sound": {"bytes": b"no sound at all", "path": None}}])


def test_sounds_are_answered_over_http(trained: Path) -> None:
    predictor = open_predictor(trained / "run", dtype="float32")
    path = trained / "test/bell/00.wav"
    expected = predictor.answers([{"sound": str(path)}])[0]
    coded = base64.b64encode(path.read_bytes()).decode()
    with TestClient(create_app(predictor, ServeArguments(model="m"), "mine")) as client:
        (answer,) = client.post("/predict", json={"inputs": [{"sound": coded}]}).json()["answers"]
        assert answer["probability"] == pytest.approx(expected["probability"], abs=1e-6)
        reply = client.post("/predict", json={"inputs": [{"sound": "!"}]})
        assert reply.status_code == 422 and "'sound': no base64" in reply.json()["error"]
        assert 'accept="audio/*"' in client.get("/").text


def test_the_report_shows_spectrograms_of_the_errors(trained: Path, tmp_path: Path) -> None:
    page = report(ReportArguments(runs=[str(trained / "run")], output=str(tmp_path / "page.html"))).read_text("utf-8")
    lines = (trained / "run/predictions-test.jsonl").read_text("utf-8").splitlines()
    answers = [json.loads(line) for line in lines]
    wrong = sum(max(answer["output"]) != answer["output"][answer["reference"]] for answer in answers)
    worst = page[page.index('id="run-1-wrong"') : page.index('id="run-1-label-errors"')]
    assert worst.count("data:image/jpeg;base64,") == wrong and "length in seconds" in page


def test_check_and_new_look_at_the_sounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = sound_settings(tmp_path)
    (tmp_path / "train/bell/broken.wav").write_bytes(b"RIFF\x00\x00\x00\x00WAVE")
    found = run(build_arguments({**given, "check": True}, AudioClassificationArguments))
    assert found["splits"]["train"]["rows"] == 37 and not (tmp_path / "run").exists()
    said = capsys.readouterr().out
    assert "broken.wav" in said and "A run would stop:" in said
    words = [f"model={given['model']}", f"train={given['train']}", f"path={tmp_path / 'new.yaml'}"]
    main(["new", "audio-classification", *words])
    assert "\nlabel_names: [bell, hum, reed]\n" in (tmp_path / "new.yaml").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="sample_tokens=8 cuts texts, and files are none"):
        sound_arguments(tmp_path, sample_tokens=8)


@pytest.mark.slow
def test_the_command_line_trains_on_whisper_s_encoder_and_answers(tmp_path: Path) -> None:
    """A backbone that reads spectrograms, through the commands of the documentation alone."""
    from sound_runs import sound_backbone

    settings = sound_settings(tmp_path, model=sound_backbone(tmp_path / "whisper", "whisper"), tuning="probe")
    words = [f"{name}={value}" for name, value in settings.items()]
    program = [warm_python(), "-m", "hf_selfattn"]
    soundfile.write(tmp_path / "new.flac", made_sound("hum", 77), RATE)
    for command in (
        ["train", "audio-classification", *words],
        ["predict", settings["output_dir"], f"input={tmp_path / 'new.flac'}", f"output={tmp_path / 'new.jsonl'}"],
        ["evaluate", settings["output_dir"], f"input={tmp_path / 'test'}"],
    ):
        done = subprocess.run([*program, *command], cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads((tmp_path / "new.jsonl").read_text(encoding="utf-8"))
    assert answer["label"] in PITCHES
