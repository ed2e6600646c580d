# Law of this file: whatever befalls an upstream of Mercurial, clients get its words or ours, half
# an answer is never recorded, and what is gone there is gone here.

from __future__ import annotations

import asyncio
from typing import Final

from tests.upstreams.conftest import Code
from tests.upstreams.faults import Answers, Breaks, Fault, Holds, Truncated
from tests.upstreams.hg_scene import GETBUNDLE, HgScene

ERROR: Final = "application/hg-error"
STRING: Final = {"Content-Type": "application/mercurial-0.1"}
STREAM: Final = {"Content-Type": "application/mercurial-0.2"}
FAULTS: Final[tuple[tuple[Fault, str], ...]] = (
    (Breaks(), "cannot be asked"),
    (Answers.login_page(), "does not answer as Mercurial does (Content-Type 'text/html')"),
    (Answers(500, {"Content-Type": "text/plain"}, b"oops"), "answers with status 500"),
    (Answers(301, {"Location": "http://127.0.0.1:1/"}), "redirects"),
    (Truncated(3, broken=True), "cannot be asked"),
    (Answers(200, {"Content-Type": ERROR}, b"locked\n"), "says 'locked'"),
    (Answers(200, STRING, b"x;y"), "of a batch"),
    (Answers(200, STREAM), "in place of a string"),
)


async def sentence(at: HgScene, query: str) -> str:
    """What the server says to a question that it cannot answer."""
    reply = await at.ask(query)
    assert (reply.status, reply.headers["content-type"]) == (200, ERROR), reply
    return reply.body.decode()


async def test_no_answer_is_told_in_words(code: Code) -> None:
    """An upstream that gives no answer of the protocol is a sentence that clients show."""
    at = await code(place={"timeout": "20s"})
    for fault, words in FAULTS:
        at.later(10)
        at.proxy.broken["batch"] = fault
        assert words in await sentence(at, "cmd=heads")
        at.proxy.broken["lookup"] = fault
        assert not (await at.ask("cmd=lookup&key=tip")).body.startswith(b"<")
    at.later(100)
    at.proxy.broken["*"] = Breaks()
    assert "code/widget: the upstream cannot be asked" in await at.fails("id", at.url)


async def test_down_and_up_again(code: Code) -> None:
    """A client is told that the upstream is down; when it is back, all is as before."""
    at = await code()
    await at.clone("one")
    at.proxy.broken["*"] = Breaks()
    assert "the upstream cannot be asked" in await at.fails("clone", at.url, at.directory / "two")
    at.proxy.broken.clear()
    at.later(10)
    await at.clone("three")
    assert at.proxy.commands["getbundle"] == 1


async def test_too_many_requests_are_not_repeated(code: Code) -> None:
    """429: the upstream hears nothing of us for as long as it wants, and is asked again then."""
    at = await code()
    at.proxy.broken["*"] = Answers.too_many(40)
    for seconds, asked in ((0, 1), (39, 1), (2, 2)):
        at.later(seconds)
        assert "answers with status 429" in await sentence(at, "cmd=heads")
        assert len(at.proxy.exchanges) == asked


async def test_silence_is_told(code: Code) -> None:
    """An upstream that hangs is given up after `timeout`."""
    at = await code(place={"timeout": "50ms"})
    held = Holds()
    at.proxy.broken["batch"] = held
    assert "did not answer in time" in await sentence(at, "cmd=heads")
    held.release()


async def test_public_content_while_it_is_down(code: Code) -> None:
    """With `public` and `stale`, clones go on from the record while the upstream is down."""
    at = await code(place={"public": True, "stale": "1h"})
    await at.clone("one")
    at.proxy.broken["*"] = Breaks()
    await at.hg("clone", "--quiet", at.url, at.directory / "two")
    assert await at.state("two") == await at.state("one")


async def test_half_a_bundle_is_not_recorded(code: Code) -> None:
    """A bundle that is cut short fails the clone, and the next one is whole."""
    at = await code()
    for fault in (Truncated(100), Answers(500), Answers.login_page()):
        at.proxy.broken["getbundle"] = fault
        reply = await at.ask(GETBUNDLE)
        assert not reply.whole or reply.headers["content-type"] == ERROR, fault
    at.proxy.broken["getbundle"] = Truncated(100, broken=True)
    await at.fails("clone", at.url, at.directory / "half")
    at.proxy.broken.clear()
    at.proxy.forget()
    await at.clone("whole")
    assert at.proxy.commands["getbundle"] == 1


async def test_stripped_changeset_is_gone(code: Code) -> None:
    """What was stripped at the upstream is in no later answer, though a record has it."""
    at = await code()
    before = await at.clone("one")
    await at.upstream_hg("--config", "extensions.strip=", "strip", "--no-backup", "feature")
    after = await at.clone("two")
    assert len(after.changesets) == len(before.changesets) - 1


async def test_secret_changeset_is_gone(code: Code) -> None:
    """What became secret at the upstream is in no later answer."""
    at = await code()
    before = await at.clone("one")
    await at.upstream_hg("phase", "--secret", "--force", "--rev", "feature")
    after = await at.clone("two")
    assert len(after.changesets) == len(before.changesets) - 1


async def test_moved_phase_and_bookmark_are_seen(code: Code) -> None:
    """A phase and a bookmark that moved are in the next clone, without a new changeset."""
    at = await code()
    await at.clone("one")
    await at.upstream_hg("phase", "--public", "--rev", "feature")
    await at.upstream_hg("bookmark", "--inactive", "--rev", "0", "first")
    state = await at.clone("two")
    assert not any(" draft " in line for line in state.changesets)
    assert any("[first]" in line for line in state.changesets)


async def test_change_during_a_run_is_not_recorded(code: Code) -> None:
    """What was streamed while the repository changed reaches its client, and nobody else."""
    at = await code()
    held = Holds(after=0)
    at.proxy.broken["getbundle"] = held
    asking = asyncio.create_task(at.ask(GETBUNDLE))
    await held.held()
    await at.upstream_hg("bookmark", "--inactive", "--rev", "0", "first")
    held.release()
    assert (await asking).status == 200
    at.proxy.broken.clear()
    await at.upstream_hg("bookmark", "--delete", "first")
    await at.ask(GETBUNDLE)
    assert at.served.outcomes("getbundle") == {"miss": 2}


async def test_clients_share_one_run(code: Code) -> None:
    """Who asks the same while it is streamed follows; the upstream streams once."""
    at = await code()
    held = Holds(after=0)
    at.proxy.broken["getbundle"] = held
    first = asyncio.create_task(at.ask(GETBUNDLE))
    await held.held()
    others = [asyncio.create_task(at.ask(GETBUNDLE)) for _ in range(3)]
    held.release()
    replies = await asyncio.gather(first, *others)
    assert len({reply.body for reply in replies}) == 1
    assert {reply.status for reply in replies} == {200}
    assert at.proxy.commands["getbundle"] == 1


async def test_malformed_requests(code: Code) -> None:
    """Arguments that are none are refused before the upstream is asked."""
    at = await code()
    assert "is no node" in await sentence(at, "cmd=getbundle&heads=xyz")
    assert "is no command" in await sentence(at, "cmd=batch&cmds=heads")
    reply = await at.ask("cmd=heads", {"X-HgArg-0": "a=b"})
    assert reply.headers["content-type"] == ERROR
    assert not at.proxy.exchanges


async def test_unknown_heads(code: Code) -> None:
    """A bundle of changesets that do not exist is an error in words, and not recorded."""
    at = await code()
    known = at.upstream.node("0")
    for _ in range(2):
        await sentence(at, f"{GETBUNDLE}&heads={'a' * 40}&common={known}")
    assert at.served.outcomes("getbundle") == {"error": 2}


async def test_unknown_command_is_the_upstreams_to_answer(code: Code) -> None:
    """A command of an extension goes through in the caller's name."""
    at = await code()
    await at.ask("cmd=getlfile&sha=x", {"X-HgArg-1": "more=1"})
    assert [each.path for each in at.proxy.exchanges] == ["/?cmd=getlfile"]
    assert at.proxy.exchanges[0].headers["X-HgArg-1"] == "more=1&sha=x"
    await sentence(at, "cmd=a%20b")
    assert len(at.proxy.exchanges) == 1
