# Law of this file: nothing that lies in the data directory is served as a repository of this
# machine, wherever that directory is and whatever leads into it.

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from indexer.report import Silent
from repos.git.program import Git
from server.checks_machine import check_machine
from server.indexing import index_all
from server.settings import load
from tests.conformance.repositories import make
from tests.conftest import Serve
from tests.server.asking import ask
from tests.upstreams.clients import anonymous, clone
from tests.upstreams.faults import Proxy
from tests.upstreams.forge import Forge
from tests.upstreams.private import LS_REFS, USERS, mirrored, shown, upload_pack
from tests.upstreams.scene import NAME, PREFIX, Scene

DATA = "offramp-data"


@pytest.fixture
async def at(serve: Serve, proxy: Proxy, forge: Forge, tmp_path: Path) -> Scene:
    """A private upstream, mirrored into a data directory that lies below a public ROOT."""
    root = tmp_path / "root"
    make(root)
    repository = forge.make(NAME, users=USERS)
    upstreams = [{"prefix": PREFIX, "url": proxy.url}]
    index = {"enabled": False}
    served = await serve(root, data=root / DATA, upstreams=upstreams, index=index)
    (tmp_path / "clients").mkdir()
    at = Scene(served, proxy, repository, tmp_path / "clients")
    await mirrored(at)
    return at


@pytest.mark.nginx
async def test_a_mirror_is_no_repository_below_root(at: Scene, tmp_path: Path) -> None:
    """Not by its path, nor by another spelling, nor through a link; also not one of its bundles."""
    root = tmp_path / "root"
    (root / "linked.git").symlink_to(at.mirror)
    (root / "linked").symlink_to(at.mirror.parent)
    (root / "file").mkdir()
    (root / "file" / ".git").write_text(f"gitdir: {at.mirror}\n")
    inside = f"{DATA}/mirrors/{at.mirror.name}"
    paths = (inside, inside.removesuffix(".git"), f"./{inside}", "linked.git", "file")
    for path in (*paths, f"linked/{at.mirror.name}", f"x/../{inside}", f"{inside}/.git"):
        found = f"/{path}/info/refs?service=git-upload-pack"
        reply = await ask(at.served, "GET", found, headers={"Git-Protocol": "version=2"})
        assert reply.status in {400, 404}, (path, reply)
        posted = await upload_pack(at, LS_REFS, {}, f"/{path}")
        assert posted.status in {400, 404}, (path, posted)
        assert (await ask(at.served, "GET", f"/-/bundles/{path}")).status in {400, 404}
    done = await clone(anonymous(at.directory), f"{at.served.url}/{inside}", at.directory / "x")
    assert not done.well
    assert "not found" in done.finished.stderr
    assert (await upload_pack(at, LS_REFS, {}, "/project.git")).status == 200
    assert (await upload_pack(at, LS_REFS, shown("ann"))).status == 200


@pytest.mark.nginx
async def test_nothing_in_the_data_directory_is_listed(at: Scene) -> None:
    """Neither by the server, nor by the indexer, nor by the checks before it starts."""
    (at.served.settings.data.parent / "linked").symlink_to(at.mirror.parent)
    listed = [repository.name for repository in at.served.runtime.repositories.all()]
    assert listed == ["project.git"]
    indexed = await index_all(at.served.settings, Silent(), gc=False)
    names = {report.repository for report in indexed.reports}
    assert names == {"project.git", at.remote.name}
    said = " ".join(f"{verdict}" for verdict in check_machine(at.served.settings, Git()))
    assert "mirrors/" not in said


def test_root_in_the_data_directory_is_refused(tmp_path: Path) -> None:
    """Whether it is that directory, lies in it, or leads there; beside it all is well."""
    data = tmp_path / "data"
    (data / "mirrors").mkdir(parents=True)
    (tmp_path / "leads-there").symlink_to(data / "mirrors")
    for root in (data, data / "mirrors", data / "not-there", tmp_path / "leads-there"):
        with pytest.raises(ValidationError, match="lies in the data directory"):
            load(None, root=root, data=data)
    assert load(None, root=tmp_path, data=data).local_root == tmp_path
    assert load(None, root=tmp_path / "database", data=data)
