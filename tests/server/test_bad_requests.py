# Law of this file: who sends what cannot be answered is told what to send, in our words, and
# nothing of what was sent comes back.

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from server.accepting import listen
from server.app import make_runner
from server.listening import bind
from tests.conftest import Serve

HOST = b"Host: x\r\n"
PACK = b"POST /a.git/git-upload-pack HTTP/1.1\r\n" + HOST

UNREADABLE = {
    "garbage": (b"secret\r\n\r\n", 400, "This is no HTTP/1.1 request"),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "HTTP without TLS"),
    "version": (b"GET /secret HTTP/9.9\r\n" + HOST + b"\r\n", 400, "This is no HTTP/1.1 request"),
    "no host": (b"GET /secret HTTP/1.1\r\n\r\n", 400, "The request has no header Host"),
    "header": (b"GET / HTTP/1.1\r\n" + HOST + b"Sec ret: secret\r\n\r\n", 400, "Name: value"),
    "long": (b"GET / HTTP/1.1\r\nX: " + b"secret" * 3000 + b"\r\n\r\n", 400, "longer than 8190"),
    "length": (PACK + b"Content-Length: secret\r\n\r\n", 400, "request's length is wrong"),
    "chunk": (PACK + b"Transfer-Encoding: chunked\r\n\r\nsecret\r\n", 400, "length is wrong"),
    "method": (b"GET /a.git/git-upload-pack HTTP/1.1\r\n" + HOST + b"\r\n", 405, "by POST only"),
    "connect": (b"CONNECT secret:443 HTTP/1.1\r\nHost: secret:443\r\n\r\n", 404, "nothing here"),
}


@pytest.mark.parametrize("case", UNREADABLE)
async def test_in_our_words(serve: Serve, tmp_path: Path, case: str) -> None:
    """A sentence with what to send; the connection ends, or goes on, as HTTP has it."""
    sent, status, said = UNREADABLE[case]
    served = await serve(tmp_path)
    runner = make_runner(served.runtime, stop_seconds=0.0)
    await runner.setup()
    bound = bind("127.0.0.1:0", shared=False)  # aiohttp closes it
    try:
        await listen(runner, bound, 60.0, 8)
        reader, writer = await asyncio.open_connection(*bound.getsockname())
        writer.write(sent)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            int(line.partition(":")[2])
            for line in head.splitlines()
            if line.lower().startswith("content-length:")
        )
        body = (await reader.readexactly(length)).decode()
        writer.close()
    finally:
        await runner.cleanup()
    assert head.split()[1] == str(status)
    assert said in body
    assert body.endswith(".\n")
    assert "secret" not in body
