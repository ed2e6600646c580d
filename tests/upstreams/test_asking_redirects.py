# Law of this file: an upstream is followed to where the settings let it lead, and no further; a
# credential goes nowhere else.

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable

import pytest

from server.upstreams.asking import Down, moved
from server.upstreams.routes import Remote
from tests.upstreams.scripted import (
    HERE,
    SECRET,
    TAIL,
    V2,
    Question,
    Scripted,
    Upstream,
    answer,
    down,
    redirect,
)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """It, on a free port."""
    async with Upstream.open() as upstream:
        yield upstream


async def test_a_redirect_to_the_same_host_is_followed(upstream: Upstream) -> None:
    """Each form of it; questions then go to the new place."""
    new = f"/base/acme/gadget.git{TAIL}"
    for status in (301, 302, 303, 307, 308):
        upstream.scripted.asked.clear()
        upstream.says(redirect(new, status), answer(V2))
        spoken, _ = await upstream.asking.discover(upstream.scripted.remote(), SECRET)
        assert spoken.base == f"{upstream.scripted.url}/base/acme/gadget.git"
        assert [asked.path for asked in upstream.scripted.asked] == [HERE, new]


async def test_a_redirect_to_another_host_is_not_followed(upstream: Upstream) -> None:
    """Nothing is asked there; with `redirect_hosts` it is."""
    other = await Scripted.start()
    other.said.append(answer(V2))
    upstream.says(redirect(f"{other.url}/x.git{TAIL}"))
    error = await _refuses(upstream.discover())
    assert "redirect_hosts" in str(error)
    assert not other.asked
    host = other.url.removeprefix("http://")
    await upstream.discover(redirect_hosts=[host])
    assert len(other.asked) == 1
    await other.close()


async def _refuses(asked: Awaitable[object]) -> Down:
    """As :func:`_down`; the message names the other host."""
    with pytest.raises(Down) as caught:
        await asked
    assert SECRET.split()[1] not in str(caught.value)
    assert "http:" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("location", [HERE, ""], ids=["itself", "nowhere"])
async def test_a_redirect_in_a_circle_ends(upstream: Upstream, location: str) -> None:
    """After a few hops it is down."""
    upstream.says(redirect(location))
    await down(upstream, upstream.discover())
    assert len(upstream.scripted.asked) == 4


@pytest.mark.parametrize("question", [Upstream.refs, Upstream.may_have], ids=["refs", "may-have"])
async def test_a_redirect_of_a_command_is_not_followed(
    upstream: Upstream, question: Question
) -> None:
    """Only discovery may be told where the repository is."""
    upstream.says(redirect("/base/acme/gadget.git/git-upload-pack", 307))
    await down(upstream, question(upstream))
    assert len(upstream.scripted.asked) == 1


@pytest.mark.parametrize(
    "location",
    [
        "/login",
        f"/login?next=/x.git{TAIL[:-4]}",
        "https://forge.example.org/users/sign_in",
        f"https://evil.example.org/a.git{TAIL}",
        f"https://forge.example.org.evil.example/a.git{TAIL}",
        f"https://forge.example.org:8443/a.git{TAIL}",
        f"https://ann:secret@forge.example.org/a.git{TAIL}",
        f"https://forge.example.org@evil.example.org/a.git{TAIL}",
        f"//evil.example.org/a.git{TAIL}",
        f"http://forge.example.org/a.git{TAIL}",
        f"http://listed.example.org/a.git{TAIL}",
        f"ftp://forge.example.org/a.git{TAIL}",
        f"file:///etc/passwd{TAIL}",
    ],
)
def test_redirects_that_lead_astray(location: str) -> None:
    """To other hosts, ports and names, to pages, and to what is less safe."""
    remote = _example()
    with pytest.raises(Down) as caught:
        moved(remote, remote.url, location)
    assert "secret" not in str(caught.value)
    assert "://" not in str(caught.value)


@pytest.mark.parametrize(
    ("location", "base"),
    [
        (f"/b.git{TAIL}", "https://forge.example.org/b.git"),
        (f"https://FORGE.example.org/b{TAIL}", "https://FORGE.example.org/b"),
        (f"https://listed.example.org/b.git{TAIL}", "https://listed.example.org/b.git"),
    ],
)
def test_redirects_that_lead_somewhere(location: str, base: str) -> None:
    """To the same host, whatever its case, and to listed ones."""
    remote = _example()
    assert moved(remote, remote.url, location) == base


def _example() -> Remote:
    scripted = Scripted("https://forge.example.org", [])
    return scripted.remote(redirect_hosts=["listed.example.org"])
