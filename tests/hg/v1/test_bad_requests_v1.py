# Law of this file: whatever is asked badly is answered with one sentence that clients show, and
# what is forbidden stays so however it is asked.

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

from tests.conftest import Serve, Served
from tests.hg.asking import serve_hg
from tests.hg.repositories import work
from tests.hg.session import Session
from tests.hg.v1.conftest import REPO, Shelf
from tests.hg.v1.raw import HG_ERROR, NULL, Said, bundle_arguments, put
from tests.hg.v1.reference import Reference
from tests.hg.versions import V2, hg
from tests.server.asking import ask

UNKNOWN = "f" * 40

BAD_HEADERS: dict[str, dict[str, str]] = {
    "a number from 0": {"X-HgArg-0": "nodes="},
    "no number": {"X-HgArg-one": "nodes="},
    "a number that is too long": {"X-HgArg-10000000": "nodes="},
    "no percent-encoding": {"X-HgArg-1": "nodes=%zz"},
    "not all of it": {"X-HgArg-1": "nodes=%4"},
    "beyond ASCII": {"X-HgArg-1": "nodes=\N{LATIN SMALL LETTER U WITH DIAERESIS}"},
    "too many arguments": {"X-HgArg-1": "&".join(f"{n}=" for n in range(1001))},
    "no length": {"X-HgArgs-Post": "many"},
    "more than there is": {"X-HgArgs-Post": "100"},
    "more than is read": {"X-HgArgs-Post": "999999999"},
    "a bad number of X-HgProto": {"X-HgProto-x": "0.2"},
}

BAD_ARGUMENTS: dict[str, tuple[str, dict[str, str | bytes]]] = {
    "nothing known": ("known", {}),
    "half a node": ("known", {"nodes": UNKNOWN[1:]}),
    "no hex": ("known", {"nodes": "x" * 40}),
    "two blanks": ("known", {"nodes": f"{UNKNOWN}  {UNKNOWN}"}),
    "nothing to look up": ("lookup", {}),
    "no namespace": ("listkeys", {}),
    "no commands": ("batch", {}),
    "no space": ("batch", {"cmds": "heads"}),
    "a bad escape": ("batch", {"cmds": "lookup key=:x"}),
    "a bad node in a batch": ("batch", {"cmds": "heads ;known nodes=1"}),
    "an argument without value": ("batch", {"cmds": "lookup key"}),
    "a bundle of no node": ("getbundle", {"heads": "tip"}),
    "a bundle of an unknown head": ("getbundle", bundle_arguments(UNKNOWN)),
    "a bad common node": ("getbundle", {"common": "1 2"}),
    "no path": ("get_cached_bundle_inline", {}),
    "a path elsewhere": ("get_cached_bundle_inline", {"path": "../../etc/passwd"}),
    "an unknown command": ("nonsense", {}),
    "an unknown command of odd letters": ("h%00g", {}),
    "an unknown command in a batch": ("batch", {"cmds": "heads ;nonsense "}),
    "a push": ("pushkey", {"namespace": "bookmarks", "key": "b", "old": "", "new": NULL}),
    "a push in a batch": ("batch", {"cmds": f"heads ;pushkey namespace=x,key=y,old=,new={NULL}"}),
    "a push of no heads": ("unbundle", {}),
}


async def still_answers(served: Served, shelf: Shelf) -> None:
    """What was asked badly did no harm."""
    with Session(hg(V2), shelf.repository("linear")) as session:
        tip = session("log", "-r", "tip", "-T", "{node}\n")
    assert (await put(served, "heads")).string == tip


async def test_malformed_headers(serve: Serve, shelf: Shelf) -> None:
    """Arguments that cannot be read are told so."""
    served = await serve_hg(serve, shelf.root("linear"), data=shelf.data("linear"))
    for name, extra in BAD_HEADERS.items():
        said = await put(served, "known", {}, extra)
        assert said.error, name
    await still_answers(served, shelf)


async def test_arguments_that_mean_nothing(serve: Serve, shelf: Shelf) -> None:
    """Each command says in a sentence what is wrong with its arguments."""
    served = await serve_hg(serve, shelf.root("linear"), data=shelf.data("linear"))
    for name, (command, arguments) in BAD_ARGUMENTS.items():
        said = await put(served, command, arguments)
        assert said.error, name
    said = await put(served, "getbundle", bundle_arguments(UNKNOWN))
    assert said.error == f"unknown revision '{UNKNOWN}'"
    await still_answers(served, shelf)


async def test_a_batch_of_a_thousand(serve: Serve, shelf: Shelf, reference: Reference) -> None:
    """It is answered as stock `hg serve` does; ten times as many are refused."""
    served = await serve_hg(serve, shelf.root("branches"), data=shelf.data("branches"))
    kinds = ("heads ", f"known nodes={UNKNOWN}", "lookup key=stable", "lookup key=none")
    cmds = ";".join(kinds[number % len(kinds)] for number in range(1000))
    said = await put(served, "batch", {"cmds": cmds})
    name = reference.name(shelf.repository("branches"))
    expected = await asyncio.to_thread(reference.answers(), name, "batch", cmds=cmds)
    assert said.string == expected
    assert (await put(served, "batch", {"cmds": ";".join(["heads "] * 1001)})).string
    body = urlencode({"cmds": ";".join(["heads "] * 10_001)}).encode()
    assert "more than 10000 commands" in (await post(served, "batch", body)).error


async def post(served: Served, command: str, body: bytes, query: str = "") -> Said:
    """Put a question with its arguments in the body."""
    fields = {
        "Host": urlsplit(served.url).netloc,
        "X-HgArgs-Post": str(len(body)),
        "Content-Type": "application/mercurial-0.1",
    }
    return Said(await ask(served, "POST", f"/{REPO}?cmd={command}{query}", body, fields))


async def test_a_body_reaches_whoever_answers(
    serve: Serve, shelf: Shelf, reference: Reference
) -> None:
    """Arguments may be in a body, also of a command that hg answers."""
    served = await serve_hg(serve, shelf.root("linear"), data=shelf.data("linear"))
    with Session(hg(V2), shelf.repository("linear")) as session:
        nodes = session("log", "-r", "tip+4", "-T", "{node} ").decode().strip()
    stock, name = reference.answers(), reference.name(shelf.repository("linear"))
    for command, arguments in (
        ("branches", {"nodes": nodes}),
        ("known", {"nodes": nodes}),
        ("lookup", {"key": "tip"}),
        ("between", {"pairs": f"{nodes[:40]}-{NULL}"}),
    ):
        said = await post(served, command, urlencode(arguments).encode())
        assert said.string == await asyncio.to_thread(stock, name, command, **arguments)


# --- what is forbidden ---------------------------------------------------------------------------


async def pushed_to_other(serve: Serve, shelf: Shelf) -> tuple[Served, Path]:
    """A server that takes pushes for another repository, and the one that it takes none for."""
    root = shelf.own("linear")
    shelf.sources.copy("empty", root, "other")
    return await serve_hg(serve, root, hg={"push": ("other",)}), root / REPO


def heads(repository: Path) -> bytes:
    """Of a repository, with its bookmarks."""
    with Session(hg(V2), repository) as session:
        return session("log", "-r", "head()", "-T", "{node} {bookmarks}\n")


async def test_a_command_that_is_named_twice(
    serve: Serve, shelf: Shelf, sources_bundle: bytes
) -> None:
    """A push that hides behind another command reaches nobody."""
    served, repository = await pushed_to_other(serve, shelf)
    before = heads(repository)
    fields = {"Host": "localhost", "Content-Type": "application/mercurial-0.1"}
    for names in (
        ("branches", "unbundle"),
        ("unbundle", "branches"),
        ("debugwireargs", "unbundle"),
    ):
        query = urlencode([*(("cmd", name) for name in names), ("heads", b"force".hex())])
        query += "&nodes=&one=&two="
        for method in ("POST", "GET"):
            await ask(served, method, f"/{REPO}?{query}", sources_bundle, fields)
        assert heads(repository) == before, names


@pytest.fixture
def sources_bundle(shelf: Shelf, tmp_path: Path) -> bytes:
    """A bundle of a changeset that goes on where the repository in a row ends."""
    grown = shelf.own("linear") / REPO
    with work(hg(V2), grown) as made:
        made.update("tip")
        made.commit("not to come in", intruder="1\n")
        made.hg("bundle", "--type", "none-v1", "--base", "tip^", "-r", "tip", tmp_path / "new")
    return (tmp_path / "new").read_bytes()


async def test_that_bundle_comes_in_where_it_may(
    serve: Serve, shelf: Shelf, sources_bundle: bytes
) -> None:
    """Else the test above would show nothing."""
    root = shelf.own("linear")
    served = await serve_hg(serve, root, hg={"push": (REPO,)})
    before = heads(root / REPO)
    fields = {"Host": "localhost", "Content-Type": "application/mercurial-0.1"}
    query = urlencode({"cmd": "unbundle", "heads": b"force".hex()})
    reply = await ask(served, "POST", f"/{REPO}?{query}", sources_bundle, fields)
    assert (reply.status, reply.headers["content-type"] == HG_ERROR) == (200, False), reply
    assert heads(root / REPO) != before


async def test_pushes_in_batches_and_bodies(serve: Serve, shelf: Shelf) -> None:
    """A batch with a push in it, or with a command that nobody knows, is refused whole."""
    served, repository = await pushed_to_other(serve, shelf)
    before = heads(repository)
    node = before.split()[0].decode()
    key = {"namespace": "bookmarks", "key": "pushed", "old": "", "new": node}
    pushkey = "pushkey " + ",".join(f"{name}={value}" for name, value in key.items())
    for cmds in (pushkey, f"heads ;{pushkey}", "heads ;nonsense ", f"batch cmds=x;{pushkey}"):
        assert (await put(served, "batch", {"cmds": cmds})).error
        assert (await post(served, "batch", urlencode({"cmds": cmds}).encode())).error
        # What is in a body wins over what is in headers or in the query.
        query = f"&{urlencode({'cmds': 'heads '})}"
        assert (await post(served, "batch", urlencode({"cmds": cmds}).encode(), query)).error
    assert "hg.push" in (await put(served, "pushkey", dict(key))).error
    assert "headers" in (await post(served, "pushkey", urlencode(key).encode())).error
    assert "unknown command" in (await put(served, "nonsense")).error
    assert heads(repository) == before
