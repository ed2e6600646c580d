# Law of this file: what a stock caching nginx goes on to answer says nothing of what is behind it;
# a target behind it is named only while that lives.

from __future__ import annotations

import hashlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from redirects.health import Rules
from redirects.targets import HttpTarget, Target
from redirects.window import Window
from server.checks_store import check_targets
from server.health import Health
from server.placing import Stores
from server.probes import PERIOD, probe_of
from server.readback import NotReadable, ask_behind, probe_anew, read_back_anew
from server.settings import load
from server.verdict import Level
from stores.directory import DirectoryStore
from stores.entity import Entity
from tests.edges import DOCS
from tests.nginx import kill_nginx, running_nginx, start_nginx

pytestmark = pytest.mark.nginx

# Nothing is probed in a test but by its own hand.
SELDOM = Rules(3600.0, 30.0)

# As a pull CDN works: content is what its path says, and stays for as long as the origin says.
_EDGE = """\
    proxy_cache_path {here}/cache keys_zone=held:1m inactive=7d use_temp_path=off;
    server {{
        listen {address};
        location / {{
            proxy_pass http://{origin};
            proxy_cache held;
            proxy_cache_key $uri;
            proxy_cache_lock on;
        }}
    }}
"""


def documented(root: Path) -> str:
    """What a static server before a directory is told, as the documentation has it."""
    pattern = r"^    location /entities/ \{\n(?:.*\n)*?    \}\n"
    found = next(f for f in re.findall(pattern, DOCS.read_text(), re.MULTILINE) if "max-age" in f)
    assert "max-age=31536000, immutable" in found
    return re.sub(r"root [^;]*;", f"root {root};", found)


@dataclass
class Origin:
    """A static server before a directory; it can be killed, and come back where it was."""

    here: Path
    port: int = 0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def start(self, root: Path) -> None:
        """Serve a directory."""
        with closing(self._listener()) as listener:
            self.port = listener.getsockname()[1]
            http = f"server {{ listen {self.address};\n{documented(root)}}}"
            self._process = start_nginx(self.here, http, listener)

    def _listener(self) -> socket.socket:
        for _ in range(1000):
            # The worker of one that was killed may hold its port for a moment.
            with suppress(OSError):
                return socket.create_server(("127.0.0.1", self.port))
            time.sleep(0.01)
        return socket.create_server(("127.0.0.1", self.port))

    def kill(self) -> None:
        """End it, with all its connections; harmless a second time."""
        if self._process is not None:
            kill_nginx(self._process)


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Origin]:
    """Before the directory ``store``, which is mounted at ``mount``."""
    (tmp_path / "mount").symlink_to(tmp_path / "store")
    origin = Origin(tmp_path / "origin")
    origin.start(tmp_path / "mount")
    yield origin
    origin.kill()


@pytest.fixture
def target(tmp_path: Path, origin: Origin) -> Iterator[Target]:
    """The edge before the origin, of which nothing is in its cache."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        here, address = tmp_path / "edge", f"127.0.0.1:{listener.getsockname()[1]}"
        edge = _EDGE.format(here=here, address=address, origin=origin.address)
        with running_nginx(here, edge, listener):
            yield HttpTarget("cdn", f"http://{address}", Window(900.0, 3600.0))


@dataclass
class Watched:
    """The health of that target, whose clock the test moves.

    Attributes:
        now: seconds since the epoch.
    """

    store: DirectoryStore
    target: Target
    now: float = 0.0

    def __post_init__(self) -> None:
        self.health = Health(
            self.store, (self.target,), self._read_back, SELDOM, wall=lambda: self.now
        )

    async def named(self) -> bool:
        """Whether clients are sent there, after it was probed once more."""
        await self.health.probe()
        return not self.health.down()

    async def _read_back(self, target: Target, entity: Entity) -> None:
        await probe_anew(self.store, target, entity)


@pytest.fixture
async def watched(tmp_path: Path, target: Target) -> AsyncIterator[Watched]:
    """It is named, and the edge has what it was probed with."""
    store = DirectoryStore(tmp_path / "store")
    watched = Watched(store, target)
    for _ in range(2):
        assert await watched.named()
    yield watched
    await store.close()


async def test_an_origin_that_dies_behind_a_warm_edge(
    watched: Watched, origin: Origin, tmp_path: Path
) -> None:
    """The next probe tells, although the edge has what was probed with; and when it is back."""
    origin.kill()
    await read_back_anew(watched.store, watched.target, probe_of(0)[0])
    assert not await watched.named()
    assert watched.health.observed()[0].seen.startswith("status 502 for content that is not there")
    origin.start(tmp_path / "mount")
    assert await watched.named()


async def test_an_origin_that_has_nothing_any_more(watched: Watched, tmp_path: Path) -> None:
    """As one whose disk is not mounted: from the next minute on, what no cache has does not come.

    It answers, and the edge has the probe: before, nobody can tell.
    """
    mount = tmp_path / "mount"
    mount.unlink()
    watched.now = PERIOD - 1
    assert await watched.named()
    watched.now = PERIOD
    assert not await watched.named()
    mount.symlink_to(tmp_path / "store")
    assert await watched.named()


async def test_content_that_an_edge_has_does_not_come_elsewhere(
    watched: Watched, origin: Origin, tmp_path: Path
) -> None:
    """What nobody may be sent for is what the edge near a client lacks: it fails there by 502."""
    content = b"a pack"
    entity = Entity(hashlib.sha256(content).hexdigest(), len(content))
    source = tmp_path / "source"
    source.write_bytes(content)
    await watched.store.put(entity, source)
    await read_back_anew(watched.store, watched.target, entity)
    origin.kill()
    await read_back_anew(watched.store, watched.target, entity)
    shutil.rmtree(tmp_path / "edge" / "cache")  # another place's edge
    with pytest.raises(NotReadable, match="status 502 where 200 was expected"):
        await read_back_anew(watched.store, watched.target, entity)
    assert not await watched.named()


async def test_who_is_asked_for_what_is_not_there_keeps_its_urls(
    watched: Watched, origin: Origin
) -> None:
    """What a probe says of a target that refuses connections holds no URL: that may be a key."""
    origin.kill()
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        nobody = f"http://127.0.0.1:{listener.getsockname()[1]}"
    dead = HttpTarget("dead", nobody, Window(900.0, 3600.0))
    async with aiohttp.ClientSession() as session:
        for target in (dead, watched.target):
            with pytest.raises(NotReadable, match=f"^target {target.name}: ") as caught:
                await ask_behind(session, target, 0.0)
            assert "http://" not in str(caught.value)


async def test_the_doctor_says_which_answer_counts_as_death(tmp_path: Path) -> None:
    """Such as a server that hands on what it does not have to one that is gone."""
    store = DirectoryStore(tmp_path / "data" / "store")
    server = """\
    server {{
        listen {address};
        location /entities/ {{ root {root}; try_files $uri @elsewhere; }}
        location @elsewhere {{ proxy_pass http://127.0.0.1:1; }}
        location / {{ return 404; }}
    }}
"""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        http = server.format(address=address, root=tmp_path / "data" / "store")
        with running_nginx(tmp_path / "nginx", http, listener):
            settings = load(
                None,
                root=tmp_path,
                data=tmp_path / "data",
                targets=[{"type": "http", "name": "cdn", "base_url": f"http://{address}"}],
            )
            async with aiohttp.ClientSession() as session:
                found = [v async for v in check_targets(settings, Stores(store), session)]
    await store.close()
    (failed,) = (verdict for verdict in found if verdict.level is Level.FAIL)
    assert failed.what.startswith("target cdn: status 502 for content that is not there")
