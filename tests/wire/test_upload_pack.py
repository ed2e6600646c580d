# Law of this file: the real git understands what we write, and we understand what it answers.

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from wire.git import pktline, response, v0, v2
from wire.git.arguments import OID_LENGTHS
from wire.git.pktline import DELIM, FLUSH, text
from wire.git.response import End, Event, FetchResponseParser, Head, PackData, RemoteError

FETCH = v2.Fetch(v2.Session(), done=True, ofs_delta=True)


def git(*args: str, cwd: Path, stdin: bytes = b"", protocol: int = 2, status: int = 0) -> bytes:
    """The output of a git program that must end with ``status``."""
    env = {**os.environ, "GIT_PROTOCOL": f"version={protocol}"}
    done = subprocess.run(
        ["git", *args], cwd=cwd, input=stdin, env=env, capture_output=True, check=False
    )
    assert done.returncode == status, done.stderr
    return done.stdout


@pytest.fixture(params=["sha1", "sha256"])
def object_format(request: pytest.FixtureRequest) -> str:
    """Each object format in turn."""
    return str(request.param)


@pytest.fixture
def repository(tmp_path: Path, object_format: str) -> Path:
    """Three commits on one branch, with a tag on the first."""
    path = tmp_path / "repository"
    path.mkdir()
    git("init", "--quiet", f"--object-format={object_format}", cwd=path)
    git("config", "uploadpack.allowFilter", "true", cwd=path)
    git("config", "uploadpack.allowRefInWant", "true", cwd=path)
    for number in range(3):
        (path / "file").write_bytes(b"line %d\n" % number * 40)
        (path / f"noise{number}").write_bytes(os.urandom(100_000))
        git("add", "--all", cwd=path)
        git("commit", "--quiet", "--message", f"commit {number}", cwd=path)
        if number == 0:
            git("tag", "--annotate", "--message", "first", "v1", cwd=path)
    return path


def oid(repository: Path, name: str) -> str:
    """The object id of a revision."""
    return git("rev-parse", name, cwd=repository).decode().strip()


def ask(repository: Path, fetch: v2.Fetch, object_format: str, step: int = 1) -> list[Event]:
    """The events of upload-pack's answer to a request that we write, in chunks of ``step``."""
    session = v2.Session(object_format=object_format)
    request = v2.encode_fetch(replace(fetch, session=session), "offramp/test")
    answer = git("upload-pack", "--stateless-rpc", ".", cwd=repository, stdin=request)
    parser = FetchResponseParser()
    chunks = (answer[i : i + step] for i in range(0, len(answer), step))
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    parser.close()
    return events


def index(tmp_path: Path, object_format: str, pack: bytes) -> Path:
    """An empty repository into which git index-pack accepted the pack."""
    path = tmp_path / "receiver"
    path.mkdir()
    git("init", "--quiet", "--bare", f"--object-format={object_format}", cwd=path)
    git("index-pack", "--stdin", cwd=path, stdin=pack)
    return path


def pack_of(events: list[Event]) -> bytes:
    """The whole pack of an answer that has its end."""
    assert isinstance(events[-1], End)
    return b"".join(event.data for event in events if isinstance(event, PackData))


def test_a_full_clone(repository: Path, tmp_path: Path, object_format: str):
    """The pack of a clone, read byte by byte, is one that git accepts, with every commit."""
    head = oid(repository, "HEAD")
    events = ask(repository, replace(FETCH, wants=(head,)), object_format)
    assert events[0] == Head(b"", has_pack=True)
    receiver = index(tmp_path, object_format, pack_of(events))
    assert git("rev-list", "--count", head, cwd=receiver) == b"3\n"


def test_a_shallow_fetch_by_name(repository: Path, tmp_path: Path, object_format: str):
    """A shallow boundary and a wanted ref stand in the head, to the byte."""
    head = oid(repository, "HEAD")
    fetch = replace(FETCH, want_refs=(b"refs/heads/main",), deepen=1)
    events = ask(repository, fetch, object_format, 1000)
    assert isinstance(events[0], Head)
    assert response.wanted_refs(events[0].raw) == {b"refs/heads/main": head}
    shallow = pktline.encode(f"shallow {head}".encode())
    assert text(b"shallow-info") + shallow + DELIM in events[0].raw
    assert events[0].raw.endswith(DELIM)
    receiver = index(tmp_path, object_format, pack_of(events))
    assert git("cat-file", "-t", head, cwd=receiver) == b"commit\n"


def test_a_negotiation(repository: Path, object_format: str):
    """A round without a common commit has no pack; with one, and ready, the pack follows."""
    head, first = oid(repository, "HEAD"), oid(repository, "v1^{commit}")
    asking = replace(FETCH, wants=(head,), done=False)
    unknown = ("1" * len(head),)
    refused = ask(repository, replace(asking, haves=unknown), object_format)
    assert refused == [Head(text(b"acknowledgments") + text(b"NAK"), has_pack=False), End()]
    ready = ask(repository, replace(asking, haves=(first,)), object_format, 4096)
    acknowledged = text(b"acknowledgments") + text(f"ACK {first}".encode()) + text(b"ready")
    assert ready[0] == Head(acknowledged + DELIM, has_pack=True)
    assert pack_of(ready).startswith(b"PACK")


def test_not_our_ref(repository: Path, object_format: str):
    """A wanted object that does not exist is the backend's error, in its words."""
    session = v2.Session(object_format=object_format)
    missing = "1" * OID_LENGTHS[object_format]
    request = v2.encode_fetch(replace(FETCH, session=session, wants=(missing,)))
    answer = git("upload-pack", "--stateless-rpc", ".", cwd=repository, stdin=request, status=128)
    with pytest.raises(RemoteError, match="not our ref 1111"):
        FetchResponseParser().feed(answer)


def test_ls_refs(repository: Path, object_format: str):
    """The real git lists the refs that our request names."""
    request = v2.encode_ls_refs(
        object_format, peel=True, symrefs=True, unborn=False, prefixes=[b"refs/tags/", b"HEAD"]
    )
    answer = git("upload-pack", "--stateless-rpc", ".", cwd=repository, stdin=request)
    *lines, end = pktline.parse(answer)
    head, tag, commit = (oid(repository, name) for name in ("HEAD", "v1", "v1^{commit}"))
    assert lines == [
        f"{head} HEAD symref-target:refs/heads/main\n".encode(),
        f"{tag} refs/tags/v1 peeled:{commit}\n".encode(),
    ]
    assert end is pktline.Special.FLUSH


def test_what_we_compose_is_read(repository: Path, object_format: str):
    """Our own framing of a pack is read by the same rules as git's."""
    pack = pack_of(ask(repository, replace(FETCH, wants=(oid(repository, "HEAD"),)), object_format))
    section = response.packfile_uris_section([("a" * 40, "https://cdn.example.org/p")])
    parser = FetchResponseParser()
    framed = response.sideband(pack)
    events = parser.feed(section + response.PACKFILE + response.KEEPALIVE + framed + FLUSH)
    parser.close()
    assert events[0] == Head(section, has_pack=True)
    assert pack_of(events) == pack


def test_a_v0_clone(repository: Path, tmp_path: Path, object_format: str):
    """The canonical v0 request is answered with a pack that git accepts, without progress."""
    head = oid(repository, "HEAD")
    capabilities = f"side-band-64k ofs-delta object-format={object_format} agent=x/1"
    body = text(f"want {head} {capabilities}".encode()) + FLUSH + text(b"done")
    canonical = v0.parse_request(body).canonical
    answer = git("upload-pack", "--stateless-rpc", ".", cwd=repository, stdin=canonical, protocol=0)
    nak, *frames, end = pktline.parse(answer)
    assert (nak, end) == (b"NAK\n", pktline.Special.FLUSH)
    pack = b"".join(f[1:] for f in frames if isinstance(f, bytes) and f[0] == 1)
    assert all(isinstance(f, bytes) and f[0] == 1 for f in frames)
    receiver = index(tmp_path, object_format, pack)
    assert git("rev-list", "--count", head, cwd=receiver) == b"3\n"
