"""What the server accepts, what it refuses and why, and what its pages show."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from answering import FakePredictor
from starlette.testclient import TestClient

from hf_selfattn.inference.app import create_app
from hf_selfattn.inference.arguments import ServeArguments

LIMITS = {"max_body": 1000, "max_texts": 3, "max_waiting": 4, "timeout": 5.0, "window": 1.0}


@pytest.fixture
def predictor() -> FakePredictor:
    return FakePredictor()


@pytest.fixture
def client(predictor: FakePredictor) -> Iterator[TestClient]:
    with client_of(predictor) as client:
        yield client


def client_of(predictor: FakePredictor, **limits: Any) -> TestClient:
    arguments = ServeArguments(model="m", **{**LIMITS, **limits})
    return TestClient(create_app(predictor, arguments, "<b>mine</b>"))


def test_texts_and_rows_are_answered_in_their_order(client: TestClient) -> None:
    for inputs in (["one", "three"], ["one", {"text": "three"}], [{"text": "one", "text_pair": "x"}, "three"]):
        reply = client.post("/predict", json={"inputs": inputs})
        assert reply.status_code == 200
        assert [answer["probability"] for answer in reply.json()["answers"]] == [0.03, 0.05]
    assert len(client.post("/predict", json={"inputs": "one"}).json()["answers"]) == 1
    assert client.post("/predict", json={"inputs": {"text": "one"}}).status_code == 200


REFUSED = {
    "not UTF-8": (b'{"inputs": ["\xff"]}', 400, "not UTF-8: byte 14 is 0xff"),
    "not JSON": (b'{"inputs": [', 400, "not JSON: .* column 13"),
    "nothing": (b"", 400, "not JSON"),
    "too deep": (b"[" * 999, 400, "not JSON"),
    "too large": (b" " * 1001, 413, "more than 1,000 bytes"),
    "far too large": (b" " * 100_000, 413, "more than 1,000 bytes"),
    "another field": (b'{"inputs": ["a"], "input": 1}', 422, "input is no field of it"),
    "no field": (b"{}", 422, "inputs is missing"),
    "a list": (b'["a"]', 422, "the body is no object"),
    "a number": (b'{"inputs": [1]}', 422, "inputs.0 is no text and no object"),
    "a field of a row": (b'{"inputs": ["a", {"txt": "a"}]}', 422, "inputs.1.txt is no field of it"),
    "a text that is none": (b'{"inputs": [{"text": 1}]}', 422, "inputs.0.text is no text"),
    "no texts": (b'{"inputs": []}', 422, "0 texts; a request has 1 to 3"),
    "too many texts": (b'{"inputs": ["a", "a", "a", "a"]}', 413, "4 texts; a request has 1 to 3"),
    "an empty text": (b'{"inputs": ["a", " "]}', 422, "inputs.1: 'text': the text is empty"),
    "half a character": (b'{"inputs": ["\\ud800"]}', 422, "inputs.0: half of a surrogate pair"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_request_is_refused_with_the_reason(case: str, client: TestClient, predictor: FakePredictor) -> None:
    body, status, reason = REFUSED[case]
    reply = client.post("/predict", content=body)
    assert reply.status_code == status and re.search(reason, reply.json()["error"])
    assert predictor.batches == []


def test_what_is_not_there_is_said(client: TestClient) -> None:
    for path, status, reason in (("/predict", 405, "Method Not Allowed"), ("/nothing", 404, "Not Found")):
        reply = client.get(path)
        assert reply.status_code == status and reply.json() == {"error": f"GET {path}: {reason}"}


def test_a_compressed_body_is_refused(client: TestClient) -> None:
    reply = client.post("/predict", content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert reply.status_code == 415 and "gzip" in reply.json()["error"]


def test_a_failure_of_the_model_is_that_of_its_request_alone(client: TestClient, predictor: FakePredictor) -> None:
    predictor.go_on.clear()
    with ThreadPoolExecutor(3) as pool:
        replies = [pool.submit(client.post, "/predict", json={"inputs": [text]}) for text in ("a", "fail", "bb")]
        threading.Timer(0.3, predictor.go_on.set).start()
    found = [reply.result() for reply in replies]
    assert [reply.status_code for reply in found] == [200, 500, 200]
    assert "RuntimeError: out of luck" in found[1].json()["error"]
    assert found[2].json()["answers"][0]["probability"] == 0.02


def test_more_texts_than_may_wait_are_told_to_come_again(client: TestClient, predictor: FakePredictor) -> None:
    predictor.go_on.clear()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(client.post, "/predict", json={"inputs": ["a"]})
        time.sleep(0.2)  # the model has it
        full = [pool.submit(client.post, "/predict", json={"inputs": ["a", "b"]}) for _ in range(2)]
        time.sleep(0.2)
        refused = client.post("/predict", json={"inputs": ["c"]})
        assert client.get("/ready").status_code == 503 and client.get("/health").status_code == 200
        assert "hf_selfattn_waiting_texts 4.0" in client.get("/metrics").text
        predictor.go_on.set()
    assert refused.status_code == 503 and refused.headers["Retry-After"] == "1"
    assert "4 texts wait for the model, and at most 4 may" in refused.json()["error"]
    assert [reply.result().status_code for reply in (first, *full)] == [200] * 3
    assert client.get("/ready").status_code == 200


def test_an_answer_that_takes_too_long_is_given_up(predictor: FakePredictor) -> None:
    predictor.go_on.clear()
    with client_of(predictor, timeout=0.3) as client, ThreadPoolExecutor(2) as pool:
        late = [pool.submit(client.post, "/predict", json={"inputs": [text]}) for text in ("one", "two")]
        assert [reply.result().status_code for reply in late] == [504, 504]
        assert "no answer in 0.3 seconds" in late[0].result().json()["error"]
        predictor.go_on.set()
        assert client.post("/predict", json={"inputs": ["three"]}).status_code == 200
    assert ["three"] in predictor.batches


def test_what_is_counted(client: TestClient) -> None:
    client.post("/predict", json={"inputs": ["a", "b"]})
    client.post("/predict", json={})
    lines = client.get("/metrics").text.splitlines()
    for line in (
        'requests_total{status="200"} 1.0',
        'requests_total{status="422"} 1.0',
        "accepted_total 1.0",
        "replied_total 1.0",
        "texts_total 2.0",
        "request_seconds_count 2.0",
        "batch_texts_sum 2.0",
    ):
        assert f"hf_selfattn_{line}" in lines
    assert client.app.state.service.measures.story() == "1 requests were accepted, and 1 got a reply"


def test_the_pages_load_nothing_and_escape_everything(client: TestClient) -> None:
    for path in ("/", "/docs"):
        reply = client.get(path)
        assert reply.status_code == 200 and "default-src 'none'" in reply.headers["Content-Security-Policy"]
        assert "&lt;b&gt;mine&lt;/b&gt;" in reply.text and "<b>" not in reply.text
        assert not re.search(r"(src|href)=[\"']?(https?:)?//|url\(|@import", reply.text)
        assert "innerHTML" not in reply.text and "insertAdjacent" not in reply.text


def test_the_interface_describes_itself(client: TestClient) -> None:
    api = client.get("/openapi.json").json()
    question = api["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert question["required"] == ["inputs"]
    for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(api)):
        assert name in api["components"]["schemas"]
    assert {"400", "408", "413", "415", "422", "500", "503", "504"} < api["paths"]["/predict"]["post"][
        "responses"
    ].keys()


@pytest.mark.parametrize(
    "wrong", [{"port": -1}, {"max_texts": 0}, {"timeout": 0}, {"window": -1}, {"max_texts": 9, "max_waiting": 8}]
)
def test_limits_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ServeArguments(model="m", **wrong)
