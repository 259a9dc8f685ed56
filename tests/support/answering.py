"""A predictor without a model, and a server in a process of its own."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from warm_python import warm_python

ROOT = Path(__file__).parents[2]
TEXTS = {"medium": None, "fields": ("text", "text_pair"), "pairs": None}


@dataclass
class FakePredictor:
    """Answers a text by its length; slow where told, and fails at texts that say so.

    Args:
        seconds: that a batch takes.
    """

    seconds: float = 0.0
    name: str = "text-classification"
    kind: Any = field(default_factory=lambda: SimpleNamespace(**TEXTS))
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


@dataclass
class Served:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    port: int

    def get(self, path: str) -> str:
        """Return the content of a page."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as reply:
            return str(reply.read().decode())

    def answers(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Ask for the answers to texts."""
        body = json.dumps({"inputs": list(texts)}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/predict", body)
        with urllib.request.urlopen(request, timeout=60) as reply:
            found: list[dict[str, Any]] = json.loads(reply.read())["answers"]
        return found

    def end(self) -> str:
        """Send SIGTERM, and return what the server says at its end."""
        self.process.send_signal(signal.SIGTERM)
        said, _ = self.process.communicate(timeout=60)
        return said


@contextmanager
def served(*words: str) -> Iterator[Served]:
    """Serve a model on a free port; the process ends with the block, whatever happens in it."""
    command = [warm_python(), "-m", "hf_selfattn", "serve", *words, "port=0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", said)
        assert found, said
        yield Served(process, int(found[1]))
    finally:
        process.kill()
        process.wait()
