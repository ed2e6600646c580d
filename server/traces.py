# Law of this file: what is traced says so here, and costs a look at one variable where nothing is.
# No name of a client, no address, no URL and no message of an error is ever in a trace.

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar, copy_context
from importlib.util import find_spec
from typing import Final, Literal, ParamSpec, Protocol, Self, TypeVar

from redirects.networks import IPNetwork, read_address, read_network
from server.settings_tracing import TracingSettings
from server.wiring import Unusable

_P = ParamSpec("_P")
_T = TypeVar("_T")

Value = str | int | float | bool
Name = Literal["request", "plan", "lookup", "wait", "execute", "publish", "read_back"]
"""What spans are called; docs/monitoring.md says what each is."""


class Span(Protocol):
    """Something that takes time, while it does."""

    def set(self, name: str, value: Value) -> None:
        """Say more of it; ``name`` is told as ``offramp.name``."""
        ...

    def fail(self, kind: str) -> None:
        """Say that it failed; ``kind`` is a type of error or a status, not a message."""
        ...


class Tracer(Protocol):
    """Makes spans and sends them."""

    def request(self, traceparent: str | None) -> AbstractContextManager[Span]:
        """A request of a client; ``traceparent``: the trace that it is a part of, if any."""
        ...

    def span(self, name: Name, attributes: dict[str, Value]) -> AbstractContextManager[Span]:
        """A part of what is being done."""
        ...

    def close(self) -> None:
        """Send what is left, within a few seconds. Blocks."""
        ...


class _Nothing:
    """A span that nobody sees."""

    def set(self, name: str, value: Value) -> None:
        """Forget it."""

    def fail(self, kind: str) -> None:
        """Forget it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass


NOTHING: Final = _Nothing()

_TRACER: ContextVar[Tracer | None] = ContextVar("tracer", default=None)


def span(name: Name, **attributes: Value) -> AbstractContextManager[Span]:
    """A part of the request that is being answered, if that is traced."""
    tracer = _TRACER.get()
    return NOTHING if tracer is None else tracer.span(name, attributes)


def within(name: Name, run: Callable[_P, _T], **attributes: Value) -> Callable[_P, _T]:
    """``run``, which another thread will call, as a part of the request that is answered now."""
    if _TRACER.get() is None:
        return run
    context = copy_context()

    def spanned(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with span(name, **attributes):
            return run(*args, **kwargs)

    def called(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return context.copy().run(spanned, *args, **kwargs)

    return called


class Traces:
    """Whether requests are traced, and whose traces they are parts of.

    Args:
        tracer: None: nothing is traced.
        accept_from: networks whose ``traceparent`` is believed.
    """

    def __init__(self, tracer: Tracer | None, accept_from: tuple[str, ...] = ()) -> None:
        self._tracer = tracer
        self._accept_from: tuple[IPNetwork, ...] = tuple(map(read_network, accept_from))

    @classmethod
    def open(cls, settings: TracingSettings) -> Traces:
        """What the settings describe.

        Raises:
            Unusable: they describe traces, and what makes them is not installed.
        """
        if settings.endpoint is None:
            return cls(None)
        check_installed(settings)
        # Half a second, and memory, that only those pay who want traces.
        from server.traces_otlp import OtlpTracer, exporter  # noqa: PLC0415

        tracer = OtlpTracer(settings.service, settings.share, exporter(settings.endpoint))
        return cls(tracer, settings.accept_from)

    def request(self, remote: str | None, traceparent: str | None) -> AbstractContextManager[Span]:
        """A request of a client.

        Args:
            remote: address from which it comes.
            traceparent: what it says it is a part of, if anything.
        """
        if self._tracer is None:
            return NOTHING
        _TRACER.set(self._tracer)  # a request is a task of its own
        believed = traceparent if self._accepts(remote or "") else None
        return self._tracer.request(believed)

    def close(self) -> None:
        """Send what is left, within a few seconds. Blocks."""
        if self._tracer is not None:
            self._tracer.close()

    def _accepts(self, remote: str) -> bool:
        if not self._accept_from:
            return False
        address = read_address(remote)  # a Unix socket has none
        return address is not None and any(address in each for each in self._accept_from)


def check_installed(settings: TracingSettings) -> None:
    """See that traces can be made if they are asked for.

    Raises:
        Unusable: they cannot; the message says what to install.
    """
    if settings.endpoint is not None and not _is_installed():
        raise Unusable(
            "tracing.endpoint is set, and OpenTelemetry is not installed; pip install"
            " 'offramp[otel]', or remove the setting"
        )


def _is_installed() -> bool:
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False
