"""A hub on 127.0.0.1 that the real client of huggingface_hub talks to over HTTP; large files go by LFS, not Xet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote

from hub_routes import ROUTES, Reply, Request
from hub_state import Hub, Refusal
from warm_python import warm_python

ROOT = Path(__file__).parents[2]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are written apart: the body would wait for an acknowledgement
    hub: Hub

    def answer(self) -> None:
        path, _, query = self.path.partition("?")
        self.hub.requests.append(f"{self.command} {path}")
        method = "GET" if self.command == "HEAD" else self.command
        hits = ((route, pattern.fullmatch(path)) for verb, pattern, route in ROUTES if verb == method)
        route, match = next((hit for hit in hits if hit[1]), (None, None))
        fault = self.hub.count(route.__name__) if route else 404
        if isinstance(fault, str):
            return self.break_off(hang=fault == "hang")
        body = self.read_body()
        if body is None:
            return self.break_off()
        try:
            if not route or not match or fault:
                raise Refusal(fault or 404, "", "Not found" if fault == 404 else "Injected fault")
            groups = {name: value and unquote(value) for name, value in match.groupdict().items()}
            with self.hub.lock:
                reply = route(Request(self.hub, self.headers, parse_qs(query), body), **groups)
        except Refusal as refusal:
            reply = Reply({"error": str(refusal)}, refusal.status, refusal.headers)
        self.send(reply if isinstance(reply, Reply) else Reply(reply))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def read_body(self) -> bytes | None:
        """The body, or None where the client broke off."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            return body if len(body) == length else None
        parts = []
        while line := self.rfile.readline():
            size = int(line.split(b";")[0], 16)
            parts.append(self.rfile.read(size))
            self.rfile.readline()
            if not size:
                return b"".join(parts)
        return None

    def break_off(self, hang: bool = False) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 2)) // 2)
        if hang:
            self.hub.hanging.set()
            self.hub.closing.wait()
        self.close_connection = True

    def send(self, reply: Reply) -> None:
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Keep the output of the tests clean; `Hub.requests` has the requests."""


class Server(ThreadingHTTPServer):
    block_on_close = False

    def handle_error(self, *address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*address)


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """A fresh hub, until the context is left."""
    hub = Hub()
    with Server(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub})) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield hub
        finally:
            hub.closing.set()
            server.shutdown()


def client_environment(
    hub: Hub, home: Path, *, token: str | None = None, package: bool = True, offline: bool = False
) -> dict[str, str]:
    """The environment of a process whose only hub is the given one.

    Args:
        hub: the server.
        home: HF_HOME of the process: its cache, and the modules of remote code.
        token: HF_TOKEN; the hub's own where it is None, none at all where it is "".
        package: whether `import hf_selfattn` works.
        offline: whether the client may use its cache only.
    """
    outer = ("HF_", "HUGGING", "TRANSFORMERS_", "PYTHONPATH", "NO_PROXY")
    kept = {k: v for k, v in os.environ.items() if not k.upper().startswith(outer) and "proxy" not in k.lower()}
    if not package:
        (home / "blocked").mkdir(parents=True, exist_ok=True)
        (home / "blocked" / "hf_selfattn.py").write_text("raise ModuleNotFoundError('No module named hf_selfattn')\n")
    return {
        **kept,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "HF_TOKEN": hub.token if token is None else token,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT if package else home / "blocked"),
        "PYTHON_EXEC": warm_python(),  # of the processes that torchrun starts
        "TOKENIZERS_PARALLELISM": "false",
    }


def run_with_hub(
    code: str | Sequence[str],
    hub: Hub,
    home: Path,
    *,
    check: bool = True,
    env: dict[str, str] | None = None,
    timeout: float = 300,
    **how: Any,
) -> subprocess.CompletedProcess[str]:
    """Run a client in a process of its own, for huggingface_hub reads its environment when it is imported.

    Args:
        code: Python code, or the words of a command.
        hub: the server.
        home: HF_HOME of the process; also its working folder.
        check: fail the test, with the output, where the process fails.
        env: variables on top.
        timeout: seconds after which it is killed.
        how: options of `client_environment`.
    """
    home.mkdir(parents=True, exist_ok=True)
    environment = {**client_environment(hub, home, **how), **(env or {})}
    command = [warm_python(), "-c", code] if isinstance(code, str) else list(code)
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": timeout}
    done = subprocess.run(command, env=environment, cwd=home, **options)
    assert not check or done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done
