# Law of this file: a real browser, asked through pipes by the protocol of its developer tools: no
# port, and no JavaScript of ours in any page.

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")

_OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # tests run as root in containers, and load pages of our own only
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


@dataclass
class Browser:
    """One page of a browser.

    Attributes:
        requested: URLs that the page has asked for since it was opened.
        complaints: what the browser had to say of it: violations of its policy, errors.
    """

    _asks: IO[bytes]
    _answers: IO[bytes]
    _session: str = ""
    _number: int = 0
    requested: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def ask(self, method: str, **params: object) -> dict[str, Any]:
        """Call a method of the protocol, and hear what happens until it is answered."""
        self._number += 1
        message: dict[str, object] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._asks.write(json.dumps(message).encode() + b"\0")
        self._asks.flush()
        while (heard := self._hear()).get("id") != self._number:
            self._note(heard)
        if "error" in heard:
            raise RuntimeError(f"{method}: {heard['error']}")
        result: dict[str, Any] = heard["result"]
        return result

    def attach(self) -> None:
        """Open a page, in which no JavaScript runs."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Log", "Accessibility", "DOM"):
            self.ask(f"{domain}.enable")
        self.ask("Emulation.setScriptExecutionDisabled", value=True)

    def look(self, width: int, height: int, *, dark: bool, mobile: bool = False) -> None:
        """Be a window of that size in CSS pixels, of somebody who likes it dark or light."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if mobile else 1,
            mobile=mobile,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        """Load a page."""
        self.requested.clear()
        self.complaints.clear()
        said = self.ask("Page.navigate", url=url)
        if "errorText" in said:
            raise RuntimeError(f"{url}: {said['errorText']}")
        while self._hear_one() != "Page.loadEventFired":
            pass

    def content_width(self) -> float:
        """How wide the page is, in CSS pixels, with what lies outside of the window."""
        width: float = self.ask("Page.getLayoutMetrics")["cssContentSize"]["width"]
        return width

    def screenshot(self) -> bytes:
        """A picture of the window (PNG)."""
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])

    def small_screenshot(self) -> bytes:
        """A picture of the window for documentation (WebP, which is a fifth of the size)."""
        taken = self.ask("Page.captureScreenshot", format="webp", quality=80)
        return base64.b64decode(taken["data"])

    def spoken(self) -> list[tuple[str, str, dict[str, object]]]:
        """What a screen reader is told: role, name and properties of each node."""
        nodes = self.ask("Accessibility.getFullAXTree")["nodes"]
        return [
            (
                node["role"]["value"],
                node.get("name", {}).get("value", ""),
                {each["name"]: each["value"].get("value") for each in node.get("properties", ())},
            )
            for node in nodes
            if not node["ignored"]
        ]

    def _hear_one(self) -> str:
        heard = self._hear()
        self._note(heard)
        method: str = heard.get("method", "")
        return method

    def _hear(self) -> dict[str, Any]:
        message = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("the browser has ended")
            message += byte
        heard: dict[str, Any] = json.loads(message)
        return heard

    def _note(self, heard: dict[str, Any]) -> None:
        params = heard.get("params", {})
        if heard.get("method") == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        elif heard.get("method") == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser with an empty profile, for the time of a block."""
    assert PROGRAM is not None
    theirs_in, asks = os.pipe()
    answers, theirs_out = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # The protocol is spoken at descriptors 3 and 4.
        process = subprocess.Popen(
            [
                "bash",  # descriptors above 9 are beyond dash
                "-c",
                f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}',
                PROGRAM,
                *_OPTIONS,
                f"--user-data-dir={profile}",
            ],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": profile},
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            with open(asks, "wb") as out, open(answers, "rb") as into:  # noqa: PTH123 - pipes
                found = Browser(out, into)
                found.attach()
                yield found
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
