"""A client that asks a server as fast as it answers: `python -m benchmarks.speed.load PORT CLIENTS REQUESTS < texts`.

Each client keeps one connection and asks for one text at a time. Printed as JSON: how many replies had which status,
how many requests found nobody (`refused`) or lost their connection before a reply (`broken`), milliseconds of the
replies, and requests a second.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from itertools import count, cycle, islice
from typing import Any


def ask(connection: HTTPConnection, text: str) -> tuple[str, float]:
    """Return the status of a reply, or what became of the request, and the milliseconds."""
    started = time.perf_counter()
    try:
        if connection.sock is None:
            connection.connect()
    except OSError:
        return "refused", 0.0
    try:
        connection.request("POST", "/predict", json.dumps({"inputs": [text]}))
        reply = connection.getresponse()
        reply.read()
    except (OSError, HTTPException):
        connection.close()
        return "broken", 0.0
    return str(reply.status), 1000 * (time.perf_counter() - started)


def load(port: int, clients: int, requests: int, texts: Sequence[str]) -> dict[str, Any]:
    """Ask so many times, with so many clients at once, and return what came of it."""
    numbers = count()
    ordered = list(islice(cycle(texts), requests))

    def client() -> list[tuple[str, float]]:
        connection = HTTPConnection("127.0.0.1", port, timeout=120)
        found = []
        while (number := next(numbers)) < requests:
            found.append(ask(connection, ordered[number]))
        connection.close()
        return found

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = [reply for replies in [pool.submit(client) for _ in range(clients)] for reply in replies.result()]
    seconds = time.perf_counter() - started
    times = sorted(taken for status, taken in found if status == "200")
    return {
        "statuses": dict(Counter(status for status, _ in found)),
        "requests_per_second": len(times) / seconds,
        **{f"p{share}_ms": times[min(len(times) * share // 100, len(times) - 1)] for share in (50, 99) if times},
    }


if __name__ == "__main__":
    port, clients, requests = map(int, sys.argv[1:])
    print(json.dumps(load(port, clients, requests, sys.stdin.read().splitlines())))
