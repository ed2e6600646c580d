# Law of this file: whatever goes wrong between us and a server is one family of errors, and each
# message says what happened, where, and what to do. Faults of the caller's own code are none.

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp

from wire.hg.cbor import CborError
from wire.hg.errors import LimitExceeded, ProtocolViolation


class ClientError(Exception):
    """What was asked of a server could not be had."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class BadAddress(ClientError):  # noqa: N818 - what it is
    """The URL is none of a repository that could be asked."""


class BadCall(ClientError):  # noqa: N818 - what it is
    """The server does not list this command, or not with these arguments; nothing was sent."""


class Unreachable(ClientError):  # noqa: N818 - what it is
    """No connection, no HTTP, too long a silence, or an end before the answer's."""


class Refused(ClientError):  # noqa: N818 - what happened
    """The server answered with HTTP alone, and not with frames.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


class NotSpoken(ClientError):  # noqa: N818 - what it is
    """The server does not speak this API here."""


class BrokenAnswer(ClientError):  # noqa: N818 - what it is
    """What the server sent breaks the protocol."""


class TooLarge(ClientError):  # noqa: N818 - what it is
    """The answer is more than a limit of ours allows."""


class CallError(ClientError):
    """The server answered the command with an error.

    Attributes:
        kind: ``status`` if the answer's status said so; else the error frame's own word:
            ``server``, ``protocol`` or ``command``.
        message: the server's.
    """

    def __init__(self, command: bytes, kind: str, message: str) -> None:
        self.kind = kind
        self.message = printable(message)
        super().__init__(f"{command.decode('utf-8', 'replace')}: the server says: {message}")


class TargetFailed(ClientError):  # noqa: N818 - what happened
    """A location did not give the content that it names; the server can still be asked inline."""


def printable(text: str) -> str:
    """``text`` without what could steer a terminal; lines stay lines."""
    return "".join(
        each if each.isprintable() or each in "\n\t" else ascii(each)[1:-1] for each in text
    ).strip()


@contextmanager
def told(where: str) -> Iterator[None]:
    """Turn what HTTP and the codecs raise into this family.

    Only our own reading and writing is put under it: an ``OSError`` of the caller's code must stay
    what it is.
    """
    try:
        yield
    except TimeoutError as error:
        raise Unreachable(f"{where}: nothing came for too long; is the server busy?") from error
    except aiohttp.ClientConnectorCertificateError as error:
        reason = str(error.certificate_error)
        raise Unreachable(f"{where}: a certificate that is not trusted: {reason}") from error
    except aiohttp.ClientConnectorError as error:
        reason = error.os_error.strerror or str(error.os_error)
        raise Unreachable(f"{where}: no connection: {reason}; is it up, and the URL right?") from (
            error
        )
    except aiohttp.ClientResponseError as error:
        raise Unreachable(f"{where}: no HTTP that can be read: {error.message}") from error
    except aiohttp.ServerDisconnectedError as error:
        raise Unreachable(f"{where}: hung up without an answer; is it an HTTP server?") from error
    except aiohttp.ClientPayloadError as error:
        raise Unreachable(f"{where}: the connection broke before the answer's end") from error
    except (aiohttp.ClientError, OSError) as error:
        raise Unreachable(f"{where}: {str(error) or type(error).__name__}") from error
    except LimitExceeded as error:
        raise TooLarge(f"{where}: {error}") from error
    except ProtocolViolation as error:
        raise BrokenAnswer(f"{where}: {error}") from error
    except CborError as error:
        raise BrokenAnswer(f"{where}: objects that cannot be read: {error}") from error
