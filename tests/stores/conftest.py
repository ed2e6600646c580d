# Law of this file: one bench for each kind of store, so that the conformance suite need not know
# which store it tests. The S3 server is moto, in this process, on loopback.

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import boto3
import pytest
from moto.s3.models import FakeKey, s3_backends
from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer

from stores.base import Store
from stores.directory import DirectoryStore
from stores.entity import Entity
from stores.memory import MemoryStore
from stores.patient import PatientStore
from stores.replica import Replica
from stores.s3 import S3Store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ACCOUNT = "123456789012"


@dataclass(frozen=True)
class Bench:
    """A store, a way to make its entities look older, and one to cut what it holds short."""

    store: Store
    age: Callable[[str, float], None]
    damage: Callable[[str], None]


@pytest.fixture
def make_file(tmp_path: Path) -> Callable[[bytes], tuple[Entity, Path]]:
    """A function that writes a file of its own and says which entity it holds."""

    def make(content: bytes) -> tuple[Entity, Path]:
        path = tmp_path / f"source-{uuid4().hex}"
        path.write_bytes(content)
        return Entity(hashlib.sha256(content).hexdigest(), len(content)), path

    return make


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
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
def admin(moto_endpoint: str) -> Iterator[S3Client]:
    """A client that looks at buckets past the store."""
    session = boto3.Session(aws_access_key_id="AKIATEST", aws_secret_access_key="hush")
    with closing(
        session.client("s3", region_name="us-east-1", endpoint_url=moto_endpoint)
    ) as client:
        yield client


@pytest.fixture
def bucket(admin: S3Client) -> str:
    """The name of a bucket of the test's own."""
    name = f"bucket-{uuid4().hex}"
    admin.create_bucket(Bucket=name)
    return name


@pytest.fixture
async def make_s3(moto_endpoint: str, bucket: str) -> AsyncIterator[Callable[..., S3Store]]:
    """A function that makes stores on that bucket; they are closed after the test."""
    stores: list[S3Store] = []

    def make(prefix: str = "", **options: object) -> S3Store:
        given = {
            "region": "eu-west-1",
            "endpoint": moto_endpoint,
            "path_style": True,
            "access_key_id": "AKIATEST",
            "secret_access_key": "hush",
            "part_size": 5 << 20,
            "max_attempts": 1,
            "renew_after": 60.0,
        }
        stores.append(S3Store(bucket, prefix, **{**given, **options}))
        return stores[-1]

    yield make
    for store in stores:
        await store.close()


@pytest.fixture(params=["directory", "s3", "s3-with-prefix", "memory", "replica", "patient"])
async def bench(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    bucket: str,
    make_s3: Callable[..., S3Store],
) -> AsyncIterator[Bench]:
    """Every kind of store."""
    match request.param:
        case "directory":
            made = _directory(tmp_path / "store")
        case "memory":
            made = _memory()
        case "replica":
            made = _memory()
            made = replace(made, store=Replica("eu", made.store, MemoryStore()))
        case "patient":
            made = _memory()
            made = replace(made, store=PatientStore(made.store))
        case kind:
            prefix = "offramp/main" if kind == "s3-with-prefix" else ""
            made = _s3(make_s3(prefix), bucket, prefix)
    yield made
    await made.store.close()


@pytest.fixture
def store(bench: Bench) -> Store:
    """The bench's store."""
    return bench.store


@pytest.fixture
def age(bench: Bench) -> Callable[[str, float], None]:
    """Makes an entity look older by so many seconds."""
    return bench.age


@pytest.fixture
def damage(bench: Bench) -> Callable[[str], None]:
    """Cuts the stored content of an entity to half."""
    return bench.damage


@pytest.fixture
def put(
    store: Store, make_file: Callable[[bytes], tuple[Entity, Path]]
) -> Callable[[bytes], Awaitable[Entity]]:
    """A function that stores content."""

    async def put(content: bytes) -> Entity:
        entity, path = make_file(content)
        await store.put(entity, path)
        return entity

    return put


def _directory(root: Path) -> Bench:
    store = DirectoryStore(root)

    def path_of(digest: str) -> Path:
        path = store.local_path(digest)
        assert path is not None
        return path

    def age(digest: str, seconds: float) -> None:
        then = path_of(digest).stat().st_mtime - seconds
        os.utime(path_of(digest), (then, then))

    def damage(digest: str) -> None:
        path = path_of(digest)
        half = path.read_bytes()[: path.stat().st_size // 2]
        path.unlink()
        path.write_bytes(half)

    return Bench(store, age, damage)


def _s3(store: S3Store, bucket: str, prefix: str) -> Bench:
    def object_of(digest: str) -> FakeKey:
        keys = s3_backends[ACCOUNT]["aws"].buckets[bucket].keys
        return keys["/".join(filter(None, [prefix, "entities", digest[:2], digest]))]

    def age(digest: str, seconds: float) -> None:
        object_of(digest).last_modified -= timedelta(seconds=seconds)

    def damage(digest: str) -> None:
        found = object_of(digest)
        found.value = found.value[: len(found.value) // 2]

    return Bench(store, age, damage)


def _memory() -> Bench:
    store = MemoryStore()

    def age(digest: str, seconds: float) -> None:
        store.modified[digest] -= seconds

    def damage(digest: str) -> None:
        content = store.entities[digest]
        store.entities[digest] = content[: len(content) // 2]

    return Bench(store, age, damage)
