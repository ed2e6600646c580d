# Law of this file: runs whose end the test decides, and requests that are only bytes.

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from cache.errors import CacheUnavailable
from repos.hg.repository import HgSnapshot
from server.hg import questions
from server.hg.command import Write
from server.hg.requests import Understood
from tests.conftest import Served
from tests.hg.asking import HEADERS, dag
from tests.server.asking import head
from wire.hg.cbor import Value
from wire.hg.client import ClientReactor
from wire.hg.encodings import Encoding
from wire.hg.messages import CommandRequest

SIZE = 24 << 20
"""More than the kernel's buffers of a connection take."""


def kept(served: Served) -> list[Path]:
    """What the cache holds."""
    folders = (served.settings.data / "records", served.settings.data / "entities")
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


class Run:
    """A run of `changesetdata` that a test controls: it writes, waits, and may fail."""

    def __init__(self, size: int = 0, error: Exception | None = None) -> None:
        self.size = size
        self.error = error
        self.has_begun, self.may_end = threading.Event(), threading.Event()
        self.count = 0

    def __call__(self, snapshot: HgSnapshot, asked: Understood, write: Write) -> None:
        """Answer, as the table of commands has it."""
        self.count += 1
        left = self.size
        while left > 0:
            write(b"\x59\xff\xff" + os.urandom(65535))
            left -= 65538
        self.has_begun.set()
        self.may_end.wait()
        if self.error is not None:
            raise self.error
        write(b"\x00")


def controlled(
    monkeypatch: pytest.MonkeyPatch, size: int = 0, error: Exception | None = None
) -> Run:
    """Put a run of ours in the place of `changesetdata`."""
    run = Run(size, error)
    monkeypatch.setitem(questions._BULK, b"changesetdata", run)
    return run


def everything(tip: bytes) -> dict[str, Value]:
    """All changesets."""
    return {"revisions": [dag([], [tip])]}


def unavailable(*_: object) -> None:
    """Refuse as a cache does that has no room."""
    raise CacheUnavailable(errno.ENOSPC, "no space left")


def body_of(*requests: CommandRequest, encoding: Encoding = Encoding.IDENTITY) -> bytes:
    """The body that asks for these, of a client that reads one encoding."""
    client = ClientReactor((encoding,), extra_frames=False)
    return b"".join(client.request(each)[1] for each in requests)


def post(path: str, body: bytes) -> bytes:
    """A request with a body."""
    return head("POST", path, {**HEADERS, "Content-Length": str(len(body))}) + body
