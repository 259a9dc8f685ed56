"""What `warm_python` starts: asks for a process, hands signals on to it, and ends as it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

# Beginnings of the names of variables that the libraries of Hugging Face read when they are imported.
READ_AT_IMPORT = ("DATASETS_", "HF_", "HOME", "HUGGING", "TRANSFORMERS_", "USE_", "XDG_")
HANDED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def read_at_import() -> dict[str, str]:
    """Return the variables of this process that Hugging Face's libraries keep from their import on."""
    return {name: value for name, value in os.environ.items() if name.startswith(READ_AT_IMPORT)}


def main(folder: str, *words: str) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDED_ON)
    with open(os.path.join(folder, "environment"), encoding="utf-8") as file:
        is_of_the_tests = json.load(file) == read_at_import()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.path.join(folder, "stocked" if is_of_the_tests else "bare"))
        socket.send_fds(server, [b"-"], [0, 1, 2])
        asked = {"words": words, "cwd": os.getcwd(), "environment": dict(os.environ)}
        server.sendall(json.dumps(asked).encode() + b"\n")
        with server.makefile() as answers:
            process = int(answers.readline())
            for number in HANDED_ON:
                signal.signal(number, lambda number, _: os.kill(process, number))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDED_ON)
            code = int(answers.readline())
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main(*sys.argv[1:])
