# Law of this file: traces that nobody gets are no trouble for clients, and so nobody would notice.

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Final

import aiohttp

from server.http_faults import why
from server.settings import Settings
from server.traces import check_installed
from server.verdict import Level, Verdict
from server.wiring import Unusable

_SECONDS: Final = 5.0


def check_traces_installed(settings: Settings) -> Iterator[Verdict]:
    """Traces that are asked for can be made; asks nobody."""
    try:
        check_installed(settings.tracing)
    except Unusable as error:
        what, _, remedy = str(error).partition("; ")
        yield Verdict(Level.FAIL, what, remedy)


async def check_tracing(
    settings: Settings, session: aiohttp.ClientSession
) -> AsyncGenerator[Verdict, None]:
    """The collector takes traces."""
    endpoint = settings.tracing.endpoint
    if endpoint is None:
        return
    for verdict in check_traces_installed(settings):
        yield verdict
    url = f"{endpoint}/v1/traces"
    try:
        async with session.post(
            url,
            # An ExportTraceServiceRequest in which there is nothing.
            data=b"",
            headers={"Content-Type": "application/x-protobuf"},
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=_SECONDS),
        ) as answer:
            status = answer.status
    except (aiohttp.ClientError, TimeoutError) as error:
        yield Verdict(
            Level.WARN,
            f"tracing: {url} does not answer ({why(error)}), so traces are lost",
            "start the collector, or correct tracing.endpoint",
        )
        return
    if status == 200:
        yield Verdict(Level.OK, f"tracing: {url} takes traces")
    elif status in {401, 403}:
        yield Verdict(
            Level.INFO,
            f"tracing: {url} answers {status} to who sends no credential",
            "it is not tried with that of OTEL_EXPORTER_OTLP_HEADERS; look there for traces",
        )
    else:
        yield Verdict(
            Level.WARN,
            f"tracing: {url} answers {status}, so traces are lost",
            "give the base URL of an OTLP/HTTP receiver (port 4318), not of one for gRPC (4317)",
        )
