# Law of this file: each question to an upstream is a figure, by how it ended; whose it was, and
# about which repository, is none.

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Serve, Served
from tests.upstreams.clients import anonymous, basic, by_header, checkout, clone, push
from tests.upstreams.faults import Answers, Breaks, Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.scene import NAME, Scene, scene

pytestmark = pytest.mark.nginx


def asked(served: Served) -> dict[tuple[str, str], float]:
    """How often the one upstream was asked what, and how that ended."""
    found = {}
    for labels, value in served._samples("offramp_upstream_requests_total").items():
        said = dict(labels)
        assert said.pop("upstream") == "up"
        found[said["kind"], said["outcome"]] = value
    return found


@pytest.fixture
async def at(serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path) -> Scene:
    """A public repository, not mirrored yet."""
    return await scene(serve, proxy, forge.make(NAME), tmp_path)


async def test_each_question_is_counted(at: Scene) -> None:
    """The first clone, the second, and a commit that only an older ref named."""
    await at.same(name="first")
    await at.upstreams.mirrors.made(at.remote)
    found = asked(at.served)
    refs = found.pop(("refs", "yes"))
    expected = {("discovery", "yes"): 1, ("passthrough", "yes"): 1, ("mirror", "yes"): 1}
    assert found == expected
    assert refs == len(at.proxy.seen("ls-refs"))
    oid = at.repository.oid("refs/heads/main~1")
    assert (await checkout(at.client, at.url, oid, at.directory / "old")).well
    assert asked(at.served)["probe", "yes"] == 1
    nothing = await checkout(at.client, at.url, "1" * 40, at.directory / "nothing")
    assert not nothing.well
    found = asked(at.served)
    assert found["probe", "no"] == 1
    count = sum(at.served._samples("offramp_upstream_seconds_count").values())
    assert count == sum(found.values())


async def test_an_upstream_that_is_down(at: Scene) -> None:
    """No answer, and one that is not git's, are neither yes nor no."""
    await at.mirrored()
    at.proxy.fault("ls-refs", Breaks(), times=1)
    assert not (await clone(at.client, at.url, at.directory / "clone")).well
    assert asked(at.served)["refs", "down"] == 1
    at.tell_time()(60)
    at.proxy.fault("fetch", Answers(502), times=1)
    oid = at.repository.commit("refs/heads/main", 20)
    assert (await checkout(at.client, at.url, oid, at.directory / "checkout")).well
    found = asked(at.served)
    assert found["mirror", "down"] == 1
    assert found["passthrough", "yes"] == 1


async def test_what_is_passed_through_counts_by_its_status(at: Scene) -> None:
    """A push that the upstream refuses is a no; an error of its own is none."""
    local = at.directory / "local"
    assert (await clone(at.client, at.there, local)).well
    refused = await push(at.client, local, at.url, "main:refs/heads/new")
    assert refused.status != 0
    assert asked(at.served)["passthrough", "no"] == 1
    at.proxy.fault("fetch", Answers(502), times=1)
    assert not (await clone(at.client, at.url, at.directory / "clone")).well
    found = asked(at.served)
    assert found["passthrough", "down"] == 1
    assert ("passthrough", "yes") not in found


async def test_what_is_private_is_no_label(
    serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path
) -> None:
    """A refusal is a no; neither repository nor user is in the figures of upstreams."""
    repository = forge.make(NAME, users={"ann": "hers"})
    at = await scene(serve, proxy, repository, tmp_path, public=False)
    assert not (await clone(at.client, at.url, at.directory / "no")).well
    assert asked(at.served) == {("discovery", "no"): 1}
    ann = by_header(anonymous(at.directory), at.served.url, basic("ann", "hers"))
    assert (await clone(ann, at.url, at.directory / "yes")).well
    await at.upstreams.mirrors.made(at.remote)
    text = at.served.runtime.metrics.render()[0].decode()
    lines = [line for line in text.splitlines() if line.startswith("offramp_upstream")]
    assert lines
    assert not [line for line in lines if "widget" in line or "ann" in line]
