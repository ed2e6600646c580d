# Law of this file: several processes on one data directory are one server, and S3 is a store like
# any other.

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.conformance.processes import Offramp
from tests.conftest import Serve
from tests.hg.asking import serve_hg
from tests.hg.cloning import Client, clone, said, talk
from tests.hg.conftest import Sources
from tests.hg.repositories import work
from tests.hg.versions import V1, V2, executable, hg

CLONES = 6
BUCKET = "content"


@pytest.fixture
async def offramp(tmp_path: Path) -> AsyncIterator[Offramp]:
    """Run the real program; what still runs after the test is killed."""
    found = Offramp(tmp_path / "data")
    yield found
    await found.close()


async def test_workers_are_one_server(
    offramp: Offramp, sources: Sources, client: Client, tmp_path: Path
) -> None:
    """Clones at once, of two workers, are one run of each command, and see each change at once."""
    source = sources.copy("branches", tmp_path / "root")
    program = {"OFFRAMP_HG__PROGRAM": str(executable(V1[-1]))}
    server = await offramp.serve(tmp_path / "root", "--workers", "2", environ=program)
    url = f"{server.url}/repo"
    done = await asyncio.gather(
        *(talk(tmp_path, "clone", "--quiet", url, f"clone{number}") for number in range(CLONES))
    )
    broken = [each.stderr for each in done if each.returncode or each.stderr]
    if broken:
        server.process.terminate()
        _, log = await server.process.communicate()
        raise AssertionError(f"{broken}: {log.decode()}")
    # heads, known, changesetdata, manifestdata, filesdata
    assert await server.figure("offramp_executions_total") == 5
    for number in range(CLONES):
        cloned = await client.state(tmp_path / f"clone{number}")
        assert cloned == sources.expected("branches")
    for number in range(3):
        with work(hg(V2), source) as made:
            made.update("default")
            node = made.commit(f"more {number}", base=f"{number} more\n")
        for _ in range(2):
            await said(tmp_path / "clone0", "pull", "--quiet")
            (found,) = (
                await said(tmp_path / "clone0", "log", "-r", node, "-T", "{node}\n")
            ).split()
            assert found.decode() == node
    assert await server.stop() == 0


@pytest.fixture
def bucket() -> Iterator[str]:
    """The URL of an S3 server with an empty bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    session = boto3.Session(aws_access_key_id="AKIATEST", aws_secret_access_key="hush")
    with closing(session.client("s3", region_name="us-east-1", endpoint_url=url)) as s3:
        s3.create_bucket(Bucket=BUCKET)
    yield url
    server.stop()
    assert server._server is not None
    server._server.server_close()


async def test_content_from_a_bucket(
    serve: Serve, sources: Sources, client: Client, tmp_path: Path, bucket: str
) -> None:
    """All content of a clone, also of one that streams, comes from presigned URLs of a bucket."""
    kinds = ("branches", "names")
    for kind in kinds:
        sources.path(kind)
    store = {
        "type": "s3",
        "bucket": BUCKET,
        "prefix": f"of/{tmp_path.name}",
        "region": "us-east-1",
        "endpoint": bucket,
        "path_style": True,
        "access_key_id": "AKIATEST",
        "secret_access_key": "hush",
        "max_attempts": 1,
        "timeout": 5,
    }
    served = await serve_hg(serve, sources.root, store=store)
    for kind in kinds:
        cloned = await clone(served, client, kind, tmp_path / kind)
        assert cloned == sources.expected(kind)
        to = tmp_path / f"{kind}-stream"
        told = await said(tmp_path, "clone", "--verbose", "--stream", f"{served.url}/{kind}", to)
        assert await client.state(to) == sources.expected(kind)
        assert told.count(f"(following redirect to {bucket}/{BUCKET}/of/".encode()) == 5
    assert served.content()["inline"] < 6 * 1 << 12
