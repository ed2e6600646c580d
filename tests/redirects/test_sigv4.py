# Law of this file: our presigned URLs are those of AWS's own example, of botocore, and of a server
# that checks them.

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from datetime import UTC, datetime
from urllib.parse import quote

import boto3
import botocore.auth
import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.client import BaseClient
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

from redirects.acceptance import Client
from redirects.sigv4 import Credentials, presign
from redirects.targets import S3Target
from redirects.window import Window
from stores.entity import Entity

EXAMPLE = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
DATE = 1_369_353_600  # 2013-05-24T00:00:00Z


def test_the_documentation_s_example() -> None:
    """The example of AWS's page on query string authentication comes out to the letter."""
    assert presign(
        "https://examplebucket.s3.amazonaws.com/test.txt", EXAMPLE, "us-east-1", DATE, 86400
    ) == (
        "https://examplebucket.s3.amazonaws.com/test.txt"
        "?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )


def botocore_url(url: str, credentials: Credentials, region: str, date: int, expires: int) -> str:
    """What botocore's presigner makes of the same, its clock stopped at ``date``."""
    request = AWSRequest("GET", url)
    theirs = BotoCredentials(
        credentials.access_key_id, credentials.secret_access_key, credentials.session_token
    )
    stopped = datetime.fromtimestamp(date, UTC).replace(tzinfo=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", lambda: stopped)
        S3SigV4QueryAuth(theirs, "s3", region, expires=expires).add_auth(request)
    return request.url


@pytest.mark.parametrize("token", [None, "FwoGZXIvYXdzE+/=&?% \u00e9"])
@pytest.mark.parametrize(
    "url",
    [
        "https://bucket.s3.eu-west-1.amazonaws.com/entities/ab/abcd",
        "http://127.0.0.1:4566/bucket/entities/ab/abcd",
        "https://s3.example.org:443/bucket/a%20b/%C3%A9+~/entities",
        "http://s3.example.org:80/bucket/key",
        "https://[::1]:9000/bucket/key",
    ],
)
def test_equals_botocore(url: str, token: str | None) -> None:
    """Date, expiry, session token, ports and odd keys: botocore makes the same signature."""
    credentials = Credentials("AKIATEST", "secret/+", token)
    ours = presign(url, credentials, "eu-west-1", DATE + 12345, 604800)
    theirs = botocore_url(url, credentials, "eu-west-1", DATE + 12345, 604800)
    assert ours.rpartition("X-Amz-Signature=")[2] == theirs.rpartition("X-Amz-Signature=")[2]
    assert sorted(ours.partition("?")[2].split("&")) == sorted(theirs.partition("?")[2].split("&"))


@settings(max_examples=50)
@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20),
    st.integers(0, 2**32),
    st.integers(1, 604800),
    st.none() | st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"])),
)
def test_equals_botocore_for_any_prefix(
    prefix: str, date: int, expires: int, token: str | None
) -> None:
    """Any prefix, moment and token: botocore makes the same signature."""
    base = f"https://bucket.s3.eu-west-1.amazonaws.com/{quote(prefix, safe='/-_.~')}/"
    credentials = Credentials("AKIATEST", "secret", token or None)
    ours = presign(base + "key", credentials, "eu-west-1", date, expires)
    theirs = botocore_url(base + "key", credentials, "eu-west-1", date, expires)
    assert ours.rpartition("=")[2] == theirs.rpartition("=")[2]


def test_secrets_are_hidden() -> None:
    """The repr of credentials shows the id and no secret."""
    shown = repr(Credentials("AKIATEST", "hush-secret", "hush-token"))
    assert "AKIATEST" in shown
    assert "hush" not in shown


def get(url: str, **headers: str) -> tuple[int, bytes]:
    """GET as a plain client does."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:  # noqa: S310 - loopback
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def s3_client(endpoint: str) -> BaseClient:
    """boto3's client of the server."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


@pytest.fixture(scope="module")
def bucket(ministack: str) -> str:
    """A bucket with one object whose key needs encoding; returns the object's URL."""
    client = s3_client(ministack)
    client.create_bucket(Bucket="bucket")
    client.put_object(Bucket="bucket", Key="a b/\u00e9+/key", Body=b"content")
    client.close()
    return f"{ministack}/bucket/a%20b/%C3%A9%2B/key"


TEST = Credentials("test", "test")


def test_a_server_gives_the_object(bucket: str) -> None:
    """A server that checks signatures gives the object, and a part of it."""
    url = presign(bucket, TEST, "us-east-1", int(datetime.now(UTC).timestamp()) - 100, 3600)
    assert get(url) == (200, b"content")
    assert get(url, Range="bytes=3-") == (206, b"tent")


def test_a_server_takes_what_a_target_names(ministack: str) -> None:
    """The location that a target names is taken, and after its end it is not."""
    entity = Entity(hashlib.sha256(b"pack").hexdigest(), 4)
    client = s3_client(ministack)
    client.create_bucket(Bucket="target")
    client.put_object(Bucket="target", Key=f"p/{entity.key}", Body=b"pack")
    client.close()
    base = f"{ministack}/target/p/"
    target = S3Target("s3", base, "us-east-1", Window(900, 3600), lambda: TEST)
    now = datetime.now(UTC).timestamp()
    anyone = Client("https://git.example.org")
    assert get(target.locate(entity, anyone, now).url) == (200, b"pack")
    assert get(target.locate(entity, anyone, now - target.max_lifetime - 1).url)[0] == 403


def test_a_server_refuses_a_tampered_url(bucket: str) -> None:
    """Another key, a longer life, another secret: the server refuses."""
    now = int(datetime.now(UTC).timestamp())
    good = presign(bucket, TEST, "us-east-1", now - 100, 3600)
    for bad in (
        good.replace("/key?", "/other?"),
        good.replace("X-Amz-Expires=3600", "X-Amz-Expires=7200"),
        presign(bucket, Credentials("test", "guess"), "us-east-1", now - 100, 3600),
    ):
        assert get(bad)[0] == 403


def test_a_server_refuses_an_expired_url(bucket: str) -> None:
    """A URL whose time has run out is refused."""
    now = int(datetime.now(UTC).timestamp())
    assert get(presign(bucket, TEST, "us-east-1", now - 200, 100))[0] == 403
