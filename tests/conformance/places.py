# Law of this file: where content is read from in these tests is a real server, on a free port of
# loopback, which its test stops.

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import boto3
from aiohttp import web
from moto.server import ThreadedMotoServer

BUCKET = "packs"


@asynccontextmanager
async def file_server(store: Path) -> AsyncIterator[str]:
    """A static server in front of a directory store."""
    app = web.Application()
    app.router.add_static("/entities", store / "entities")
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@contextmanager
def s3_server() -> Iterator[ThreadedMotoServer]:
    """An S3 server of its user's own, with an empty bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    session = boto3.Session(aws_access_key_id="AKIATEST", aws_secret_access_key="hush")
    with closing(
        session.client("s3", region_name="us-east-1", endpoint_url=endpoint(server))
    ) as client:
        objects = client.list_buckets()["Buckets"]
        if BUCKET not in {found["Name"] for found in objects}:
            client.create_bucket(Bucket=BUCKET)
    yield server
    stop(server)


def endpoint(server: ThreadedMotoServer) -> str:
    """Its base URL."""
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}"


def stop(server: ThreadedMotoServer) -> None:
    """Stop it, so that nobody listens any more; harmless a second time."""
    if server._server is not None:
        server.stop()
        server._server.server_close()
        server._server = None


def s3(endpoint: str, tmp_path: Path) -> dict[str, Any]:
    """Settings of a store there, below a prefix of the test's own."""
    return {
        "type": "s3",
        "bucket": BUCKET,
        "prefix": f"of/{tmp_path.name}",
        "region": "us-east-1",
        "endpoint": endpoint,
        "path_style": True,
        "access_key_id": "AKIATEST",
        "secret_access_key": "hush",
        "max_attempts": 1,
        "timeout": 5,
    }
