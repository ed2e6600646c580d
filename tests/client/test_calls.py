# Law of this file: what a server answers reaches the caller, however it is cut, encoded, mixed and
# ordered; what is no answer is an error that says so.

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Iterator, Sequence

import aiohttp
import pytest
from aiohttp import web

from client import (
    BadCall,
    BrokenAnswer,
    Call,
    CallError,
    ClientError,
    Limits,
    Refused,
    TooLarge,
    Unreachable,
    Watch,
    connect,
)
from client.exchange import ENCODE_FROM
from tests.client.scripted import (
    NODE,
    Question,
    Scripted,
    Talk,
    answer,
    moved,
    sequence,
)
from wire.hg import cbor
from wire.hg.cbor import Chunk, Value
from wire.hg.encodings import PREFERENCE, Encoding, encoder
from wire.hg.frames import (
    END,
    STREAM_BEGIN,
    STREAM_ENCODED,
    Frame,
    FrameType,
    encode_frame,
)
from wire.hg.messages import (
    FRAMING_MEDIA_TYPE,
    Failed,
    Progress,
    Text,
    encode_error,
    encode_progress,
    encode_texts,
)
from wire.hg.server import ServerReactor

TEXT = b"\n".join(b"line %d of a text that compresses" % n for n in range(9000))


@pytest.mark.parametrize("encoding", PREFERENCE)
@pytest.mark.parametrize("chunk", [0, 1, 1000])
async def test_encodings(server: Scripted, encoding: Encoding, chunk: int) -> None:
    """An answer in any encoding, cut anywhere, is what was sent."""
    objects: list[Value] = [{b"totalitems": 2}, NODE, [None, True, -5], frozenset((b"a", b"b"))]
    text = TEXT if chunk != 1 else TEXT[:2000]
    server.replies[b"lookup"] = answer(*objects, text)
    server.encoding = encoding
    server.chunk = chunk
    async with connect(server.url) as repository:
        assert await repository.call(b"lookup", {b"key": b"x"}) == [*objects, text]
    assert server.questions[0].request.args == {b"key": b"x"}


async def test_accepted_encodings(server: Scripted) -> None:
    """The server is told the encodings that the caller allows, and no others."""
    server.replies[b"heads"] = answer([NODE])
    async with connect(server.url) as repository:
        await repository.call(b"heads")
        assert server.settings == (b"zstd-8mb", b"zlib", b"identity")
    async with connect(server.url, encodings=[Encoding.ZLIB]) as repository:
        await repository.call(b"heads")
        assert server.settings == (b"zlib",)


async def test_headers(server: Scripted) -> None:
    """A command is posted where its permission says, as the media type of frames."""
    server.replies[b"heads"] = answer([])
    server.replies[b"pushkey"] = answer(True)
    push = dict.fromkeys((b"namespace", b"key", b"old", b"new"), b"")
    async with connect(server.url) as repository:
        await repository.call(b"heads")
        assert await repository.call(b"pushkey", push) == [True]
        async with repository.many([Call(b"heads"), Call(b"heads")]) as answers:
            assert [each.objects async for each in answers] == [[[]], [[]]]
        async with repository.many([Call(b"heads"), Call(b"pushkey", push)]) as answers:
            assert [each.index async for each in answers] == [0, 1]
    posted = server.asked[1:]
    base = "/repo/api/exp-http-v2-0003"
    assert [each.path for each in posted] == [
        f"{base}/ro/heads",
        f"{base}/rw/pushkey",
        f"{base}/ro/multirequest",
        f"{base}/rw/multirequest",
    ]
    for each in posted:
        assert each.headers["Accept"] == each.headers["Content-Type"] == FRAMING_MEDIA_TYPE
        assert each.headers["Content-Length"] == str(len(each.body))
    assert server.commands[0] == (b"heads", None)


async def test_requests_are_encoded_for_who_reads_them(server: Scripted) -> None:
    """Long requests are encoded if the server says that it reads this; short ones never are."""
    server.replies[b"known"] = answer(b"0" * 500)
    nodes: list[Value] = [NODE] * 500
    async with connect(server.url) as repository:
        await repository.call(b"known", {b"nodes": nodes})
    server.advertise(encodings=(b"zlib", b"brotli"))
    async with connect(server.url) as repository:
        await repository.call(b"known", {b"nodes": nodes})
        await repository.call(b"known")
    plain, encoded, short = [each.body for each in server.asked if each.method == "POST"]
    assert len(encoded) < 300 < ENCODE_FROM < len(plain)
    assert b"zlib" in encoded
    assert b"known" in short
    assert [each.request.args.get(b"nodes") for each in server.questions] == [nodes, nodes, None]


async def test_command_data(server: Scripted) -> None:
    """Command data come with the request, of any size."""
    data = bytes(range(256)) * 1000
    server.replies[b"heads"] = answer([])
    for encodings in ((), (b"zstd-8mb",)):
        server.advertise(encodings=encodings)
        async with connect(server.url) as repository:
            await repository.call(b"heads", data=data)
    assert [each.data for each in server.questions] == [data, data]


# --- objects one by one ---------------------------------------------------------------------


async def test_pieces(server: Scripted) -> None:
    """Indefinite byte strings are handed out in pieces, or put together."""
    indefinite = cbor.INDEFINITE_BYTES + sequence(b"abc", b"def") + cbor.BREAK
    server.replies[b"rawstorefiledata"] = answer({b"filecount": 1}) + indefinite + sequence(7)
    args: dict[bytes, Value] = {b"files": [b"changelog"]}
    async with connect(server.url) as repository:
        assert await repository.call(b"rawstorefiledata", args) == [
            {b"filecount": 1},
            b"abcdef",
            7,
        ]
        async with repository.stream(b"rawstorefiledata", args) as objects:
            assert [item async for item in objects] == [
                {b"filecount": 1},
                Chunk(b"abc", first=True, last=False),
                Chunk(b"def", first=False, last=False),
                Chunk(b"", first=False, last=True),
                7,
            ]


def endless(server: Scripted) -> None:
    """Have the server answer ``heads`` with objects that never end."""
    megabyte = sequence(bytes(1 << 20))

    async def script(reactor: ServerReactor, questions: Sequence[Question]) -> AsyncIterator[bytes]:
        talk = Talk(reactor)
        yield talk.say(questions[0].request_id, answer(), end=False)
        while True:
            yield talk.say(questions[0].request_id, megabyte, end=False)

    server.script = script


async def test_a_large_answer_waits_for_its_reader(server: Scripted) -> None:
    """The server cannot send much more than what was read, and learns that the reader left."""
    endless(server)
    async with connect(server.url) as repository:
        async with repository.stream(b"heads") as objects:
            for _ in range(8):
                await anext(objects)
            # Buffers of the kernel hold the rest.
            assert server.written < 24 << 20
        await server.gone.wait()


async def test_cancelling_hangs_up(server: Scripted) -> None:
    """Who is cancelled in the middle of an answer closes the connection."""
    endless(server)
    reading = asyncio.Event()

    async def read() -> None:
        async with connect(server.url) as repository, repository.stream(b"heads") as objects:
            async for _ in objects:
                reading.set()

    task = asyncio.create_task(read())
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await server.gone.wait()


async def test_leaving_many_hangs_up(server: Scripted) -> None:
    """Who leaves a multirequest before its end closes the connection."""

    async def script(reactor: ServerReactor, questions: Sequence[Question]) -> AsyncIterator[bytes]:
        talk = Talk(reactor)
        yield talk.say(questions[0].request_id, answer(1), end=True)
        while True:
            yield talk.say(questions[1].request_id, answer(bytes(1 << 18)), end=False)

    server.script = script
    async with connect(server.url) as repository:
        async with repository.many([Call(b"heads"), Call(b"heads")]) as answers:
            assert (await anext(answers)).objects == [1]
        await server.gone.wait()


async def test_limits_of_what_is_held(server: Scripted) -> None:
    """Lists of objects, and single objects, have a limit; streams have none in all."""
    server.replies[b"heads"] = answer(*[bytes(1000)] * 50)
    limits = Limits(collected=20_000, item=2000)
    async with connect(server.url, limits=limits) as repository:
        with pytest.raises(TooLarge, match=r"20000 bytes.*stream"):
            await repository.call(b"heads")
        async with repository.many([Call(b"heads")]) as answers:
            with pytest.raises(TooLarge, match="multirequest"):
                await anext(answers)
        async with repository.stream(b"heads") as objects:
            assert len([item async for item in objects]) == 50
        server.replies[b"heads"] = answer(bytes(3000))
        with pytest.raises(ClientError, match="limit is 2000"):
            await repository.call(b"heads")


async def test_bombs(server: Scripted) -> None:
    """An answer whose few bytes tell very much is never held as a whole."""
    server.replies[b"heads"] = answer(*[bytes(1 << 20)] * 64)
    async with connect(server.url, limits=Limits(collected=1 << 20)) as repository:
        async with repository.stream(b"heads") as objects:
            tracemalloc.start()
            try:
                assert len([True async for _ in objects]) == 64
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert peak < 40 << 20
        with pytest.raises(TooLarge):
            await repository.call(b"heads")


# --- several at a time ----------------------------------------------------------------------


async def test_answers_in_any_order(server: Scripted) -> None:
    """Answers that are interleaved over streams come when each is complete."""

    def script(reactor: ServerReactor, questions: Sequence[Question]) -> Iterator[bytes]:
        first, second, third = (each.request_id for each in questions)
        slow, quick = Talk(reactor, Encoding.ZSTD), Talk(reactor, Encoding.ZLIB)
        yield slow.say(first, answer(b"slow"), end=False)
        yield quick.say(third, answer(b"quick"), end=True, close=True)
        yield slow.say(first, sequence(TEXT), end=False)
        again = Talk(reactor, Encoding.ZSTD)
        assert again.stream.id == quick.stream.id
        yield again.say(second, answer(TEXT), end=True, close=True)
        yield slow.say(first, sequence(b"end"), end=True)

    server.script = script
    calls = [Call(b"heads"), Call(b"branchmap"), Call(b"listkeys", {b"namespace": b"phases"})]
    async with connect(server.url) as repository, repository.many(calls) as answers:
        found = [each async for each in answers]
    assert [each.index for each in found] == [2, 1, 0]
    assert [each.call for each in found] == [calls[2], calls[1], calls[0]]
    assert [each.objects for each in found] == [[b"quick"], [TEXT], [b"slow", TEXT, b"end"]]


async def test_a_failure_among_several(server: Scripted) -> None:
    """A call that fails fails alone."""
    server.replies[b"heads"] = answer([NODE])
    server.replies[b"lookup"] = Failed(b"unknown revision '%s'", (b"x",))
    calls = [Call(b"lookup", {b"key": b"x"}), Call(b"heads")]
    async with connect(server.url) as repository, repository.many(calls) as answers:
        failed, fine = [each async for each in answers]
    assert fine.objects == [[NODE]]
    with pytest.raises(CallError, match="unknown revision 'x'"):
        _ = failed.objects


async def test_no_calls(server: Scripted) -> None:
    """No calls have no answers, and are not sent."""
    async with connect(server.url) as repository, repository.many([]) as answers:
        assert [each async for each in answers] == []
    assert len(server.asked) == 1


async def test_texts_and_progress(server: Scripted) -> None:
    """Who watches is told texts, progress and frames, as they come."""

    def script(reactor: ServerReactor, questions: Sequence[Question]) -> Iterator[bytes]:
        request_id = questions[0].request_id
        talk = Talk(reactor)
        for kind, payload in (
            (FrameType.TEXT_OUTPUT, encode_texts([Text(b"hello %s", (b"you",))])),
            (FrameType.PROGRESS, encode_progress(Progress(b"counting", 1, 2, b"files"))),
        ):
            yield reactor.notice(talk.stream, request_id, kind, payload)
        yield talk.say(request_id, answer(1), end=True)

    server.script = script
    texts: list[str] = []
    steps: list[tuple[Call, Progress]] = []
    frames: list[tuple[FrameType, bool]] = []
    watch = Watch(
        frame=lambda frame, sent: frames.append((frame.kind, sent)),
        text=lambda _, text: texts.append(text.text),
        progress=lambda call, progress: steps.append((call, progress)),
    )
    async with connect(server.url, watch=watch) as repository:
        assert await repository.call(b"heads") == [1]
    assert texts == ["hello you"]
    assert steps == [(Call(b"heads"), Progress(b"counting", 1, 2, b"files"))]
    assert frames == [
        (FrameType.SENDER_SETTINGS, True),
        (FrameType.COMMAND_REQUEST, True),
        (FrameType.TEXT_OUTPUT, False),
        (FrameType.PROGRESS, False),
        (FrameType.COMMAND_RESPONSE, False),
    ]
    async with connect(server.url) as repository:
        assert await repository.call(b"heads") == [1]


# --- errors ---------------------------------------------------------------------------------


async def test_a_status_that_is_an_error(server: Scripted) -> None:
    """The server's message is the error's."""
    server.replies[b"heads"] = Failed(b"no %s today", (b"heads\x1b[2J",))
    async with connect(server.url) as repository:
        with pytest.raises(CallError) as caught:
            await repository.call(b"heads")
        assert caught.value.message == "no heads\\x1b[2J today"
        assert caught.value.kind == "status"
        assert str(caught.value) == "heads: the server says: no heads\\x1b[2J today"


@pytest.mark.parametrize("begun", [False, True])
async def test_an_error_frame(server: Scripted, begun: bool) -> None:
    """An error frame ends the call, before its answer or in it."""

    def script(reactor: ServerReactor, questions: Sequence[Question]) -> Iterator[bytes]:
        talk = Talk(reactor)
        if begun:
            yield talk.say(questions[0].request_id, answer(b"first"), end=False)
        error = encode_error("server", b"it %s", (b"broke",))
        yield reactor.fail(talk.stream, questions[0].request_id, error)

    server.script = script
    got: list[cbor.Item] = []

    async def read() -> None:
        async with connect(server.url) as repository, repository.stream(b"heads") as objects:
            async for item in objects:
                got.append(item)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(CallError, match="it broke") as caught:
        await read()
    assert caught.value.kind == "server"
    assert got == ([b"first"] if begun else [])


async def test_an_error_of_no_call(server: Scripted) -> None:
    """An error that names no request of ours is an error of all of them."""

    def script(reactor: ServerReactor, questions: Sequence[Question]) -> Iterator[bytes]:
        yield reactor.fail(Talk(reactor).stream, 0, encode_error("protocol", b"bad frames"))

    server.script = script
    async with connect(server.url) as repository:
        with pytest.raises(CallError, match="bad frames"):
            await repository.call(b"heads")
        async with repository.many([Call(b"heads"), Call(b"heads")]) as answers:
            with pytest.raises(CallError, match="bad frames"):
                await anext(answers)


@pytest.mark.parametrize(
    ("status", "content_type", "words"),
    [
        (200, "text/plain", "where frames are expected"),
        (200, "text/html", "where frames are expected"),
        (403, "text/plain", "these credentials may not"),
        (404, "text/html", "no such repository or command"),
        (302, "text/plain", "HTTP 302"),
        (500, FRAMING_MEDIA_TYPE, "HTTP 500"),
    ],
)
async def test_answers_without_frames(
    server: Scripted, status: int, content_type: str, words: str
) -> None:
    """HTTP alone is told with its status and its text."""

    async def responding(request: web.Request) -> web.StreamResponse:
        return web.Response(
            status=status,
            body=b"the reason",
            content_type=content_type,
            headers={"Location": "/elsewhere"},
        )

    server.responding = responding
    async with connect(server.url) as repository:
        with pytest.raises(Refused) as caught:
            await repository.call(b"heads")
        assert caught.value.status == status
        assert words in str(caught.value)
        assert ("the reason" in str(caught.value)) == (content_type == "text/plain")


def frame(payload: bytes, stream_flags: int = STREAM_BEGIN, flags: int = END) -> bytes:
    """A frame that answers request 1."""
    return encode_frame(Frame(1, 2, stream_flags, FrameType.COMMAND_RESPONSE, flags, payload))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "ends before the answer"),
        (frame(b""), "without a status"),
        (frame(sequence(b"x")), "does not begin with a status"),
        (frame(answer(1), STREAM_BEGIN | STREAM_ENCODED)[:-1], "ends in a frame"),
        (frame(answer()) + frame(answer(), 0), "waits for none"),
        (frame(answer(), 0), "was not begun"),
        (frame(answer(b"abc")[:-1]), "middle of an item"),
        (frame(answer() + b"\x1f"), "cannot be read"),
        (frame(answer(1, status=Failed(b"no"))), "objects after a status"),
        (frame(answer(status=moved("http://h/", b""))), "no target was offered"),
        (frame(answer(1, status=moved("http://h/", b""))), "objects after a status"),
    ],
)
async def test_broken_answers(server: Scripted, body: bytes, words: str) -> None:
    """What breaks the protocol is told."""
    server.script = lambda reactor, questions: [body]
    async with connect(server.url) as repository:
        with pytest.raises(BrokenAnswer) as caught:
            await repository.call(b"heads")
        assert words in str(caught.value)
        async with repository.many([Call(b"heads")]) as answers:
            with pytest.raises(BrokenAnswer):
                _ = [each.objects async for each in answers]


async def test_text_where_frames_are_expected(server: Scripted) -> None:
    """Text that comes as the media type of frames is no frame."""
    server.script = lambda reactor, questions: [b"abort: no such repository"]
    async with connect(server.url) as repository:
        with pytest.raises(TooLarge, match="frames hold up to 65535"):
            await repository.call(b"heads")


async def test_answers_cut_anywhere(server: Scripted) -> None:
    """An answer that ends too early is never taken for one that is whole."""
    body = b""
    for encoding in PREFERENCE:
        context = encoder(encoding)
        payload = context.encode(answer([NODE], b"text")) + context.flush()
        stream = ServerReactor().begin_stream(encoding)
        body = stream.frames(FrameType.COMMAND_RESPONSE, 1, payload, flags=(1, END), encoded=True)
        async with connect(server.url) as repository:
            for size in range(len(body)):
                server.script = lambda reactor, questions, cut=body[:size]: [cut]  # type: ignore[misc]
                with pytest.raises(BrokenAnswer):
                    await repository.call(b"heads")
            server.script = lambda reactor, questions, whole=body: [whole]  # type: ignore[misc]
            assert await repository.call(b"heads") == [[NODE], b"text"]


async def test_a_connection_that_breaks(server: Scripted) -> None:
    """A connection that breaks in an answer is told, and not taken for the end."""

    async def responding(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": FRAMING_MEDIA_TYPE})
        await response.prepare(request)
        await response.write(frame(answer(1), flags=1))
        assert request.transport is not None
        request.transport.close()
        return response

    server.responding = responding
    async with connect(server.url) as repository:
        with pytest.raises(Unreachable, match="broke before"):
            await repository.call(b"heads")
        async with repository.many([Call(b"heads")]) as answers:
            with pytest.raises(Unreachable, match="broke before"):
                await anext(answers)


async def test_commands_that_the_server_does_not_list(server: Scripted) -> None:
    """What the server does not list is not sent, unless the caller insists."""
    server.replies[b"head"] = answer(1)
    server.replies[b"heads"] = answer(2)
    async with connect(server.url) as repository:
        with pytest.raises(BadCall, match="no command 'head'; did you mean 'heads'"):
            await repository.call(b"head")
        with pytest.raises(BadCall, match="no command 'xyz'; there are branchmap, "):
            async with repository.many([Call(b"xyz")]):
                pass
        with pytest.raises(BadCall, match="no argument 'publicly'; did you mean 'publiconly'"):
            await repository.call(b"heads", {b"publicly": True})
        with pytest.raises(BadCall, match="no argument 'x'; it has none"):
            await repository.call(b"branchmap", {b"x": 1})
    assert len(server.asked) == 1
    async with connect(server.url, checked=False) as repository:
        assert await repository.call(b"head") == [1]
        assert await repository.call(b"heads", {b"publicly": True}) == [2]
        server.responding = None
        with pytest.raises(Refused, match="404"):
            await repository.call(b"a/b")


async def test_a_session_of_the_callers(server: Scripted) -> None:
    """A caller's session is used for the server, and left open."""
    server.replies[b"heads"] = answer([])
    async with aiohttp.ClientSession(headers={"X-Trace": "7"}) as session:
        async with connect(server.url, session=session) as repository:
            await repository.call(b"heads")
        assert not session.closed
    assert [each.headers["X-Trace"] for each in server.asked] == ["7", "7"]
