# Law of this file: who may read is settled from what a request says and what the settings say, by
# values alone, before anything is looked up. No answer tells whether a repository is there.

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Literal

from redirects.names import Names
from server.access.credentials import Basic, Bearer, Malformed, Opaque, parse, sole
from server.settings_upstreams import AccessSettings

Auth = Literal["none", "token", "proxy"]

CHALLENGE: Final = 'Basic realm="Offramp", charset="UTF-8"'
NO_SUCH_REPOSITORY: Final = "There is no such repository here."

# Callers behind one proxy come from few addresses.
_ADDRESSES: Final = 1024

# What clients write as password when the token is the user: nothing, or GitHub's own word.
_NO_PASSWORD: Final = frozenset({"", "x-oauth-basic"})


@dataclass(frozen=True, slots=True)
class Allowed:
    """The caller may read; ``user`` is who it is, for people, and empty if that is not known."""

    user: str


@dataclass(frozen=True, slots=True)
class Unauthorised:
    """The caller must say who it is, or said it wrongly.

    Attributes:
        challenge: for ``WWW-Authenticate``.
        message: for people; it does not hold what was shown.
    """

    challenge: str
    message: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The caller may ask nothing at all here, whichever the repository."""

    message: str


@dataclass(frozen=True, slots=True)
class Hidden:
    """This repository is not for this caller, who gets the answer of one that does not exist.

    So a good credential does not serve to try which names are taken: 404 for what it does not
    open, as for what is not there, and in the same words.
    """

    message: str = NO_SUCH_REPOSITORY


Verdict = Allowed | Unauthorised | Refused | Hidden


@dataclass(frozen=True, slots=True)
class Caller:
    """What a request says of who makes it.

    Attributes:
        authorization: values of its ``Authorization`` headers.
        address: from where it came, or empty.
        named: values of the headers in which a proxy names the user.
    """

    authorization: Sequence[str] = ()
    address: str = ""
    named: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Token:
    digest: bytes
    opens: Names
    title: str


@dataclass(frozen=True, slots=True)
class _User:
    names: Names
    may_read: Names


class Policies:
    """The rules of our own: tokens, proxies, and that of no rule."""

    def __init__(self, settings: AccessSettings) -> None:
        self._tokens = tuple(_tokens(settings))
        self._networks = tuple(ip_network(network) for network in settings.proxies)
        self._users = tuple(
            _User(Names.of((user.user,)), Names.of(user.repositories)) for user in settings.users
        )
        self._is_proxy = lru_cache(_ADDRESSES)(self._in_networks)

    def check(self, auth: Auth, caller: Caller, repository: str) -> Verdict:
        """Whether ``caller`` may read ``repository`` where ``auth`` rules."""
        match auth:
            case "none":
                return Allowed("")
            case "token":
                return self.check_token(caller.authorization, repository)
            case "proxy":
                return self.check_proxy(caller.address, caller.named, repository)

    def check_token(self, authorization: Sequence[str], repository: str) -> Verdict:
        """Whether a token that is shown opens ``repository``.

        It is shown as Bearer, as the password of any user, or as a user without a password. All
        tokens are compared, each in constant time: how long it takes tells of none.
        """
        try:
            header = sole(authorization)
        except Malformed as error:
            return Unauthorised(CHALLENGE, str(error))
        if header is None:
            return Unauthorised(CHALLENGE, "This repository, if it is here, needs a token.")
        digest = _shown(header)
        known = [
            token
            for token in self._tokens
            if digest is not None and hmac.compare_digest(digest, token.digest)
        ]
        if not known:
            return Unauthorised(CHALLENGE, "This is no token of this server.")
        for token in known:
            if token.opens.hold_repository(repository):
                return Allowed(token.title)
        return Hidden()

    def check_proxy(self, address: str, named: Sequence[str], repository: str) -> Verdict:
        """Whether the user whom a proxy names may read ``repository``.

        Only proxies of the settings are believed. Of a header that comes twice, in two lines or in
        one with a comma, the caller may have written the first: then nobody is named.
        """
        if not self._is_proxy(address):
            return Refused("This server is asked through its proxy only.")
        user = named[0] if len(named) == 1 else ""
        if not user or "," in user or not user.isprintable():
            return Unauthorised(CHALLENGE, "The proxy in front named no user.")
        for known in self._users:
            if known.names.hold(user) and known.may_read.hold_repository(repository):
                return Allowed(user)
        return Hidden()

    def _in_networks(self, address: str) -> bool:
        return holds(self._networks, address)


def holds(networks: Iterable[IPv4Network | IPv6Network], address: str) -> bool:
    """Whether ``address`` is in one of ``networks``; what is no address is in none."""
    try:
        known = ip_address(address)
    except ValueError:
        return False
    if isinstance(known, IPv6Address) and known.ipv4_mapped is not None:
        known = known.ipv4_mapped
    return any(known in network for network in networks)


def _shown(header: str) -> bytes | None:
    """SHA-256 of the token that a header shows; None if it shows none."""
    match parse(header):
        case Bearer(token):
            pass
        case Basic(user, password):
            token = user if password in _NO_PASSWORD else password
        case Opaque():
            return None
    return hashlib.sha256(token.encode()).digest()


def _tokens(settings: AccessSettings) -> Iterable[_Token]:
    for number, token in enumerate(settings.tokens, 1):
        if token.token is not None:
            digest = hashlib.sha256(token.token.get_secret_value().encode()).digest()
        elif token.sha256 is not None:
            digest = bytes.fromhex(token.sha256.get_secret_value())
        else:
            raise AssertionError("settings have seen that there is one of the two")
        yield _Token(digest, Names.of(token.repositories), f"token {number}")
