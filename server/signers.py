# Law of this file: keys that sign URLs are read from files that nobody else may read; nothing of
# them is told.

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from redirects.shared_secret import HmacSigner, SecureLinkSigner
from redirects.signing import SigningKeys
from redirects.targets import UrlSigner
from server.settings_signing import SecretKeySettings
from server.settings_targets import (
    CloudFrontTargetSettings,
    HmacTargetSettings,
    SecureLinkTargetSettings,
)

SignedTargetSettings = CloudFrontTargetSettings | SecureLinkTargetSettings | HmacTargetSettings

# What needs no quoting, neither in nginx's configuration nor in a shell.
_SECRET: Final = re.compile(r"[A-Za-z0-9._~+/=-]{32,}")
# The largest PEM of a key is 4 KiB; more is another file.
_LARGEST: Final = 64 << 10


def signer_of(target: SignedTargetSettings) -> UrlSigner:
    """What signs the URLs of a target.

    Raises:
        ValueError: a key cannot be read, may be read by others, or is none.
    """
    match target.type:
        case "cloudfront":
            return _cloudfront(target)
        case "secure_link":
            return SecureLinkSigner(_secrets(target.keys))
        case "hmac":
            return HmacSigner(_secrets(target.keys))


def _cloudfront(target: CloudFrontTargetSettings) -> UrlSigner:
    # cryptography takes a while to import, which users of other targets need not wait.
    from redirects.cloudfront import CloudFrontKey, CloudFrontSigner  # noqa: PLC0415

    keys = []
    for key in target.keys:
        pem = read_private(key.file)
        try:
            keys.append(CloudFrontKey.from_pem(key.id, pem))
        except ValueError as error:
            raise ValueError(f"{key.file}: {error}") from None
    return CloudFrontSigner(tuple(keys), target.scope, target.algorithm)


def _secrets(keys: Sequence[SecretKeySettings]) -> SigningKeys:
    return SigningKeys(keys[0].id, {key.id: _secret(key) for key in keys})


def _secret(key: SecretKeySettings) -> bytes:
    where = f"key {key.id}"
    if key.secret is not None:
        text = key.secret.get_secret_value()
    else:
        assert key.file is not None  # noqa: S101 - the settings have one of the two
        where = f"{key.file}: {where}"
        text = read_private(key.file).decode("ascii", errors="replace").strip()
    if _SECRET.fullmatch(text) is None:
        raise ValueError(
            f"{where}: a secret has at least 32 characters of A-Z a-z 0-9 . _ ~ + / = -; make one"
            " with `openssl rand -hex 32`"
        )
    return text.encode()


def read_private(path: Path) -> bytes:
    """The content of a file that nobody else may read.

    Raises:
        ValueError: others may read it, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if is_open(found.st_mode, found.st_uid):
        mode = stat.S_IMODE(found.st_mode)
        raise ValueError(f"{path}: others may read it (mode {mode:04o}); chmod 600 {path}")
    if len(content) > _LARGEST:
        raise ValueError(f"{path}: {_LARGEST} bytes and more are no key")
    return content


def is_open(mode: int, owner: int) -> bool:
    """Whether others than the owner may read, or change, a file of this mode and owner (a uid).

    A group may read what is root's: so are secrets handed to a service that is not root, by
    Kubernetes (``fsGroup``) for one. PostgreSQL draws the same line for keys of its own.
    """
    return bool(mode & (0o037 if owner == 0 else 0o077))
