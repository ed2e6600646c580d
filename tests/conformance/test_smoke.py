# Law of this file: the whole way through, in its smallest form.

from __future__ import annotations

from pathlib import Path

from tests.conftest import Git, Serve


async def test_a_clone_takes_its_pack_from_the_store(
    serve: Serve, git: Git, tmp_path: Path
) -> None:
    """A stock clone that accepts locations gets the whole repository through one."""
    root = tmp_path / "root"
    await git("init", "-q", root / "project")
    await git("commit", "-q", "--allow-empty", "-m", "first", cwd=root / "project")
    served = await serve(root)
    clone = tmp_path / "clone"
    await git("-c", "fetch.uriProtocols=http", "clone", f"{served.url}/project", clone)
    await git("fsck", "--strict", cwd=clone)
    assert served.content()["redirected"] > 0
    assert served.executions() == 1
