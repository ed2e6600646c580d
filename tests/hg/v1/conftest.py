# Law of this file: servers and clients of every stock version, and repositories of every kind, are
# made once a session; who changes a repository makes one of its own.

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import boto3
import pytest
from moto.server import ThreadedMotoServer

from indexer.report import Silent
from server.indexing import index_all
from tests.conftest import Served
from tests.hg.conftest import Sources
from tests.hg.v1.reference import Reference
from tests.hg.versions import V1, hg

NEWEST: Final = V1[-1]
REPO: Final = "repo"
BUCKET: Final = "content"


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """Stock servers and clients of all versions."""
    home = tmp_path_factory.mktemp("reference")
    (home / "roots").mkdir()
    with Reference(home / "roots", home) as found:
        yield found


@dataclass(frozen=True, slots=True)
class Shelf:
    """A repository of each kind, each in a root of its own, with a server's data beside it.

    Attributes:
        place: of the roots.
        sources: where the repositories are from.
    """

    place: Path
    sources: Sources

    def root(self, kind: str) -> Path:
        """A root with one repository that nobody changes."""
        root = self.place / kind
        if not root.is_dir():
            self.sources.copy(kind, root, REPO)
        return root

    def repository(self, kind: str) -> Path:
        """The repository there."""
        return self.root(kind) / REPO

    def data(self, kind: str) -> Path:
        """What servers of that root have in common."""
        return self.sources.root.parent / f"data of {kind}"

    def own(self, kind: str) -> Path:
        """A root with a repository that the test may change."""
        root = self.place / f"{kind}-{uuid4().hex}"
        self.sources.copy(kind, root, REPO)
        return root


@pytest.fixture(scope="session")
def shelf(sources: Sources, reference: Reference) -> Shelf:
    """Where stock servers find them, too."""
    return Shelf(reference.roots, sources)


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """The URL of an S3 server with an empty bucket."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    session = boto3.Session(aws_access_key_id="AKIATEST", aws_secret_access_key="hush")
    with closing(session.client("s3", region_name="us-east-1", endpoint_url=url)) as client:
        client.create_bucket(Bucket=BUCKET)
    yield url
    server.stop()
    server._server.server_close()


@pytest.fixture
def s3(endpoint: str) -> dict[str, Any]:
    """Settings of a store there that is the test's own."""
    return {
        "type": "s3",
        "bucket": BUCKET,
        "prefix": uuid4().hex,
        "region": "us-east-1",
        "endpoint": endpoint,
        "path_style": True,
        "access_key_id": "AKIATEST",
        "secret_access_key": "hush",
        "max_attempts": 1,
        "timeout": 5,
    }


async def publish(served: Served) -> None:
    """Index, as `offramp index` does, and let the server know."""
    indexed = await index_all(served.settings, Silent(), gc=False)
    assert not any(report.failed for report in indexed.reports), indexed
    await served.runtime.catalogs.refresh_all()


@dataclass(frozen=True, slots=True)
class Counted:
    """An hg for the server that notes each start of it.

    Attributes:
        program: its path.
        log: a line for each start.
    """

    program: Path
    log: Path

    def starts(self) -> list[str]:
        """Process id and arguments of each start."""
        return self.log.read_text().splitlines()

    def backends(self) -> list[int]:
        """Process ids of each `hg serve` that was started over HTTP."""
        return [int(line.split()[0]) for line in self.starts() if "--webdir-conf" in line]


_COUNTING: Final = """#!/bin/sh
echo "$$ $*" >>'{log}'
exec {command} "$@"
"""


@pytest.fixture
def counted(tmp_path: Path) -> Counted:
    """The newest hg, counted."""
    directory = tmp_path / "counted"
    directory.mkdir()
    log, program = directory / "log", directory / "hg"
    log.touch()
    program.write_text(_COUNTING.format(log=log, command=" ".join(map(str, hg(NEWEST)))))
    program.chmod(0o755)
    return Counted(program, log)
