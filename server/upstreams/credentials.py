# Law of this file: the credential of the settings becomes a header's value here, and neither it nor
# a part of it is in any message.

from __future__ import annotations

import base64
from pathlib import Path
from typing import Final

from server.settings_upstreams import CredentialSettings, UpstreamSettings, fault_of_secret
from server.wiring import Unusable

# Longer than any token; what is longer is another file than was meant.
_LONGEST: Final = 4 << 10


def own_authorization(upstream: UpstreamSettings) -> str | None:
    """The ``Authorization`` that this server shows to an upstream; None without a credential.

    Reads the credential's file, if there is one, each time it is called.

    Raises:
        Unusable: the file cannot be read, or its first line can be no password or token.
    """
    credential = upstream.credential
    if credential is None:
        return None
    secret = _secret(credential)
    if credential.username is None:
        return f"Bearer {secret}"
    return f"Basic {base64.b64encode(f'{credential.username}:{secret}'.encode()).decode()}"


def _secret(credential: CredentialSettings) -> str:
    if credential.file is None:
        # Settings have looked at it.
        return credential.password.get_secret_value() if credential.password is not None else ""
    secret = _first_line(credential.file)
    fault = fault_of_secret(secret, credential.username)
    if fault:
        raise Unusable(
            f"credential {credential.file}: its first line {fault}; write the password or token"
            " alone into it"
        )
    return secret


def _first_line(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            line = opened.readline(_LONGEST + 1)
    except OSError as error:
        raise Unusable(
            f"credential {file}: {(error.strerror or str(error)).lower()}; name a file that this"
            " user can read"
        ) from None
    if len(line) > _LONGEST:
        raise Unusable(f"credential {file}: its first line is longer than {_LONGEST} bytes")
    try:
        return line.rstrip(b"\r\n").decode()
    except UnicodeDecodeError:
        raise Unusable(f"credential {file}: its first line is no UTF-8") from None
