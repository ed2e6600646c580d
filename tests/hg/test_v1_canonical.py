# Law of this file: what is left out of a getbundle's arguments changes nothing of what a stock
# server answers, whichever stock client asked.

from __future__ import annotations

import urllib.request

import pytest

from tests.hg.capture_v1 import Question, read
from tests.hg.conftest import Sources
from tests.hg.stock import serving
from tests.hg.versions import VERSIONS, hg
from wire.hg.bundle2 import BundleReader, Part, PartData
from wire.hg.v1.getbundle import GetBundle, argument_bytes
from wire.hg.v1.media import ENGINES, decompressor
from wire.hg.v1.requests import read_arguments

TAGS_RECORD = 40
"""Bytes: a head, and the node of its file of tags."""


def arguments(question: Question) -> dict[bytes, bytes]:
    """What a captured request asks."""
    return read_arguments(question.query, question.headers, question.body.encode())


def answer(url: str, asked: bytes) -> bytes:
    """What a server sends, without the compression of the way."""
    headers = {"X-HgArgs-Post": str(len(asked)), "X-HgProto-1": f"0.1 0.2 comp={ENGINES[0]}"}
    request = urllib.request.Request(f"{url}/?cmd=getbundle", asked, headers)  # noqa: S310 - ours
    with urllib.request.urlopen(request) as opened:  # noqa: S310 - likewise
        reader = decompressor(opened.headers["Content-Type"])
        found = b"".join(reader.feed(opened.read()))
        reader.end()
    return found


def parts(bundle: bytes) -> list[tuple[Part, bytes | list[bytes]]]:
    """The parts of a bundle; of tags, what they say, for their order is that of the heads asked."""
    reader = BundleReader()
    found: list[tuple[Part, bytearray]] = []
    for event in reader.feed(bundle):
        match event:
            case Part():
                found.append((event, bytearray()))
            case PartData(data):
                found[-1][1].extend(data)
    reader.end()
    return [
        (part, records(bytes(data)) if part.type == b"hgtagsfnodes" else bytes(data))
        for part, data in found
    ]


def records(data: bytes) -> list[bytes]:
    """A part of tags, in an order of its own."""
    return sorted(data[at : at + TAGS_RECORD] for at in range(0, len(data), TAGS_RECORD))


@pytest.mark.parametrize("version", VERSIONS)
def test_same_answer(sources: Sources, version: str):
    """A server of each version answers what is left of any client's request as the request."""
    bundles = {
        (argument_bytes(asked.items()), argument_bytes(GetBundle.read(asked).canonical()))
        for client in VERSIONS
        for asked in (arguments(each) for each in read(client) if each.command == "getbundle")
    }
    kinds: set[bytes] = set()
    program = hg(version)
    with serving(program, sources.path("branches"), "experimental.httppostargs=true") as url:
        for original, canonical in sorted(bundles):
            assert len(canonical) < len(original)
            expected = parts(answer(url, original))
            assert parts(answer(url, canonical)) == expected
            kinds |= {part.type for part, _ in expected}
    assert {b"bookmarks", b"changegroup", b"hgtagsfnodes", b"phase-heads", b"stream2"} <= kinds
