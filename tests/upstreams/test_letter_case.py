# Law of this file: at a forge that takes names in any case, made-up spellings of one repository
# make neither mirrors nor figures.

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.server.asking import ask
from tests.upstreams.clients import clone
from tests.upstreams.faults import Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.scene import NAME, PREFIX, scene

pytestmark = pytest.mark.nginx

SPELLINGS = ("acme/widget.git", "ACME/widget", "Acme/Widget.git", "acmE/WIDGET")


async def test_one_repository_by_many_names(
    serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path
) -> None:
    """All get what is there; there is one mirror, one label and one row for each figure."""
    at = await scene(serve, proxy, forge.make(NAME), tmp_path, ignore_case=True)
    await at.mirrored()
    for number, spelling in enumerate(SPELLINGS):
        url = f"{at.served.url}{PREFIX}{spelling}"
        cloned = await clone(at.client, url, at.directory / f"clone-{number}")
        assert cloned.well
        await at.check_same(f"clone-{number}")
    text = (await ask(at.served, "GET", "/-/metrics")).body.decode()
    assert 'repo="up/acme/widget"' in text
    assert text.lower().count('repo="up/acme/widget"') == text.count('repo="up/acme/widget"')
    assert len(at.mirrors_on_disk()) == 1


async def test_made_up_names_are_bounded(
    serve: Serve,
    proxy: Proxy,
    forge: Forge,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where each spelling is another repository for all we know, the figures have a bound."""
    for name in ("a", "b", "c", "d"):
        forge.make(f"acme/{name}.git")
    at = await scene(serve, proxy, forge.make(NAME), tmp_path)
    monkeypatch.setattr(at.served.runtime.metrics, "_most", 2)
    for name in ("a", "b", "c", "d"):
        target = f"{PREFIX}acme/{name}.git/info/refs?service=git-upload-pack"
        reply = await ask(at.served, "GET", target, headers={"Git-Protocol": "version=2"})
        assert reply.status == 200
    named = {dict(labels)["repo"] for labels in at.served._samples("offramp_responses_total")}
    assert named == {"up/acme/a", "up/acme/b", "-/other"}
