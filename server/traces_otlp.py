# Law of this file: this is all that knows OpenTelemetry, and it is imported only where traces are
# made. They are sent by a thread, in batches, and lost rather than waited for.

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server.traces import Name, Span, Value

# Of one attempt with all that are made again. A collector that hangs keeps nobody from stopping:
# what is in memory has to be written down in the same time (server.serving.CLOSE_SECONDS).
_SECONDS: Final = 3.0

# Spans that wait to be sent; beyond, they are lost. A request is 3 to 8 of 1 KiB.
_WAITING: Final = 8192


def exporter(endpoint: str) -> SpanExporter:
    """What sends spans to a collector whose base URL is ``endpoint``."""
    return OTLPSpanExporter(f"{endpoint}/v1/traces", timeout=_SECONDS)


class OtlpTracer:
    """Makes spans, and has them sent.

    Args:
        service: its name.
        share: of the requests that are traced, 0 to 1; of those that are part of another trace,
            that one's choice counts.
        sends: takes spans.
    """

    def __init__(self, service: str, share: float, sends: SpanExporter) -> None:
        named = {"service.name": service, "service.version": version("offramp")}
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)),
            resource=Resource.create(named),
            shutdown_on_exit=False,
        )
        self._sends = sends
        self._provider.add_span_processor(BatchSpanProcessor(sends, max_queue_size=_WAITING))
        self._tracer = self._provider.get_tracer("offramp")

    @contextmanager
    def request(self, traceparent: str | None) -> Iterator[Span]:
        """See :meth:`server.traces.Tracer.request`."""
        carried = {} if traceparent is None else {"traceparent": traceparent}
        # Of nothing that is current; and which exceptions are failures, the status says.
        context = TraceContextTextMapPropagator().extract(carried, Context())
        with self._current("request", trace.SpanKind.SERVER, context) as made:
            yield made

    @contextmanager
    def span(self, name: Name, attributes: dict[str, Value]) -> Iterator[Span]:
        """See :meth:`server.traces.Tracer.span`."""
        with self._current(name, trace.SpanKind.INTERNAL, None) as made:
            for key, value in attributes.items():
                made.set(key, value)
            try:
                yield made
            except BaseException as error:
                made.fail(type(error).__name__)
                raise

    def close(self) -> None:
        """See :meth:`server.traces.Tracer.close`."""
        # The SDK would wait for half a minute.
        ending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        ending.start()
        ending.join(_SECONDS)
        if ending.is_alive():
            self._sends.shutdown()

    @contextmanager
    def _current(
        self, name: Name, kind: trace.SpanKind, context: Context | None
    ) -> Iterator[_Made]:
        # The SDK would put an error's message and traceback into the trace, and these may hold
        # what is not to be told; its type says enough.
        with self._tracer.start_as_current_span(
            name, context, kind, record_exception=False, set_status_on_exception=False
        ) as current:
            yield _Made(current)


class _Made:
    """A span of OpenTelemetry's."""

    def __init__(self, inner: trace.Span) -> None:
        self._inner = inner

    def set(self, name: str, value: Value) -> None:
        """See :meth:`server.traces.Span.set`."""
        # What has a name of OpenTelemetry's own comes with it.
        self._inner.set_attribute(name if "." in name else f"offramp.{name}", value)

    def fail(self, kind: str) -> None:
        """See :meth:`server.traces.Span.fail`."""
        self._inner.set_attribute("error.type", kind)
        self._inner.set_status(trace.StatusCode.ERROR)
