# Law of this file: what people write in settings (sizes, durations, URLs, networks) is read here,
# into plain numbers and text, or refused with a sentence that says what to write.

from __future__ import annotations

import re
from math import inf
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
# Up to the last @: a password may hold any character, written wrongly.
_USER_OF_URL = re.compile(r"(://).*@", re.DOTALL)
_QUERY_OF_URL = re.compile(r"\?.*", re.DOTALL)
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(value: object) -> object:
    """Read ``65536``, ``"64KiB"``, ``"20 GB"`` (powers of 1024, as du prints) into bytes."""
    if not isinstance(value, str) or value.strip().isdigit():
        return value
    match = _SIZE.fullmatch(value.strip())
    size = inf if match is None else float(match[1]) * 1024 ** _UNITS[match[2].upper()]
    if size == inf:
        raise ValueError(f"{value!r} is no size; write bytes or a number with KiB, MiB, GiB, TiB")
    return int(size)


def parse_duration(value: object) -> object:
    """Read ``10``, ``"10s"``, ``"15m"``, ``"6h"``, ``"7d"`` into seconds."""
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value.strip())
    if match is None:
        return value
    return float(match[1]) * _SECONDS[match[2]]


def read_duration(value: object) -> object:
    """Read a duration as :func:`parse_duration` does, and refuse text that is none.

    Raises:
        ValueError: it is neither a number nor a number with a unit.
    """
    seconds = parse_duration(value)
    if isinstance(seconds, str):
        try:
            float(seconds)
        except ValueError:
            raise ValueError(
                f"{value!r} is no duration; write seconds, or a number with ms, s, m, h or d, such"
                ' as "90s" or "2m"'
            ) from None
    return seconds


def without_secrets(url: str) -> str:
    """``url`` as it may be shown: without what may be a password in it."""
    return _QUERY_OF_URL.sub("?***", _USER_OF_URL.sub(r"\g<1>***@", url))


def _http_url(value: object) -> object:
    if isinstance(value, str):
        if not _is_base_url(value):
            raise ValueError(
                f"{without_secrets(value)!r} is no base URL; write http(s)://host[:port][/path],"
                " without user, query or fragment"
            )
        return value.rstrip("/")
    return value


def _is_base_url(value: str) -> bool:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in {"http", "https"}
        and bool(parts.hostname)
        and port != 0
        and "@" not in parts.netloc
        and not re.search(r"[?#\\\s]", value)
        and value.isprintable()
    )


# As many bytes as an offset in a file can say.
Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0, le=(1 << 63) - 1)]
Duration = Annotated[float, BeforeValidator(read_duration), Field(ge=0, allow_inf_nan=False)]
BaseUrl = Annotated[str, BeforeValidator(_http_url)]


class Section(BaseModel):
    """A table of the settings file; a misspelt key in it is an error."""

    # An error that is printed shows no input: it may be a secret.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def host_port(listen: str) -> tuple[str, int]:
    """Split ``HOST:PORT`` (``[::1]:8417`` for IPv6).

    Raises:
        ValueError: it is not of that form.
    """
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"listen {listen!r} is not HOST:PORT, such as 127.0.0.1:8417")
    return host, int(port)
