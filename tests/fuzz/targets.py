# Law of this file: one function per parser takes any bytes; it raises nothing if they are refused
# in the parser's own way, and fails if what was understood depends on how the bytes were cut, or
# is not the same after it is written again.

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from tests.fuzz import seeds
from wire.hg import bundle2, changegroup, delta, texts
from wire.hg.bundle2 import BundleError, BundleReader, PartData
from wire.hg.cbor import CborError, Chunk, Decoder, decode_one, encode
from wire.hg.cbor import Limits as CborLimits
from wire.hg.changegroup import ChangegroupError, ChangegroupReader
from wire.hg.client import ClientReactor, ResponseReceived
from wire.hg.commands import COMMANDS, BadArguments, check_arguments
from wire.hg.delta import DeltaError
from wire.hg.encodings import Encoding, decoder
from wire.hg.errors import ProtocolViolation
from wire.hg.handshake import parse_handshake
from wire.hg.messages import (
    CommandRequest,
    Progress,
    RemoteError,
    SenderSettings,
    encode_error,
    encode_progress,
    encode_request,
    encode_settings,
    encode_status,
    encode_texts,
    parse_error,
    parse_progress,
    parse_request,
    parse_settings,
    parse_status,
    parse_texts,
)
from wire.hg.server import Limits, ServerReactor
from wire.hg.texts import TextError

T = TypeVar("T")

SMALL: Final = Limits(
    request=500, data=200, held=1000, requests=5, streams=2, settings=100, decoded=1000
)
SMALL_CBOR: Final = CborLimits(depth=5, item_size=300, members=50)
MAX_DECODED: Final = 1000


@dataclass(frozen=True, slots=True)
class Target:
    """What can be fuzzed.

    Attributes:
        entry: takes any bytes; whatever it raises is a finding.
        seeds: bytes to begin with.
    """

    entry: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


def read(
    receive: Callable[[bytes], Iterable[T]],
    end: Callable[[], None],
    chunks: Iterable[bytes],
    refusal: type[Exception],
) -> tuple[list[T], str | None]:
    """What a reader makes of chunks: events, and why it refused what came after them."""
    events: list[T] = []
    try:
        for chunk in chunks:
            for event in receive(chunk):
                events.append(event)  # noqa: PERF402 - those before a refusal count
        end()
    except refusal as error:
        return events, str(error)
    return events, None


def in_pieces(data: bytes) -> tuple[bytes, list[bytes]]:
    """The bytes to be read, and the same cut as their first byte says."""
    size = (data[0] if data else 0) % 61 + 1
    body = data[1:]
    return body, [body[at : at + size] for at in range(0, len(body), size)]


def check(holds: bool, what: str) -> None:
    """Fail if a promise is broken; ``assert`` can be switched off, a fuzzer cannot go without."""
    if not holds:
        raise AssertionError(what)


# --- frames -----------------------------------------------------------------------------


def server(data: bytes) -> None:
    """A body of requests."""
    body, pieces = in_pieces(data)
    whole, cut = ServerReactor(SMALL), ServerReactor(SMALL)
    told = read(whole.receive, whole.end, [body], ProtocolViolation)
    check(read(cut.receive, cut.end, pieces, ProtocolViolation) == told, "cuts change a body")
    check(whole.held <= SMALL.held, "more is held than the limit")
    for each in told[0]:
        with suppress(ProtocolViolation):
            _request(each.payload)


def client(data: bytes) -> None:
    """A response to two requests."""
    body, pieces = in_pieces(data)

    def told(chunks: list[bytes]) -> object:
        reactor = ClientReactor(max_decoded=MAX_DECODED)
        for name in (b"heads", b"known"):
            reactor.request(CommandRequest(name))
        events, refusal = read(reactor.receive, reactor.end, chunks, ProtocolViolation)
        ends = [
            each.request_id for each in events if isinstance(each, ResponseReceived) and each.end
        ]
        check(len(ends) == len({*ends}), "a response ends twice")
        return events, refusal

    check(told([body]) == told(pieces), "cuts change a response")


def encodings(data: bytes) -> None:
    """Payloads of one stream; the first byte says of which encoding, and how they are cut."""
    encoding = (Encoding.ZLIB, Encoding.ZSTD)[data[0] % 2 if data else 0]
    _, payloads = in_pieces(data)
    at_once, stepwise = decoder(encoding, MAX_DECODED), decoder(encoding)
    with suppress(ProtocolViolation):
        for payload in payloads:
            told = at_once.decode(payload)
            check(len(told) <= MAX_DECODED, "more is told than the limit")
            check(b"".join(stepwise.pieces(payload)) == told, "pieces are not the whole")


# --- what stands in payloads ------------------------------------------------------------


def cbor(data: bytes) -> None:
    """A sequence of items."""
    body, pieces = in_pieces(data)
    whole, cut = Decoder(SMALL_CBOR), Decoder(SMALL_CBOR)
    told = read(whole.feed, whole.end, [body], CborError)
    again = read(cut.feed, cut.end, pieces, CborError)
    # How long an item is at least, which a refusal says, is what has come of it.
    check((again[1] is None) is (told[1] is None), "cuts change a refusal")
    # Items that came in one piece with what is none are lost with it.
    check(again[0] == told[0] or told[1] is not None, "cuts change items")
    for item in told[0]:
        if not isinstance(item, Chunk):
            written = encode(item)
            check(decode_one(written) == item, "an item is another one when it is written")
            check(encode(decode_one(written)) == written, "an item has two encodings")


def _request(payload: bytes) -> None:
    request = parse_request(payload)
    check(parse_request(encode_request(request)) == request, "a request is another one")
    spec = COMMANDS.get(request.name)
    if spec is not None:
        with suppress(BadArguments):
            checked = check_arguments(spec, request.args)
            check({*checked} == {*spec.args}, "an argument is missing")


def _status(payload: bytes) -> None:
    with suppress(CborError):
        status = parse_status(decode_one(payload))
        again = parse_status(decode_one(encode_status(status)))
        check(again == status, "a status is another one")


def _error(payload: bytes) -> None:
    error: RemoteError = parse_error(payload)
    check(isinstance(error.text, str), "an error cannot be read by people")
    encode_error("server", error.text.encode())


def _texts(payload: bytes) -> None:
    said = parse_texts(payload)
    check(parse_texts(encode_texts(said)) == said, "a text is another one")


def _progress(payload: bytes) -> None:
    progress: Progress = parse_progress(payload)
    check(parse_progress(encode_progress(progress)) == progress, "a progress is another one")


def _settings(payload: bytes) -> None:
    settings: SenderSettings = parse_settings(payload)
    check(parse_settings(encode_settings(settings)) == settings, "settings are others")


_MESSAGES: Final = (_request, _status, _error, _texts, _progress, _settings, parse_handshake)


def messages(data: bytes) -> None:
    """Payloads of each kind, and the answer to a handshake."""
    for parse in _MESSAGES:
        with suppress(ProtocolViolation):
            parse(data)


# --- what Mercurial stores --------------------------------------------------------------


def bundle(data: bytes) -> None:
    """A bundle2."""
    body, pieces = in_pieces(data)

    def told(chunks: list[bytes]) -> object:
        reader = BundleReader()
        events, refusal = read(reader.feed, reader.end, chunks, BundleError)
        # Payloads are passed on as they come.
        joined: list[bundle2.Event] = []
        for event in events:
            if isinstance(event, PartData) and joined and isinstance(joined[-1], PartData):
                joined[-1] = PartData(joined[-1].data + event.data)
            else:
                joined.append(event)
        return joined, refusal is None

    check(told([body]) == told(pieces), "cuts change a bundle")


def group(data: bytes) -> None:
    """A changegroup."""
    body, pieces = in_pieces(data)

    def told(chunks: list[bytes]) -> object:
        reader = ChangegroupReader()
        events, refusal = read(reader.feed, reader.end, chunks, ChangegroupError)
        return events, refusal is None

    check(told([body]) == told(pieces or [b""]), "cuts change a changegroup")
    for event in read(*_new_group(), [body], ChangegroupError)[0]:
        if isinstance(event, changegroup.RevisionDelta):
            with suppress(DeltaError):
                delta.apply(b"", event.delta)


def _new_group() -> tuple[Callable[[bytes], Iterable[changegroup.Event]], Callable[[], None]]:
    reader = ChangegroupReader()
    return reader.feed, reader.end


def patch(data: bytes) -> None:
    """A delta, and the text that it is for: the first byte says how long that one is."""
    length = data[0] if data else 0
    base, rest = data[1 : 1 + length], data[1 + length :]
    with suppress(DeltaError):
        delta.apply(base, rest)
    check(delta.apply(base, delta.single(base, rest)) == rest, "a delta makes another text")
    check(delta.apply(b"", delta.whole(rest)) == rest, "a whole text is another one")


def text(data: bytes) -> None:
    """The text of a changeset or manifest."""
    for parse in (texts.parse_changeset, texts.manifest_node):
        with suppress(TextError):
            parse(data)
    with suppress(TextError):
        texts.find(data, b"a")
    with suppress(TextError):
        entries = [*texts.entries(data)]
        paths = [entry.path for entry in entries]
        if paths == sorted({*paths}):
            for entry in entries:
                check(texts.find(data, entry.path) == entry.node, "a file is not found")


TARGETS: Final = {
    "bundle2": Target(bundle, seeds.bundles),
    "cbor": Target(cbor, seeds.objects),
    "changegroup": Target(group, seeds.changegroups),
    "client": Target(client, seeds.responses),
    "delta": Target(patch, seeds.deltas),
    "encodings": Target(encodings, seeds.payloads),
    "messages": Target(messages, seeds.messages),
    "server": Target(server, seeds.requests),
    "texts": Target(text, seeds.texts),
}
"""All targets by the name of what they fuzz."""
