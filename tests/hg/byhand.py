# Law of this file: bytes of requests are put together here frame by frame, right or wrong.

from __future__ import annotations

from tests.conftest import Served
from tests.hg.asking import (
    HEADERS,
    frames,
    objects,
    where,
)
from tests.server.asking import Reply, ask
from wire.hg.frames import (
    REQUEST_MORE,
    REQUEST_NEW,
    STREAM_BEGIN,
    Frame,
    FrameType,
    encode_frame,
)
from wire.hg.messages import (
    FRAMING_MEDIA_TYPE,
    CommandRequest,
    RemoteError,
    encode_request,
    parse_error,
)

HEADS = encode_request(CommandRequest(b"heads"))
PATH = where("linear", "heads")


async def lives(served: Served) -> None:
    """The server answers."""
    assert await objects(served, "linear", "heads")


def frame(  # noqa: PLR0917 - in the order of the wire
    kind: FrameType,
    payload: bytes = b"",
    flags: int = 0,
    request_id: int = 1,
    stream_id: int = 1,
    stream_flags: int = STREAM_BEGIN,
) -> bytes:
    """A frame of a client."""
    return encode_frame(Frame(request_id, stream_id, stream_flags, kind, flags, payload))


def heads(request_id: int = 1, stream_flags: int = STREAM_BEGIN, flags: int = REQUEST_NEW) -> bytes:
    """A request for heads."""
    kind = FrameType.COMMAND_REQUEST
    return frame(kind, HEADS, flags, request_id, stream_flags=stream_flags)


async def post(served: Served, body: bytes, path: str = PATH, **headers: str) -> Reply:
    """A request with a body."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return await ask(served, "POST", path, body, {**HEADERS, **fields})


def error_of(reply: Reply) -> RemoteError:
    """The error of an answer that is nothing else; all who asked are told the same."""
    assert reply.status == 200
    assert reply.headers["content-type"] == FRAMING_MEDIA_TYPE
    found = frames(reply.body)
    assert {frame.kind for frame in found} == {FrameType.ERROR}
    (payload,) = {frame.payload for frame in found}
    return parse_error(payload)


def long(size: int) -> bytes:
    """A request of frames that are right, and too many."""
    more = frame(FrameType.COMMAND_REQUEST, bytes(60_000), 0x2 | REQUEST_MORE, stream_flags=0)
    return heads(flags=REQUEST_NEW | REQUEST_MORE) + more * (size // 60_000)
