# Law of this file: a target turns an entity into a URL by values alone. Within a window it gives
# the same URL again from a small memo, because signing costs more than all the rest of a decision.

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Protocol

from redirects.acceptance import Client, Location, UriProtocol, scheme
from redirects.decision import CannotLocate, Reason
from redirects.signing import BLOBS_PATH, SigningKeys
from redirects.sigv4 import LONGEST, Credentials, presign
from redirects.window import Window
from stores.entity import Entity, entity_key

# Locations that a target remembers: more than the entities that are asked for within a window,
# and a few MB of memory. Made-up Host headers push old ones out, and do no more harm than that.
_REMEMBERED: Final = 4096

# Seconds that credentials must still last. botocore renews those of a role 10 to 15 minutes before
# they end; with less than 5 left renewing has failed, and a clone that began now would break.
_LEAST_CREDENTIALS: Final = 300.0

_Signed = Callable[[str, str | None, str, int], Location]
_Presigned = Callable[[str, int, Credentials], Location]
_SignedHttp = Callable[[str, int], Location]


def _fingerprint(*decisive: str) -> str:
    """Hash what decides whether an earlier read-back still tells that a target can be read."""
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:16]


def _replica(store: str) -> tuple[str, ...]:
    """What a store other than the main one adds: not all that is in one is in another."""
    return (f"store {store}",) if store else ()


@dataclass(frozen=True, slots=True)
class SelfTarget:
    """This server's own blob route, with signed URLs.

    Attributes:
        name: for logs and `explain`.
        store: identity of the store that the route reads (``Store.name``).
        keys: sign the URLs.
        window: how long they stay the same, and live.
        fingerprint: hash of what a read-back depends on.
    """

    name: str
    store: str
    keys: SigningKeys
    window: Window
    fingerprint: str = field(init=False)
    _signed: _Signed = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fingerprint", _fingerprint("self", self.store))
        object.__setattr__(self, "_signed", lru_cache(_REMEMBERED)(self._sign))

    @property
    def signed(self) -> bool:
        """Nobody reads through a URL without its signature: here, always so."""
        return True

    @property
    def max_lifetime(self) -> int:
        """Seconds that a URL given out now may live."""
        return self.window.longest

    def protocol(self, client: Client) -> UriProtocol:
        """The scheme by which this client reaches us."""
        return scheme(client.base_url)

    def prefix(self, client: Client) -> str:
        """What every URL of this target begins with, for this client."""
        return f"{client.base_url}{BLOBS_PATH}"

    def locate(self, entity: Entity, client: Client, now: float) -> Location:
        """The blob URL of ``entity``, below where this client reaches us."""
        start = self.window.start(now)
        return self._signed(entity.digest, entity.demanded_type, client.base_url, start)

    def _sign(self, digest: str, demanded_type: str | None, base_url: str, start: int) -> Location:
        expires = self.window.end(start)
        query = self.keys.sign(digest, expires, demanded_type)
        url = f"{base_url}{BLOBS_PATH}{digest}?{query}"
        return Location(url, self.name, scheme(base_url), float(expires))


@dataclass(frozen=True, slots=True)
class S3Target:
    """An S3 bucket, or a look-alike, read by presigned or public URLs.

    Attributes:
        name: for logs and `explain`.
        base_url: of bucket and prefix as clients see them, percent-encoded, with its trailing
            slash; an entity's key is appended as it is.
        region: for the signature.
        window: how long URLs stay the same, and live. A URL of public content has no end of its
            own; the same time is then what a client is given to finish its download.
        credentials: returns those to sign with now, or None while there are none. It is called
            for each location, so it answers from memory. None in its place: everyone may read
            the bucket, do not sign.
        store: identity of the store behind it; empty for the main one.
        fingerprint: hash of what a read-back depends on.

    Raises:
        ValueError: the base URL is none, or URLs would live longer than S3 allows.
    """

    name: str
    base_url: str
    region: str
    window: Window
    credentials: Callable[[], Credentials | None] | None = field(repr=False)
    store: str = ""
    fingerprint: str = field(init=False)
    _scheme: UriProtocol = field(init=False, repr=False)
    _presigned: _Presigned = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.credentials is not None and self.window.longest > LONGEST:
            raise ValueError(
                f"target {self.name}: presigned URLs would live {self.window.longest} s and S3"
                f" allows {LONGEST} s (7 days); lower redirect.lifetime or redirect.window"
            )
        access = "public" if self.credentials is None else f"signed {self.region}"
        object.__setattr__(
            self, "fingerprint", _fingerprint("s3", self.base_url, access, *_replica(self.store))
        )
        object.__setattr__(self, "_scheme", scheme(self.base_url))
        object.__setattr__(self, "_presigned", lru_cache(_REMEMBERED)(self._presign))

    @property
    def signed(self) -> bool:
        """Nobody reads through a URL without its signature: so, unless the bucket is public."""
        return self.credentials is not None

    @property
    def max_lifetime(self) -> int:
        """Seconds that a URL given out now may live."""
        return self.window.longest

    def protocol(self, client: Client) -> UriProtocol:
        """The scheme of the bucket's URL; the same for all clients."""
        del client
        return self._scheme

    def prefix(self, client: Client) -> str:
        """What every URL of this target begins with; the same for all clients."""
        del client
        return self.base_url

    def locate(self, entity: Entity, client: Client, now: float) -> Location:
        """The URL of ``entity`` in the bucket.

        Raises:
            CannotLocate: it is to be signed, and there are no credentials that last.
        """
        del client
        if self.credentials is None:
            return Location(self.base_url + entity.key, self.name, self._scheme, None)
        credentials = self.credentials()
        if credentials is None or (
            credentials.expires is not None and credentials.expires < now + _LEAST_CREDENTIALS
        ):
            raise CannotLocate(self.name, Reason.NO_CREDENTIALS)
        return self._presigned(entity.key, self.window.start(now), credentials)

    def _presign(self, key: str, start: int, credentials: Credentials) -> Location:
        url = presign(self.base_url + key, credentials, self.region, start, self.window.longest)
        expires = float(self.window.end(start))
        if credentials.expires is not None:
            expires = min(expires, credentials.expires)
        return Location(url, self.name, self._scheme, expires)


class _BelowUrl:
    """What targets that are a URL and what is below it have in common.

    URLs without an end of their own are given to a client for as long as signed ones live.
    """

    __slots__ = ()

    base_url: str
    window: Window
    _scheme: UriProtocol

    @property
    def max_lifetime(self) -> int:
        """Seconds for which a URL given out now may be used."""
        return self.window.longest

    def protocol(self, client: Client) -> UriProtocol:
        """The scheme of the base URL; the same for all clients."""
        del client
        return self._scheme

    def prefix(self, client: Client) -> str:
        """What every URL of this target begins with; the same for all clients."""
        del client
        return f"{self.base_url}/"


@dataclass(frozen=True, slots=True)
class HttpTarget(_BelowUrl):
    """A CDN or static server in front of the store.

    Attributes:
        name: for logs and `explain`.
        base_url: URL of the store's root, without trailing slash.
        window: its length is what a client is given to finish its download; URLs do not end.
        store: identity of the store behind it; empty for the main one.
        fingerprint: hash of what a read-back depends on.

    Raises:
        ValueError: the base URL is none.
    """

    name: str
    base_url: str
    window: Window
    store: str = ""
    fingerprint: str = field(init=False)
    _scheme: UriProtocol = field(init=False, repr=False)

    def __post_init__(self) -> None:
        decisive = ("http", self.base_url, *_replica(self.store))
        object.__setattr__(self, "fingerprint", _fingerprint(*decisive))
        object.__setattr__(self, "_scheme", scheme(self.base_url))

    @property
    def signed(self) -> bool:
        """Nobody reads through a URL without its signature: here, whoever knows a digest reads."""
        return False

    def locate(self, entity: Entity, client: Client, now: float) -> Location:
        """The URL of ``entity`` below the base URL."""
        del client, now
        return Location(f"{self.base_url}/{entity.key}", self.name, self._scheme, None)


class UrlSigner(Protocol):
    """Signs URLs for what stands before a store; its repr shows no secret."""

    @property
    def kind(self) -> str:
        """How URLs are signed, as far as a read-back depends on it; no secret is in it."""

    @property
    def opens_all(self) -> bool:
        """Whether one signature opens every entity, for whoever knows its digest."""

    def query(self, base_url: str, digest: str, expires: int) -> str:
        """The query that makes the URL of ``digest`` below ``base_url`` work until ``expires``."""

    def by_key(self) -> Sequence[tuple[str, UrlSigner]]:
        """Each key's id, the signing one first, and a signer with that key alone."""

    def by_nobody(self, base_url: str, digest: str, expires: int) -> str | None:
        """As :meth:`query`, forged with an id and a secret that there are not; None: not so."""


@dataclass(frozen=True, slots=True)
class SignedHttpTarget(_BelowUrl):
    """A CDN or static server that demands a signature of ours.

    Attributes:
        name: for logs and `explain`.
        base_url: URL of the store's root, without trailing slash, in ASCII.
        window: how long URLs stay the same, and live.
        signer: makes the query.
        store: identity of the store behind it; empty for the main one.
        fingerprint: hash of what a read-back depends on.

    Raises:
        ValueError: the base URL is none, or would not be signed as clients send it.
    """

    name: str
    base_url: str
    window: Window
    signer: UrlSigner
    store: str = ""
    fingerprint: str = field(init=False)
    _scheme: UriProtocol = field(init=False, repr=False)
    _signed: _SignedHttp = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # CloudFront reads `*` in a policy as anything at all.
        if not self.base_url.isascii() or "*" in self.base_url:
            raise ValueError(
                f"base URL {self.base_url!r}: what is signed must be ASCII and without `*`; write"
                " names in punycode, and other characters of a path percent-encoded"
            )
        decisive = ("http", self.base_url, self.signer.kind, *_replica(self.store))
        object.__setattr__(self, "fingerprint", _fingerprint(*decisive))
        object.__setattr__(self, "_scheme", scheme(self.base_url))
        object.__setattr__(self, "_signed", lru_cache(_REMEMBERED)(self._sign))

    @property
    def signed(self) -> bool:
        """Nobody reads through a URL without its signature: here, always so."""
        return True

    def locate(self, entity: Entity, client: Client, now: float) -> Location:
        """The URL of ``entity`` below the base URL, with its signature."""
        del client
        return self._signed(entity.digest, self.window.start(now))

    def _sign(self, digest: str, start: int) -> Location:
        expires = self.window.end(start)
        query = self.signer.query(self.base_url, digest, expires)
        url = f"{self.base_url}/{entity_key(digest)}?{query}"
        return Location(url, self.name, self._scheme, float(expires))


Target = SelfTarget | S3Target | HttpTarget | SignedHttpTarget
