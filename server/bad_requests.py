# Law of this file: who sends what cannot be answered is told in a sentence what is wrong and what
# to send; nothing of the request is repeated, since a secret may be in it.

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import (
    BadHttpMethod,
    HttpProcessingError,
    InvalidHeader,
    InvalidURLError,
    LineTooLong,
)

# aiohttp's own limit of a request's line and of each header.
_LINE: Final = 8190


def of_unreadable(error: BaseException | None) -> str:
    """What is told to whoever sent bytes that are no request."""
    # The parser in C has one type for most of it, and tells them apart in its message alone.
    said = error.message if isinstance(error, HttpProcessingError) else ""
    match error:
        case BadHttpMethod() if "HTTPS" in said:
            return (
                "This port speaks HTTP without TLS: write http:// in the URL, or ask the proxy"
                " that speaks TLS."
            )
        case LineTooLong():
            return f"A line of the request is longer than {_LINE} bytes; send a shorter one."
        case InvalidURLError():
            return "The request's target is no path; send GET /path HTTP/1.1."
        case HttpProcessingError() if "Content-Length" in said or "chunk" in said:
            return "The request's length is wrong (Content-Length, or a chunk of its body)."
        case HttpProcessingError() if "header token" in said or isinstance(error, InvalidHeader):
            return "A header of the request is malformed; write Name: value, one on a line."
        case HttpProcessingError() if "Missing 'Host'" in said:
            return "The request has no header Host; HTTP/1.1 wants one."
    return "This is no HTTP/1.1 request: it begins with GET or POST, a path and HTTP/1.1."


def put_in_words(error: web.HTTPException) -> None:
    """Let an answer that a library made of its status alone say what to do."""
    status = HTTPStatus(error.status)
    if error.text not in {f"{error.status}: {error.reason}", None}:
        return  # somebody said more
    if status is HTTPStatus.NOT_FOUND:
        error.text = "There is nothing here.\n"
    elif status is HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = error.headers.get("Allow", "").replace(",", " or ")
        error.text = f"Here one asks by {allowed} only.\n"


class Handler(web.RequestHandler):
    """aiohttp's own, but for what it tells of bytes that are no request."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """See aiohttp."""
        if status != HTTPStatus.INTERNAL_SERVER_ERROR:
            message = f"{of_unreadable(exc)}\n"
        return super().handle_error(request, status, exc, message)
