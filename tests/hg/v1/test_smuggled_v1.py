# Law of this file: whoever is asked behind us is asked what was judged here, and nothing beside it:
# no push, and nothing that is hidden, however it is wrapped.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import urlencode, urlsplit

import pytest

from tests.conftest import Serve, Served
from tests.hg.asking import serve_hg
from tests.hg.session import Session
from tests.hg.v1.conftest import REPO, Shelf
from tests.hg.v1.raw import BUNDLE2, HG_ERROR, NULL, Said, headers, put
from tests.hg.v1.reference import Reference
from tests.hg.v1.test_bad_requests_v1 import heads, pushed_to_other, sources_bundle
from tests.hg.versions import V2, hg
from tests.server.asking import Reply, ask

__all__ = ["sources_bundle"]  # a fixture

TYPE: Final = {"Content-Type": "application/mercurial-0.1"}

# What is read of these by us, who know no `_`, is not what WSGI makes of them.
WRAPPINGS: Final[dict[str, Callable[[str], tuple[dict[str, str], bytes]]]] = {
    "a header": lambda text: ({"X-HgArg_1": text}, b""),
    "a header of another case": lambda text: ({"x-HGARG_1": text}, b""),
    "a body": lambda text: ({"X-HgArgs_Post": str(len(text))}, text.encode()),
}


def pushkey(node: str) -> dict[str, str]:
    """The arguments that make a bookmark."""
    return {"namespace": "bookmarks", "key": "smuggled", "old": "", "new": node}


def in_a_batch(node: str) -> str:
    """A push in a batch, as it stands where arguments are."""
    words = ",".join(f"{name}={value}" for name, value in pushkey(node).items())
    return urlencode({"cmds": f"pushkey {words}"})


def head_of(repository: Path) -> str:
    """One of its nodes."""
    return heads(repository).split()[0].decode()


async def wrapped(served: Served, place: str, query: str, wrapping: str, text: str) -> Reply:
    """Put a question that has another one in it."""
    extra, body = WRAPPINGS[wrapping](text)
    fields = {"Host": urlsplit(served.url).netloc, **TYPE, **extra}
    return await ask(served, "POST", f"/{place}?{query}", body, fields)


@pytest.mark.parametrize("wrapping", WRAPPINGS)
async def test_a_push_in_a_question(serve: Serve, shelf: Shelf, wrapping: str) -> None:
    """Where another repository takes pushes, one that is wrapped in a question reaches nobody."""
    served, repository = await pushed_to_other(serve, shelf)
    before = heads(repository)
    text = in_a_batch(head_of(repository))
    for query in ("cmd=batch&cmds=hello+", "cmd=branches&nodes=", "cmd=batch&cmds=heads+"):
        await wrapped(served, REPO, query, wrapping, text)
        assert heads(repository) == before, query


@pytest.mark.parametrize("wrapping", WRAPPINGS)
async def test_hg_takes_it(serve: Serve, shelf: Shelf, reference: Reference, wrapping: str) -> None:
    """Else the test above would show nothing: a stock server has a bookmark afterwards."""
    served, repository = await pushed_to_other(serve, shelf)
    stock = replace(served, url=f"http://{reference.address}")
    text = in_a_batch(head_of(repository))
    place = reference.name(repository)
    reply = await wrapped(stock, place, "cmd=batch&cmds=hello+", wrapping, text)
    assert reply.status == 200, reply
    assert b"smuggled" in heads(repository)


async def test_a_push_with_arguments_in_its_body(
    serve: Serve, shelf: Shelf, sources_bundle: bytes
) -> None:
    """It is refused, also where pushes are taken: what of the body is a bundle, nobody guesses."""
    root = shelf.own("linear")
    served = await serve_hg(serve, root, hg={"push": (REPO,)})
    before = heads(root / REPO)
    text = in_a_batch(head_of(root / REPO)).encode()
    force = urlencode({"heads": b"force".hex()}).encode()
    for arguments in (text, force):
        fields = {"Host": "localhost", **TYPE, "X-HgArgs-Post": str(len(arguments))}
        for query in (f"heads={b'force'.hex()}", ""):
            target = f"/{REPO}?cmd=unbundle&{query}"
            said = Said(await ask(served, "POST", target, arguments + sources_bundle, fields))
            assert "headers" in said.error
            assert heads(root / REPO) == before


# --- two programs ---------------------------------------------------------------------------------


async def test_who_takes_pushes_is_asked_for_nothing_else(serve: Serve, shelf: Shelf) -> None:
    """The program that takes pushes runs from the first push on, beside the one that reads."""
    root = shelf.own("linear")
    served = await serve_hg(serve, root, hg={"push": (REPO,)})
    reading, pushing = served.runtime.hg_backend, served.runtime.hg_pushing
    assert reading is not None
    assert pushing is not None
    node = head_of(root / REPO)
    branches = (await put(served, "branches", {"nodes": node})).string
    assert (reading.pid is not None, pushing.pid) == (True, None)
    fields = {"Host": "localhost", **TYPE, **headers(pushkey(node))}
    reply = await ask(served, "POST", f"/{REPO}?cmd=pushkey", b"", fields)
    assert (reply.status, reply.body) == (200, b"1\n")
    assert b"smuggled" in heads(root / REPO)
    assert pushing.pid not in {None, reading.pid}
    await pushing.close()
    assert (await put(served, "branches", {"nodes": node})).string == branches


async def test_who_reads_takes_no_push(serve: Serve, shelf: Shelf) -> None:
    """Asked itself, the program that reads refuses one, whatever the repository allows."""
    root = shelf.own("linear")
    served = await serve_hg(serve, root, hg={"push": (REPO,)})
    before, node = heads(root / REPO), head_of(root / REPO)
    with (root / REPO / ".hg/hgrc").open("a") as hgrc:
        hgrc.write("[web]\nallow-push = *\npush_ssl = false\n")
    reading = served.runtime.hg_backend
    assert reading is not None
    parts = urlsplit(await reading.url((root / REPO / ".hg").resolve()))
    behind = replace(served, url=f"http://{parts.netloc}")
    query = f"cmd=batch&{in_a_batch(node)}"
    reply = await ask(behind, "POST", f"{parts.path}?{query}", b"", dict(TYPE))
    assert reply.status != 200 or reply.headers["content-type"] == HG_ERROR, reply
    assert heads(root / REPO) == before


# --- what is hidden -------------------------------------------------------------------------------


def hidden(node: str, public: str) -> dict[str, tuple[str, Mapping[str, str]]]:
    """Questions that are passed on, about a hidden changeset."""
    caps = f"HG20,bundle2={BUNDLE2}"
    return {
        "a changegroup": ("changegroupsubset", {"bases": public, "heads": node}),
        "what is between": ("between", {"pairs": f"{node}-{NULL}"}),
        "branches": ("branches", {"nodes": node}),
        "a name in a batch": ("batch", {"cmds": f"hello ;lookup key={node}"}),
        "a bare changegroup": ("getbundle", {"heads": node, "common": NULL}),
        "a bundle": ("getbundle", {"heads": node, "common": NULL, "bundlecaps": caps, "cg": "1"}),
    }


async def about_hidden(
    served: Served, place: str, command: str, arguments: Mapping[str, str], *, extra: str
) -> tuple[bool, bytes]:
    """Whether it was refused, and else the whole answer."""
    fields = {"Host": urlsplit(served.url).netloc, **headers({})}
    query = urlencode({"cmd": command, **arguments}) + extra
    reply = await ask(served, "GET", f"/{place}?{query}", headers=fields)
    refused = reply.status != 200 or reply.headers["content-type"] == HG_ERROR
    return refused, b"" if refused else reply.body


async def test_who_asks_for_what_is_hidden(
    serve: Serve, shelf: Shelf, reference: Reference
) -> None:
    """Nothing of it is told, though the repository lets everybody ask its own server for it."""
    root = shelf.own("obsolete")
    with (root / REPO / ".hg/hgrc").open("a") as hgrc:
        hgrc.write("[experimental]\nserver.allow-hidden-access = *\n")
    served = await serve_hg(serve, root)
    stock = replace(served, url=f"http://{reference.address}")
    with Session(hg(V2), root / REPO) as session:
        said = session("log", "--hidden", "-r", "desc('first try')+0", "-T", "{node}\n")
    node, public = said.decode().split()
    there = reference.name(root / REPO)
    for name, (command, arguments) in hidden(node, public).items():
        asked = {
            (where, word): await about_hidden(at, place, command, arguments, extra=word)
            for where, at, place in (("here", served, REPO), ("stock", stock, there))
            for word in ("", "&access-hidden=1")
        }
        assert asked["here", "&access-hidden=1"] == asked["here", ""], name
        # Its own server does tell.
        assert asked["stock", "&access-hidden=1"] != asked["stock", ""], name
        assert asked["here", "&access-hidden=1"] != asked["stock", "&access-hidden=1"], name
