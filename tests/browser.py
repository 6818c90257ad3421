"""A real browser without a window, over a pipe: chromedevtools.github.io/devtools-protocol."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
PATIENCE = 600.0  # seconds for one answer: none that comes takes so long, however busy the machine
_FREE = 10  # a number of a file from which on none is one of the protocol's, 3 and 4


class Browser:
    """One tab. events: what it told since the last page was opened."""

    def __init__(self, reading: int, writing: int) -> None:
        self.events: list[dict[str, Any]] = []
        self._reading, self._writing = reading, writing
        self._held = b""
        self._count = 0
        self._session: str | None = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Log", "Runtime", "Network"):
            self.ask(f"{domain}.enable")

    def open(self, page: Path | str, width: int, scheme: str) -> None:
        """Open a file or an address in a window of that width, with `light` or `dark` as the user's wish."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events = []
        self.ask("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._receive()

    def wait(self, expression: str) -> None:
        """Wait until an expression is true on the page."""
        end = time.monotonic() + PATIENCE
        while not self.value(expression):
            assert time.monotonic() < end, f"never: {expression}"
            time.sleep(0.02)

    def press(self, *keys: str) -> None:
        """Press keys one after the other: names such as `Tab`, or letters."""
        for key in keys:
            text = {"Enter": "\r", "Space": " "}.get(key, key if len(key) == 1 else "")
            code = {"Tab": 9, "Enter": 13, "Space": 32, "ArrowRight": 39, "ArrowLeft": 37, "ArrowDown": 40}.get(key)
            named = {"key": " " if key == "Space" else key, "code": key, "windowsVirtualKeyCode": code or ord(key[0])}
            self.ask("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **named)
            self.ask("Input.dispatchKeyEvent", type="keyUp", **named)

    def value(self, expression: str) -> Any:
        """Return what an expression is on the page."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"]["value"]

    def errors(self) -> list[dict[str, Any]]:
        """Return what the console has: errors, warnings, messages."""
        self.value("0")
        return [
            event for event in self.events
            if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        ]  # fmt: skip

    def requested(self) -> list[str]:
        """Return the addresses that the page asked for, data of its own left out."""
        asked = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        addresses = [event["params"]["request"]["url"] for event in asked]
        return [address for address in addresses if not address.startswith(("data:", "blob:"))]

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the answer to one command."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._count:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        """Return the next message; keep it where it is an event."""
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._reading], [], [], max(end - time.monotonic(), 0.0))
            assert ready, "the browser does not answer"
            part = os.read(self._reading, 1 << 16)
            assert part, "the browser went away"
            self._held += part
        first, _, self._held = self._held.partition(b"\0")
        message = json.loads(first)
        if "method" in message:
            self.events.append(message)
        return message


@contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    """Start the browser with a profile of its own, and end it."""
    assert BROWSER is not None
    ends = [*os.pipe(), *os.pipe()]  # commands read and written, answers read and written
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _FREE) for end in ends]
    for end in ends:
        os.close(end)

    def joined() -> None:
        os.dup2(high[0], 3)
        os.dup2(high[3], 4)

    options = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run")
    started = subprocess.Popen(
        [BROWSER, *options, f"--user-data-dir={profile}"], preexec_fn=joined, pass_fds=(3, 4),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(high[0])
    os.close(high[3])
    try:
        yield Browser(high[2], high[1])
    finally:
        started.terminate()
        started.wait(PATIENCE)
        os.close(high[1])
        os.close(high[2])
