# Law of this file: what stands in payloads: requests, statuses, locations, errors, texts. Reading
# is strict in what means something, and passes over keys that are not known.

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeGuard

from wire.hg import cbor
from wire.hg.cbor import CborError, Value
from wire.hg.errors import ProtocolViolation, shown

FRAMING_MEDIA_TYPE: Final = "application/mercurial-exp-framing-0006"
CBOR_MEDIA_TYPE: Final = "application/mercurial-cbor"


@dataclass(frozen=True, slots=True)
class Offer:
    """What a client says of redirects.

    Attributes:
        targets: names of those that it can use, in its order.
        hashes: names of those that it can check.
    """

    targets: tuple[bytes, ...]
    hashes: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """One command as a client sent it.

    Attributes:
        name: the command's.
        args: as they were sent; whether they are the command's own is for others to say.
        offer: None if the client knows of no redirects.
    """

    name: bytes
    args: Mapping[bytes, Value] = field(default_factory=dict)
    offer: Offer | None = None


def encode_request(request: CommandRequest) -> bytes:
    """The map that the payloads of a request's frames make up."""
    fields: dict[cbor.Scalar, Value] = {b"name": request.name}
    if request.args:
        args: dict[cbor.Scalar, Value] = {}
        args.update(request.args.items())
        fields[b"args"] = args
    if request.offer is not None:
        fields[b"redirect"] = {
            b"targets": list(request.offer.targets),
            b"hashes": list(request.offer.hashes),
        }
    return cbor.encode(fields)


def parse_request(payload: bytes, limits: cbor.Limits = cbor.DEFAULT) -> CommandRequest:
    """Read what :func:`encode_request` writes.

    Raises:
        ProtocolViolation: it is no request.
    """
    fields = _map(payload, "a request", limits)
    name = fields.get(b"name")
    if not isinstance(name, bytes):
        raise ProtocolViolation("a request without the name of a command")
    args = fields.get(b"args", {})
    if not isinstance(args, dict):
        raise ProtocolViolation(f"the arguments of {shown(name)} are no map")
    named: dict[bytes, Value] = {}
    for key, value in args.items():
        if not isinstance(key, bytes):
            raise ProtocolViolation(f"an argument of {shown(name)} whose name is no byte string")
        named[key] = value
    return CommandRequest(name, named, _offer(fields.get(b"redirect")))


def _offer(value: Value) -> Offer | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ProtocolViolation("a request whose 'redirect' is no map")
    return Offer(
        _names(value.get(b"targets"), "targets of redirects"),
        _names(value.get(b"hashes"), "hashes of redirects"),
    )


def _names(value: Value, what: str) -> tuple[bytes, ...]:
    if value is None:
        return ()
    names = sorted_names(value)
    if names is None:
        raise ProtocolViolation(f"{what} that are no list of byte strings")
    return names


def sorted_names(value: Value) -> tuple[bytes, ...] | None:
    """A list's byte strings in its order, or a set's sorted; None if it is neither."""
    if isinstance(value, frozenset):
        members = [each for each in value if isinstance(each, bytes)]
        return tuple(sorted(members)) if len(members) == len(value) else None
    if isinstance(value, list):
        members = [each for each in value if isinstance(each, bytes)]
        return tuple(members) if len(members) == len(value) else None
    return None


# --- statuses ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Location:
    """Where the objects of a response are.

    Attributes:
        url: to be asked with GET.
        media_type: of what lies there.
        size: bytes; None if it is not said.
        hashes: of the whole, name and digest.
    """

    url: str
    media_type: str = CBOR_MEDIA_TYPE
    size: int | None = None
    hashes: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """The command could not be answered; ``message`` is a format string for ``args`` (``%s``).

    Mercurial's help describes a list of such messages, its programs write and read this one.
    """

    message: bytes
    args: tuple[bytes, ...] = ()

    @property
    def text(self) -> str:
        """The message as a person reads it."""
        return format_text(self.message, self.args)


@dataclass(frozen=True, slots=True)
class Ok:
    """The objects follow."""


@dataclass(frozen=True, slots=True)
class Moved:
    """The objects are elsewhere; nothing follows."""

    location: Location


Status = Ok | Failed | Moved

STATUS_OK: Final = cbor.encode({b"status": b"ok"})


def encode_status(status: Status) -> bytes:
    """The first object of a response."""
    match status:
        case Ok():
            return STATUS_OK
        case Failed(message, args):
            error: dict[cbor.Scalar, Value] = {b"message": message}
            if args:
                error[b"args"] = list(args)
            return cbor.encode({b"status": b"error", b"error": error})
        case Moved(location):
            where: dict[cbor.Scalar, Value] = {
                b"url": location.url.encode("ascii"),
                b"mediatype": location.media_type.encode("ascii"),
            }
            if location.size is not None:
                where[b"size"] = location.size
            if location.hashes:
                where[b"fullhashes"] = [
                    [name.encode("ascii"), digest] for name, digest in location.hashes
                ]
            return cbor.encode({b"status": b"redirect", b"location": where})


def parse_status(value: cbor.Item) -> Status:
    """Read what :func:`encode_status` writes.

    Raises:
        ProtocolViolation: it is no status.
    """
    match value:
        case {b"status": b"ok"}:
            return Ok()
        case {b"status": b"error", b"error": dict(error)}:
            message = error.get(b"message")
            if isinstance(message, bytes):
                return Failed(message, _names(error.get(b"args"), "arguments of a message"))
        case {b"status": b"redirect", b"location": dict(location)}:
            return Moved(_location(location))
    raise ProtocolViolation("a response that does not begin with a status")


def _location(fields: Mapping[cbor.Scalar, Value]) -> Location:
    match fields:
        case {b"url": bytes(url), b"mediatype": bytes(media_type)}:
            size = fields.get(b"size")
            if size is not None and not (_is_number(size) and size >= 0):
                raise ProtocolViolation("a location whose size is no number of bytes")
            try:
                return Location(
                    url.decode("ascii"),
                    media_type.decode("ascii"),
                    size,
                    _hashes(fields.get(b"fullhashes")),
                )
            except UnicodeDecodeError:
                raise ProtocolViolation("a location that is not ASCII") from None
    raise ProtocolViolation("a location without url or media type")


def _hashes(value: Value) -> tuple[tuple[str, bytes], ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ProtocolViolation("a location whose hashes are no list")
    found: list[tuple[str, bytes]] = []
    for each in value:
        match each:
            case [bytes(name), bytes(digest)]:
                found.append((name.decode("ascii"), digest))
            case _:
                raise ProtocolViolation("a location's hash is no pair of name and digest")
    return tuple(found)


# --- errors, texts, progress --------------------------------------------------------------

ErrorKind = Literal["server", "protocol", "command"]


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text for a person.

    Attributes:
        message: a format string.
        args: for its ``%s``.
        labels: what it is, for colours.
    """

    message: bytes
    args: tuple[bytes, ...] = ()
    labels: tuple[bytes, ...] = ()

    @property
    def text(self) -> str:
        """As a person reads it."""
        return format_text(self.message, self.args)


@dataclass(frozen=True, slots=True)
class RemoteError:
    """An error frame: the request it names is over.

    Attributes:
        kind: ``server``, ``protocol`` or ``command``.
        messages: what happened.
    """

    kind: str
    messages: tuple[Text, ...]

    @property
    def text(self) -> str:
        """As a person reads it."""
        return "".join(message.text for message in self.messages)


def encode_error(kind: ErrorKind, message: bytes, args: Sequence[bytes] = ()) -> bytes:
    """The payload of an error frame."""
    return cbor.encode(
        {b"type": kind.encode(), b"message": [_text_fields(Text(message, tuple(args)))]}
    )


def parse_error(payload: bytes) -> RemoteError:
    """Read what :func:`encode_error` writes.

    Raises:
        ProtocolViolation: it is none.
    """
    fields = _map(payload, "an error")
    kind, messages = fields.get(b"type"), fields.get(b"message")
    if not isinstance(kind, bytes) or not isinstance(messages, list):
        raise ProtocolViolation("an error without type or message")
    return RemoteError(kind.decode("ascii", "replace"), tuple(map(_text, messages)))


def encode_texts(texts: Sequence[Text]) -> bytes:
    """The payload of a frame with text output."""
    return cbor.encode([_text_fields(text) for text in texts])


def parse_texts(payload: bytes) -> tuple[Text, ...]:
    """Read what :func:`encode_texts` writes.

    Raises:
        ProtocolViolation: it is none.
    """
    value = _one(payload, "a text")
    if not isinstance(value, list):
        raise ProtocolViolation("a text that is no list")
    return tuple(map(_text, value))


def _text_fields(text: Text) -> Value:
    fields: dict[cbor.Scalar, Value] = {b"msg": text.message}
    if text.args:
        fields[b"args"] = list(text.args)
    if text.labels:
        fields[b"labels"] = list(text.labels)
    return fields


def _text(value: Value) -> Text:
    if not isinstance(value, dict):
        raise ProtocolViolation("a piece of text that is no map")
    message = value.get(b"msg")
    if not isinstance(message, bytes):
        raise ProtocolViolation("a piece of text without a message")
    return Text(
        message,
        _names(value.get(b"args"), "arguments of a message"),
        _names(value.get(b"labels"), "labels of a message"),
    )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far something is.

    Attributes:
        topic: what is going on.
        pos: how far it is; -1, it is done.
        total: how far it will go; -1 while that is not known.
        label: the unit of both.
        item: what is worked at now.
    """

    topic: bytes
    pos: int
    total: int
    label: bytes | None = None
    item: bytes | None = None


def encode_progress(progress: Progress) -> bytes:
    """The payload of a progress frame."""
    fields: dict[cbor.Scalar, Value] = {
        b"topic": progress.topic,
        b"pos": progress.pos,
        b"total": progress.total,
    }
    if progress.label is not None:
        fields[b"label"] = progress.label
    if progress.item is not None:
        fields[b"item"] = progress.item
    return cbor.encode(fields)


def parse_progress(payload: bytes) -> Progress:
    """Read what :func:`encode_progress` writes.

    Raises:
        ProtocolViolation: it is none.
    """
    match _map(payload, "a progress"):
        case {b"topic": bytes(topic), b"pos": pos, b"total": total, **rest} if _is_number(
            pos
        ) and _is_number(total):
            label, item = rest.get(b"label"), rest.get(b"item")
            return Progress(
                topic,
                pos,
                total,
                label if isinstance(label, bytes) else None,
                item if isinstance(item, bytes) else None,
            )
    raise ProtocolViolation("a progress without topic, position or total")


def format_text(message: bytes, args: Sequence[bytes]) -> str:
    """Fill the ``%s`` of a message that came from outside; what does not fit stays as it is."""
    words = (arg.decode("utf-8", "replace") for arg in args)

    def filled(place: re.Match[str]) -> str:
        return "%" if place[0] == "%%" else next(words, "%s")

    return re.sub("%[%s]", filled, message.decode("utf-8", "replace"))


# --- what the sender of requests says of itself ---------------------------------------------


@dataclass(frozen=True, slots=True)
class SenderSettings:
    """What a client says first.

    Attributes:
        encodings: names of those that it can decode, in its order. None named: identity alone.
        extra_frames: it can read text output and progress. Mercurial's client breaks on those, and
            nothing of the specification lets it say so; so we send them to who says this
            (the key ``extraframes``, a list with ``progress`` and ``text``), which is our own word.
    """

    encodings: tuple[bytes, ...] = ()
    extra_frames: frozenset[bytes] = frozenset()


def encode_settings(settings: SenderSettings) -> bytes:
    """The payload of sender protocol settings."""
    fields: dict[cbor.Scalar, Value] = {b"contentencodings": list(settings.encodings)}
    if settings.extra_frames:
        fields[b"extraframes"] = [*sorted(settings.extra_frames)]
    return cbor.encode(fields)


def parse_settings(payload: bytes) -> SenderSettings:
    """Read what :func:`encode_settings` writes.

    Raises:
        ProtocolViolation: it is none.
    """
    fields = _map(payload, "sender settings")
    return SenderSettings(
        _names(fields.get(b"contentencodings"), "content encodings"),
        frozenset(_names(fields.get(b"extraframes"), "extra frames")),
    )


def _is_number(value: Value) -> TypeGuard[int]:
    """Python's booleans are integers; the protocol's are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _map(payload: bytes, what: str, limits: cbor.Limits = cbor.DEFAULT) -> dict[cbor.Scalar, Value]:
    value = _one(payload, what, limits)
    if not isinstance(value, dict):
        raise ProtocolViolation(f"{what} that is no map")
    return value


def _one(payload: bytes, what: str, limits: cbor.Limits = cbor.DEFAULT) -> Value:
    try:
        return cbor.decode_one(payload, limits)
    except CborError as error:
        raise ProtocolViolation(f"{what} that cannot be read: {error}") from None
