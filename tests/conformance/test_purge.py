# Law of this file: after a purge nobody gets what was purged, and everybody can clone.

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from click.testing import CliRunner

from cli.main import offramp
from repos.git.contained import holds
from repos.git.program import Git as Program
from tests.conformance.clones import accepting, declining, locations
from tests.conftest import Git, Serve, Served
from tests.server.asking import make_repository

SECRET = b"the secret that was pushed by mistake\n" * 4000


@pytest.fixture
async def root(tmp_path: Path, git: Git) -> Path:
    """A served repository whose branch ``main`` has a secret in its second commit."""
    root = tmp_path / "root"
    root.mkdir()
    make_repository(root / "p.git", {"a": b"public\n" * 5000})
    work = tmp_path / "work"
    await git("clone", "-q", root / "p.git", work)
    (work / "secret").write_bytes(SECRET)
    await git("add", ".", cwd=work)
    await git("commit", "-qm", "oops", cwd=work)
    await git("push", "-q", "origin", "main", cwd=work)
    return root


async def rewritten(root: Path, git: Git) -> None:
    """Take the secret out of the repository itself."""
    await git("-C", root / "p.git", "update-ref", "refs/heads/main", "main~1")
    await git("-C", root / "p.git", "gc", "-q", "--prune=now")


async def secret_id(root: Path, git: Git) -> str:
    """The object that is purged."""
    return (await git("-C", root / "p.git", "rev-parse", "main:secret")).stdout.strip()


async def purged(served: Served, *args: str, code: int = 0) -> dict[str, Any]:
    """What ``offramp purge`` says, in a process that shares nothing but the data directory."""
    settings = served.settings
    words = ("purge", "p.git", str(settings.root), "--data", str(settings.data), "--json", *args)
    result = await asyncio.to_thread(CliRunner().invoke, offramp, words)
    assert result.exit_code == code, result.output
    said: dict[str, Any] = json.loads(result.stdout)
    return said


async def cloned(served: Served, directory: Path, name: str, *args: str) -> dict[str, str]:
    """Clone, accepting locations; where the packs came from."""
    client = accepting(directory).traced()
    return locations(await client("clone", "-q", *args, f"{served.url}/p.git", directory / name))


@pytest.mark.parametrize("indexed", [False, True], ids=["computed", "bundle"])
async def test_a_secret_is_taken_back(
    root: Path, tmp_path: Path, git: Git, serve: Serve, indexed: bool
) -> None:
    """Its URL is gone, no earlier record is used, and the next clones are right and redirected."""
    served = await serve(root)
    if indexed:
        words = ["index", str(root), "--data", str(served.settings.data)]
        result = await asyncio.to_thread(CliRunner().invoke, offramp, words)
        assert result.exit_code == 0, result.output
        await served.runtime.catalogs.refresh_all()
    secret = await secret_id(root, git)
    before = await cloned(served, tmp_path, "before")
    await declining(tmp_path)("clone", "-q", "--depth=1", f"{served.url}/p.git", "shallow")
    assert before
    assert (tmp_path / "before/secret").read_bytes() == SECRET
    await rewritten(root, git)
    said = await purged(served, "--object", secret)
    assert said["removed"]
    assert not said["remains"]
    assert said["epoch"] == 1
    async with aiohttp.ClientSession() as session:
        for url in before.values():
            async with session.get(url) as answer:
                assert answer.status == 404
    executions = served.executions()
    after = await cloned(served, tmp_path, "after")
    assert served.executions() == executions + 1
    assert after
    assert not set(after.values()) & set(before.values())
    assert not (tmp_path / "after/secret").exists()
    assert not holds(Program(), tmp_path / "after/.git", secret)
    again = await cloned(served, tmp_path, "again")
    assert (again, served.executions()) == (after, executions + 1)


async def test_everything_is_computed_again(
    root: Path, tmp_path: Path, git: Git, serve: Serve
) -> None:
    """A repository that was purged and has not changed is cloned from the same content, put anew.

    The content has the digest that it had: what was known of where it can be read is forgotten.
    """
    served = await serve(root)
    before = await cloned(served, tmp_path, "before")
    executions = served.executions()
    said = await purged(served)
    assert said["remains"]
    assert said["records"] == 1
    after = await cloned(served, tmp_path, "after")
    assert served.executions() == executions + 1
    assert after.keys() == before.keys()
    for url in after.values():
        digest = urlsplit(url).path.rpartition("/")[2]
        assert await served.runtime.store.stat(digest) is not None
    assert (tmp_path / "after/secret").read_bytes() == SECRET


async def test_a_record_that_comes_back_is_not_used(
    root: Path, tmp_path: Path, serve: Serve
) -> None:
    """A run that was begun before a purge may end after it, and leave what it would have left."""
    served = await serve(root)
    data = served.settings.data
    before = await cloned(served, tmp_path, "before")
    for kind in ("records", "entities"):
        shutil.copytree(data / kind, tmp_path / kind)
    await purged(served)
    for kind in ("records", "entities"):
        shutil.copytree(tmp_path / kind, data / kind, dirs_exist_ok=True)
    executions = served.executions()
    after = await cloned(served, tmp_path, "after")
    assert after.keys() == before.keys()  # the same question has the same answer
    assert served.executions() == executions + 1


async def test_clients_of_v0(root: Path, tmp_path: Path, git: Git, serve: Serve) -> None:
    """Their answers are no packs: they go, and are computed again."""
    served = await serve(root)
    client = declining(tmp_path)
    words = ("-c", "protocol.version=0", "clone", "-q", f"{served.url}/p.git")
    for name in ("first", "second"):
        await client(*words, name)
    assert served.executions() == 1
    said = await purged(served, "--object", "e" * 40)
    assert [bool(found["unread"]) for found in said["removed"]] == [True]
    await client(*words, "third")
    assert served.executions() == 2


async def test_another_machine_follows(root: Path, tmp_path: Path, git: Git, serve: Serve) -> None:
    """It shares the store alone; once it has read the catalog it uses nothing of before."""
    store = {"type": "directory", "path": tmp_path / "store"}
    here = await serve(root, store=store, data=tmp_path / "here")
    there = await serve(root, store=store, data=tmp_path / "there")
    config = tmp_path / "offramp.toml"
    config.write_text(f'[store]\ntype = "directory"\npath = "{tmp_path / "store"}"\n')
    first = await cloned(there, tmp_path, "clone")
    assert first
    await cloned(here, tmp_path, "other-clone")
    said = await purged(here, "--config", str(config))
    assert said["removed"]
    await there.runtime.catalogs.refresh_all()
    for _ in range(2):
        await asyncio.gather(*there.runtime.catalogs._learning)
    assert there.runtime.cache.epochs.of("p.git") == 1
    assert list(there.runtime.cache.records.scan()) == []
    executions = there.executions()
    again = await cloned(there, tmp_path, "again")
    assert again.keys() == first.keys()
    assert there.executions() == executions + 1
