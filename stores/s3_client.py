# Law of this file: how a bucket is reached and what its refusals mean. No secret and no query of
# a URL leaves it in a message.

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ReadTimeoutError,
    SSLError,
)

from stores.base import StoreUnavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# Where a signed URL keeps its signature, and an endpoint its user: nobody else may read that.
_SECRET_OF_URL: Final = re.compile(r"\?[^\s\"')]*|(?<=//)[^/@\s\"']*@")
# What S3 assumes for a client that was told no region.
_DEFAULT_REGION: Final = "us-east-1"


@dataclass(frozen=True, slots=True)
class Signing:
    """What URLs of a bucket are signed with (Signature Version 4).

    Attributes:
        access_key: the access key id; it is written into every URL.
        secret_key: never written anywhere.
        token: the session token of temporary credentials; written into URLs, where it is needed.
        region: of the bucket.
        expires: seconds since the epoch when temporary credentials end, and with them every URL
            that was signed with them, whatever lifetime it names; None for lasting credentials.
    """

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(repr=False)
    region: str
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class Connection:
    """How a bucket is reached.

    Attributes:
        bucket: its name.
        region: None for that of the AWS configuration.
        endpoint: base URL of an S3 look-alike; None for AWS.
        path_style: the bucket is the first segment of the path, not part of the host name.
        access_key_id, secret_access_key, session_token: None for the AWS credential chain.
        max_attempts: tries of each request.
        timeout: seconds to connect and between two reads, of one try.
        connections: requests side by side.
    """

    bucket: str
    region: str | None
    endpoint: str | None
    path_style: bool
    access_key_id: str | None = field(repr=False)
    secret_access_key: str | None = field(repr=False)
    session_token: str | None = field(repr=False)
    max_attempts: int
    timeout: float
    connections: int

    def session(self) -> boto3.Session:
        """A session of our own: boto3's default one belongs to the whole process."""
        return boto3.Session(
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            aws_session_token=self.session_token,
            region_name=self.region,
        )

    def client(self, session: boto3.Session) -> S3Client:
        """A client, safe for threads.

        Look-alikes that know no checksums but those we send must not be asked for others: hence
        ``when_required``.
        """
        return session.client(
            "s3",
            region_name=session.region_name or _DEFAULT_REGION,
            endpoint_url=self.endpoint,
            config=self._config().merge(
                Config(
                    signature_version="s3v4",
                    connect_timeout=self.timeout,
                    read_timeout=self.timeout,
                    max_pool_connections=self.connections,
                    retries={"mode": "standard", "total_max_attempts": self.max_attempts},
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                )
            ),
        )

    def base_url(self, region: str, endpoint: str | None) -> str:
        """The URL of the bucket's root with a slash, as the client itself would write it.

        Asks botocore, which knows the partitions of AWS, buckets with dots and hosts that are
        addresses; no network.
        """
        client = boto3.Session().client(
            "s3",
            region_name=region,
            endpoint_url=endpoint or self.endpoint,
            config=self._config().merge(Config(signature_version=UNSIGNED)),
        )
        try:
            where = {"Bucket": self.bucket, "Key": "k"}
            return client.generate_presigned_url("get_object", Params=where).removesuffix("k")
        finally:
            client.close()

    def _config(self) -> Config:
        # Not "auto": that presigns AWS's global host name, which answers for a young bucket
        # elsewhere with a redirect, and git follows none.
        return Config(s3={"addressing_style": "path" if self.path_style else "virtual"})


def quoted(key: str) -> str:
    """A key as the path of a URL, in the spelling that Signature Version 4 signs."""
    return quote(key, safe="/~")


def status(error: ClientError) -> int:
    """The HTTP status of a refusal."""
    return error.response["ResponseMetadata"]["HTTPStatusCode"]


def is_absent(error: ClientError) -> bool:
    """Tell whether the key is not there (and not that the whole bucket is not)."""
    return status(error) == 404 and error.response["Error"]["Code"] != "NoSuchBucket"


@contextmanager
def reported(name: str, operation: str) -> Iterator[None]:
    """Turn what botocore raises into StoreUnavailable.

    The message names the store, the operation and S3's code. The cause is not chained: a
    traceback would show the URL of the request.
    """
    try:
        yield
    except ClientError as error:
        code, number = error.response["Error"]["Code"], status(error)
        hint = _HINTS.get(code, "")
        if (operation, number) == ("HeadObject", 403):
            hint = "; grant s3:ListBucket, without which S3 says so of what is not there"
        raise StoreUnavailable(
            f"{name}: {operation} was refused with {code} (HTTP {number}){hint}"
        ) from None
    except BotoCoreError as error:
        raise StoreUnavailable(f"{name}: {operation} failed: {_failure(error)}") from None


# What to do about a refusal, by S3's code.
_HINTS: Final = {
    "NoSuchBucket": "; make the bucket, or correct `bucket`",
    "InvalidAccessKeyId": "; correct `access_key_id`",
    "SignatureDoesNotMatch": "; correct `secret_access_key`, and look at this machine's clock",
    "RequestTimeTooSkewed": "; set this machine's clock",
    "ExpiredToken": "; renew the temporary credentials",
    "PermanentRedirect": "; correct `region`: the bucket is in another",
    "AuthorizationHeaderMalformed": "; correct `region`: the bucket is in another",
}

# What befell a request, by what botocore raises; those that are kinds of others first.
_FAILURES: Final[tuple[tuple[type[BotoCoreError], str], ...]] = (
    (SSLError, "its certificate cannot be verified, or TLS fails"),
    (
        EndpointConnectionError,
        "no connection; look whether `endpoint` is right, and open from here",
    ),
    (ConnectTimeoutError, "no connection in time; look whether `endpoint` is open from here"),
    (ReadTimeoutError, "no answer in time"),
    (ConnectionClosedError, "it broke the connection off"),
)


def _failure(error: BotoCoreError) -> str:
    """What befell a request, in words; botocore's own are told of what we do not know."""
    for kind, words in _FAILURES:
        if isinstance(error, kind):
            return words
    return f"{type(error).__name__}: {_SECRET_OF_URL.sub('', str(error))}"
