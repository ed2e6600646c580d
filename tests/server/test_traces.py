# Law of this file: a trace says how a request was answered, and nothing of who asked; it reaches a
# collector as protobuf, and without one nobody waits.

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from server import traces as module
from server import traces_otlp
from server.catalogs import Catalogs
from server.checks_tracing import check_traces_installed, check_tracing
from server.settings import load
from server.settings_tracing import TracingSettings
from server.traces import NOTHING, Traces, span, within
from server.traces_otlp import OtlpTracer
from server.verdict import Level, Verdict
from server.wiring import Unusable
from tests.conftest import Git, Serve, Served
from tests.server.asking import make_repository

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


class Collector:
    """Takes what is sent to it.

    Attributes:
        url: base URL.
        status: that it answers with.
        spans: that came.
        bodies: as they came.
    """

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.spans: list[Span] = []
        self.bodies: list[bytes] = []
        self.services: set[str] = set()

    async def take(self, request: web.Request) -> web.Response:
        """Read one request of OTLP over HTTP."""
        assert request.content_type == "application/x-protobuf"
        body = await request.read()
        self.bodies.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for each in resource.resource.attributes:
                if each.key == "service.name":
                    self.services.add(each.value.string_value)
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return web.Response(status=self.status)

    def named(self, name: str) -> list[Span]:
        """The spans of a name."""
        return [each for each in self.spans if each.name == name]

    def only(self, name: str) -> Span:
        """The one span of a name."""
        (found,) = self.named(name)
        return found


def attributes(made: Span) -> dict[str, object]:
    """What a span says."""
    found: dict[str, object] = {}
    for each in made.attributes:
        found[each.key] = getattr(each.value, each.value.WhichOneof("value") or "")
    return found


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    """One that takes all."""
    made = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", made.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """ROOT, with one repository."""
    (tmp_path / "root").mkdir()
    make_repository(tmp_path / "root/p.git", {"file": b"text"})
    return tmp_path / "root"


@asynccontextmanager
async def traced(
    serve: Serve, root: Path, collector: Collector, **tracing: Any
) -> AsyncIterator[Served]:
    """A server that traces everything; at the end, what it made has come."""
    given = {"endpoint": collector.url, "share": 1, **tracing}
    served = await serve(root, tracing=given)
    try:
        yield served
    finally:
        await asyncio.to_thread(served.runtime.traces.close)


async def test_a_redirected_clone(
    serve: Serve, git: Git, root: Path, collector: Collector, tmp_path: Path
) -> None:
    """Each step of it is a span of one trace, from the request to reading back."""
    async with traced(serve, root, collector, service="git-1") as served:
        url = served.url.replace("http://", "http://user:hush@")
        await git(
            "-c", "fetch.uriProtocols=http", "clone", "-q", f"{url}/p.git", tmp_path / "clone"
        )
    assert collector.services == {"git-1"}
    fetch = next(
        each for each in collector.named("request") if attributes(each).get("offramp.redirected")
    )
    said = attributes(fetch)
    assert said["http.request.method"] == "POST"
    assert said["http.response.status_code"] == 200
    assert said["offramp.repository"] == "p.git"
    assert (said["offramp.dialect"], said["offramp.command"]) == ("git-v2", "fetch")
    assert (said["offramp.outcome"], said["offramp.decision"]) == ("miss", "self")
    assert fetch.kind == Span.SPAN_KIND_SERVER
    assert fetch.parent_span_id == b""
    above = {
        "plan": fetch,
        "lookup": fetch,
        "execute": fetch,
        "wait": fetch,
        "publish": collector.only("wait"),
        "read_back": collector.only("publish"),
    }
    for name, parent in above.items():
        made = collector.only(name)
        assert (made.trace_id, made.parent_span_id) == (fetch.trace_id, parent.span_id), name
        assert made.end_time_unix_nano >= made.start_time_unix_nano
    assert attributes(collector.only("lookup")) == {"offramp.found": False}
    assert attributes(collector.only("wait")) == {"offramp.outcome": "miss"}
    assert attributes(collector.only("read_back")) == {
        "offramp.target": "self",
        "offramp.came": True,
    }
    for secret in (b"hush", b"127.0.0.1", b"http://", b"signature", b"/-/blobs", b"clone"):
        assert not any(secret in body for body in collector.bodies), secret


async def test_errors(
    serve: Serve, root: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure of ours is one in the trace, without its message; a client's is not."""

    async def fails(catalogs: Catalogs, repository: str) -> None:
        raise RuntimeError("a secret")

    async with traced(serve, root, collector) as served, aiohttp.ClientSession() as session:
        async with session.get(f"{served.url}/nothing.git/info/refs") as answer:
            assert answer.status in {403, 404}
        monkeypatch.setattr(Catalogs, "bundles", fails)
        async with session.request("PROPFIND", f"{served.url}/p.git/a-name") as answer:
            refused = answer.status
            assert 400 <= refused < 500
        async with session.get(f"{served.url}/-/bundles/p.git") as answer:
            assert answer.status == 500
    found = {
        attributes(each)["http.response.status_code"]: each for each in collector.named("request")
    }
    assert found[500].status.code == Status.STATUS_CODE_ERROR
    assert attributes(found[500])["error.type"] == "500"
    assert found[refused].status.code == Status.STATUS_CODE_UNSET
    methods = [attributes(each)["http.request.method"] for each in collector.named("request")]
    assert methods == ["GET", "_OTHER", "GET"]
    for secret in (b"a secret", b"nothing.git", b"a-name", b"PROPFIND"):
        assert not any(secret in body for body in collector.bodies), secret


@pytest.mark.parametrize(
    ("accept_from", "believed"),
    [((), False), (("192.0.2.0/24",), False), (("127.0.0.1",), True)],
)
async def test_whose_traceparent_is_believed(
    serve: Serve, root: Path, collector: Collector, accept_from: tuple[str, ...], *, believed: bool
) -> None:
    """Only that of those who are listed; it is then traced whatever the share."""
    async with (
        traced(serve, root, collector, share=0, accept_from=accept_from) as served,
        aiohttp.ClientSession(headers={"traceparent": PARENT}) as session,
        session.get(f"{served.url}/p.git/info/refs?service=git-upload-pack"),
    ):
        pass
    assert [each.trace_id.hex() for each in collector.spans if each.name == "request"] == (
        [TRACE] if believed else []
    )


async def test_what_is_not_traced(serve: Serve, root: Path, collector: Collector) -> None:
    """Questions of whoever watches over the server, and what chance leaves out."""
    async with traced(serve, root, collector) as served, aiohttp.ClientSession() as session:
        for path in ("livez", "readyz", "metrics"):
            async with session.get(f"{served.url}/-/{path}") as answer:
                assert answer.status == 200
    assert collector.spans == []
    data = root.parent / "other"
    async with aiohttp.ClientSession() as session:
        served = await serve(root, data=data, tracing={"endpoint": collector.url, "share": 0})
        async with session.get(f"{served.url}/p.git/HEAD"):
            pass
        await asyncio.to_thread(served.runtime.traces.close)
    assert collector.spans == []


async def test_a_collector_that_is_gone(serve: Serve, git: Git, root: Path, tmp_path: Path) -> None:
    """Clients do not notice, and the server ends all the same."""
    served = await serve(root, tracing={"endpoint": "http://127.0.0.1:9", "share": 1})
    await git("clone", "-q", f"{served.url}/p.git", tmp_path / "clone")
    assert (tmp_path / "clone/file").exists()


class Hanging(SpanExporter):
    """Sends nothing until it is told to give up."""

    def __init__(self) -> None:
        self.given_up = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Wait."""
        self.given_up.wait()
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Give up."""
        self.given_up.set()


def test_a_collector_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stops the server does not wait for it: what was not sent by then is given up."""
    monkeypatch.setattr(traces_otlp, "_SECONDS", 0.05)
    hanging = Hanging()
    tracer = OtlpTracer("offramp", 1.0, hanging)
    with tracer.request(None), tracer.span("plan", {}):
        pass
    tracer.close()
    assert hanging.given_up.is_set()


def test_without_traces_nothing_is_imported() -> None:
    """A server that traces nothing does not load OpenTelemetry."""
    code = (
        "import sys, server.app, server.traces, server.settings_tracing as s\n"
        "server.traces.Traces.open(s.TracingSettings())\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_a_trace() -> None:
    """What says that it is traced costs nothing, and runs as it is."""

    def run() -> int:
        return 1

    assert span("plan") is NOTHING
    assert within("execute", run) is run
    with span("plan") as made:
        made.set("found", value=1)
        made.fail("KeyError")


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry is not there."""

    def find(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(module, "find_spec", find)


def test_without_the_extra(not_installed: None) -> None:
    """Who asks for traces without what makes them is told what to install."""
    settings = load(None, tracing={"endpoint": "http://127.0.0.1:4318"})
    with pytest.raises(Unusable, match=r"pip install 'offramp\[otel\]'"):
        Traces.open(settings.tracing)
    (verdict,) = check_traces_installed(settings)
    assert verdict.level is Level.FAIL
    assert verdict.remedy.startswith("pip install")
    assert list(check_traces_installed(load(None))) == []
    Traces.open(TracingSettings()).close()


async def found(url: str | None) -> list[Verdict]:
    """What the doctor says of a collector."""
    settings = load(None, tracing={"endpoint": url})
    async with aiohttp.ClientSession() as session:
        return [verdict async for verdict in check_tracing(settings, session)]


@pytest.mark.parametrize(
    ("status", "level"), [(200, Level.OK), (404, Level.WARN), (401, Level.INFO)]
)
async def test_the_doctor_asks(collector: Collector, status: int, level: Level) -> None:
    """Whether the collector takes traces, and what it says if not."""
    collector.status = status
    (verdict,) = await found(collector.url)
    assert verdict.level is level
    assert (str(status) in verdict.what) == (status != 200)


async def test_the_doctor_without_a_collector() -> None:
    """One that does not answer is a warning; none is nothing."""
    assert await found(None) == []
    (verdict,) = await found("http://127.0.0.1:9")
    assert verdict.level is Level.WARN
