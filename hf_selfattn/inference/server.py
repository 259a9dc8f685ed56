"""A server that lets a tuned model answer over HTTP, until a signal ends it."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from .arguments import ServeArguments
from .predictor import open_predictor

if TYPE_CHECKING:
    from uvicorn import Server

PACKAGES = ("fastapi", "prometheus_client", "uvicorn")
# Of one run of the model on a CPU, which gains nothing by more; of few rows, those of like length then stand together.
RUN_TOKENS_ON_CPU = 512
LATE = 0.2  # seconds in which requests that are on their way may still arrive, when nobody else is let in


def serve(arguments: ServeArguments) -> None:
    """Let a model answer over HTTP until SIGTERM or Ctrl-C, after which every accepted request is still answered.

    Raises:
        ValueError: if the address cannot be listened to, or the model cannot be opened.
        ImportError: if the packages of the extra serve are missing.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ImportError(f"Serving needs {', '.join(missing)}: pip install {' '.join(missing)}")
    from .app import create_app

    with bound(arguments.host, arguments.port) as place:
        predictor = open_predictor(
            arguments.model,
            device=arguments.device,
            dtype=arguments.dtype,
            revision=arguments.revision,
            backbone_name_or_path=arguments.backbone_name_or_path,
        )
        if predictor.model.device.type == "cpu":
            predictor.batch_tokens = RUN_TOKENS_ON_CPU
        predictor.answers([predictor.kind.example])  # the first is slower than the others
        folder = Path(arguments.model)
        app = create_app(predictor, arguments, folder.resolve().name if folder.is_dir() else arguments.model)
        graceful_server(app, arguments).run([place])
    print(f"Ended: {app.state.service.measures.story()}.", flush=True)


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that has an address, and nobody listens to yet."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Only where the protocol is named does asyncio send small answers at once (TCP_NODELAY): it saves 40 ms of each.
    place = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        place.bind((host, port))
    except OSError as error:
        place.close()
        why = error.strerror or error
        raise ValueError(f"host={host} port={port} cannot be listened to ({why}). Give another port=….") from error
    return place


def graceful_server(app: Any, arguments: ServeArguments) -> Server:
    """Return a server that says where it listens, and ends in good order.

    At the first signal `/ready` says no, answers tell clients to connect anew, and for `drain` seconds requests are
    still accepted, so that a load balancer can turn to others. Then nobody is let in, and all that was accepted is
    answered. A second signal ends at once.
    """
    from uvicorn import Config, Server

    class GracefulServer(Server):
        end = float("inf")

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            host = f"[{host}]" if ":" in host else host
            print(f"Serving {arguments.model} at http://{host}:{port}/ . Ctrl-C ends it.", flush=True)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if app.state.service.is_ending:
                self.should_exit = self.force_exit = True
            app.state.service.is_ending = True
            self.end = time.monotonic() + (arguments.drain if sig == signal.SIGTERM else 0)

        async def on_tick(self, counter: int) -> bool:
            self.should_exit = self.should_exit or time.monotonic() >= self.end
            return await super().on_tick(counter)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            for server in self.servers:
                server.close()
            if not self.force_exit:
                await asyncio.sleep(LATE)
            await super().shutdown(sockets)

    wait = 2 * arguments.timeout + LATE
    return GracefulServer(
        Config(app, log_level="warning", access_log=False, ws="none", timeout_graceful_shutdown=int(wait) + 1)
    )
