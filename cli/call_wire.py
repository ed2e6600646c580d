# Law of this file: what goes over the wire is told on standard error, a line for each frame and
# each turn, without the secrets of URLs.

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from client.address import shown
from client.errors import printable
from wire.hg.frames import (
    CONTINUATION,
    END,
    REQUEST_CONTINUATION,
    REQUEST_HAS_DATA,
    REQUEST_MORE,
    REQUEST_NEW,
    STREAM_BEGIN,
    STREAM_ENCODED,
    STREAM_END,
    Frame,
    FrameType,
)

if TYPE_CHECKING:
    from client.watch import Call, Watch
    from wire.hg.messages import Location, Progress, Text

_STREAM_FLAGS: Final = {STREAM_BEGIN: "begin", STREAM_END: "end", STREAM_ENCODED: "encoded"}
_REQUEST_FLAGS: Final = {
    REQUEST_NEW: "new",
    REQUEST_CONTINUATION: "continuation",
    REQUEST_MORE: "more",
    REQUEST_HAS_DATA: "data-follow",
}
_FLAGS: Final = {CONTINUATION: "continuation", END: "end"}


def watching(*, wire: bool) -> Watch:
    """What is told: texts and failures always, the rest if the wire is to be seen."""
    from client.watch import Watch

    if not wire:
        return Watch(text=_text, failed=_failed)
    return Watch(_frame, _text, _progress, _redirected, _resumed, _failed)


def frame_line(frame: Frame, *, sent: bool) -> str:
    """A frame on one line: ``>`` goes out, ``<`` comes in."""
    kinds = _REQUEST_FLAGS if frame.kind is FrameType.COMMAND_REQUEST else _FLAGS
    words = [
        ">" if sent else "<",
        f"request {frame.request_id}",
        " ".join((f"stream {frame.stream_id}", *_names(frame.stream_flags, _STREAM_FLAGS))),
        " ".join((frame.kind.name.lower().replace("_", "-"), *_names(frame.flags, kinds))),
        f"{len(frame.payload)} bytes",
    ]
    return f"{words[0]} {', '.join(words[1:])}"


def _names(flags: int, names: dict[int, str]) -> list[str]:
    return [name for flag, name in names.items() if flags & flag]


def _say(text: str) -> None:
    click.echo(printable(text), err=True)


def _frame(frame: Frame, sent: bool) -> None:
    _say(frame_line(frame, sent=sent))


def _text(call: Call, text: Text) -> None:
    del call
    _say(text.text)


def _progress(call: Call, progress: Progress) -> None:
    words = [call.name, b"progress:", progress.topic, str(progress.pos).encode()]
    if progress.total >= 0:
        words += (b"of", str(progress.total).encode())
    words += [each for each in (progress.label, progress.item) if each]
    _say(b" ".join(words).decode("utf-8", "replace"))


def _redirected(call: Call, location: Location, target: str | None) -> None:
    size = "" if location.size is None else f", {location.size} bytes"
    hashes = "".join(f", {name} {digest.hex()}" for name, digest in location.hashes)
    name = call.name.decode("utf-8", "replace")
    _say(f"{name} is at {shown(location.url)} (target {target or 'unknown'}{size}{hashes})")


def _resumed(location: Location, offset: int) -> None:
    _say(f"{shown(location.url)}: going on at byte {offset}")


def _failed(call: Call, target: str | None, reason: str) -> None:
    name = call.name.decode("utf-8", "replace")
    _say(f"target {target or 'unknown'} failed: {reason}; asking for {name} again without it")
