# Law of this file: commands of protocol v2 are sent here as any client could send them, well or
# badly, and their answers are kept as they came: frames, streams, statuses, objects.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tests.conftest import Serve, Served
from tests.hg.versions import V1, executable, hg
from tests.server.asking import Reply, ask
from wire.hg import cbor
from wire.hg.cbor import Item, Value
from wire.hg.client import (
    ClientReactor,
    ErrorReceived,
    ProgressReceived,
    ResponseReceived,
    TextReceived,
)
from wire.hg.encodings import Encoding
from wire.hg.frames import Frame, FrameDecoder
from wire.hg.messages import (
    FRAMING_MEDIA_TYPE,
    CommandRequest,
    Failed,
    Moved,
    Offer,
    Ok,
    Progress,
    RemoteError,
    Status,
    Text,
    parse_status,
)

API: Final = "api/exp-http-v2-0003"
HEADERS: Final = {"Accept": FRAMING_MEDIA_TYPE, "Content-Type": FRAMING_MEDIA_TYPE}
MULTIREQUEST: Final = "multirequest"

SELF: Final = Offer((b"self",), (b"sha256", b"sha1"))
"""What a client says that accepts the server's own blob route."""


async def serve_hg(serve: Serve, root: Path, version: str = V1[-1], **settings: Any) -> Served:
    """Serve Mercurial repositories, read by an hg of some version."""
    hg(version)  # skips where it is not installed
    given = settings.pop("hg", {})
    return await serve(root, hg={"program": str(executable(version)), **given}, **settings)


def request(name: str, offer: Offer | None = None, /, **args: Value) -> CommandRequest:
    """A command."""
    return CommandRequest(name.encode(), {key.encode(): args[key] for key in args}, offer)


@dataclass(slots=True)
class Told:
    """What was said to one request.

    Attributes:
        data: its decoded payloads.
        ended: its last frame came.
        error: of its error frame, if that came.
    """

    data: bytes = b""
    ended: bool = False
    error: RemoteError | None = None

    @property
    def items(self) -> list[Item]:
        """Status and objects."""
        return cbor.decode(self.data)

    @property
    def status(self) -> Status:
        """How it went."""
        return parse_status(self.items[0])

    @property
    def objects(self) -> list[Item]:
        """Of an answer that went well and is not elsewhere."""
        assert isinstance(self.status, Ok), self.status
        return self.items[1:]

    @property
    def failure(self) -> str:
        """What is wrong, as the status says it."""
        assert isinstance(self.status, Failed), self.status
        assert len(self.items) == 1
        return self.status.text

    @property
    def url(self) -> str:
        """Where the objects are."""
        assert isinstance(self.status, Moved), self.status
        assert len(self.items) == 1
        return self.status.location.url


@dataclass(slots=True)
class Exchange:
    """One HTTP exchange.

    Attributes:
        reply: of the server, as HTTP.
        told: by request id, in the order in which the requests were sent.
        ended: request ids, in the order in which their answers ended.
        frames: of the reply.
        texts: to people.
        progress: by request id.
        others: errors of requests that were not ours.
    """

    reply: Reply
    told: dict[int, Told]
    ended: list[int] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    progress: list[tuple[int, Progress]] = field(default_factory=list)
    others: list[RemoteError] = field(default_factory=list)

    @property
    def answers(self) -> list[Told]:
        """In the order of the requests."""
        return list(self.told.values())


def where(repository: str, command: str, permission: str = "ro") -> str:
    """The path of a command's URL."""
    return f"/{repository}/{API}/{permission}/{command}"


async def exchange(
    served: Served,
    repository: str,
    *requests: CommandRequest,
    command: str | None = None,
    client: ClientReactor | None = None,
    data: Sequence[bytes | None] = (),
    headers: Mapping[str, str] | None = None,
) -> Exchange:
    """Send commands, and read all that comes.

    Args:
        served: the server.
        repository: its name there.
        requests: the commands.
        command: of the URL; that of the one request, or ``multirequest``.
        client: by default one that reads identity only, and no text.
        data: the requests' command data.
        headers: of HTTP, beside the usual ones.
    """
    client = client or ClientReactor((Encoding.IDENTITY,), extra_frames=False)
    told: dict[int, Told] = {}
    body = b""
    for number, each in enumerate(requests):
        request_id, sent = client.request(each, data[number] if number < len(data) else None)
        told[request_id] = Told()
        body += sent
    alone = requests[0].name.decode() if len(requests) == 1 else MULTIREQUEST
    path = where(repository, command or alone)
    # Locations on the server itself are below the name by which it was asked.
    fields = {"Host": urlsplit(served.url).netloc, **HEADERS, **(headers or {})}
    reply = await ask(served, "POST", path, body, fields)
    found = Exchange(reply, told)
    if reply.headers.get("content-type") == FRAMING_MEDIA_TYPE:
        read(found, client)
    return found


def read(found: Exchange, client: ClientReactor) -> None:
    """Read the frames of a reply; it must be whole, and end each answer."""
    assert found.reply.whole
    found.frames += frames(found.reply.body)
    for event in client.receive(found.reply.body):
        match event:
            case ResponseReceived(request_id, data, end):
                found.told[request_id].data += data
                found.told[request_id].ended = end
                if end:
                    found.ended.append(request_id)
            case ErrorReceived(request_id, error) if request_id in found.told:
                found.told[request_id].error = error
                found.ended.append(request_id)
            case ErrorReceived(_, error):
                found.others.append(error)
            case TextReceived(_, texts):
                found.texts += texts
            case ProgressReceived(request_id, progress):
                found.progress.append((request_id, progress))
    if not found.others:
        client.end()


def frames(body: bytes) -> list[Frame]:
    """The frames that a body is made of."""
    decoder = FrameDecoder()
    found = decoder.feed(body)
    decoder.end()
    return found


async def call(
    served: Served, repository: str, name: str, offer: Offer | None = None, /, **args: Value
) -> Told:
    """Send one command on its own URL, and read its answer, which must be one."""
    found = await exchange(served, repository, request(name, offer, **args))
    assert found.reply.status == 200, found.reply
    (told,) = found.answers
    assert told.ended, told
    return told


UPGRADE: Final = {"X-HgUpgrade-1": "exp-http-v2-0003", "X-HgProto-1": "cbor"}


async def handshake(served: Served, repository: str) -> Value:
    """The descriptor of the API, as the handshake tells it."""
    fields = {"Host": urlsplit(served.url).netloc, **UPGRADE}
    reply = await ask(served, "GET", f"/{repository}?cmd=capabilities", headers=fields)
    assert reply.status == 200, reply
    said = cbor.decode_one(reply.body)
    assert isinstance(said, dict)
    apis = said[b"apis"]
    assert isinstance(apis, dict)
    return apis[b"exp-http-v2-0003"]


async def objects(served: Served, repository: str, name: str, **args: Value) -> list[Item]:
    """The objects of a command's answer."""
    return (await call(served, repository, name, **args)).objects


async def download(served: Served, url: str) -> bytes:
    """What lies at a URL of the server's own blob route."""
    parts = urlsplit(url)
    assert url.startswith(served.url), url
    reply = await ask(served, "GET", f"{parts.path}?{parts.query}")
    assert (reply.status, reply.whole) == (200, True), reply
    return reply.body


async def elsewhere(served: Served, repository: str, name: str, **args: Value) -> bytes:
    """The bytes of a command's objects, from where a client is sent that accepts locations."""
    return await download(served, (await call(served, repository, name, SELF, **args)).url)


# --- arguments and answers ----------------------------------------------------------------------


def explicit(*nodes: bytes) -> Value:
    """A specifier of these changesets."""
    return {b"type": b"changesetexplicit", b"nodes": list(nodes)}


def depth(number: int, *nodes: bytes) -> Value:
    """A specifier of these changesets and so many generations in all."""
    return {b"type": b"changesetexplicitdepth", b"nodes": list(nodes), b"depth": number}


def dag(roots: Sequence[bytes], heads: Sequence[bytes]) -> Value:
    """A specifier of ancestors of heads that are none of roots."""
    return {b"type": b"changesetdagrange", b"roots": list(roots), b"heads": list(heads)}


@dataclass(slots=True)
class Record:
    """One map of a bulk answer, with what followed it.

    Attributes:
        fields: without ``fieldsfollowing``.
        following: field -> its data.
    """

    fields: dict[bytes, Any]
    following: dict[bytes, bytes]

    @property
    def node(self) -> bytes:
        """Which it is about."""
        node: bytes = self.fields[b"node"]
        return node


def records(items: Sequence[Item]) -> list[Record]:
    """The maps after a bulk answer's first, each with the byte strings that it announces."""
    found: list[Record] = []
    rest = iter(items[1:])
    for item in rest:
        assert isinstance(item, dict), item
        fields: dict[Any, Any] = dict(item)
        following: dict[bytes, bytes] = {}
        for name, size in fields.pop(b"fieldsfollowing", ()):
            data = next(rest)
            assert isinstance(data, bytes)
            assert len(data) == size
            following[name] = data
        found.append(Record(fields, following))
    return found
