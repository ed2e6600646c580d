# Law of this file: what we say of static servers before a directory is true of stock nginx.

from __future__ import annotations

import hashlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from redirects.targets import HttpTarget
from redirects.window import Window
from server.readback import NotReadable, read_back
from stores.directory import DirectoryStore
from stores.entity import Entity
from tests.nginx import running_nginx

pytestmark = pytest.mark.nginx

WINDOW = Window(900, 6 * 3600)
MERCURIAL = "application/mercurial-0.2"
CONTENT = b"\x04none" + bytes(range(256)) * 20

# The store, told as what an untold file usually is, and as what Mercurial must be told.
_SERVER = """\
  server {{
    listen {address};
    location /plain/ {{
      alias {here}/store/;
      default_type application/octet-stream;
    }}
    location /told/ {{
      alias {here}/store/;
      default_type application/mercurial-0.2;
      charset utf-8;
    }}
  }}
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where nginx keeps everything, with the store below it."""
    return tmp_path_factory.mktemp("nginx")


@pytest.fixture(scope="module")
def nginx(here: Path) -> Iterator[str]:
    """The base URL of nginx before the store."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with running_nginx(here, _SERVER.format(here=here, address=address), listener):
            yield f"http://{address}"


@pytest.fixture
async def store(here: Path) -> AsyncIterator[DirectoryStore]:
    """A directory that holds CONTENT."""
    store = DirectoryStore(here / "store")
    source = here / "source"
    source.write_bytes(CONTENT)
    await store.put(Entity(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT)), source)
    yield store
    await store.close()


async def test_one_type_for_all_entities(nginx: str, store: DirectoryStore) -> None:
    """With the default type that the error names, nginx serves those who demand it, and all."""
    plain = Entity(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
    demanding = replace(plain, media_type=MERCURIAL)
    octets = HttpTarget("octets", f"{nginx}/plain", WINDOW)
    told = HttpTarget("told", f"{nginx}/told", WINDOW)
    async with aiohttp.ClientSession() as session:
        await read_back(session, store, octets, plain, 0.0)
        await read_back(session, store, told, plain, 0.0)
        await read_back(session, store, told, demanding, 0.0)
        with pytest.raises(NotReadable, match=f"default_type {MERCURIAL};"):
            await read_back(session, store, octets, demanding, 0.0)
