"""An interpreter that starts at once: a process that has imported the large libraries forks where Python is started.

`warm_python()` is a path that stands where `sys.executable` would: `[warm_python(), "-m", "hf_selfattn", …]`. What it
starts is a process of its own with the caller's arguments, environment, folder and files. Imported beforehand is
nothing of ours. The libraries of Hugging Face read the environment when they are imported: whoever has another one
for them than the tests gets a process without them. What needs a truly cold start, its own process number or its own
hash seed takes `sys.executable`.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from select import select
from types import ModuleType
from typing import Any

import numpy as np
from warm_client import read_at_import

LIBRARIES = (
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.distributed.run",
    "torch.distributed.tensor",
    "torch._dynamo",
    "torch._inductor.compile_fx",
    *("jinja2", "pandas", "pyarrow.parquet", "scipy.optimize", "scipy.signal", "sklearn.linear_model", "yaml"),
)
OF_HUGGING_FACE = (
    *("accelerate.commands.launch", "datasets", "evaluate", "optuna", "peft", "transformers.pipelines"),
    *("transformers.trainer", "transformers.models.auto.modeling_auto", "transformers.models.bert.modeling_bert"),
)
LOOK_AFTER = 0.01  # seconds, while a process is on


@lru_cache
def warm_python() -> str:
    """Return the path of the interpreter; the processes that fork end with this one."""
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    (folder / "environment").write_text(json.dumps(read_at_import()))
    with socket.socket(socket.AF_UNIX) as bare, socket.socket(socket.AF_UNIX) as stocked:
        for name, server in {"bare": bare, "stocked": stocked}.items():
            server.bind(str(folder / name))
            server.listen(64)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        process = subprocess.Popen(
            [sys.executable, __file__, str(bare.fileno()), str(stocked.fileno())],
            env=environment,
            stdin=subprocess.PIPE,
            pass_fds=[bare.fileno(), stocked.fileno()],
            start_new_session=True,
        )
    atexit.register(shutil.rmtree, folder)
    atexit.register(process.wait)
    atexit.register(process.kill)
    client = Path(__file__).with_name("warm_client.py")
    path = folder / "python"
    words = [sys.executable, "-I", "-S", str(client), str(folder)]
    path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    path.chmod(0o755)
    return str(path)


def warm_launcher(name: str) -> list[str]:
    """Return the words that start a launcher, such as torchrun, warm."""
    return [warm_python(), str(Path(sys.executable).with_name(name))]


def warm_environment(**changes: str) -> dict[str, str]:
    """Return the environment of a launcher whose workers start warm."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHON_EXEC": warm_python(), **changes}


def serve(server: socket.socket) -> dict[str, Any] | None:
    """Fork for each client until stdin ends; return in each child what it is asked for."""
    clients: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select([0, server, *clients.values()], [], [], LOOK_AFTER if clients else None)
        for child, client in clients.items():
            if 0 in ready or client in ready:  # a client says nothing: it was killed
                os.killpg(child, signal.SIGKILL)
        if 0 in ready:
            return None
        while clients and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            with clients.pop(ended[0]) as client:
                answer(client, os.waitstatus_to_exitcode(ended[1]))
        if server in ready:
            client, _ = server.accept()
            _, files, *_ = socket.recv_fds(client, 1, 3)
            with client.makefile("rb") as lines:
                asked: dict[str, Any] = json.loads(lines.readline())
            child = os.fork()
            os.setpgid(child, child)  # in both of them, whoever comes first
            if not child:
                for other in (server, client, *clients.values()):
                    other.close()
                return {**asked, "files": files}
            for file in files:
                os.close(file)
            clients[child] = client
            answer(client, child)


def answer(client: socket.socket, number: int) -> None:
    """Tell a client the number of its process, or the exit code; nobody listens where it was killed."""
    with suppress(ConnectionError):
        client.sendall(f"{number}\n".encode())


def become(words: Sequence[str], cwd: str, environment: dict[str, str], files: Sequence[int]) -> None:
    """Be the interpreter that was asked for."""
    for target, file in enumerate(files):
        os.dup2(file, target)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may have it ignored
    np.random.seed()  # drawn once otherwise, when numpy is imported
    flags = {*takewhile({"-u", "-I"}.__contains__, words)}
    first, *rest = words[len(flags) :]
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through="-u" in flags)
    own = {"-c": "", "-m": cwd}.get(first, str(Path(first).resolve().parent))
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [] if "-I" in flags else [own, *filter(None, paths)]
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    elif first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first.startswith("-"):
        raise ValueError(f"A warm interpreter knows no {first}: start sys.executable.")
    else:
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    gc.disable()
    del sys.path[0]
    for library in LIBRARIES:
        import_module(library)
    with socket.socket(fileno=int(sys.argv[1])) as without, socket.socket(fileno=int(sys.argv[2])) as having:
        is_stocked = os.fork() == 0
        given, others = (having, without) if is_stocked else (without, having)
        others.close()
        for library in OF_HUGGING_FACE if is_stocked else ():
            import_module(library)
        gc.freeze()
        gc.enable()
        gc.set_threshold(20_000, 20, 20)  # what a process imports is most of what it has
        asked_for = serve(given)
    if asked_for:
        become(**asked_for)
