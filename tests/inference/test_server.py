"""A real server in a process of its own: under load, ended in the middle, and in the way of another."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from answering import ROOT, Served, served
from tiny_models import tiny_model, tiny_text, tiny_tokenizer

from hf_selfattn import open_predictor
from hf_selfattn.inference.arguments import ServeArguments
from hf_selfattn.inference.server import serve

REQUESTS, CLIENTS = 400, 16
TEXTS = [tiny_text(3 + number % 9, seed=number) for number in range(20)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("served")
    tiny_model("single_label").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def start_load(server: Served, requests: int) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "benchmarks.speed.load", str(server.port), str(CLIENTS), str(requests)]
    process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write("\n".join(TEXTS))
    process.stdin.close()
    process.stdin = None
    return process


def outcome(process: subprocess.Popen[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(process.communicate(timeout=120)[0])
    return found


def assert_answers_are_those_of_the_predictor(server: Served, model: str) -> None:
    expected = open_predictor(model, dtype="float32").answers([{"text": text} for text in TEXTS])
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", "/predict", json.dumps({"inputs": TEXTS}))
    answers = json.loads(connection.getresponse().read())["answers"]
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer["label"] == wanted["label"]
        assert answer["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-6)


@pytest.mark.slow
def test_under_load_and_ended_in_the_middle(model: str) -> None:
    with served(model, "dtype=float32", "drain=0.3") as server:
        assert json.loads(server.get("/health"))["status"] == "ok" and server.get("/ready") == "ready"
        assert_answers_are_those_of_the_predictor(server, model)
        found = outcome(start_load(server, REQUESTS))
        assert found["statuses"] == {"200": REQUESTS}
        assert 0 < found["p50_ms"] <= found["p99_ms"] < 10_000
        assert f"hf_selfattn_texts_total {REQUESTS + len(TEXTS)}.0" in server.get("/metrics")

        clients = start_load(server, 20 * REQUESTS)
        while "hf_selfattn_accepted_total 4" in server.get("/metrics"):  # 401 and some
            time.sleep(0.02)
        said = server.end()
        statuses = outcome(clients)["statuses"]
        assert server.process.returncode == 0
        assert set(statuses) <= {"200", "refused", "broken"} and statuses["refused"] > 0
        accepted = 1 + REQUESTS + statuses["200"]  # whoever got no reply had not been accepted
        assert said == f"Ended: {accepted} requests were accepted, and {accepted} got a reply.\n"


def test_a_place_that_is_taken_is_said(model: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port={port} cannot .*Address already in use.. Give another port="):
            serve(ServeArguments(model=model, port=port))


def test_a_missing_package_is_said(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_selfattn.inference.server.find_spec", lambda name: None if name == "uvicorn" else name)
    with pytest.raises(ImportError, match="Serving needs uvicorn: pip install uvicorn"):
        serve(ServeArguments(model=model))


def test_a_folder_without_a_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no model"):
        serve(ServeArguments(model=str(tmp_path), port=0))
