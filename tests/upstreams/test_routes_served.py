# Law of this file: a served instance answers what leads to no repository of its settings without a
# question to anybody, and in the same words whatever is there.

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.server.asking import converse
from tests.upstreams.faults import Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.private import mirrored, private
from tests.upstreams.scene import Scene

pytestmark = pytest.mark.nginx


def _requests(paths: Iterable[str]) -> list[bytes]:
    lines = [
        *(f"GET {path} HTTP/1.1" for path in paths),
        "GET http://127.0.0.1:1/up/acme/widget.git/info/refs HTTP/1.1",
        "CONNECT 127.0.0.1:1 HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "POST /up/../up/acme/widget.git/git-upload-pack HTTP/1.1",
    ]
    return [
        f"{line}\r\nHost: 127.0.0.1:1\r\nX-Forwarded-Host: 127.0.0.1:1\r\n"
        "Connection: close\r\n\r\n".encode("utf-8", "surrogateescape")
        for line in lines
    ]


@pytest.fixture
async def at(serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path) -> Scene:
    """A private repository, mirrored; others may not be asked for."""
    at = await private(serve, proxy, forge, tmp_path, allow=["acme/*"], deny=["acme/secret"])
    await mirrored(at)
    return at


async def test_what_leads_nowhere_contacts_nobody(at: Scene) -> None:
    """Raw requests for what is no repository of the settings are answered without a question."""
    paths = (
        "/up/acme/secret.git/info/refs?service=git-upload-pack",
        "/up/acme/SECRET/info/refs?service=git-upload-pack",
        "/up/other/widget.git/info/refs?service=git-upload-pack",
        "/up/acme/%2e%2e/other/widget.git/info/refs?service=git-upload-pack",
        "/up/acme/../other/widget.git/info/refs",
        "/up/acme%2fwidget.git/info/refs",
        "/up//acme/widget.git/info/refs",
        "/up/acme/widget.git%00/info/refs",
        "/up/acme/widget.git/../../../-/mark",
        "/up/acme/widget.git/%2e%2e/%2e%2e/HEAD",
        "/up/acme/widget/HEAD",
        "/up/http://127.0.0.1:1/acme/widget.git/info/refs",
        "/up/@127.0.0.1:1/acme/widget.git/info/refs",
        "/\udcff/up/acme/widget.git/info/refs",
        "/-/bundles/up/other/widget",
        "/-/bundles/up/acme/../other/widget",
        "/-/bundles/http://127.0.0.1:1/x",
    )
    for said in _requests(paths):
        reply = await converse(at.served, said)
        assert reply.status in {400, 401, 404, 405}, (said, reply)
        assert not at.proxy.exchanges, said


async def test_what_is_there_cannot_be_told_from_what_is_not(at: Scene) -> None:
    """Without a right, a mirrored repository is answered like one that nobody ever asked for."""
    for tail in ("/HEAD", "", "/issues", "/objects/info/packs"):
        replies = []
        for name in ("widget", "nothing"):
            reply = await converse(at.served, *_requests([f"/up/acme/{name}{tail}"])[:1])
            replies.append((reply.status, reply.body))
        assert replies[0] == replies[1]
