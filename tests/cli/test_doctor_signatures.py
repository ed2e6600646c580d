# Law of this file: the doctor finds what gives content that it must refuse, also when all clones
# work; what refuses as it should is left in peace.

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

import boto3
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cli.main import offramp as group
from server.checks_signatures import altered
from tests.cli.conftest import write_s3_config
from tests.edges import Check, PrivateKey, cloudfront, edge, nginx, shared_hmac

GOLDEN: Final = Path(__file__).parents[1] / "redirects" / "golden"
SECRET: Final = "hunter2-hunter2-hunter2-hunter2-hunter2"
OTHER: Final = "hunter3-hunter3-hunter3-hunter3-hunter3"
REFUSES: Final = "nothing comes without its signature or after its end"


def doctor(here: Path, kind: str, url: str, keys: str, more: str = "") -> list[str]:
    """What the doctor says of the one target, without the remedies."""
    config = here / "offramp.toml"
    config.write_text(
        f'[[targets]]\ntype = "{kind}"\nname = "cdn"\nbase_url = "{url}"\nkeys = [{keys}]\n{more}\n'
    )
    output = CliRunner().invoke(group, ["doctor", "--config", str(config)]).output
    assert "hunter" not in output
    assert "ignature=" not in output
    said = [line for line in output.splitlines() if " target cdn: " in line]
    return [re.sub(r"^(\w+) +target cdn: ", r"\1 ", line).partition("  -> ")[0] for line in said]


def hmac_keys(*ids: str) -> str:
    """``keys`` of the settings."""
    secrets = {"new": OTHER, "old": SECRET}
    return ", ".join(f'{{ id = "{key}", secret = "{secrets[key]}" }}' for key in ids)


# --- nginx, as it is documented ----------------------------------------------------------


@pytest.mark.nginx
def test_nginx_as_documented(here: Path) -> None:
    """The settings of the documentation refuse all that they should, and know both keys."""
    store = here / "offramp-data" / "store"
    with nginx(here / "nginx", store, {"new": OTHER, "old": SECRET}) as url:
        assert doctor(here, "secure_link", url, hmac_keys("new", "old")) == [
            "ok content comes back, whole and by Range",
            "ok probes come back in time",
            "ok clocks agree",
            "ok documents cannot be read through it",
            f"ok {REFUSES}",
            "ok key old works as well",
        ]


@pytest.mark.nginx
@pytest.mark.parametrize(
    ("forgotten", "found"),
    [
        ('if ($secure_link = "0")', "after the URL has ended"),
        ('if ($secure_link = "")', "with an altered signature"),
        ('if ($url_secret = "")', "with a key that there is not and no secret"),
    ],
)
def test_nginx_with_a_line_forgotten(here: Path, forgotten: str, found: str) -> None:
    """Each line that could be forgotten is missed."""
    store = here / "offramp-data" / "store"
    with nginx(here / "nginx", store, {"new": OTHER}, without=forgotten) as url:
        said = doctor(here, "secure_link", url, hmac_keys("new"))
    assert said[0] == "ok content comes back, whole and by Range"
    assert said[-1] == f"fail content comes {found}"


@pytest.mark.nginx
def test_a_key_that_nginx_does_not_know(here: Path) -> None:
    """A key that was not made known there is told before it signs, and when it does."""
    store = here / "offramp-data" / "store"
    with nginx(here / "nginx", store, {"old": SECRET}) as url:
        first = doctor(here, "secure_link", url, hmac_keys("old", "new"))
        assert first[-2:] == [f"ok {REFUSES}", "fail nothing comes with key new"]
        assert doctor(here, "secure_link", url, hmac_keys("new", "old")) == [
            "fail status 403 where 200 was expected",
            "ok clocks agree",
            "ok documents cannot be read through it",
        ]


# --- a CDN -------------------------------------------------------------------------------


def private(name: str) -> PrivateKey:
    """A key of the tests."""
    key = load_pem_private_key((GOLDEN / f"cloudfront_{name}.pem").read_bytes(), None)
    assert isinstance(key, PrivateKey)
    return key


def key_file(here: Path, name: str) -> str:
    """An entry of ``keys`` in the settings."""
    path = Path(shutil.copy(GOLDEN / f"cloudfront_{name}.pem", here))
    path.chmod(0o600)
    return f'{{ id = "K{name.upper()}", file = "{path}" }}'


@pytest.mark.parametrize("scope", ["entity", "prefix"])
@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_cloudfront(here: Path, scope: str, algorithm: str) -> None:
    """With either policy and hash, and keys of both kinds, all is refused that should be."""
    check = cloudfront({"KRSA": private("rsa"), "KECDSA": private("ecdsa")}, time.time)
    keys = f"{key_file(here, 'rsa')}, {key_file(here, 'ecdsa')}"
    with edge(here / "offramp-data" / "store", check) as cdn:
        more = f'scope = "{scope}"\nalgorithm = "{algorithm}"'
        assert doctor(here, "cloudfront", cdn.url, keys, more)[3:] == [
            "ok documents cannot be read through it",
            f"ok {REFUSES}",
            "ok key KECDSA works as well",
        ]


def weak(seen: list[str], **omitted: bool) -> Callable[[Check], Check]:
    """An edge that omits something that it should check."""

    def weaken(check: Check) -> Check:
        def weakened(url: str, query: Mapping[str, str]) -> bool:
            if omitted.get("documents") and "/documents/" in url:
                return True
            if omitted.get("cached") and url in seen:
                return True
            if omitted.get("path") and query.get("signature") in seen:
                return True
            if check(url, query):
                seen.extend((url, query["signature"]))
                return True
            return False

        return weakened

    return weaken


@pytest.mark.parametrize(
    ("omitted", "found"),
    [
        ("cached", "fail content comes without a signature"),
        ("path", "fail content comes with the signature of other content"),
        ("documents", "fail whoever reaches it can read documents of the store, which name every"),
    ],
)
def test_an_edge_that_omits_something(here: Path, omitted: str, found: str) -> None:
    """A cache before the check, a signature that opens more than its own, and open documents."""
    check = weak([], **{omitted: True})(shared_hmac({"new": OTHER}, time.time))
    with edge(here / "offramp-data" / "store", check) as cdn:
        said = doctor(here, "hmac", cdn.url, hmac_keys("new"))
    assert any(line.startswith(found) for line in said), said


def test_an_edge_that_has_a_secret_for_every_key(here: Path) -> None:
    """One that takes an unknown key for one with an empty secret is found."""
    secrets = {"new": OTHER, "nobody": ""}
    with edge(here / "offramp-data" / "store", shared_hmac(secrets, time.time)) as cdn:
        said = doctor(here, "hmac", cdn.url, hmac_keys("new"))
    assert said[-1] == "fail content comes with a key that there is not and no secret"


def test_an_edge_that_checks_no_signature(here: Path) -> None:
    """One that only looks whether something is there is found."""

    def check(url: str, query: Mapping[str, str]) -> bool:
        return "signature" in query and "/entities/" in url

    with edge(here / "offramp-data" / "store", check) as cdn:
        said = doctor(here, "hmac", cdn.url, hmac_keys("new"))
    assert said[-1] == "fail content comes with an altered signature"


def test_an_edge_as_documented(here: Path) -> None:
    """One that checks what the documentation says is all right."""
    with edge(here / "offramp-data" / "store", shared_hmac({"new": OTHER}, time.time)) as cdn:
        assert doctor(here, "hmac", cdn.url, hmac_keys("new"))[-1] == f"ok {REFUSES}"


def test_nobody_there(here: Path) -> None:
    """A host that does not answer fails, and nothing is said of its signatures."""
    said = doctor(here, "hmac", "http://127.0.0.1:9", hmac_keys("new"))
    assert [line.split()[0] for line in said] == ["fail", "warn"]


def test_a_key_that_others_may_read(here: Path) -> None:
    """A key file that is open is a failed line with the remedy."""
    key = key_file(here, "rsa")
    (here / "cloudfront_rsa.pem").chmod(0o644)
    config = here / "offramp.toml"
    config.write_text(
        f'[[targets]]\ntype = "cloudfront"\nbase_url = "http://127.0.0.1:9"\nkeys = [{key}]\n'
    )
    result = CliRunner().invoke(group, ["doctor", "--config", str(config)])
    assert result.exit_code == 1
    assert "fail  targets: target cloudfront: " in result.output
    assert "others may read it (mode 0644); chmod 600" in result.output


# --- S3 ----------------------------------------------------------------------------------


def test_s3_that_checks_signatures(here: Path, ministack: str) -> None:
    """A private bucket gives nothing without a presigned URL that has not ended."""
    # It knows this account and no other.
    session = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test")
    with closing(session.client("s3", region_name="us-east-1", endpoint_url=ministack)) as client:
        client.create_bucket(Bucket="doctor")
    config = write_s3_config(here, "doctor", ministack)
    config.write_text(config.read_text().replace("AKIATEST", "test").replace("hunter2", "test"))
    output = CliRunner().invoke(group, ["doctor", "--config", "offramp.toml"]).output
    assert "ok    target s3: content comes back" in output
    assert f"target s3: {REFUSES}" in output


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://a/?Expires=1&Signature=Ab~&Key-Pair-Id=K", "Signature=0b~&Key-Pair-Id=K"),
        ("http://a/?X-Amz-Date=1&X-Amz-Signature=0b", "X-Amz-Signature=1b"),
        ("http://a/?md5=_b&expires=1", "md5=0b&expires=1"),
        ("http://a/?expires=1&signature=ab", "signature=0b"),
    ],
)
def test_an_altered_signature(url: str, expected: str) -> None:
    """Of every way of signing the signature is altered, and nothing else."""
    assert altered(url).endswith(expected)
    assert len(altered(url)) == len(url)
