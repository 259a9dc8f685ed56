"""The page to try a model, in a real browser: what it shows, and that a text and a label stay text."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from answering import FakePredictor
from browser import visit
from uvicorn import Config, Server

from hf_selfattn.inference.app import create_app
from hf_selfattn.inference.arguments import ServeArguments
from hf_selfattn.inference.server import bound

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=5000"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="There is no Chromium here: apt install chromium."),
]


class FakeTagger(FakePredictor):
    """Finds the name Anna, at its character, and calls it by a type that looks like markup."""

    def answers(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        starts = [row["text"].index("Anna") for row in rows]
        return [
            {"entities": [{"type": "<i>", "start": start, "end": start + 4, "text": "Anna", "score": 0.9}]}
            for start in starts
        ]


class FakeDetector(FakePredictor):
    """Finds one object, in the right lower quarter of an image of 40 x 20 pixels."""

    def checked(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return dict(row)

    def answers(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [{"objects": [{"label": "<i>", "score": 0.9, "box": [20.0, 10.0, 20.0, 10.0]}]} for _ in rows]


class FakePairs(FakePredictor):
    """Says what it was asked."""

    def answers(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [{"text": f"{row['text']} | {row['text_pair']}"} for row in rows]


ASK = """(async () => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [40, 20];
  const files = new DataTransfer();
  files.items.add(new File([await new Promise(done => canvas.toBlob(done))], "a.png", { type: "image/png" }));
  document.getElementById("file").files = files.files;
  document.getElementById("form").requestSubmit();
  while (document.getElementById("ask").disabled || !document.getElementById("answer").children.length)
    await new Promise(done => setTimeout(done, 10));
  return document.getElementById("answer").innerHTML;
})()"""


@contextmanager
def running(predictor: FakePredictor) -> Iterator[str]:
    """The address of a server in a thread."""
    with bound("127.0.0.1", 0) as place:
        app = create_app(predictor, ServeArguments(model="m"), "mine")
        server = Server(Config(app, log_level="warning", ws="none"))
        thread = threading.Thread(target=server.run, args=([place],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{place.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


def answer_shown(address: str, text: str, profile: Path) -> str:
    """What the page shows of an answer, as the browser holds it."""
    words = [
        str(CHROMIUM),
        *FLAGS,
        f"--user-data-dir={profile}",
        "--dump-dom",
        f"{address}?text={quote(text, safe='&=')}",
    ]
    page = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout
    found = re.search(r'<div id="answer"[^>]*>(.*?)</div>\n<script>', page, re.DOTALL)
    assert found, page
    return found[1]


def test_labels_are_bars_and_entities_are_marked(tmp_path: Path) -> None:
    with running(FakePredictor()) as address:
        shown = answer_shown(address, "x" * 75, tmp_path)
        assert re.findall(r"width: (\d+)%", shown) == ["75", "25"]
        assert "<span>&lt;b&gt;</span>" in shown and "<b>" not in shown and "0.750" in shown
        refused = answer_shown(address, "fail", tmp_path)
        assert re.fullmatch(r'<p class="error">the model failed: RuntimeError: out of luck</p>', refused)
    with running(FakeTagger()) as address:
        shown = answer_shown(address, "😀 <script>alert(1)</script> Anna", tmp_path)
        assert shown.startswith('<p class="text">😀 &lt;script&gt;alert(1)&lt;/script&gt; <mark')
        assert re.search(r"<mark[^>]*>Anna<small>&lt;i&gt;</small></mark>", shown)


def test_boxes_stand_over_the_image() -> None:
    image = SimpleNamespace(name="image", decoded=lambda content: content)
    kind = SimpleNamespace(medium=image, fields=("image",), pairs=None)
    with running(FakeDetector(name="object-detection", kind=kind)) as address:
        seen = visit(address, ASK)
    assert seen.complaints == []
    assert 'style="left: 50%; top: 50%; width: 50%; height: 50%;"' in seen.value
    assert "<small>&lt;i&gt; 0.900</small>" in seen.value


def test_a_pair_is_asked_for_two_texts(tmp_path: Path) -> None:
    kind = SimpleNamespace(medium=None, fields=("text", "text_pair"), pairs=True)
    with running(FakePairs(kind=kind)) as address:
        assert answer_shown(address, "one&pair=two", tmp_path) == '<p class="text">one | two</p>'
