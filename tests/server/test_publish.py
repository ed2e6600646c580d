# Law of this file: a target counts only after the content came back through it, whatever goes
# wrong on the way, and whoever else publishes the same at the same time.

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from indexer.ownership import claims
from redirects.signing import SigningKeys
from redirects.sigv4 import Credentials
from redirects.targets import HttpTarget, S3Target, SelfTarget, Target
from redirects.window import Window
from server.placing import Stores
from server.publish import Publisher
from server.readback import NotReadable
from server.rereading import Rereading
from server.turns import PublishRefused
from stores.base import Corrupt, StoreUnavailable
from stores.entity import Entity
from stores.faulty import Fail, Fault, FaultyStore, Flip, Hang, Lose, Truncate
from stores.memory import MemoryStore

WINDOW = Window(900, 6 * 3600)
KEEP = 7 * 86400.0
LEASE = KEEP - 900 - 6 * 3600
CONTENT = bytes(range(256)) * 1200
SECRET = "k" * 32
REPO = "p.git"


@dataclass
class Remembered:
    """Publications of one machine, in memory."""

    records: dict[str, dict[str, tuple[float, float]]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    locks: dict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    def readable(self, digest: str, now: float) -> frozenset[str]:
        """Those whose lease has not ended."""
        return frozenset(t for t, (_, end) in self.records[digest].items() if now < end)

    def record(
        self,
        digest: str,
        targets: Iterable[str],
        now: float,
        lease: float,
        *,
        instead_of: Iterable[str] = (),
    ) -> None:
        """Keep the leases."""
        for note in tuple(instead_of):
            self.records[digest].pop(note, None)
        self.records[digest].update(dict.fromkeys(targets, (now, now + lease)))

    def lock(self, digest: str) -> asyncio.Lock:
        """One for each digest."""
        return self.locks[digest]


@dataclass
class Clock:
    """Time that passes when the test says so."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        """The time, in seconds."""
        return self.now


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Source = tuple[Entity, Path]
Task = asyncio.Task[frozenset[str]]


@dataclass
class Front:
    """A static server in front of a store, and what it does instead of serving."""

    store: MemoryStore
    url: str = ""
    instead: Handler | None = None
    asked: list[web.BaseRequest] = field(default_factory=list)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer as the test wants it."""
        self.asked.append(request)
        if self.instead is not None:
            return await self.instead(request)
        return await self.honest(request)

    async def honest(self, request: web.Request) -> web.StreamResponse:
        """Answer as a good server."""
        content = self.store.entities[request.path.rpartition("/")[2]]
        start = request.http_range.start
        if start is None:
            return web.Response(body=content)
        last = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return web.Response(status=206, body=content[start:], headers={"Content-Range": last})


class Bench:
    """One store, what its machine remembers, two targets that read it, and a clock."""

    def __init__(self, session: aiohttp.ClientSession, front: Front) -> None:
        self.clock = front.store._clock
        self.memory = front.store
        self.store = FaultyStore(front.store)
        self.remembered = Remembered()
        self.front = front
        self.cdn = HttpTarget("cdn", front.url, WINDOW)
        keys = SigningKeys("k", {"k": SECRET.encode()})
        self.own = SelfTarget("self", self.store.name, keys, WINDOW)
        self.made: list[Publisher] = []
        self._session = session

    def publisher(self, *targets: Target, **options: object) -> Publisher:
        """A publisher of some targets, as if in a process of its own."""
        given = {
            "session": self._session,
            "keep": KEEP,
            "max_url_life": 1.0,
            "clock": self.clock,
            "monotonic": self.clock,
        }
        made = Publisher(Stores(self.store), targets, self.remembered, **{**given, **options})
        self.made.append(made)
        return made

    async def hang(self, publisher: Publisher, source: Source) -> tuple[Task, asyncio.Event]:
        """Publish until the upload hangs; setting the event lets it go on."""
        released = asyncio.Event()
        self.store.faults["put"] = Hang(released)
        running = asyncio.create_task(publisher.publish(*source, REPO))
        for _ in range(100):
            await asyncio.sleep(0)
        assert self.store.calls["put"] == 1
        return running, released


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """Everything, on loopback."""
    front = Front(MemoryStore(Clock()))
    app = web.Application()
    app.router.add_get("/{path:.*}", front.serve)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        front.url = str(server.make_url("")).rstrip("/")
        bench = Bench(session, front)
        yield bench
        for one in bench.made:
            await one.close()


def source_of(content: bytes, directory: Path) -> Source:
    """A file, and the entity that it is."""
    entity = Entity(hashlib.sha256(content).hexdigest(), len(content))
    path = directory / entity.digest
    path.write_bytes(content)
    return entity, path


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """300 KiB of content."""
    return source_of(CONTENT, tmp_path)


# --- what counts ------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"x", b"xy", b"z" * 1025, CONTENT, b"a" * (3 << 20)])
async def test_published_through_all(bench: Bench, content: bytes, tmp_path: Path) -> None:
    """Content of any size that comes back through every target counts for every target."""
    entity, path = source_of(content, tmp_path)
    publisher = bench.publisher(bench.cdn, bench.own)
    assert publisher.readable(entity) == frozenset()
    both = frozenset({bench.cdn.fingerprint, bench.own.fingerprint})
    assert await publisher.publish(entity, path, REPO) == both
    assert publisher.readable(entity) == both


async def test_asked_as_git_asks(bench: Bench, source: Source) -> None:
    """The whole is asked for without encodings, then the end of it as git resumes."""
    await bench.publisher(bench.cdn).publish(*source, REPO)
    whole, rest = bench.front.asked
    assert whole.path == f"/{source[0].key}"
    assert whole.headers["Accept-Encoding"] == rest.headers["Accept-Encoding"] == "identity"
    assert "Range" not in whole.headers
    assert rest.headers["Range"] == f"bytes={len(CONTENT) - 1024}-"


async def test_presigned_urls_are_sent_as_they_are(bench: Bench, source: Source) -> None:
    """What is signed is what is asked for: no character of a URL is respelt."""
    role = Credentials("AKIATEST", SECRET, "to/k+en=")
    target = S3Target("s3", f"{bench.front.url}/a%20b/", "eu-west-1", WINDOW, lambda: role)
    assert await bench.publisher(target).publish(*source, REPO) == {target.fingerprint}
    assert bench.front.asked[0].raw_path.startswith(f"/a%20b/{source[0].key}?X-Amz-Algorithm=")
    assert "&X-Amz-Credential=AKIATEST%2F20231114%2F" in bench.front.asked[0].raw_path
    assert "&X-Amz-Security-Token=to%2Fk%2Ben%3D&" in bench.front.asked[0].raw_path


async def redirected(request: web.Request) -> web.StreamResponse:
    """A hop to where it would come."""
    raise web.HTTPFound(request.path + "?again")


async def refused(request: web.Request) -> web.StreamResponse:
    """A server that lets nobody in."""
    raise web.HTTPForbidden


async def empty(request: web.Request) -> web.StreamResponse:
    """A success without content."""
    return web.Response()


async def too_long(request: web.Request) -> web.StreamResponse:
    """One byte too many."""
    return web.Response(body=CONTENT + b"x")


async def too_short(request: web.Request) -> web.StreamResponse:
    """One byte too few."""
    return web.Response(body=CONTENT[:-1])


async def other(request: web.Request) -> web.StreamResponse:
    """As many bytes, and one of them wrong."""
    return web.Response(body=b"\xff" + CONTENT[1:])


async def encoded(request: web.Request) -> web.StreamResponse:
    """Compressed for who did not ask for it."""
    response = web.Response(body=CONTENT)
    response.enable_compression(web.ContentCoding.gzip)
    return response


async def without_range(request: web.Request) -> web.StreamResponse:
    """A server that starts over when it is asked to resume."""
    return web.Response(body=CONTENT)


async def broken_off(request: web.Request) -> web.StreamResponse:
    """A connection that ends in the middle."""
    response = web.StreamResponse()
    response.content_length = len(CONTENT)
    await response.prepare(request)
    await response.write(CONTENT[:100])
    request.transport.abort()
    return response


def ranged(body: bytes, content_range: str | None) -> Handler:
    """An honest whole, and this for a part."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if "Range" not in request.headers:
            return web.Response(body=CONTENT)
        headers = {} if content_range is None else {"Content-Range": content_range}
        return web.Response(status=206, body=body, headers=headers)

    return answer


END = f"bytes {len(CONTENT) - 1024}-{len(CONTENT) - 1}/{len(CONTENT)}"


@pytest.mark.parametrize(
    ("instead", "says"),
    [
        (redirected, "status 302 .* final"),
        (refused, "status 403"),
        (empty, "0 bytes came"),
        (too_long, "more than"),
        (too_short, "307199 bytes came"),
        (other, "SHA-256"),
        (encoded, "Content-Encoding"),
        (without_range, "status 200 where 206 .* Range"),
        (broken_off, "its answer breaks off"),
        (ranged(CONTENT[-1024:], None), "Content-Range is None"),
        (ranged(CONTENT[-1024:], END.replace("bytes ", "bytes 1")), "Content-Range"),
        (ranged(CONTENT[:1024][::-1], END), "not those"),
        (ranged(CONTENT[-1024:] + b"x", END), "not those"),
        (ranged(CONTENT[-1000:], END), "its answer breaks off"),
    ],
)
async def test_a_bad_target_does_not_count(
    bench: Bench,
    instead: Handler,
    says: str,
    source: Source,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A target that gives anything but the content is left out and logged; others count."""
    bench.front.instead = instead
    publisher = bench.publisher(bench.cdn, bench.own)
    assert await publisher.publish(*source, REPO) == {bench.own.fingerprint}
    assert publisher.readable(source[0]) == {bench.own.fingerprint}
    assert [r.levelno for r in caplog.records if r.name == "offramp.publish"] == [logging.WARNING]
    assert re.search(f"target cdn: .*{says}", caplog.text)


async def test_a_target_that_is_down_says_no_secret(
    bench: Bench, source: Source, unused_tcp_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A refused connection is a warning that names the target and no part of its URL's query."""
    base = f"http://127.0.0.1:{unused_tcp_port}/"
    role = Credentials("AKIATEST", SECRET)
    target = S3Target("s3", base, "eu-west-1", WINDOW, lambda: role)
    publisher = bench.publisher(target)
    assert await publisher.publish(*source, REPO) == frozenset()
    assert publisher.readable(source[0]) == frozenset()
    assert "target s3: no connection: connection refused" in caplog.text
    assert "X-Amz" not in caplog.text


async def test_no_credentials(bench: Bench, source: Source) -> None:
    """A target that cannot sign cannot be read back through, and says so."""
    target = S3Target("s3", "http://127.0.0.1/", "eu-west-1", WINDOW, lambda: None)
    publisher = bench.publisher(target)
    assert await publisher.publish(*source, REPO) == frozenset()
    with pytest.raises(NotReadable, match="no credentials"):
        await publisher.read_back(target, source[0])


@pytest.mark.parametrize("fault", [Fail(), Lose(), Truncate(1000), Flip(len(CONTENT) - 1)])
async def test_our_own_route_is_read_from_the_store(
    bench: Bench, fault: Fault, source: Source
) -> None:
    """What the store does not give back as it is, our own route would not either."""
    bench.store.faults["open"] = fault
    assert await bench.publisher(bench.own).publish(*source, REPO) == frozenset()
    del bench.store.faults["open"]
    assert await bench.publisher(bench.own).publish(*source, REPO) == {bench.own.fingerprint}


async def test_a_wrong_file_is_not_published(bench: Bench, source: Source) -> None:
    """A file that is not the entity is an error, and the store is not blamed for it."""
    entity, path = source
    path.write_bytes(CONTENT[:-1] + b"?")
    publisher = bench.publisher(bench.own)
    for _ in range(2):
        with pytest.raises(Corrupt):
            await publisher.publish(entity, path, REPO)
    assert not bench.remembered.records[entity.digest]


# --- for how long ------------------------------------------------------------------------


async def test_no_url_outlives_the_content(bench: Bench, source: Source) -> None:
    """The last URL that can be given out ends before the entity is old enough to be deleted."""
    publisher = bench.publisher(bench.own, bench.cdn)
    await publisher.publish(*source, REPO)
    entity = source[0]
    began, end = bench.remembered.records[entity.digest][bench.own.fingerprint]
    assert end - began == LEASE
    bench.clock.now = end - 0.001
    assert bench.own.fingerprint in publisher.readable(entity)
    assert bench.clock.now + bench.own.max_lifetime <= bench.memory.modified[entity.digest] + KEEP
    bench.clock.now = end
    assert publisher.readable(entity) == frozenset()


async def test_the_lease_begins_before_a_long_upload(bench: Bench, source: Source) -> None:
    """Time that an upload takes is not added to the lease: some stores count from its begin."""
    publisher = bench.publisher(bench.own)
    running, released = await bench.hang(publisher, source)
    began = bench.clock.now
    bench.clock.now += 3600
    released.set()
    await running
    bench.clock.now = began + LEASE
    assert publisher.readable(source[0]) == frozenset()


def test_urls_that_outlive_content_are_refused(bench: Bench) -> None:
    """A retention shorter than a URL's life cannot be configured."""
    for keep, life in ((bench.own.max_lifetime, 1.0), (100_000, 100_000)):
        with pytest.raises(ValueError, match=r"retention\.keep"):
            bench.publisher(bench.own, keep=keep, max_url_life=life)


async def test_renewed_at_half_time(bench: Bench, source: Source) -> None:
    """Published again it costs nothing until half of the lease is over; then it begins anew."""
    publisher = bench.publisher(bench.own)
    await publisher.publish(*source, REPO)
    bench.clock.now += LEASE / 2 - 1
    assert await publisher.publish(*source, REPO) == {bench.own.fingerprint}
    assert bench.store.calls["put"] == 1
    bench.clock.now += 1
    assert await publisher.publish(*source, REPO) == {bench.own.fingerprint}
    assert bench.store.calls["put"] == 2
    bench.clock.now += LEASE - 1
    assert publisher.readable(source[0]) == {bench.own.fingerprint}


async def test_only_what_is_missing_is_read_again(bench: Bench, source: Source) -> None:
    """A target that failed is tried by the next call; those that count are not read again."""
    publisher = bench.publisher(bench.own, bench.cdn)
    bench.front.instead = refused
    assert await publisher.publish(*source, REPO) == {bench.own.fingerprint}
    reads = bench.store.calls["open"]
    bench.front.instead = None
    assert await publisher.publish(*source, REPO) == {bench.own.fingerprint, bench.cdn.fingerprint}
    assert bench.store.calls["open"] == reads


# --- the type that clients are told -------------------------------------------------------


MERCURIAL = "application/mercurial-0.2"


def told(media_type: str | None) -> Handler:
    """An honest front that tells this Content-Type, or none."""

    async def answer(request: web.Request) -> web.StreamResponse:
        start = request.http_range.start
        response = web.StreamResponse(status=200 if start is None else 206)
        body = CONTENT[start:]
        response.content_length = len(body)
        if start is not None:
            response.headers["Content-Range"] = END
        if media_type is not None:
            response.headers["Content-Type"] = media_type
        await response.prepare(request)
        await response.write(body)
        return response

    return answer


def demanding(source: Source) -> Source:
    """The same content for those who demand its type."""
    return replace(source[0], media_type=MERCURIAL), source[1]


async def test_a_demanded_type_comes_back(bench: Bench, source: Source) -> None:
    """A target counts that tells clients the very type they demand; and our own route tells it."""
    bench.front.instead = told(MERCURIAL)
    publisher = bench.publisher(bench.cdn, bench.own)
    entity, path = demanding(source)
    both = {bench.cdn.fingerprint, bench.own.fingerprint}
    assert await publisher.publish(entity, path, REPO) == both
    assert publisher.readable(entity) == both


@pytest.mark.parametrize(
    "media_type",
    [
        "application/octet-stream",
        "application/mercurial-0.1",
        f"{MERCURIAL}; charset=utf-8",
        f"{MERCURIAL};",
        MERCURIAL.upper(),
        "",
    ],
)
async def test_a_target_that_tells_another_type_does_not_count(
    bench: Bench, source: Source, media_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What stock Mercurial would refuse is not named to it; the log says what to configure."""
    bench.front.instead = told(media_type)
    publisher = bench.publisher(bench.cdn, bench.own)
    entity, path = demanding(source)
    assert await publisher.publish(entity, path, REPO) == {bench.own.fingerprint}
    assert publisher.readable(entity) == {bench.own.fingerprint}
    assert f"Content-Type is {media_type!r} where clients take nothing but" in caplog.text
    assert f"default_type {MERCURIAL};" in caplog.text


async def test_what_is_lost_is_lost_under_every_type(bench: Bench, source: Source) -> None:
    """A note of the same bytes under a type that clients demand is one of the same place."""
    typed = replace(source[0], media_type=MERCURIAL)
    publisher = bench.publisher(bench.own)
    for entity in (source[0], typed):
        await publisher.publish(entity, source[1], REPO)
        assert publisher.readable(entity)
    await publisher.lost(bench.own, typed)
    for entity in (source[0], typed):
        assert not publisher.readable(entity)
        assert not publisher.still(entity, {bench.own.fingerprint})
    assert await publisher.publish(*source, REPO) == {bench.own.fingerprint}
    assert publisher.still(source[0], {bench.own.fingerprint})


async def test_what_was_read_back_in_another_era_does_not_count(
    bench: Bench, source: Source
) -> None:
    """Under any type; it is published again, by every process, and the eras do not mix."""
    eras = ["", "a" * 32, "b" * 32, "a" * 32]
    era = ""
    one, other = (bench.publisher(bench.cdn, bench.own, era=lambda: era) for _ in range(2))
    both = frozenset({bench.cdn.fingerprint, bench.own.fingerprint})
    typed = replace(source[0], media_type=MERCURIAL)
    for number, era in enumerate(eras):  # noqa: B007 - read by the publishers
        if number < 3:
            assert not one.readable(source[0])
            assert not other.readable(typed)
            await one.publish(*source, REPO)
            await one.publish(typed, source[1], REPO)
        assert other.readable(source[0]) == both
        assert other.readable(typed) == {bench.own.fingerprint}
    await one.lost(bench.own, source[0])
    assert other.readable(source[0]) == {bench.cdn.fingerprint}
    assert not other.readable(typed)


async def test_an_era_that_begins_while_something_is_published(
    bench: Bench, source: Source
) -> None:
    """What was put there before does not count after."""
    era = ["a" * 32]
    publisher = bench.publisher(bench.own, era=lambda: era[0])
    running, released = await bench.hang(publisher, source)
    era[0] = "b" * 32
    released.set()
    await running
    assert not publisher.readable(source[0])
    era[0] = "a" * 32
    assert publisher.readable(source[0])


@pytest.mark.parametrize("media_type", ["application/x-git-packed-objects", "text/plain"])
async def test_other_types_are_not_demanded(bench: Bench, source: Source, media_type: str) -> None:
    """What no client looks at may come back as anything: a static server keeps no types."""
    bench.front.instead = told("application/octet-stream")
    entity = replace(source[0], media_type=media_type)
    publisher = bench.publisher(bench.cdn)
    assert await publisher.publish(entity, source[1], REPO) == {bench.cdn.fingerprint}


async def test_bytes_that_came_back_are_not_a_type_that_did(bench: Bench, source: Source) -> None:
    """Content that counts under any type must be read again for those who demand one."""
    publisher = bench.publisher(bench.cdn)
    assert await publisher.publish(*source, REPO) == {bench.cdn.fingerprint}
    entity, path = demanding(source)
    assert publisher.readable(entity) == frozenset()
    assert await publisher.publish(entity, path, REPO) == frozenset()
    bench.front.instead = told(MERCURIAL)
    assert await publisher.publish(entity, path, REPO) == {bench.cdn.fingerprint}
    other = replace(entity, media_type="application/mercurial-0.1")
    assert publisher.readable(other) == frozenset()
    assert publisher.readable(source[0]) == {bench.cdn.fingerprint}


async def test_no_run_is_shared_by_types(bench: Bench, source: Source) -> None:
    """Who demands a type does not take the word of a run that asked for none."""
    publisher = bench.publisher(bench.cdn)
    results = await asyncio.gather(
        publisher.publish(*source, REPO), publisher.publish(*demanding(source), REPO)
    )
    assert results == [{bench.cdn.fingerprint}, frozenset()]


# --- at the same time -------------------------------------------------------------------


async def test_one_run_for_all_callers(bench: Bench, source: Source) -> None:
    """Callers of one process share one run; another process waits for it and does nothing."""
    one, another = bench.publisher(bench.own), bench.publisher(bench.own)
    callers = (one, one, one, another, another)
    results = await asyncio.gather(*(publisher.publish(*source, REPO) for publisher in callers))
    assert set(results) == {frozenset({bench.own.fingerprint})}
    assert bench.store.calls["put"] == 1


async def test_a_caller_that_leaves_ends_nothing(bench: Bench, source: Source) -> None:
    """A client that goes away does not stop what others wait for."""
    publisher = bench.publisher(bench.own)
    first, released = await bench.hang(publisher, source)
    second = asyncio.create_task(publisher.publish(*source, REPO))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    released.set()
    assert await second == {bench.own.fingerprint}


async def test_no_more_than_the_limit_at_once(bench: Bench, tmp_path: Path) -> None:
    """However many are to be published, only so many are at once."""
    released = asyncio.Event()
    bench.store.faults["put"] = Hang(released)
    publisher = bench.publisher(bench.own, parallel=2)
    sources = [source_of(bytes([n]), tmp_path) for n in range(5)]
    running = [asyncio.create_task(publisher.publish(*source, REPO)) for source in sources]
    for _ in range(50):
        await asyncio.sleep(0)
    assert bench.store.calls["put"] == 2
    released.set()
    assert await asyncio.gather(*running) == [{bench.own.fingerprint}] * 5


async def test_closing_records_nothing(bench: Bench, source: Source) -> None:
    """What is under way at the end is not readable, and leaves no task behind."""
    publisher = bench.publisher(bench.own)
    running, _ = await bench.hang(publisher, source)
    await publisher.close()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert publisher.readable(source[0]) == frozenset()


# --- a store that is down ---------------------------------------------------------------


async def test_a_store_that_is_down_is_left_alone(
    bench: Bench, source: Source, tmp_path: Path
) -> None:
    """After one failure nobody waits for the store, until it is time to ask again."""
    bench.store.faults["put"] = Fail()
    publisher = bench.publisher(bench.own, retry_after=30.0)
    with pytest.raises(StoreUnavailable):
        await publisher.publish(*source, REPO)
    bench.clock.now += 29
    for one in (source, source_of(b"other", tmp_path)):
        with pytest.raises(PublishRefused, match="asked again in 1 s"):
            await publisher.publish(*one, REPO)
    assert bench.store.calls["put"] == 1
    bench.clock.now += 1
    with pytest.raises(StoreUnavailable):
        await publisher.publish(*source, REPO)
    assert bench.store.calls["put"] == 2
    del bench.store.faults["put"]
    bench.clock.now += 30
    assert await publisher.publish(*source, REPO) == {bench.own.fingerprint}


async def test_those_in_the_queue_are_refused_too(bench: Bench, tmp_path: Path) -> None:
    """Whoever waited for a turn while the store went down does not ask it again."""
    bench.store.faults["put"] = Fail()
    publisher = bench.publisher(bench.own, parallel=1)
    sources = [source_of(bytes([n]), tmp_path) for n in range(4)]
    results = await asyncio.gather(
        *(publisher.publish(*s, REPO) for s in sources), return_exceptions=True
    )
    assert [type(r) for r in results] == [StoreUnavailable, *[PublishRefused] * 3]
    assert bench.store.calls["put"] == 1


def test_refused_is_unavailable() -> None:
    """Rooms that know stores but not this one need to know one error only."""
    assert issubclass(PublishRefused, StoreUnavailable)


# --- whose it is ----------------------------------------------------------------------------


async def test_a_claim_is_found_by_repository(bench: Bench, source: Source) -> None:
    """However often it is made."""
    entity, _ = source
    for _ in range(2):
        await bench.publisher(bench.cdn).claim("group/p.git", entity)
    assert await claims(bench.store, "group/p.git") == {entity.digest}
    assert await claims(bench.store, "group") == frozenset()


async def test_a_store_that_is_down_is_not_asked_for_each_claim(
    bench: Bench, source: Source
) -> None:
    """Nor for content after a claim that failed."""
    publisher = bench.publisher(bench.cdn)
    bench.store.faults["write_document"] = Fail()
    with pytest.raises(StoreUnavailable):
        await publisher.claim("p.git", source[0])
    for call in (publisher.claim("p.git", source[0]), publisher.publish(*source, REPO)):
        with pytest.raises(PublishRefused):
            await call
    assert (bench.store.calls["write_document"], bench.store.calls["put"]) == (1, 0)


# --- what a store has lost ------------------------------------------------------------------------


async def settled(rereading: Rereading) -> None:
    """Wait until nothing is being read."""
    while rereading._running:
        await asyncio.gather(*rereading._running.values())


@pytest.fixture
async def watched(bench: Bench) -> AsyncIterator[tuple[Publisher, Rereading]]:
    """A publisher of the CDN, and what reads back what clients were sent there for in vain."""

    async def probe(target: Target) -> None:
        """It is up."""

    publisher = bench.publisher(bench.cdn)
    rereading = Rereading(publisher, probe, bench.clock)
    publisher.missed = rereading.doubt
    yield publisher, rereading
    await rereading.close()


async def test_what_is_lost_is_not_named_before_it_was_read(
    bench: Bench, source: Source, watched: tuple[Publisher, Rereading]
) -> None:
    """For a year if nobody puts it there; when another machine has, the next who asks has it read.

    Whoever only looks has nothing read.
    """
    (publisher, rereading), entity, cdn = watched, source[0], bench.cdn
    readable = await publisher.publish(*source, REPO)
    content = bench.memory.entities.pop(entity.digest)
    rereading.doubt(cdn, entity)
    await settled(rereading)
    for later in (1.0, 4 * 3600.0, 300 * 86400.0):
        bench.clock.now += later
        assert not publisher.still(entity, readable)
        await settled(rereading)
    bench.memory.entities[entity.digest] = content
    bench.clock.now += 1000.0
    assert not publisher.unless_lost(entity, readable)
    assert not rereading._running
    assert not publisher.still(entity, readable)
    await settled(rereading)
    assert publisher.still(entity, readable) == {cdn.fingerprint}
    assert not publisher.readable(entity)  # its lease is for who puts it


async def test_what_comes_out_of_a_cache_may_be_lost(
    bench: Bench, source: Source, watched: tuple[Publisher, Rereading]
) -> None:
    """The cache near this server is not the one near the client who failed: its store is asked."""
    (publisher, rereading), entity, cdn = watched, source[0], bench.cdn
    readable = await publisher.publish(*source, REPO)
    bench.front.store = MemoryStore()  # from now on a cache
    bench.front.store.entities[entity.digest] = bench.memory.entities.pop(entity.digest)
    await publisher.read_back(cdn, entity)
    rereading.doubt(cdn, entity)
    await settled(rereading)
    assert not publisher.still(entity, readable)


async def test_a_store_that_is_silent_has_lost_nothing(
    bench: Bench, source: Source, watched: tuple[Publisher, Rereading]
) -> None:
    """What it has is not known, and what comes, comes."""
    (publisher, rereading), entity, cdn = watched, source[0], bench.cdn
    readable = await publisher.publish(*source, REPO)
    bench.store.faults["stat"] = Fail()
    rereading.doubt(cdn, entity)
    await settled(rereading)
    assert publisher.still(entity, readable) == {cdn.fingerprint}
