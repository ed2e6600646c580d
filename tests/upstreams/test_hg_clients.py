# Law of this file: what stock hg does through Offramp comes to what it does with the upstream, and
# the upstream is not asked twice for what it said once.

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.hg.session import Session
from tests.hg.state import state_of
from tests.hg.versions import V1, V2, hg, run
from tests.repos.hg_webdir import webdir
from tests.upstreams.conftest import Code
from tests.upstreams.hg_scene import MODERN, PLACE, hg_scene, make_widget, upstream_of


async def test_clone_is_that_of_the_upstream(code: Code) -> None:
    """A clone has the changesets, branches, bookmarks and phases that the upstream shows."""
    at = await code()
    state = await at.clone("one")
    assert len(state.changesets) == 6
    assert any(" draft " in line for line in state.changesets)
    assert any("[feature]" in line for line in state.changesets)
    assert at.served.outcomes("getbundle") == {"miss": 1}


async def test_second_clone_is_not_streamed_again(code: Code) -> None:
    """Who clones after somebody else is answered from the record."""
    at = await code()
    await at.clone("one")
    await at.clone("two")
    assert at.proxy.commands["getbundle"] == 1
    assert at.served.outcomes("getbundle") == {"miss": 1, "hit": 1}


async def test_pull_incoming_and_id(code: Code) -> None:
    """What is new at the upstream is seen at once, and comes by a pull."""
    at = await code()
    await at.clone("one")
    node = await at.change(d="new\n")
    assert (await at.hg("id", "--id", "-r", "default", at.url)).strip() == node[:12]
    found = await at.hg("-R", at.directory / "one", "incoming", "-T", "{node}\n")
    assert node in found
    await at.hg("-R", at.directory / "one", "pull", "--quiet")
    await at.hg("clone", "--quiet", at.there, at.directory / "again")
    assert (await at.state("one")).unnamed == (await at.state("again")).unnamed


async def test_idle_poll_asks_nothing_in_the_window(code: Code) -> None:
    """A poll that finds nothing new, within `freshness`, asks the upstream nothing."""
    at = await code(place={"freshness": "60s"})
    await at.clone("one")
    at.proxy.forget()
    done = await at.fails("-R", at.directory / "one", "incoming")
    assert "no changes found" in done
    assert not at.proxy.exchanges


async def test_idle_poll_is_one_small_question(code: Code) -> None:
    """With `freshness = "always"`, a poll that finds nothing new asks for what can be new alone."""
    at = await code()
    await at.clone("one")
    at.proxy.forget()
    await at.fails("-R", at.directory / "one", "incoming")
    assert set(at.proxy.commands) == {"batch"}


async def test_push_then_pull(code: Code) -> None:
    """A push goes through, and whoever pulls next has it, whatever was remembered."""
    at = await code(place={"freshness": "60s"}, hg={"push": ["code/*"]})
    await at.clone("one")
    await at.clone("two")
    one = at.directory / "one"
    (one / "e").write_text("pushed\n")
    await at.hg("-R", one, "commit", "--addremove", "--quiet", "--message", "mine")
    await at.hg("-R", one, "bookmark", "--inactive", "mine")
    await at.hg("-R", one, "push", "--quiet", "--bookmark", "mine")
    assert "mine" in await at.upstream_hg("bookmarks")
    await at.hg("-R", at.directory / "two", "pull", "--quiet")
    found = await at.state("two")
    assert found.changesets == (await at.state("one")).changesets


async def test_push_is_refused_where_it_is_not_enabled(code: Code) -> None:
    """Without `hg.push` nothing is pushed, by no command, and the words say what to do."""
    at = await code()
    await at.clone("one")
    one = at.directory / "one"
    (one / "e").write_text("to be refused\n")
    await at.hg("-R", one, "commit", "--addremove", "--quiet", "--message", "mine")
    await at.fails("-R", one, "push")
    for query in ("cmd=unbundle&heads=", "cmd=pushkey", "cmd=batch&cmds=pushkey%20key%3Dx"):
        reply = await at.ask(query, method="POST")
        assert b"hg.push" in reply.body, query
    assert not {"unbundle", "pushkey"} & set(at.proxy.commands)


@pytest.mark.parametrize("version", [V2, V1[0]])
async def test_older_clients_clone(code: Code, version: str) -> None:
    """Clients of 5.9 and 6.9 clone, whether or not they ask for protocol version 2."""
    at = await code()
    upgrade = ("--config", "experimental.httppeer.advertise-v2=true") if version == V2 else ()
    to = at.directory / "old"
    done = await asyncio.to_thread(
        run, hg(version), at.directory, *upgrade, "clone", "--quiet", at.url, to
    )
    assert done.returncode == 0, done
    with Session(hg(version), at.directory) as session:
        found = await asyncio.to_thread(state_of, session, to)
    await at.hg("clone", "--quiet", at.there, at.directory / "expected")
    assert found.changesets == (await at.state("expected")).changesets


async def test_upstream_of_5_9(serve: Serve, hg_client: Session, tmp_path: Path) -> None:
    """An upstream of 5.9 is cloned from, twice, and asked for the content once."""
    make_widget(V2, tmp_path / "widget")
    async with upstream_of(V2, tmp_path / "widget") as upstream:
        at = await hg_scene(serve, upstream, hg_client, tmp_path / "clients")
        await at.clone("one")
        await at.clone("two")
        assert at.proxy.commands["getbundle"] == 1


async def test_clone_of_one_revision(code: Code) -> None:
    """`-r` is looked up at the upstream, and only what it needs comes."""
    at = await code()
    state = await at.clone("part", "--rev", "1")
    assert len(state.changesets) == 2


async def test_getbundle_is_redirected(code: Code) -> None:
    """With `hg.redirect_getbundle`, who clones after somebody else is sent to the store."""
    at = await code(place={"public": True}, hg={"redirect_getbundle": "on"})
    await at.clone("one")
    at.proxy.forget()
    await at.clone("two")
    assert at.served.outcomes("getbundle").get("redirect") == 1
    assert not at.proxy.commands["getbundle"]


async def test_stream_is_passed_through(code: Code) -> None:
    """A store that is streamed holds what nobody is told of: it is never recorded."""
    at = await code()
    await at.clone("one", "--stream")
    assert at.served.outcomes("getbundle") == {"passthrough": 1}
    await at.clone("two", "--stream")
    assert at.proxy.commands["getbundle"] == 2


async def test_unknown_repository_below_the_upstream(code: Code) -> None:
    """Only the path of the settings is the upstream's; others get the answer of nothing."""
    at = await code()
    assert "404" in await at.fails("id", f"{at.served.url}{PLACE}/more")
    assert not at.proxy.exchanges


async def test_below_a_prefix(
    serve: Serve, widget: Path, hg_client: Session, tmp_path: Path
) -> None:
    """Below a prefix, each name is that of the upstream's repository, whatever letters it has."""
    with webdir(MODERN, {"team/a b+c": widget}, tmp_path) as upstream:
        place = {"vcs": "hg", "prefix": "/up/", "url": f"http://{upstream.address}"}
        served = await serve(None, upstreams=[place], index={"enabled": False})
        url = f"{served.url}/up/team/a%20b%2Bc"
        await asyncio.to_thread(hg_client, "clone", "--quiet", url, tmp_path / "one")
        state = await asyncio.to_thread(state_of, hg_client, tmp_path / "one")
        assert len(state.changesets) == 6
        done = await asyncio.to_thread(run, hg(MODERN), tmp_path, "id", f"{served.url}/up/none")
        assert b"404" in done.stderr
