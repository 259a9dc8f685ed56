"""A page in a real browser, headless Chromium, driven by its DevTools protocol on loopback."""

from __future__ import annotations

import asyncio
import base64
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
SECONDS = 60


@dataclass
class Visit:
    """What happened when a page was opened."""

    value: Any  # of the script
    requests: list[str] = field(default_factory=list)  # addresses that were asked for
    complaints: list[str] = field(default_factory=list)  # errors and warnings of console, log and scripts
    dialogs: list[str] = field(default_factory=list)  # what `alert` and its like said
    picture: bytes = b""  # PNG of the whole page


def visit(page: Path | str, script: str, *, width: int = 1280, dark: bool = False) -> Visit:
    """Open a page of a file or at an address, at a width, and evaluate a script in it, whose value is JSON."""
    address = page.resolve().as_uri() if isinstance(page, Path) else page
    return asyncio.run(asyncio.wait_for(_visit(address, script, width, dark), SECONDS))


async def _visit(page: str, script: str, width: int, dark: bool) -> Visit:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        words = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"]
        process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            found = next(match for line in process.stderr if (match := re.search(r"ws://([^/]+)/", line)))
            async with aiohttp.ClientSession() as session:
                tabs = await (await session.get(f"http://{found[1]}/json")).json()
                address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
                async with session.ws_connect(address, max_msg_size=0) as socket:
                    return await _look(Tab(socket), page, script, width, dark)
        finally:
            process.kill()
            process.wait()


class Tab:
    """A tab of the browser: calls in turn, and the events that came meanwhile."""

    def __init__(self, socket: Any):
        self.socket, self.calls, self.events = socket, 0, list[dict[str, Any]]()

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.calls += 1
        await self.socket.send_json({"id": self.calls, "method": method, "params": parameters})
        while (message := await self.socket.receive_json()).get("id") != self.calls:
            await self.note(message)
        assert "error" not in message, message
        return message["result"]

    async def until(self, event: str) -> None:
        while not any(message["method"] == event for message in self.events):
            await self.note(await self.socket.receive_json())

    async def note(self, message: dict[str, Any]) -> None:
        if "method" not in message:
            return  # the answer to what is sent below
        self.events.append(message)
        if message["method"] == "Page.javascriptDialogOpening":  # it would wait for an answer for ever
            await self.socket.send_json({"id": 0, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}})

    def of(self, method: str) -> list[dict[str, Any]]:
        return [message["params"] for message in self.events if message["method"] == method]


async def _look(tab: Tab, page: str, script: str, width: int, dark: bool) -> Visit:
    for domain in ("Page", "Network", "Runtime", "Log"):
        await tab.call(f"{domain}.enable")
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    await tab.call("Emulation.setDeviceMetricsOverride", **screen)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    await tab.call("Emulation.setEmulatedMedia", features=[scheme])
    await tab.call("Page.navigate", url=page)
    await tab.until("Page.loadEventFired")
    answer = await tab.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
    picture = await tab.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
    complaints = [str(entry) for entry in tab.of("Runtime.exceptionThrown")]
    complaints += [str(entry) for entry in tab.of("Runtime.consoleAPICalled") if entry["type"] in ("error", "warning")]
    complaints += [str(entry) for entry in tab.of("Log.entryAdded")]
    return Visit(
        value=answer["result"].get("value"),
        requests=[entry["request"]["url"] for entry in tab.of("Network.requestWillBeSent")],
        complaints=complaints,
        dialogs=[entry["message"] for entry in tab.of("Page.javascriptDialogOpening")],
        picture=base64.b64decode(picture["data"]),
    )
