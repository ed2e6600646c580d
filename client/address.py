# Law of this file: credentials belong to one origin, and are sent nowhere else; what is printed of
# a URL has neither them nor the query string, which may be a signature.

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Final

from yarl import URL

from client.errors import BadAddress

_SCHEMES: Final = ("http", "https")


def shown(url: str | URL) -> str:
    """A URL as it may be printed."""
    try:
        parsed = url if isinstance(url, URL) else URL(url, encoded=True)
        text = str(parsed.with_user(None).with_query(None).with_fragment(None))
    except ValueError:
        return "(a URL that cannot be read)"
    return f"{text}?..." if parsed.raw_query_string else text


@dataclass(frozen=True, slots=True)
class Address:
    """Where a repository is.

    Attributes:
        url: without credentials and without a slash at its end.
        authorization: value of the header; None without credentials.
    """

    url: URL
    authorization: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return shown(self.url)

    def below(self, path: str) -> URL:
        """A URL below the repository's."""
        return URL(f"{str(self.url).rstrip('/')}/{path}", encoded=True)

    def credentials(self, url: URL) -> dict[str, str]:
        """Headers for a request to ``url``: none if that is another origin."""
        if self.authorization is None or url.origin() != self.url.origin():
            return {}
        return {"Authorization": self.authorization}

    def moved(self, url: URL) -> Address | None:
        """The same repository at ``url``, where its server sends us; None if that is elsewhere.

        Another path of the origin is the same server, and so is the same host with TLS added.
        Everything else is for the user to decide, for we may carry credentials.
        """
        before = self.url
        upgraded = (before.scheme, url.scheme) == ("http", "https") and before.host == url.host
        if url.origin() != before.origin() and not (upgraded and url.is_default_port()):
            return None
        plain = url.with_user(None).with_query(None).with_fragment(None)
        return Address(plain, self.authorization)


def parse_address(text: str) -> Address:
    """Read the URL of a repository, with or without ``user:password@``.

    Raises:
        BadAddress: it is none; the message does not repeat it, for it may hold a password.
    """
    try:
        url = URL(text.strip())
        host = url.host
        _ = url.port
    except ValueError:
        raise BadAddress("this is no URL; write http://host/repository or https://...") from None
    if url.scheme not in _SCHEMES or not host:
        raise BadAddress(f"{shown(url)}: a URL must begin with http:// or https:// and name a host")
    if url.raw_query_string or url.raw_fragment:
        raise BadAddress(f"{shown(url)}: the URL of a repository has neither ? nor #")
    authorization = None
    if url.user is not None or url.password is not None:
        pair = f"{url.user or ''}:{url.password or ''}".encode()
        authorization = f"Basic {base64.b64encode(pair).decode('ascii')}"
    return Address(url.with_user(None), authorization)


def next_hop(current: URL, location: str | None) -> URL | None:
    """Where an HTTP redirect leads; None if nobody should follow it.

    Neither other schemes are followed, nor from TLS to none.
    """
    if location is None:
        return None
    try:
        url = current.join(URL(location, encoded=True))
        host = url.host
    except ValueError:
        return None
    downgraded = current.scheme == "https" and url.scheme != "https"
    return None if not host or url.scheme not in _SCHEMES or downgraded else url
