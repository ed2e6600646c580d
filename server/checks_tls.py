# Law of this file: what the settings tell clients of a target's TLS is tried: each version by a
# handshake of its own, and one without the host's name. Nothing takes longer than its bound.

from __future__ import annotations

import asyncio
import ssl
import warnings
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509

from redirects.targets import SelfTarget, Target
from server.settings import Settings
from server.settings_targets import TargetSettings, TlsVersion
from server.verdict import Level, Verdict

HANDSHAKE_SECONDS: Final = 5.0
"""Of one handshake, from looking up the name on; all versions are tried side by side."""

_VERSIONS: Final[Mapping[TlsVersion, ssl.TLSVersion]] = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}
# What clients that are not ancient know; that a host speaks older ones is no merit.
_WANTED: Final = ("1.2", "1.3")
# Clients that know no 1.3 drop a target that does not list this.
_LEAST: Final[TlsVersion] = "1.2"

# Debian's OpenSSL offers TLS 1.0 and 1.1 only with what it else refuses.
_ANY_CIPHER: Final = "ALL:@SECLEVEL=0"


@dataclass(frozen=True, slots=True)
class Claim:
    """What the settings say of the TLS of one target.

    Attributes:
        target: its name.
        host: name or address.
        port: likewise.
        sni_required: clients must send the host's name.
        versions: that it speaks; empty: nothing is said of them.
    """

    target: str
    host: str
    port: int
    sni_required: bool
    versions: tuple[TlsVersion, ...]


def claims(settings: Settings, targets: Sequence[Target]) -> tuple[Claim, ...]:
    """What is said of those targets that are reached by https."""
    said = {each.name: each for each in settings.effective_targets()}
    found = []
    for target in targets:
        url = settings.public_url if isinstance(target, SelfTarget) else target.base_url
        if url is not None and url.startswith("https://"):
            found.append(_claim(said[target.name], url))
    return tuple(found)


def _claim(said: TargetSettings, url: str) -> Claim:
    parts = urlsplit(url)
    host = parts.hostname or ""
    return Claim(said.name, host, parts.port or 443, said.sni_required, said.tls_versions)


async def check_tls(made: Sequence[Claim]) -> AsyncGenerator[Verdict, None]:
    """Try what is claimed, of all targets side by side."""
    for verdicts in await asyncio.gather(*map(_tried, made)):
        for verdict in verdicts:
            yield verdict


async def _tried(claim: Claim) -> list[Verdict]:
    name, port = claim.host, claim.port
    try:
        await _handshake(name, port, ssl.create_default_context(), name)
    except ssl.SSLCertVerificationError as error:
        what = f"target {claim.target}: the certificate of {name} is refused"
        remedy = "renew it, or let clients and this machine know its authority"
        return [Verdict(Level.FAIL, f"{what}: {error.verify_message}", remedy)]
    except (OSError, TimeoutError) as error:
        # A host that is out of reach is told by who reads content back through it.
        why = f"no answer within {HANDSHAKE_SECONDS:g} s"
        if not isinstance(error, TimeoutError):
            why = error.strerror or type(error).__name__
        what = f"target {claim.target}: TLS with {name}:{port} was not tried ({why})"
        return [Verdict(Level.WARN, what, "see that it is reached from here, and speaks TLS")]
    spoken, nameless = await asyncio.gather(_spoken(name, port), _nameless(name, port))
    return [*_of_versions(claim, spoken), *_of_names(claim, nameless=nameless)]


def _of_versions(claim: Claim, spoken: Mapping[TlsVersion, bool]) -> list[Verdict]:
    """Compare; a version that this machine cannot speak is in no comparison."""
    speaks = tuple(version for version, does in spoken.items() if does)
    shown = ", ".join(speaks) or "none that this machine knows"
    what = f"target {claim.target}: {claim.host} speaks TLS {shown}"
    if not claim.versions:
        return [Verdict(Level.OK, f"{what}; tls_versions says nothing of it")]
    wrong = [version for version in claim.versions if spoken.get(version) is False]
    dropped = _LEAST in speaks and _LEAST not in claim.versions
    if not wrong and not dropped:
        return [Verdict(Level.OK, f"{what}, thus what tls_versions lists")]
    right = [v for v in _VERSIONS if v in speaks and (v in _WANTED or v in claim.versions)]
    listed = ", ".join(f'"{version}"' for version in right)
    said = f"{what}, and tls_versions lists {', '.join(claim.versions)}"
    effect = "Mercurial's clients are sent there, or kept away, by that list"
    return [Verdict(Level.WARN, f"{said}: {effect}", f"write tls_versions = [{listed}]")]


def _of_names(claim: Claim, *, nameless: str | None) -> list[Verdict]:
    """Whether clients that send no name are rightly sent there."""
    if claim.sni_required or nameless is None:
        return []
    return [
        Verdict(
            Level.WARN,
            f"target {claim.target}: sni_required is false, and without the host's name in the"
            f" handshake {claim.host} {nameless}",
            "write sni_required = true",
        )
    ]


async def _spoken(host: str, port: int) -> Mapping[TlsVersion, bool]:
    """Which versions a host speaks, of those that this machine does."""
    tried = {version: _context(number) for version, number in _VERSIONS.items()}
    known = {version: context for version, context in tried.items() if context is not None}
    answers = await asyncio.gather(*(_shakes(host, port, each) for each in known.values()))
    return dict(zip(known, answers, strict=True))


async def _shakes(host: str, port: int, context: ssl.SSLContext) -> bool:
    try:
        await _handshake(host, port, context, host)
    except (OSError, TimeoutError):
        return False
    return True


def _context(version: ssl.TLSVersion) -> ssl.SSLContext | None:
    """For a handshake in one version, whoever answers; None if this machine does not speak it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # Only the version is asked for: the certificate was verified before, and nothing is sent.
    context.verify_mode = ssl.CERT_NONE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of 1.0 and 1.1, rightly
            context.minimum_version = context.maximum_version = version
        if version < ssl.TLSVersion.TLSv1_2:
            context.set_ciphers(_ANY_CIPHER)
    except (ValueError, ssl.SSLError):
        return None
    return context


async def _nameless(host: str, port: int) -> str | None:
    """What is wrong with a handshake in which the host is not named; None if nothing is."""
    context = ssl.create_default_context()
    context.check_hostname = False
    try:
        certificate = await _handshake(host, port, context, "")
    except ssl.SSLCertVerificationError as error:
        return f"shows a certificate that is refused: {error.verify_message}"
    except (OSError, TimeoutError):
        return "refuses it"
    # An address is in no handshake anyway.
    if ":" in host or host.replace(".", "").isdigit() or _is_for(certificate, host):
        return None
    return "shows the certificate of another host"


async def _handshake(host: str, port: int, context: ssl.SSLContext, name: str) -> bytes:
    """Shake hands, and hang up; the certificate that was shown, in DER.

    Args:
        host: to connect to.
        port: likewise.
        context: what is offered and demanded.
        name: of the host, sent and compared; empty: neither.

    Raises:
        OSError: there is no connection, or (``ssl.SSLError``) no agreement.
        TimeoutError: it takes too long.
    """
    async with asyncio.timeout(HANDSHAKE_SECONDS):
        _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
    shown: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()
    return shown or b""


def _is_for(certificate: bytes, host: str) -> bool:
    """Whether a certificate (DER) names a host (RFC 6125: a star stands for one label)."""
    try:
        extensions = x509.load_der_x509_certificate(certificate).extensions
        found = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return False
    names = [name.lower() for name in found.get_values_for_type(x509.DNSName)]
    wild = f"*.{host.lower().partition('.')[2]}"
    return host.lower() in names or wild in names
