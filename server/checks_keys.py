# Law of this file: keys and credentials are looked at without asking anybody: that they are there,
# are for us alone, are what they are said to be, and that no two are mixed up. None is shown.

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final

from redirects.shared_secret import HmacSigner, SecureLinkSigner
from redirects.targets import UrlSigner
from server.settings import Settings
from server.signers import SignedTargetSettings, signer_of
from server.upstreams.credentials import own_authorization
from server.verdict import Level, Verdict
from server.wiring import SECRET_FILE, Unusable, signing_keys

_MEND: Final = "mend the key, or name another file"
_NOUN: Final = {"pair": "key pair", "secret": "secret"}


@dataclass(frozen=True, slots=True)
class _Held:
    """A key of a target.

    Attributes:
        target: its name.
        kind: ``pair`` or ``secret``.
        id: as it is visible in URLs.
        content: SHA-256 of the public key or the secret.
    """

    target: str
    kind: str
    id: str
    content: bytes

    def __str__(self) -> str:
        return f"{self.id} (target {self.target})"


def check_keys(settings: Settings) -> Iterator[Verdict]:
    """Look at the keys of targets, at ``secret.key`` and at the credentials of upstreams."""
    for target in _signed(settings):
        try:
            signer_of(target)
        except ValueError as error:
            yield Verdict(Level.FAIL, f"target {target.name}: {error}", _MEND)
    yield from check_mixed_up(settings)
    yield from _others(settings)


def not_ours(data: Path, error: OSError) -> Verdict:
    """That ``secret.key`` of a data directory cannot be read, as after root has written it anew."""
    path = data / SECRET_FILE
    return Verdict(
        Level.FAIL,
        f"{path} cannot be read: {error.strerror}",
        f"give it to whom the directory belongs to, the server's user: chown --reference={data}"
        f" {path}",
    )


def check_mixed_up(settings: Settings) -> Iterator[Verdict]:
    """Look for keys of targets that are mixed up; one that cannot be read is told by others."""
    held: list[_Held] = []
    for target in _signed(settings):
        with suppress(ValueError):
            held += _held(target.name, signer_of(target))
    yield from _mixed_up(held)


def _signed(settings: Settings) -> Iterator[SignedTargetSettings]:
    for target in settings.effective_targets():
        match target.type:
            case "cloudfront" | "secure_link" | "hmac":
                yield target


def _others(settings: Settings) -> Iterator[Verdict]:
    # None is made here: the first server does.
    if (settings.data / SECRET_FILE).exists():
        try:
            signing_keys(settings.data)
        except Unusable as error:
            yield Verdict(Level.FAIL, str(error), "mend the file, or remove it to have one made")
        except OSError as error:
            yield not_ours(settings.data, error)
    for upstream in settings.upstreams:
        try:
            own_authorization(upstream)
        except Unusable as error:
            yield Verdict(
                Level.FAIL, f"upstream {upstream.title}: {error}", "mend its `credential`"
            )


def _held(target: str, signer: UrlSigner) -> Iterator[_Held]:
    if isinstance(signer, HmacSigner | SecureLinkSigner):
        for key, secret in signer.keys.secrets.items():
            yield _Held(target, "secret", key, hashlib.sha256(secret).digest())
        return
    yield from _pairs(target, signer)


def _pairs(target: str, signer: UrlSigner) -> Iterator[_Held]:
    # cryptography takes a while to import, which users of other targets need not wait.
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        PublicFormat,
    )

    from redirects.cloudfront import CloudFrontSigner  # noqa: PLC0415

    if isinstance(signer, CloudFrontSigner):
        for key in signer.keys:
            public = key.private.public_key().public_bytes(
                Encoding.DER, PublicFormat.SubjectPublicKeyInfo
            )
            yield _Held(target, "pair", key.id, hashlib.sha256(public).digest())


def _mixed_up(held: list[_Held]) -> Iterator[Verdict]:
    """Keys of which one at least is not the one that its id means."""
    for one, other in combinations(held, 2):
        if one.kind != other.kind:
            continue
        same = one.content == other.content
        if one.kind == "pair" and one.id == other.id and not same:
            what = f"key {one} and key {other} have one id and are two key pairs"
            yield Verdict(
                Level.FAIL, what, "name for each the private key of the public key with that id"
            )
        elif same and one.id != other.id and (one.kind == "pair" or one.target == other.target):
            what = f"key {one} and key {other} are the same {_NOUN[one.kind]} by two ids"
            yield Verdict(
                Level.WARN, what, "one of the files is that of another key; each id has its own"
            )
