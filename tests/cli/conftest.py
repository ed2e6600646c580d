# Law of this file: commands are run as users run them: a process of their own, or click's runner,
# in an empty directory.

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import boto3
import pytest
from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer

from tests.ministack import running

Offramp = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which commands run; no setting of whoever runs the tests is seen."""
    for name in list(os.environ):
        if name.startswith("OFFRAMP_"):
            monkeypatch.delenv(name)
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def offramp() -> Offramp:
    """Run the command line in a process; what it wrote and its exit code."""

    def run(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from cli.main import main; main()", *args],
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run


@pytest.fixture
def root(here: Path) -> Path:
    """A directory with one small repository, ``group/a.git``."""
    work = here.parent / "work"
    git = ("git", "-C", str(work))
    subprocess.run(("git", "init", "-q", str(work)), check=True)
    for number in range(3):
        (work / "file").write_text(f"{number}\n")
        subprocess.run((*git, "add", "file"), check=True)
        subprocess.run((*git, "commit", "-q", "-m", str(number)), check=True)
    bare = here / "root" / "group" / "a.git"
    subprocess.run(("git", "clone", "-q", "--bare", str(work), str(bare)), check=True)
    return here / "root"


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The base URL of an S3 server whose conditional writes are atomic, as those of S3 are."""
    lock = threading.RLock()
    put = S3Response.put_object

    def put_one_at_a_time(response: S3Response) -> object:
        # moto compares and writes in two steps.
        with lock:
            return put(response)

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(S3Response, "put_object", put_one_at_a_time)
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    server.stop()
    server._server.server_close()


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of an S3 look-alike that does check presigned URLs."""
    with running(tmp_path_factory.mktemp("ministack")) as url:
        yield url


@pytest.fixture
def s3_config(s3_endpoint: str, here: Path) -> Path:
    """A settings file that names a bucket which exists."""
    bucket = f"bucket-{uuid4().hex}"
    session = boto3.Session(aws_access_key_id="AKIATEST", aws_secret_access_key="hunter2")
    with closing(session.client("s3", region_name="us-east-1", endpoint_url=s3_endpoint)) as client:
        client.create_bucket(Bucket=bucket)
    return write_s3_config(here, bucket, s3_endpoint)


def write_s3_config(here: Path, bucket: str, endpoint: str) -> Path:
    """A settings file for a bucket."""
    path = here / "offramp.toml"
    path.write_text(
        f'[store]\ntype = "s3"\nbucket = "{bucket}"\nregion = "us-east-1"\n'
        f'endpoint = "{endpoint}"\npath_style = true\nmax_attempts = 1\ntimeout = "5s"\n'
        'access_key_id = "AKIATEST"\nsecret_access_key = "hunter2"\n'
    )
    return path
