# Law of this file: settings with keys become signers or are refused with what to do; whatever goes
# wrong, no secret is told.

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from redirects.acceptance import Client
from redirects.signing import SigningKeys
from redirects.targets import SignedHttpTarget
from server.logs import redact
from server.placing import Stores
from server.settings import Settings
from server.signers import is_open, read_private
from server.wiring import Unusable, build_targets
from stores.entity import Entity
from stores.memory import MemoryStore

GOLDEN = Path(__file__).parents[1] / "redirects" / "golden"
SECRET = "hunter2-hunter2-hunter2-hunter2-hunter2"
OTHER = "hunter3-hunter3-hunter3-hunter3-hunter3"
ENTITY = Entity("ab" * 32, 10)
NOW = 1_700_000_100.0
TOKENS = [{"token": "0123456789abcdef-opens-all", "repositories": ["*"]}]


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    """A private key that nobody else may read."""
    path = Path(shutil.copy(GOLDEN / "cloudfront_ecdsa.pem", tmp_path / "cloudfront.pem"))
    path.chmod(0o600)
    return path


def secret_file(tmp_path: Path, text: str = f"{SECRET}\n", mode: int = 0o600) -> Path:
    """A file with a secret."""
    path = tmp_path / "cdn.key"
    path.write_text(text)
    path.chmod(mode)
    return path


def cdn(kind: str, *keys: dict[str, Any], **values: Any) -> dict[str, Any]:
    """The settings of one signed target."""
    return {"type": kind, "base_url": "https://cdn.example.org", "keys": keys, **values}


async def built(*targets: dict[str, Any], **values: Any) -> list[SignedHttpTarget]:
    """What these settings become."""
    settings = Settings.model_validate({"targets": targets, **values})
    assert SECRET not in repr(settings) + settings.model_dump_json()
    keys = SigningKeys("k", {"k": bytes(32)})
    made = await build_targets(settings, Stores(MemoryStore()), keys)
    assert all(isinstance(target, SignedHttpTarget) for target in made)
    return [target for target in made if isinstance(target, SignedHttpTarget)]


async def test_every_type(tmp_path: Path, pem: Path) -> None:
    """Each type signs in its own way, with its first key, by a file or a value."""
    keys = ({"id": "new", "file": secret_file(tmp_path)}, {"id": "old", "secret": OTHER})
    targets = await built(
        cdn("cloudfront", {"id": "K2", "file": pem}, scope="prefix", algorithm="sha1"),
        cdn("secure_link", *keys),
        cdn("hmac", *keys),
        redirect={"lifetime": 100, "window": 10},
    )
    assert [target.name for target in targets] == ["cloudfront", "secure_link", "hmac"]
    assert [target.signer.kind for target in targets] == [
        "cloudfront prefix sha1",
        "secure_link",
        "hmac",
    ]
    assert [target.max_lifetime for target in targets] == [110] * 3
    for target, shown in zip(targets, ("Key-Pair-Id=K2", "key=new", "key=new"), strict=True):
        url = target.locate(ENTITY, Client("http://a"), NOW).url
        assert url.startswith(f"https://cdn.example.org/{ENTITY.key}?")
        assert shown in url
        for secret in (SECRET, OTHER, "PrivateKey"):
            assert secret not in url + repr(target)
        assert shown not in redact(f"GET {url} failed")


async def test_a_secret_is_the_same_in_a_file_and_as_a_value(tmp_path: Path) -> None:
    """The line break at the end of a file is none of the secret."""
    by_file, by_value = await built(
        cdn("hmac", {"id": "k", "file": secret_file(tmp_path)}),
        cdn("hmac", {"id": "k", "secret": SECRET}, name="other"),
    )
    assert by_file.signer == by_value.signer


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hunter2", "key k: a secret has at least 32 characters"),
        (f"hunter2 {SECRET}", "key k: a secret has at least 32 characters"),
        (f'hunter2"$uri;{SECRET}', "key k: a secret has at least 32 characters"),
        (f"hunter2\N{SNOWMAN}{SECRET}", "key k: a secret has at least 32 characters"),
        ("hunter2" * 10_000, "65536 bytes and more are no key"),
    ],
)
async def test_files_that_hold_no_secret(tmp_path: Path, text: str, why: str) -> None:
    """What cannot be used is told with its file, and without its content."""
    path = secret_file(tmp_path, text)
    with pytest.raises(Unusable, match=why) as caught:
        await built(cdn("secure_link", {"id": "k", "file": path}))
    assert str(caught.value).startswith(f"target secure_link: {path}: ")
    assert "hunter2" not in str(caught.value).replace(str(path), "")


async def test_values_that_are_no_secret() -> None:
    """A value that is too short is told without it."""
    with pytest.raises(Unusable, match="target hmac: key k: a secret has at least 32") as caught:
        await built(cdn("hmac", {"id": "k", "secret": "hunter2"}))
    assert "hunter2" not in str(caught.value)


async def test_a_file_that_is_no_private_key(tmp_path: Path) -> None:
    """What CloudFront cannot use is told with file and key, and without its content."""
    path = secret_file(tmp_path)
    with pytest.raises(Unusable, match="target cloudfront: ") as caught:
        await built(cdn("cloudfront", {"id": "K2", "file": path}))
    assert f"{path}: key K2: no private key in PEM" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("kind", ["cloudfront", "hmac"])
@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o602])
async def test_files_that_others_may_read(tmp_path: Path, kind: str, mode: int) -> None:
    """A key that is none any more is refused, with the command that mends it."""
    path = secret_file(tmp_path, mode=mode)
    with pytest.raises(Unusable, match=rf"others may read it \(mode 0{mode:o}\); chmod 600"):
        await built(cdn(kind, {"id": "k", "file": path}))


@pytest.mark.parametrize(
    ("mode", "owner", "refused"),
    [
        (0o600, 1000, False),
        (0o400, 1000, False),
        (0o640, 1000, True),
        (0o640, 0, False),
        (0o440, 0, False),
        (0o660, 0, True),
        (0o644, 0, True),
    ],
)
def test_who_may_read(mode: int, owner: int, *, refused: bool) -> None:
    """Nobody but the owner, and a group where the owner is root."""
    assert is_open(mode, owner) is refused


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that is not there, or is none, is told with the system's words."""
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(ValueError, match=r"cannot be read: (No such file|Is a directory)"):
            read_private(path)


@given(content=st.binary(max_size=200))
def test_what_a_file_holds_is_read(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    """Whatever is in a file, it comes as it is."""
    path = tmp_path_factory.getbasetemp() / f"any-{os.getpid()}"
    path.write_bytes(content)
    path.chmod(0o600)
    assert read_private(path) == content


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (cdn("hmac"), "at least 1 item"),
        (cdn("hmac", {"id": "k"}), "either as `secret` or as `file`"),
        (cdn("hmac", {"id": "k", "secret": SECRET, "file": "x"}), "either as `secret` or as"),
        (cdn("hmac", {"id": "a b", "secret": SECRET}), "should match pattern"),
        (cdn("hmac", *[{"id": "k", "secret": SECRET}] * 2), "two keys have the id 'k'"),
        (cdn("cloudfront", *[{"id": "K", "file": "x"}] * 2), "two keys have the id 'K'"),
        (cdn("cloudfront", {"id": "K-2", "file": "x"}), "should match pattern"),
        (cdn("cloudfront", {"id": "K", "secret": SECRET}), "extra|Field required"),
        (cdn("cloudfront", {"id": "K", "file": "x"}, scope="all"), "'entity' or 'prefix'"),
        (cdn("secure_link", {"id": "k", "secret": SECRET}, algorithm="sha1"), "not permitted"),
    ],
)
def test_refused_settings(target: dict[str, Any], why: str) -> None:
    """What cannot work is refused with its reason, and no secret is told."""
    with pytest.raises(ValidationError, match=why) as caught:
        Settings.model_validate({"targets": [target]})
    assert "hunter2" not in str(caught.value)


def test_signed_targets_are_for_everything() -> None:
    """Beside something private, they are as good as our own route."""
    private = {"access": {"auth": "token", "tokens": TOKENS}, "root": "."}
    for kind in ("hmac", "secure_link"):
        target = cdn(kind, {"id": "k", "secret": SECRET})
        assert Settings.model_validate({"targets": [target], **private})
    assert Settings.model_validate({"targets": [cdn("cloudfront", {"id": "K", "file": "x"})]})


OPEN = {"prefix": "/open/", "url": "https://open.example.org", "public": True}
CLOSED = {"prefix": "/closed/", "url": "https://closed.example.org"}
LOCKED = {"access": {"auth": "token", "tokens": TOKENS}}


@pytest.mark.parametrize(
    ("served", "refused"),
    [
        ({"root": "."}, False),
        ({"upstreams": [OPEN]}, False),
        ({"upstreams": [CLOSED]}, False),
        ({"root": ".", **LOCKED}, False),
        ({"root": ".", "upstreams": [CLOSED], **LOCKED}, False),
        ({"upstreams": [OPEN, CLOSED]}, True),
        ({"root": ".", "upstreams": [CLOSED]}, True),
        ({"root": ".", "upstreams": [OPEN], **LOCKED}, True),
    ],
)
def test_one_signature_for_all(served: dict[str, Any], *, refused: bool) -> None:
    """What everybody gets for something public does not open what is private beside it."""
    key = {"id": "K", "file": "x"}
    values = {"targets": [cdn("cloudfront", key, scope="prefix")], **served}
    if not refused:
        assert Settings.model_validate(values)
        return
    with pytest.raises(ValidationError, match="would open the content of private ones too"):
        Settings.model_validate(values)
    assert Settings.model_validate({"targets": [cdn("cloudfront", key)], **served})
