# Law of this file: a server that indexes does so by itself, in another process, after a push too.

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from server.indexing import Indexing, changed
from tests.conftest import Git, Serve

CHANGED = "import sys; from pathlib import Path; from server.indexing import changed;"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for the next look at what has changed, or for what else a burst brings."""
    monkeypatch.setattr("server.indexing._LOOK_SECONDS", 0.01)
    monkeypatch.setattr("server.indexing._SETTLE_SECONDS", 0.0)


def runs(indexing: Indexing) -> asyncio.Queue[None]:
    """Gets an item whenever a run has ended and its bundles are known."""
    ended: asyncio.Queue[None] = asyncio.Queue()
    refresh = indexing.done

    async def told() -> None:
        await refresh()
        ended.put_nowait(None)

    indexing.done = told
    return ended


@pytest.mark.parametrize("through", ["itself", "another"])
async def test_what_is_pushed_is_indexed(
    serve: Serve, git: Git, tmp_path: Path, through: str
) -> None:
    """After a push, through whichever process, bundles are made, and clones come from them."""
    root = tmp_path / "root"
    await git("init", "-q", "--bare", root / "project.git")
    work = tmp_path / "work"
    await git("init", "-q", work)
    await git("commit", "-q", "--allow-empty", "-m", "first", cwd=work)
    served = await serve(
        root, index={"enabled": True, "interval": "1h"}, git={"push": ["project.git"]}
    )
    indexing = served.runtime.indexing
    assert indexing is not None
    ended = runs(indexing)
    await ended.get()
    asked = served
    if through == "another":
        asked = await serve(root, index={"enabled": False}, git={"push": ["project.git"]})
    await git("push", "-q", f"{asked.url}/project.git", "HEAD:refs/heads/main", cwd=work)
    await ended.get()
    assert {bundle.filter for bundle in await served.runtime.catalogs.bundles("project.git")} == {
        None,
        "blob:none",
    }
    await git(
        "-c", "fetch.uriProtocols=http", "clone", f"{served.url}/project.git", tmp_path / "clone"
    )
    assert served.executions() == 0
    assert served.outcomes() == {"redirect": 1}


async def test_another_process_says_that_there_is_something(serve: Serve, tmp_path: Path) -> None:
    """What a process without an indexer of its own says is heard; each time it is one more run."""
    root = tmp_path / "root"
    root.mkdir()
    served = await serve(root, index={"enabled": True, "interval": "1h"})
    assert served.runtime.indexing is not None
    ended = runs(served.runtime.indexing)
    await ended.get()
    for _ in range(2):
        code = f"{CHANGED} changed(Path(sys.argv[1]))"
        command = (sys.executable, "-c", code, str(served.settings.data))
        await asyncio.to_thread(subprocess.run, command, check=True)
        await ended.get()
    assert ended.empty()


async def test_nothing_new_is_no_run(serve: Serve, tmp_path: Path) -> None:
    """Without a change the next run comes after the interval, not before."""
    root = tmp_path / "root"
    root.mkdir()
    served = await serve(root, index={"enabled": False, "interval": 1})
    indexing = Indexing(served.settings, lambda: asyncio.sleep(0))
    changed(served.settings.data)
    seen = (served.settings.data / "changed").stat().st_mtime_ns
    loop = asyncio.get_running_loop()
    began = loop.time()
    await indexing._rest(seen)
    assert loop.time() - began >= 1


def test_a_disk_that_refuses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """That a change cannot be noted fails no push; the log says so."""
    caplog.set_level(logging.WARNING)
    changed(tmp_path / "nowhere")
    assert "it cannot be noted that there is something to index" in caplog.text
