"""A predictor without a model, and requests to a server from several threads."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class FakePredictor:
    """Answers a text by its length; slow where told, and fails at texts that say so.

    Args:
        seconds: that a batch takes.
    """

    seconds: float = 0.0
    name: str = "text-classification"
    batches: list[list[str]] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.go_on.set()

    def checked(self, row: Mapping[str, Any]) -> dict[str, Any]:
        if not row.get("text", "").strip():
            raise ValueError("'text': the text is empty or only whitespace.")
        return dict(row)

    def answers(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        self.go_on.wait(10)
        time.sleep(self.seconds)
        self.batches.append([row["text"] for row in rows])
        if any(row["text"] == "fail" for row in rows):
            raise RuntimeError("out of luck")
        share = [len(row["text"]) / 100 for row in rows]
        return [{"label": "a", "probability": x, "probabilities": {"a": x, "<b>": 1 - x}} for x in share]


def ask(port: int, texts: Sequence[str], connection: http.client.HTTPConnection | None = None) -> tuple[int, Any]:
    """Return status and content of a reply."""
    connection = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/predict", json.dumps({"inputs": list(texts)}))
    reply = connection.getresponse()
    return reply.status, json.loads(reply.read())
