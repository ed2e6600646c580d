# Law of this file: the golden files are what stock Mercurial 5.9.3 said to itself, unchanged. They
# are made by `python -m tests.hg.capture`; the same Mercurial and libraries give the same files.

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.hg import repositories
from tests.hg.recording import Exchange, recorded
from tests.hg.stock import CLIENT_V2, SERVER_V2, client_encodings, serving
from tests.hg.versions import V2, hg, run

GOLDEN: Final = Path(__file__).parent / "golden"
INDEX: Final = "exchanges.json"
ENCODINGS: Final = {"identity": "identity", "zlib": "zlib", "zstd": "zstd-8mb"}

Talk = Callable[[Sequence[str], str, Path], None]
"""Lets an hg client speak with a URL, in a scratch directory."""


def main() -> None:
    """Make every golden file anew."""
    program = hg(V2, zstd=True)
    for old in GOLDEN.iterdir():
        if old.is_dir():
            shutil.rmtree(old)
    with tempfile.TemporaryDirectory() as scratch:
        for name, (kind, talk) in _talks().items():
            place = Path(scratch, name)
            place.mkdir()
            source = repositories.KINDS[kind](program, place / "source")
            with serving(program, source, *SERVER_V2) as origin, recorded(origin) as recording:
                talk(program, recording.url, place)
            _write(GOLDEN / name, recording.exchanges)


def _talks() -> dict[str, tuple[str, Talk]]:
    talks: dict[str, tuple[str, Talk]] = {}
    for name, encoding in ENCODINGS.items():
        talks[f"clone-{name}"] = ("branches", _client(encoding, "clone", "URL", "clone"))
        talks[f"pull-{name}"] = ("merges", _pull(encoding))
    talks["clone-stream-identity"] = ("merges", _client("identity", *_STREAM))
    talks["clone-stream-zstd"] = ("merges", _client("zstd-8mb", *_STREAM))
    talks["clone-of-branch"] = (
        "branches",
        _client("identity", "clone", "--branch", "stable", "URL", "clone"),
    )
    talks["clone-of-bookmark"] = (
        "branches",
        _client("identity", "clone", "--rev", "first", "URL", "clone"),
    )
    talks["clone-with-drafts"] = ("phases", _client("identity", "clone", "URL", "clone"))
    talks["clone-of-odd-names"] = ("names", _client("zlib", "clone", "URL", "clone"))
    talks["commands-identity"] = ("phases", _commands("identity"))
    talks["commands-zstd"] = ("phases", _commands("zstd-8mb"))
    talks["errors"] = ("linear", _errors)
    return talks


_STREAM: Final = ("clone", "--stream", "URL", "clone")


def _client(encoding: str, *args: str) -> Talk:
    def talk(program: Sequence[str], url: str, place: Path) -> None:
        _said(program, url, place, *client_encodings(encoding), *args)

    return talk


def _pull(encoding: str) -> Talk:
    def talk(program: Sequence[str], url: str, place: Path) -> None:
        begun = run(program, place, "clone", "--quiet", "--rev", "1", place / "source", "clone")
        assert begun.returncode == 0, begun.stderr
        pull = ("--cwd", "clone", "pull", "URL")
        _said(program, url, place, *client_encodings(encoding), *pull)

    return talk


def _said(
    program: Sequence[str], url: str, place: Path, *args: str, stdin: bytes = b"", status: int = 0
) -> None:
    words = [url if word == "URL" else word for word in args]
    done = run(program, place, *CLIENT_V2, *words, stdin=stdin)
    assert done.returncode == status, (words, done.stderr)


def _commands(encoding: str) -> Talk:
    def talk(program: Sequence[str], url: str, place: Path) -> None:
        nodes = run(program, place, "log", "-R", "source", "-T", "{node} ", "-r", "0:2").stdout
        first, second, third = nodes.decode().split()
        script = _script(first, second, third).encode()
        send = ("debugwireproto", "--peer", "http2", "URL")
        _said(program, url, place, *client_encodings(encoding), *send, stdin=script)
        _said(program, url, place, *_RAW, stdin=_multirequest(encoding, first, second).encode())

    return talk


_RAW: Final = ("debugwireproto", "--peer", "raw", "URL")
_FRAMING: Final = "application/mercurial-exp-framing-0006"
_API: Final = "api/exp-http-v2-0003"
_HEADERS: Final = f"    accept: {_FRAMING}\n    content-type: {_FRAMING}\n"


def _post(path: str, frames: Sequence[str], headers: str = _HEADERS) -> str:
    # The notation of a frame is: request id, stream id, stream flags, type, flags, payload.
    return f"httprequest POST /{_API}/{path}\n{headers}" + "".join(
        f"    frame {frame}\n" for frame in frames
    )


def _multirequest(encoding: str, *nodes: str) -> str:
    known = f"cbor:{{b'name': b'known', b'args': {{b'nodes': {_bytes(*nodes)}}}}}"
    listkeys = "cbor:{b'name': b'listkeys', b'args': {b'namespace': b'bookmarks'}}"
    encodings = f"cbor:{{b'contentencodings': [{encoding.encode()!r}]}}"
    frames = (
        f"1 1 stream-begin sender-protocol-settings eos {encodings}",
        "1 1 0 command-request new cbor:{b'name': b'heads'}",
        f"3 1 0 command-request new {known}",
        "5 1 0 command-request new cbor:{b'name': b'branchmap'}",
        f"7 1 0 command-request new {listkeys}",
    )
    return _post("ro/multirequest", frames)


def _bytes(*nodes: str) -> str:
    return f"[{', '.join(repr(bytes.fromhex(node)) for node in nodes)}]"


def _script(first: str, second: str, third: str) -> str:
    """One block for each command, with every kind of argument that it has."""
    unknown = "11" * 20
    explicit = f"[{{b'type': b'changesetexplicit', b'nodes': {_bytes(second)}}}]"
    depth = f"[{{b'type': b'changesetexplicitdepth', b'nodes': {_bytes(third)}, b'depth': 2}}]"
    between = (
        f"[{{b'type': b'changesetdagrange', b'roots': {_bytes(first)}, b'heads': {_bytes(third)}}}]"
    )
    return f"""
command capabilities
command heads
command heads
    publiconly eval:True
command known
    nodes eval:{_bytes(first, unknown, second)}
command lookup
    key seen
command lookup
    key {first[:10]}
command branchmap
command listkeys
    namespace namespaces
command listkeys
    namespace phases
command listkeys
    namespace bookmarks
command listkeys
    namespace no-such-namespace
command changesetdata
    revisions eval:{explicit}
command changesetdata
    revisions eval:{depth}
    fields eval:{{b'parents', b'phase'}}
command changesetdata
    revisions eval:{between}
    fields eval:{{b'parents', b'phase', b'bookmarks', b'revision'}}
command filesdata
    revisions eval:{between}
    fields eval:{{b'parents', b'revision', b'linknode'}}
command filesdata
    revisions eval:{explicit}
    haveparents eval:True
    fields eval:{{b'parents', b'revision'}}
    pathfilter eval:{{b'include': [b'path:draft']}}
"""


def _errors(program: Sequence[str], url: str, place: Path) -> None:
    script = "".join(_post(path, [frame], headers) for path, headers, frame in _WRONG)
    script += f"httprequest GET /{_API}/ro/heads\n    accept: {_FRAMING}\n"
    _said(program, url, place, *_RAW, stdin=script.encode())
    _said(program, url, place, "clone", "--rev", "nothing", "URL", "clone", status=255)


_NEW: Final = "1 1 stream-begin command-request new"
_HEADS: Final = f"{_NEW} cbor:{{b'name': b'heads'}}"
_WRONG: Final = (
    # Told in frames: an argument too many, one missing, a name that is not there.
    ("ro/heads", _HEADERS, f"{_NEW} cbor:{{b'name': b'heads', b'args': {{b'x': 1}}}}"),
    ("ro/lookup", _HEADERS, f"{_NEW} cbor:{{b'name': b'lookup'}}"),
    (
        "ro/lookup",
        _HEADERS,
        f"{_NEW} cbor:{{b'name': b'lookup', b'args': {{b'key': b'nothing'}}}}",
    ),
    # Told by HTTP.
    ("ro/nothing", _HEADERS, _HEADS),
    ("no/heads", _HEADERS, _HEADS),
    ("ro/heads", f"    content-type: {_FRAMING}\n", _HEADS),
    ("ro/heads", f"    accept: {_FRAMING}\n    content-type: text/plain\n", _HEADS),
    # Told as text where frames are expected, which nobody should do.
    ("ro/known", _HEADERS, _HEADS),
    ("ro/heads", _HEADERS, "1 2 stream-begin command-request new cbor:{b'name': b'heads'}"),
    ("ro/heads", _HEADERS, "1 1 0 command-request new cbor:{b'name': b'heads'}"),
)


def _write(directory: Path, exchanges: Sequence[Exchange]) -> None:
    directory.mkdir()
    index = []
    for number, exchange in enumerate(exchanges, 1):
        name = f"{number:02}-{_command(exchange.target)}"
        if exchange.request:
            (directory / f"{name}.request").write_bytes(exchange.request)
        (directory / f"{name}.response").write_bytes(exchange.response)
        index.append(
            {
                "name": name,
                "method": exchange.method,
                "target": exchange.target,
                "headers": exchange.headers,
                "status": exchange.status,
                "answer_headers": exchange.answer_headers,
            }
        )
    (directory / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")


def read(name: str) -> list[Exchange]:
    """The exchanges of a golden conversation, in order.

    Args:
        name: of its directory.
    """
    directory = GOLDEN / name
    return [
        Exchange(
            entry["method"],
            entry["target"],
            entry["headers"],
            _content(directory / f"{entry['name']}.request"),
            entry["status"],
            entry["answer_headers"],
            _content(directory / f"{entry['name']}.response"),
        )
        for entry in json.loads((directory / INDEX).read_text())
    ]


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _command(target: str) -> str:
    if "cmd=" in target:
        return target.rpartition("cmd=")[2].partition("&")[0]
    return target.rstrip("/").rpartition("/")[2]


if __name__ == "__main__":
    main()
