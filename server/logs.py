# Law of this file: everything that is logged goes to one stream in one format, and no secret is in
# it: no Authorization, no token, no signature, no user or query of a URL.

from __future__ import annotations

import functools
import json
import logging
import random
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, TextIO

import structlog
from structlog.typing import EventDict, Processor

from server.settings import LogSettings

# What a client may name its request: enough for every tracing system's ids, and nothing that
# could forge a line of the log.
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")

# The one query argument that is worth a look and can hold no secret: git's `info/refs?service=`.
_SERVICE: Final = re.compile(r"(?:^|&)service=(git-upload-pack|git-receive-pack)(?:&|$)")

_REDACTED: Final = "[redacted]"
_SECRET_NAME: Final = re.compile(
    r"(?i)(?:.*authorization|.*password|.*secret.*|.*token|signature|cookie)\Z"
)
# user:password@ in a URL, of which some proxies take a slash
_USER_OF_URL: Final = re.compile(r"(:/{1,2})[^/\s'\"]+@")
_SECRETS: Final = (
    (_USER_OF_URL, rf"\g<1>{_REDACTED}@"),
    # a query, of a whole URL or of a path alone
    (re.compile(r"\?[^\s'\"<>?]*=[^\s'\"<>]*"), f"?{_REDACTED}"),
    # a header as text, as an entry of a printed dict, or as a printed pair
    (
        re.compile(
            r"(?i)((?:(?:proxy-)?authorization|(?:private|job|deploy)-token|cookie)['\"]?"
            r"\s*[:=,]\s*(?:b(?=['\"]))?)(?:'[^']*'|\"[^\"]*\"|[^\n]*)"
        ),
        rf"\g<1>{_REDACTED}",
    ),
    # a header's value on its own; `realm=` is a challenge, which everybody gets
    (re.compile(r"(?i)\b(basic|bearer)\s+(?!realm=)[^\s,;'\"]+"), rf"\g<1> {_REDACTED}"),
    (
        re.compile(r"(?i)\b(token|negotiate|ntlm)\s+[A-Za-z0-9._~+/-]{16,}=*"),
        rf"\g<1> {_REDACTED}",
    ),
    # tokens of forges, which begin in ways of their own
    (
        re.compile(r"\b(gh[a-z]_|github_pat_|gl(?:pat|dt|rt|cbt|ptt)-)[A-Za-z0-9_.-]{16,}"),
        rf"\g<1>{_REDACTED}",
    ),
    # the parts of a signed URL, wherever they turn up on their own
    (
        re.compile(
            r"(?i)\b(x-amz-(?:signature|credential|security-token)|signature|key-pair-id|policy|md5)"
            r"=[^\s&'\"]+"
        ),
        rf"\g<1>={_REDACTED}",
    ),
)

# These print whole requests, signatures and credentials when they are asked for details.
_TALKATIVE: Final = ("botocore", "boto3", "urllib3", "s3transfer", "asyncio")


def new_request_id() -> str:
    """A name for a request, 16 hex digits: to be told apart, not to be secret."""
    return f"{random.getrandbits(64):016x}"


def request_id(offered: str | None) -> str:
    """The request id that a client offers in ``X-Request-Id``, or a new one if it is not sane."""
    if offered is not None and _REQUEST_ID.match(offered):
        return offered
    return new_request_id()


def redact(text: str) -> str:
    """``text`` without anything that looks like a credential, a signature or a URL's query."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def safe_path(target: str) -> str:
    """What may be logged of a request's target: its path, and which git service it asks for.

    The absolute form (RFC 9112 section 3.2.2) may name a user: only its path is kept. So may a URL
    within the path, of somebody who takes us for a proxy: its user is taken out.
    """
    path, _, query = target.partition("?")
    if not path.startswith("/"):
        path = "/" + path.partition("://")[2].partition("/")[2]
    if "@" in path:
        path = _USER_OF_URL.sub(rf"\g<1>{_REDACTED}@", path)
    service = _SERVICE.search(query) if query else None
    return path if service is None else f"{path}?service={service[1]}"


@dataclass(frozen=True, slots=True)
class Access:
    """One request, answered.

    Attributes:
        request_id: see :func:`request_id`.
        remote: address of the client.
        method: of the request, as the client wrote it.
        target: path and query, as the client wrote them; only :func:`safe_path` of it is logged.
        status: of the answer.
        sent: bytes of the answer's body.
        seconds: from the request's first line to the answer's last byte.
        repository: its served name, or empty.
        command: such as ``fetch``, or empty.
        outcome: such as ``redirect``, or empty.
        redirected: bytes of content that the client was told where to find.
        decision: the target to which it was sent, or why to none; several with commas, or empty.
    """

    request_id: str
    remote: str
    method: str
    target: str
    status: int
    sent: int
    seconds: float
    repository: str = ""
    command: str = ""
    outcome: str = ""
    redirected: int = 0
    decision: str = ""


# strftime costs more than the rest of a line, and most lines share their second with others.
@functools.lru_cache(maxsize=4)
def _second(now: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))


def _timestamp(now: float) -> str:
    """``now`` (seconds since the epoch) as RFC 3339 in UTC, with milliseconds."""
    return f"{_second(int(now))}.{int(now % 1 * 1000):03d}Z"


_json_string = json.encoder.encode_basestring_ascii


def _word(text: str) -> str:
    """``text`` as one word: quoted if a reader could take it for several or for another line."""
    if not text:
        return "-"
    return text if text.isascii() and text.isprintable() and " " not in text else _json_string(text)


def access_line(access: Access, now: float, *, as_json: bool) -> str:
    """One line of the access log, with its line break; built by hand, as each request pays for it.

    ``now`` is in seconds since the epoch. The JSON form has the keys of structlog's own lines.
    """
    path = safe_path(access.target)
    if not as_json:
        return (
            f"{_timestamp(now)} {_word(access.remote)} {_word(access.method)} {_word(path)}"
            f" {access.status} {access.sent}B {access.seconds:.3f}s"
            f" {_word(access.repository)} {_word(access.command)} {_word(access.outcome)}"
            f" {_word(access.decision)} {_word(access.request_id)}\n"
        )
    return (
        f'{{"timestamp": "{_timestamp(now)}", "level": "info", "event": "request",'
        f' "request_id": {_json_string(access.request_id)},'
        f' "remote": {_json_string(access.remote)}, "method": {_json_string(access.method)},'
        f' "path": {_json_string(path)}, "status": {access.status}, "bytes": {access.sent},'
        f' "seconds": {access.seconds:.6f}, "repository": {_json_string(access.repository)},'
        f' "command": {_json_string(access.command)}, "outcome": {_json_string(access.outcome)},'
        f' "decision": {_json_string(access.decision)}, "redirected": {access.redirected}}}\n'
    )


@dataclass(slots=True)
class AccessLog:
    """Writes :func:`access_line` for each request, if the settings ask for it."""

    settings: LogSettings
    stream: TextIO

    def write(self, access: Access, now: float) -> None:
        """Log ``access``, which ended at ``now`` (seconds since the epoch)."""
        if self.settings.access:
            line = access_line(access, now, as_json=self.settings.format == "json")
            # A full disk behind standard error is no reason to fail a request.
            with suppress(OSError):
                self.stream.write(line)


def _redacted(value: object) -> object:
    """``value`` as it may be logged; what is no plain value is logged as its text."""
    match value:
        case None | bool() | int() | float():
            return value
        case dict():
            return {
                str(key): _REDACTED if _SECRET_NAME.match(str(key)) else _redacted(inner)
                for key, inner in value.items()
            }
        case list() | tuple():
            return [_redacted(inner) for inner in value]
        case _:
            return redact(str(value))


def _redact_event(_logger: object, _name: str, event: EventDict) -> EventDict:
    """Whatever was logged, by whomever, and with which traceback: secrets leave here."""
    for key, value in event.items():
        event[key] = _REDACTED if _SECRET_NAME.match(key) else _redacted(value)
    return event


# Who hears what is logged beside the stream, whatever the settings of the log become.
_others: list[logging.Handler] = []


@contextmanager
def heard_by(handler: logging.Handler) -> Iterator[None]:
    """Have ``handler`` hear what is logged too, for the time of a block."""
    _others.append(handler)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        _others.remove(handler)
        logging.getLogger().removeHandler(handler)


def configure(settings: LogSettings, stream: TextIO | None = None) -> AccessLog:
    """Send structlog's and the standard library's logs to ``stream`` (standard error).

    May be called again; the last call counts. Returns the access log of the same stream.
    """
    stream = stream or sys.stderr
    shared: tuple[Processor, ...] = (
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=(
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _redact_event,
                _renderer(settings, stream),
            ),
        )
    )
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    root = logging.getLogger()
    root.handlers[:] = [handler, *_others]
    root.setLevel(level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    return AccessLog(settings, stream)


def _renderer(settings: LogSettings, stream: TextIO) -> Processor:
    if settings.format == "json":
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
