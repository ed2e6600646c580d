# Law of this file: AWS Signature Version 4 in the query string, for GET of an S3 object, from
# values alone. Format: "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)",
# https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, urlsplit

LONGEST: Final = 604_800
"""Seconds that a presigned URL may live: seven days, says the page above of X-Amz-Expires."""

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Credentials:
    """Keys of an AWS account, role or look-alike. Their repr shows no secret.

    Attributes:
        access_key_id: visible in URLs.
        secret_access_key: signs.
        session_token: of temporary credentials; visible in URLs.
        expires: seconds since the epoch at which they end, and every URL that they signed with
            them; None for those that do not.
    """

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    expires: float | None = None


def presign(url: str, credentials: Credentials, region: str, date: int, expires: int) -> str:
    """Sign a GET of ``url`` (http(s), path percent-encoded, no query).

    ``date`` is the moment from which it works, in seconds since the epoch; ``expires`` is how
    many seconds later it ends, 1 to 604,800. The body is not signed (UNSIGNED-PAYLOAD), nor any
    header but Host.
    """
    parts = urlsplit(url)
    host = _host_header(parts.scheme, parts.hostname or "", parts.port)
    stamp = datetime.fromtimestamp(date, UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    parameters = {
        "X-Amz-Algorithm": _ALGORITHM,
        "X-Amz-Credential": f"{credentials.access_key_id}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(expires),
        "X-Amz-SignedHeaders": "host",
    }
    if credentials.session_token is not None:
        parameters["X-Amz-Security-Token"] = credentials.session_token
    query = "&".join(f"{name}={_encode(value)}" for name, value in sorted(parameters.items()))
    path = parts.path or "/"
    request = f"GET\n{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
    hashed = hashlib.sha256(request.encode()).hexdigest()
    key = _signing_key(credentials.secret_access_key, scope)
    signature = _hmac(key, f"{_ALGORITHM}\n{stamp}\n{scope}\n{hashed}").hex()
    return f"{parts.scheme}://{host}{path}?{query}&X-Amz-Signature={signature}"


def _host_header(scheme: str, host: str, port: int | None) -> str:
    """What clients will send as Host: no port where it is the scheme's own."""
    name = f"[{host}]" if ":" in host else host
    return name if port in {None, _DEFAULT_PORTS.get(scheme)} else f"{name}:{port}"


def _signing_key(secret: str, scope: str) -> bytes:
    """Derive the key of a day, region and service: HMAC along the parts of the scope."""
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = _hmac(key, part)
    return key


def _hmac(key: bytes, message: str) -> bytes:
    return hmac.digest(key, message.encode(), "sha256")


def _encode(text: str) -> str:
    """AWS's UriEncode: all but the unreserved characters of RFC 3986, in upper-case hex."""
    return quote(text, safe="-_.~")
