# Law of this file: an answer to which git adds tags is given, and remembered, only if the tags that
# it read are those of the caller's view from before it began until it ended.

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from repos.git.repository import GitRepository
from server.git import fetch, legacy
from tests.conformance.repositories import run_git
from tests.conftest import Serve
from tests.upstreams.faults import Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.packed import V0, V2, fetch_v0, fetch_v2, objects_in
from tests.upstreams.private import upload_pack
from tests.upstreams.scene import NAME, Scene, scene

pytestmark = pytest.mark.nginx

LOCATED: Final = "packfile-uris http,https"
RUNS: Final = {0: (legacy, "fetch_v0"), 2: (fetch, "fetch_v2")}


@pytest.fixture
async def at(serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path) -> Scene:
    """A repository of an upstream that says nothing of being public, mirrored."""
    at = await scene(serve, proxy, forge.make(NAME), tmp_path, public=False)
    await at.mirrored()
    return at


def during(
    monkeypatch: pytest.MonkeyPatch,
    version: int,
    before: Callable[[], object],
    after: Callable[[], object] = lambda: None,
) -> None:
    """Let something happen just before and just after git reads the mirror, the next time."""
    module, name = RUNS[version]
    original: Callable[..., Any] = getattr(module, name)

    def run(repository: GitRepository, *args: Any, **words: Any) -> Any:
        monkeypatch.setattr(module, name, original)
        before()
        try:
            return original(repository, *args, **words)
        finally:
            after()

    monkeypatch.setattr(module, name, run)


def secret_tag(at: Scene) -> str:
    """Tag what everybody sees, in the mirror only, with words that not everybody may read."""
    run_git(at.mirror, "tag", "-a", "-m", "words that nobody is to know", "secret", "main")
    return run_git(at.mirror, "rev-parse", "secret")


def no_secret_tag(at: Scene) -> None:
    """Take it back."""
    run_git(at.mirror, "tag", "-d", "secret")


def asked(at: Scene, version: int, *, located: bool = False) -> tuple[bytes, dict[str, str]]:
    """A clone of main, with tags that point to what it brings."""
    main = at.repository.oid("main")
    if version == 0:
        return fetch_v0(main, words="ofs-delta include-tag"), V0
    words = (LOCATED,) if located else ()
    return fetch_v2("include-tag", *words, f"want {main}"), V2


@pytest.mark.parametrize("stays", [True, False], ids=["stays", "flickers"])
@pytest.mark.parametrize("version", [0, 2])
async def test_a_tag_that_comes_under_a_run_is_not_remembered(
    *, at: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: int, stays: bool
) -> None:
    """Whether it is still there when the run has ended, or not; the next answer is without it."""
    tags: list[str] = []
    after = (lambda: None) if stays else (lambda: no_secret_tag(at))
    during(monkeypatch, version, lambda: tags.append(secret_tag(at)), after)
    await upload_pack(at, *asked(at, version))
    if stays:
        no_secret_tag(at)
    assert tags
    body, headers = asked(at, version)
    found = objects_in((await upload_pack(at, body, headers)).body, tmp_path / "got")
    assert at.repository.oid("main") in found
    assert at.repository.oid("v2.0") in found
    assert tags[0] not in found


@pytest.mark.parametrize("stays", [True, False], ids=["stays", "flickers"])
@pytest.mark.parametrize(("version", "located"), [(0, False), (2, False), (2, True)])
async def test_a_tag_that_comes_under_a_run_is_told_to_nobody(
    *,
    at: Scene,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    version: int,
    located: bool,
    stays: bool,
) -> None:
    """Nothing of such a run is sent, not even while it runs; the upstream answers this client."""
    tags: list[str] = []
    after = (lambda: None) if stays else (lambda: no_secret_tag(at))
    during(monkeypatch, version, lambda: tags.append(secret_tag(at)), after)
    reply = await upload_pack(at, *asked(at, version, located=located))
    assert reply.whole
    found = objects_in(reply.body, tmp_path / "got")
    assert at.repository.oid("v2.0") in found
    assert tags[0] not in found
    assert len(at.proxy.seen("fetch")) == 1


async def test_tags_that_stay_cost_the_upstream_nothing(at: Scene) -> None:
    """As long as nothing changes, answers with tags are the mirror's, and recorded."""
    for version in (0, 2):
        for _ in range(2):
            body, headers = asked(at, version)
            assert b"PACK" in (await upload_pack(at, body, headers)).body
    assert not at.proxy.seen("fetch")
    assert at.served.executions() == 2


async def test_what_no_tag_can_change_is_given_whatever_happens(
    at: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fetch that takes no tags along does not depend on the mirror's refs."""
    during(monkeypatch, 2, lambda: secret_tag(at))
    reply = await upload_pack(at, fetch_v2(f"want {at.repository.oid('main')}"), V2)
    assert b"PACK" in reply.body
    assert not at.proxy.seen("fetch")
