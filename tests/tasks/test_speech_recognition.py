"""Speech as a task: tones that stand for letters are learned, recognised with times, scored and shown."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from runs import stopped_after
from sound_runs import speech_arguments, speech_settings
from starlette.testclient import TestClient
from transformers import pipeline
from warm_python import warm_python

from hf_selfattn import (
    EvaluateArguments,
    PredictArguments,
    ReportArguments,
    ServeArguments,
    SpeechRecognitionArguments,
    build_arguments,
    evaluate,
    open_predictor,
    predict,
    report,
    run,
)
from hf_selfattn.__main__ import main
from hf_selfattn.inference.app import create_app
from hf_selfattn.tasks.media.speech import SpeechCollator, recognised
from hf_selfattn.tasks.speech_recognition import SpeechRecognition

ROOT = Path(__file__).parents[2]
LEARN = {"tuning": "full", "num_train_epochs": 30, "per_device_train_batch_size": 4, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a finished run on tones, and its data."""
    folder = tmp_path_factory.mktemp("speech")
    run(speech_arguments(folder, **LEARN, group_column="speaker"))
    return folder


def results_of(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((folder / "run/results.json").read_text(encoding="utf-8"))
    return results


def predictions_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "run/predictions-test.jsonl").read_text("utf-8").splitlines()]


def test_tones_are_learned_and_the_best_character_error_rate_is_kept(trained: Path) -> None:
    results = results_of(trained)
    scores = results["splits"]["test"]["scores"]
    assert scores["cer"]["value"] < 0.3 and scores["wer"]["low"] <= scores["wer"]["value"] <= scores["wer"]["high"]
    assert {"substitutions", "deletions", "insertions", "exact"} <= scores.keys()
    seen = [entry["eval_cer"] for entry in results["training"]["history"] if "eval_cer" in entry]
    assert results["training"]["best_metric"] == min(seen)
    assert results["splits"]["validation"]["scores"]["cer"]["value"] == pytest.approx(min(seen))
    assert any("Vocabulary: 6 characters" in note for note in results["notes"])
    card = (trained / "run/README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: automatic-speech-recognition" in card and "the text of each sound" in card


def test_the_pipeline_and_predict_say_the_same_with_times(trained: Path, tmp_path: Path) -> None:
    recognise = pipeline("automatic-speech-recognition", model=str(trained / "run"))
    output = tmp_path / "texts.jsonl"
    given = {"model": str(trained / "run"), "input": str(trained / "test"), "output": str(output)}
    predict(PredictArguments(**given, dtype="float32", word_times=True))
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in rows] == [answer["output"] for answer in predictions_of(trained)]
    samples = soundfile.read(rows[0]["sound"], dtype="float32")[0]
    assert recognise(samples)["text"] == rows[0]["text"]
    words = rows[0]["words"]
    assert " ".join(word["text"] for word in words) == rows[0]["text"] and 0 <= words[0]["start"] < words[0]["end"]
    parquet = tmp_path / "texts.parquet"
    predict(PredictArguments(**{**given, "output": str(parquet)}, dtype="float32", word_times=True))
    predict(PredictArguments(**{**given, "output": str(tmp_path / "texts.csv")}, dtype="float32"))
    head = (tmp_path / "texts.csv").read_text(encoding="utf-8").splitlines()[0]
    assert parquet.stat().st_size and head == "sound,text,confidence"
    with pytest.raises(ValueError, match="which a recogniser does not give"):
        predict(PredictArguments(**given, abstain=0.9))


def test_a_table_is_scored_as_the_run_scored_it(trained: Path) -> None:
    scores = evaluate(EvaluateArguments(model=str(trained / "run"), input=str(trained / "test.csv")))
    before, after = results_of(trained)["splits"]["test"], scores["splits"]["test"]
    assert after["scores"]["wer"]["value"] == pytest.approx(before["scores"]["wer"]["value"])


def test_what_is_said_comes_over_http(trained: Path) -> None:
    import base64

    path = trained / "test/000.wav"
    predictor = open_predictor(trained / "run", dtype="float32")
    coded = base64.b64encode(path.read_bytes()).decode()
    with TestClient(create_app(predictor, ServeArguments(model="m"), "mine")) as client:
        (answer,) = client.post("/predict", json={"inputs": [{"sound": coded}]}).json()["answers"]
    assert answer["text"] == predictions_of(trained)[0]["output"]


def test_the_report_aligns_words_and_compares_runs(trained: Path, tmp_path: Path) -> None:
    weak = build_arguments(
        {**speech_settings(trained), "tuning": "probe", "output_dir": str(tmp_path / "weak")},
        SpeechRecognitionArguments,
    )
    run(weak)
    folders = [str(tmp_path / "weak"), str(trained / "run")]
    page = report(ReportArguments(runs=folders, output=str(tmp_path / "page.html"))).read_text("utf-8")
    assert "said, and what was recognised for it" in page and "data:image/jpeg;base64," in page
    assert "The most frequent word errors" in page and "paired bootstrap" in page


def test_a_run_is_stopped_and_goes_on(tmp_path: Path) -> None:
    arguments = speech_arguments(tmp_path, tuning="probe+lora")
    with stopped_after(epochs=1):
        run(arguments)
    assert run(arguments)["training"]["phases"]["probe"]["run_state"]["starts"] == 2


def test_transcripts_of_other_lengths_stand_in_one_batch(tmp_path: Path) -> None:
    arguments = speech_arguments(tmp_path)
    task = SpeechRecognition(arguments)
    data = task.load()
    processor = task.fitted_processor(data, task.open_processor()[1])
    encoded = task.encode(data, processor)["test"]
    batch = SpeechCollator(processor.feature_extractor)([encoded[0], encoded[1]])
    assert batch["labels"].shape[0] == 2 and "input_values" in batch
    ids = np.array([[4, 4, 0, 4, 2, 5, -100]])
    letters = processor.tokenizer.convert_ids_to_tokens([4, 5])
    assert recognised(ids, processor.tokenizer) == [f"{letters[0] * 2} {letters[1]}"]
    assert [row["transcript"] for row in encoded] == [row["transcript"] for row in data.splits["test"]]


def test_check_and_new_look_at_the_transcripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = speech_settings(tmp_path)
    assert run(build_arguments({**given, "check": True}, SpeechRecognitionArguments))["splits"]["train"]["rows"] == 24
    assert "In a run: Vocabulary: 6 characters" in capsys.readouterr().out
    words = [f"model={given['model']}", f"train={given['train']}", f"path={tmp_path / 'new.yaml'}"]
    main(["new", "speech-recognition", *words])
    assert "\ntranscript_column: transcript\n" in (tmp_path / "new.yaml").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_command_line_learns_and_recognises(tmp_path: Path) -> None:
    """The commands of the documentation alone, with a validation split by distinct text and an adapter merged."""
    settings = speech_settings(tmp_path, validation=None, group_column="transcript", tuning="lora")
    words = [f"{name}={value}" for name, value in settings.items() if value is not None]
    program = [warm_python(), "-m", "hf_selfattn"]
    output = tmp_path / "new.jsonl"
    for command in (
        ["train", "speech-recognition", *words],
        ["predict", settings["output_dir"], f"input={tmp_path / 'test'}", f"output={output}", "word_times=true"],
        ["evaluate", settings["output_dir"], f"input={settings['test']}"],
    ):
        done = subprocess.run([*program, *command], cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    assert len(output.read_text(encoding="utf-8").splitlines()) == 6
