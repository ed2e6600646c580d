# Law of this file: settings become what they describe, keys are made once and stay secret, and
# credentials are renewed without anybody waiting.

from __future__ import annotations

import asyncio
import multiprocessing
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redirects.acceptance import Client
from redirects.decision import CannotLocate
from redirects.signing import SigningKeys
from redirects.sigv4 import Credentials
from redirects.targets import HttpTarget, S3Target, SelfTarget
from server.placing import Stores
from server.settings import Settings
from server.wiring import (
    RENEW_SECONDS,
    Renewing,
    Unusable,
    build_store,
    build_stores,
    build_targets,
    parse_keys,
    signing_keys,
)
from stores.base import Store, StoreUnavailable
from stores.directory import DirectoryStore
from stores.entity import Entity
from stores.s3 import S3Store
from stores.s3_client import Signing

KEYS = SigningKeys("k", {"k": bytes(32)})
ENTITY = Entity("ab" * 32, 10)
CLIENT = Client("http://127.0.0.1:8417")
S3 = {
    "type": "s3",
    "bucket": "bucket",
    "prefix": "a b",
    "region": "eu-west-1",
    "access_key_id": "AKIATEST",
    "secret_access_key": "hunter2",
}


@pytest.fixture
async def stores() -> AsyncIterator[list[Store]]:
    """Stores that are closed after the test."""
    opened: list[Store] = []
    yield opened
    for store in opened:
        await store.close()


def settings(tmp_path: Path, **values: object) -> Settings:
    """Settings with a data directory of their own."""
    return Settings.model_validate({"data": tmp_path / "data", **values})


async def test_directory_store(tmp_path: Path, stores: list[Store]) -> None:
    """Without a store there is one below the data directory; a path leads elsewhere."""
    own = build_store(settings(tmp_path))
    other = build_store(settings(tmp_path, store={"type": "directory", "path": tmp_path / "x"}))
    stores += [own, other]
    assert isinstance(own, DirectoryStore)
    assert own.name == f"directory {tmp_path / 'data' / 'store'}"
    assert other.name == f"directory {tmp_path / 'x'}"


async def test_s3_store_and_target(tmp_path: Path, stores: list[Store]) -> None:
    """An S3 store signs by S3's own target, with its region, prefix and credentials."""
    read = settings(tmp_path, store=S3)
    store = build_store(read)
    stores.append(store)
    s3, own = await build_targets(read, Stores(store), KEYS)
    assert isinstance(s3, S3Target)
    assert isinstance(own, SelfTarget)
    url = s3.locate(ENTITY, CLIENT, 1_800_000_000).url
    assert url.startswith(
        f"https://bucket.s3.eu-west-1.amazonaws.com/a%20b/entities/ab/{'ab' * 32}?"
    )
    assert "AKIATEST" in url
    assert "eu-west-1" in url
    assert "hunter2" not in url
    assert "hunter2" not in repr(s3)
    assert own.locate(ENTITY, CLIENT, 1_800_000_000).url.startswith("http://127.0.0.1:8417/-/")


async def test_configured_targets(tmp_path: Path, stores: list[Store]) -> None:
    """Configured targets come in their order, with their names and lifetimes."""
    read = settings(
        tmp_path,
        store=S3,
        targets=[
            {"type": "http", "name": "cdn", "base_url": "https://cdn.example.org/x/"},
            {"type": "s3", "name": "open", "public": True, "endpoint": "https://s3.example.org"},
        ],
        redirect={"lifetime": 100, "window": 10},
    )
    store = build_store(read)
    stores.append(store)
    cdn, bucket = await build_targets(read, Stores(store), KEYS)
    assert isinstance(cdn, HttpTarget)
    assert cdn.locate(ENTITY, CLIENT, 0).url == f"https://cdn.example.org/x/{ENTITY.key}"
    location = bucket.locate(ENTITY, CLIENT, 0)
    assert location.url == f"https://bucket.s3.example.org/a%20b/{ENTITY.key}"
    assert (cdn.name, bucket.name, cdn.max_lifetime) == ("cdn", "open", 110)


async def test_no_credentials(
    tmp_path: Path, stores: list[Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without credentials there is nothing to sign with, and the message says what to do."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    read = settings(tmp_path, store={"type": "s3", "bucket": "b", "region": "eu-west-1"})
    stores.append(build_store(read))
    with pytest.raises(StoreUnavailable, match="configure access_key_id"):
        await build_targets(read, Stores(stores[0]), KEYS)


async def test_no_credentials_of_a_store_beside_the_main_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its targets are there and name nothing, and the others are used."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    read = settings(
        tmp_path,
        stores=[{"name": "us", "type": "s3", "bucket": "b", "region": "us-east-1"}],
        targets=[{"type": "s3", "store": "us"}, {"type": "self"}],
    )
    built = build_stores(read, build_store(read))
    try:
        bucket, own = await build_targets(read, built, KEYS)
    finally:
        await built.close()
    assert "target s3 is not named yet: s3 b: no credentials; configure" in caplog.text
    with pytest.raises(CannotLocate):
        bucket.locate(ENTITY, CLIENT, 0)
    assert own.locate(ENTITY, CLIENT, 0).url


async def test_unusable_endpoint(tmp_path: Path) -> None:
    """What botocore cannot use is told with the store's name."""
    with pytest.raises(Unusable, match="store s3 bucket: "):
        build_store(settings(tmp_path, store={**S3, "endpoint": "http://a..b"}))


async def test_s3_target_of_another_store(tmp_path: Path, stores: list[Store]) -> None:
    """A target of type s3 cannot read a directory."""
    read = settings(tmp_path, store=S3)
    stores.append(build_store(settings(tmp_path)))
    with pytest.raises(Unusable, match="needs a store of type s3"):
        await build_targets(read, Stores(stores[0]), KEYS)


# --- credentials that end ----------------------------------------------------------------


class Signer(S3Store):
    """A store whose credentials are what a test says."""

    def __init__(self) -> None:
        self.now = Signing("new", "s", None, "r", 9000.0)
        self.fail = False
        self.asked = 0

    async def signing(self) -> Signing:
        """The credentials of the moment."""
        self.asked += 1
        if self.fail:
            raise StoreUnavailable("no metadata service")
        return self.now


def key_of(renewing: Renewing) -> str:
    """The id of the key to sign with now."""
    held = renewing()
    assert held is not None
    return held.access_key_id


async def test_lasting_credentials_are_not_asked_again() -> None:
    """Credentials without an end are kept."""
    signer, clock = Signer(), [0.0]
    renewing = Renewing(signer, Credentials("old", "s"), lambda: clock[0])
    clock[0] = 10 * RENEW_SECONDS
    assert key_of(renewing) == "old"
    await asyncio.sleep(0)
    assert signer.asked == 0


async def test_credentials_are_renewed_in_the_background() -> None:
    """Nobody waits for new credentials: the old ones are given until the new ones are there."""
    signer, clock = Signer(), [0.0]
    renewing = Renewing(signer, Credentials("old", "s", None, 5000.0), lambda: clock[0])
    assert key_of(renewing) == "old"
    clock[0] = RENEW_SECONDS
    assert key_of(renewing) == "old"
    assert renewing._task is not None
    await renewing._task
    assert key_of(renewing) == "new"
    assert signer.asked == 1


async def test_credentials_that_come_later() -> None:
    """Where there were none they are looked for again and again."""
    signer, clock = Signer(), [0.0]
    renewing = Renewing(signer, None, lambda: clock[0])
    assert renewing() is None
    clock[0] = RENEW_SECONDS
    assert renewing() is None
    assert renewing._task is not None
    await renewing._task
    assert key_of(renewing) == "new"


async def test_credentials_that_cannot_be_renewed(caplog: pytest.LogCaptureFixture) -> None:
    """The old ones are kept, it is told, and it is tried again later."""
    signer, clock = Signer(), [0.0]
    signer.fail = True
    renewing = Renewing(signer, Credentials("old", "s", None, 5000.0), lambda: clock[0])
    for round_ in (1, 2):
        clock[0] = round_ * RENEW_SECONDS
        assert key_of(renewing) == "old"
        assert renewing._task is not None
        await renewing._task
    assert signer.asked == 2
    assert "cannot be renewed: no metadata service" in caplog.text


# --- the secret that signs blob URLs -----------------------------------------------------


def test_a_key_is_made_once(tmp_path: Path) -> None:
    """Whoever comes first makes the key; all others have the same, and nobody else may read it."""
    first, again = signing_keys(tmp_path / "data"), signing_keys(tmp_path / "data")
    assert first == again
    assert len(first.secrets[first.current]) == 32
    file = tmp_path / "data" / "secret.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["secret.key"]
    assert signing_keys(tmp_path / "other") != first


def _make(data: str) -> bytes:
    keys = signing_keys(Path(data))
    return keys.secrets[keys.current]


def test_processes_agree(tmp_path: Path) -> None:
    """Processes that come at the same time get one key."""
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        made = pool.map(_make, [str(tmp_path)] * 16, chunksize=1)
    assert len(set(made)) == 1


def test_a_crash_leaves_no_half_key(tmp_path: Path) -> None:
    """What a crash left of a key, with whatever mode, is not used."""
    (tmp_path / "secret.new").write_text("half")
    (tmp_path / "secret.new").chmod(0o644)
    keys = signing_keys(tmp_path)
    assert len(keys.secrets[keys.current]) == 32
    assert stat.S_IMODE((tmp_path / "secret.key").stat().st_mode) == 0o600
    assert not (tmp_path / "secret.new").exists()


def test_rotation(tmp_path: Path) -> None:
    """The first line signs; all lines are believed."""
    (tmp_path / "secret.key").write_text(f"new {'cd' * 32}\n\nold {'ab' * 32}\n")
    keys = signing_keys(tmp_path)
    assert keys.current == "new"
    old = replace(keys, current="old")
    digest, expires = "ab" * 32, 2_000_000_000
    query = dict(pair.split("=") for pair in old.sign(digest, expires).split("&"))
    assert keys.verify(digest, query, 0) == expires


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "holds no key"),
        ("hunter2", "line 1: write a key id"),
        ("k hunter2", "line 1: write a key id"),
        (f"k {'ab' * 32}\nk {'cd' * 32}", "line 2: the key id of an earlier line"),
        ("k abab", "needs at least 32"),
        (f"k=1 {'ab' * 32}", "signing key id"),
    ],
)
def test_bad_key_files(text: str, why: str) -> None:
    """A key file that cannot be used is told with its line and without its content."""
    with pytest.raises(Unusable, match=why) as caught:
        parse_keys(text, Path("secret.key"))
    assert str(caught.value).startswith("secret.key")
    assert "hunter2" not in str(caught.value)
    assert "ab" * 32 not in str(caught.value)


@given(st.text())
def test_any_key_file(text: str) -> None:
    """Any text makes keys or Unusable."""
    try:
        keys = parse_keys(text, Path("secret.key"))
    except Unusable:
        return
    assert len(keys.secrets[keys.current]) >= 32
