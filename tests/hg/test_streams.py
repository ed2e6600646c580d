# Law of this file: answers of one exchange go side by side: large ones on streams of their own,
# small ones together on one that lives; and what was compressed once is sent again as it is.

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from server.hg import compressed, reply
from tests.conftest import Serve, Served
from tests.hg.asking import Exchange, exchange, explicit, request, serve_hg
from tests.hg.conftest import Sources
from tests.hg.session import Session
from tests.hg.versions import V2, hg
from wire.hg.cbor import Value
from wire.hg.client import ClientReactor
from wire.hg.encodings import Encoder, Encoding, decoder, encoder
from wire.hg.frames import (
    MAX_PAYLOAD,
    STREAM_BEGIN,
    STREAM_ENCODED,
    STREAM_END,
    Frame,
    FrameType,
)
from wire.hg.messages import STATUS_OK, CommandRequest

CODED = (Encoding.ZSTD, Encoding.ZLIB)
EVERY = pytest.mark.parametrize("encoding", Encoding)
INLINE = {"enabled": False}


@pytest.fixture(scope="module")
def tip(sources: Sources) -> bytes:
    """The newest changeset of the large repository."""
    with Session(hg(V2), sources.path("large")) as session:
        return bytes.fromhex(session("log", "-r", "tip", "-T", "{node}").decode())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that has the index already, once one test has run."""
    return tmp_path_factory.mktemp("data")


def large(tip: bytes, number: int) -> CommandRequest:
    """A question whose answer has about 130 kB; one of 20, whose answers all differ."""
    chosen: Value = {b"include": [b"path:d%d" % number]}
    fields: Value = frozenset({b"revision"})
    return request("filesdata", revisions=[explicit(tip)], fields=fields, pathfilter=chosen)


async def ask(served: Served, encoding: Encoding, *requests: CommandRequest) -> Exchange:
    """Ask by a client that reads one encoding."""
    client = ClientReactor((encoding, Encoding.IDENTITY), extra_frames=False)
    found = await exchange(served, "large", *requests, client=client)
    assert all(told.ended for told in found.answers)
    return found


def streams_of(frames: list[Frame]) -> list[list[Frame]]:
    """The frames of each stream from its begin on, in the order of these."""
    found: list[list[Frame]] = []
    current: dict[int, list[Frame]] = {}
    for frame in frames:
        if frame.stream_flags & STREAM_BEGIN:
            current[frame.stream_id] = []
            found.append(current[frame.stream_id])
        current[frame.stream_id].append(frame)
        if frame.stream_flags & STREAM_END:
            del current[frame.stream_id]
    return found


def answered(stream: list[Frame]) -> set[int]:
    """Which requests are answered on a stream."""
    return {frame.request_id for frame in stream if frame.kind is FrameType.COMMAND_RESPONSE}


@EVERY
async def test_large_answers_have_streams_of_their_own(
    serve: Serve, sources: Sources, data: Path, tip: bytes, encoding: Encoding
) -> None:
    """Each begins, says its encoding, carries one answer and ends; ids are few and used again."""
    served = await serve_hg(serve, sources.root, redirect=INLINE, hg={"streams": 2}, data=data)
    requests = [large(tip, number) for number in range(8)]
    alone = [(await ask(served, Encoding.IDENTITY, each)).answers[0].data for each in requests]
    for _ in range(2):  # the second time from what was compressed the first time
        found = await ask(served, encoding, *requests)
        assert [told.data for told in found.answers] == alone
        streams = streams_of(found.frames)
        assert sorted(number for each in streams for number in answered(each)) == [*found.told]
        assert all(len(answered(each)) == 1 for each in streams)
        assert {frame.stream_id for frame in found.frames} <= {2, 4, 6}
        for stream in streams:
            assert [bool(frame.stream_flags & STREAM_END) for frame in stream] == (
                [False] * (len(stream) - 1) + [True]
            )
            assert (stream[0].kind is FrameType.STREAM_SETTINGS) == (
                encoding is not Encoding.IDENTITY
            )
        assert all(len(frame.payload) <= MAX_PAYLOAD for frame in found.frames)


async def test_no_more_streams_than_are_allowed(
    serve: Serve, sources: Sources, data: Path, tip: bytes
) -> None:
    """With one stream for large answers, each ends before the next begins."""
    served = await serve_hg(serve, sources.root, redirect=INLINE, hg={"streams": 1}, data=data)
    found = await ask(served, Encoding.ZSTD, *(large(tip, number) for number in range(4)))
    # A notice that the repository is being read may come on the stream for what is small.
    frames = [frame for frame in found.frames if frame.kind is not FrameType.TEXT_OUTPUT]
    order = [frame.request_id for frame in frames]
    assert sorted(order) == order
    assert {frame.stream_id for frame in frames} == {4}  # 2 is for small answers


@EVERY
async def test_small_answers_need_not_wait(
    serve: Serve, sources: Sources, data: Path, tip: bytes, encoding: Encoding
) -> None:
    """Heads that are asked after content are answered before it ends."""
    served = await serve_hg(serve, sources.root, redirect=INLINE, data=data)
    everything = request("filesdata", revisions=[explicit(tip)], fields=frozenset({b"revision"}))
    await ask(served, Encoding.IDENTITY, request("heads"))
    for _ in range(2):
        found = await ask(
            served, encoding, everything, request("heads"), request("known", nodes=[tip])
        )
        assert found.ended[-1] == 1
        assert found.answers[1].objects == [[tip]]
        assert len(found.answers[0].data) > 1 << 20


@pytest.mark.parametrize("encoding", CODED)
async def test_a_thousand_small_answers_share_a_context(
    serve: Serve, sources: Sources, data: Path, encoding: Encoding
) -> None:
    """They are on one stream, and take much less than half of what a context for each would."""
    sources.path("large")
    served = await serve_hg(serve, sources.root, redirect=INLINE, data=data)
    requests = [
        request(name, **args)
        for _ in range(250)
        for name, args in (
            ("heads", {}),
            ("branchmap", {}),
            ("listkeys", {"namespace": b"namespaces"}),
            ("listkeys", {"namespace": b"phases"}),
        )
    ]
    alone = sum([len((await ask(served, encoding, each)).reply.body) for each in requests[:4]])
    found = await ask(served, encoding, *requests)
    (stream,) = streams_of(found.frames)
    assert answered(stream) == set(found.told)
    assert len(found.reply.body) < alone * 250 / 2
    # Each can be read as soon as it is there: nothing of it waits for the next.
    coder = decoder(encoding)
    for frame in stream[1:]:
        assert coder.decode(frame.payload).startswith(STATUS_OK)


def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts the encoders that are made: ``shared`` and ``whole``, of entities."""
    made: dict[str, int] = defaultdict(int)

    def count(kind: str, make: Callable[[Encoding], Encoder]) -> Callable[[Encoding], Encoder]:
        def counting(encoding: Encoding) -> Encoder:
            made[kind] += 1
            return make(encoding)

        return counting

    monkeypatch.setattr(compressed, "encoder", count("whole", encoder))
    monkeypatch.setattr(reply, "encoder", count("stream", encoder))
    return made


@pytest.mark.parametrize("encoding", CODED)
async def test_an_entity_is_compressed_once(
    serve: Serve,
    sources: Sources,
    monkeypatch: pytest.MonkeyPatch,
    tip: bytes,
    encoding: Encoding,
) -> None:
    """What is cached is compressed for the second who asks, and sent to all others as it is."""
    sources.path("large")
    served = await serve_hg(serve, sources.root, redirect=INLINE)
    made = counted(monkeypatch)
    bodies = []
    runs = []
    for _ in range(4):
        found = await ask(served, encoding, large(tip, 0))
        frames = [frame for frame in found.frames if frame.stream_flags & STREAM_ENCODED]
        bodies.append(b"".join(frame.payload for frame in frames))
        runs.append((made["stream"], made["whole"]))
        # The status beside it is not encoded, or what follows could not be a file.
        status = next(frame for frame in found.frames if frame.kind is FrameType.COMMAND_RESPONSE)
        assert status.payload == STATUS_OK
        assert not status.stream_flags & STREAM_ENCODED
    assert runs == [(1, 0), (1, 1), (1, 1), (1, 1)]
    assert bodies[1] == bodies[2] == bodies[3]
    digest = sha256(bodies[1]).hexdigest()
    kept = served.settings.data / "entities" / digest[:2] / digest
    assert kept.read_bytes() == bodies[1]
    # It is gone with the record, and then made again.
    kept.unlink()
    assert (await ask(served, encoding, large(tip, 0))).answers[0].data == found.answers[0].data
    assert made["whole"] == 2


async def test_who_reads_other_encodings_has_other_copies(
    serve: Serve, sources: Sources, data: Path, tip: bytes
) -> None:
    """Clients of each encoding get the same answer, whatever others got before."""
    served = await serve_hg(serve, sources.root, redirect=INLINE, data=data)
    found = [
        (await ask(served, encoding, large(tip, 9))).answers[0].data
        for _ in range(2)
        for encoding in Encoding
    ]
    assert len(set(found)) == 1


@EVERY
async def test_requests_may_be_encoded(
    serve: Serve, sources: Sources, data: Path, tip: bytes, encoding: Encoding
) -> None:
    """A client that compresses what it asks is understood, also over many frames and requests."""
    served = await serve_hg(serve, sources.root, redirect=INLINE, data=data)
    nodes: list[Value] = [number.to_bytes(20) for number in range(20_000)]
    client = ClientReactor((Encoding.IDENTITY,), extra_frames=False, encoding=encoding)
    found = await exchange(
        served,
        "large",
        request("known", nodes=[*nodes, tip]),
        request("heads"),
        client=client,
        data=[b"command data " * 9000, None],
    )
    # Node 0 is the null one.
    assert found.answers[0].objects == [b"1" + b"0" * 19_999 + b"1"]
    assert found.answers[1].objects == [[tip]]


async def test_command_data_change_nothing(
    serve: Serve, sources: Sources, data: Path, tip: bytes
) -> None:
    """Data that come with a command are taken, and no command of today looks at them."""
    served = await serve_hg(serve, sources.root, redirect=INLINE, data=data)
    for sent in (b"", b"x", b"x" * 200_000):
        found = await exchange(served, "large", request("heads"), data=[sent])
        assert found.answers[0].objects == [[tip]]
