# Law of this file: what the settings say of a target's TLS is compared with what real servers do,
# and a server that says nothing keeps nobody waiting.

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from server import checks_tls
from server.checks_tls import Claim, check_tls, claims
from server.placing import Stores
from server.settings import Settings
from server.verdict import Level, Verdict
from server.wiring import build_store, build_targets, signing_keys
from tests.nginx import running_nginx

Offramp = Callable[..., subprocess.CompletedProcess[str]]

ONE_POINT_TWO, ONE_POINT_THREE = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
BOTH: Final = (ONE_POINT_TWO, ONE_POINT_THREE)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with certificates, each its own authority, and their keys in the same file."""
    directory = tmp_path_factory.mktemp("certificates")
    for host in ("localhost", "other.example", "*.example.org"):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (directory / f"{host}.pem").write_bytes(private + made.public_bytes(Encoding.PEM))
    return directory


@pytest.fixture
def trusted(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, and they are believed."""
    bundle = certificates / "all"
    bundle.write_bytes(b"".join(path.read_bytes() for path in certificates.glob("*.pem")))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    return certificates


def context(
    certificates: Path,
    host: str = "localhost",
    versions: tuple[ssl.TLSVersion, ssl.TLSVersion] = BOTH,
) -> ssl.SSLContext:
    """Of a server that shows the certificate of ``host``."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificates / f"{host}.pem")
    made.minimum_version, made.maximum_version = versions
    return made


@asynccontextmanager
async def listening(how: ssl.SSLContext | None) -> AsyncIterator[int]:
    """The port of a server that shakes hands so; None: it is silent."""

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.read()
        writer.transport.abort()

    server = await asyncio.start_server(wait, "127.0.0.1", 0, ssl=how)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def claim(port: int, *versions: str, sni: bool = True) -> Claim:
    """What is said of a target on this machine."""
    return Claim("cdn", "localhost", port, sni, versions)  # type: ignore[arg-type]


async def found(*made: Claim) -> list[Verdict]:
    """What is found out about them."""
    return [verdict async for verdict in check_tls(made)]


@pytest.mark.parametrize(
    ("speaks", "claimed", "level", "remedy"),
    [
        (BOTH, ("1.2", "1.3"), Level.OK, ""),
        (BOTH, ("1.2",), Level.OK, ""),
        (BOTH, (), Level.OK, ""),
        ((ONE_POINT_TWO,) * 2, ("1.2", "1.3"), Level.WARN, 'write tls_versions = ["1.2"]'),
        ((ONE_POINT_THREE,) * 2, ("1.2",), Level.WARN, 'write tls_versions = ["1.3"]'),
        (BOTH, ("1.3",), Level.WARN, 'write tls_versions = ["1.2", "1.3"]'),
        (BOTH, ("1.0", "1.2", "1.3"), Level.WARN, 'write tls_versions = ["1.2", "1.3"]'),
    ],
)
async def test_versions(
    trusted: Path,
    speaks: tuple[ssl.TLSVersion, ssl.TLSVersion],
    claimed: tuple[str, ...],
    level: Level,
    remedy: str,
) -> None:
    """A version that is listed and not spoken is told, and 1.2 that is not listed."""
    async with listening(context(trusted, versions=speaks)) as port:
        (verdict,) = await found(claim(port, *claimed))
    assert (verdict.level, verdict.remedy) == (level, remedy)


def refuses_strangers(tls: ssl.SSLObject, name: str | None, how: ssl.SSLContext) -> int | None:
    """Ask for a name in the handshake."""
    return None if name else ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("needs none", None),
        ("refuses", "refuses it"),
        ("shows another", "shows the certificate of another host"),
    ],
)
@pytest.mark.parametrize("required", [True, False])
async def test_names(trusted: Path, kind: str, why: str | None, required: bool) -> None:
    """Without its name in the handshake a host may be another; that it needs none harms nobody."""
    how = context(trusted, "other.example" if kind == "shows another" else "localhost")
    named = context(trusted)

    def by_name(tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name:
            tls.context = named

    if kind != "needs none":
        how.sni_callback = refuses_strangers if kind == "refuses" else by_name  # type: ignore[assignment]
    async with listening(how) as port:
        verdicts = await found(claim(port, "1.2", "1.3", sni=required))
    assert verdicts[0].level is Level.OK
    if required or why is None:
        assert len(verdicts) == 1
    else:
        assert verdicts[1].what.endswith(f"localhost {why}")
        assert verdicts[1].remedy == "write sni_required = true"


async def test_a_certificate_that_nobody_believes(certificates: Path) -> None:
    """It fails, with the reason in OpenSSL's words."""
    async with listening(context(certificates)) as port:
        (verdict,) = await found(claim(port, "1.2"))
    assert verdict.level is Level.FAIL
    assert "certificate of localhost is refused: self-signed" in verdict.what


async def test_silence_and_nobody(trusted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that says nothing is given up, one that is not there at once; others are tried."""
    monkeypatch.setattr(checks_tls, "HANDSHAKE_SECONDS", 0.5)
    async with listening(None) as silent, listening(context(trusted)) as port:
        verdicts = await found(claim(silent, "1.2"), claim(9, "1.2"), claim(port, "1.2", "1.3"))
    assert [verdict.level for verdict in verdicts] == [Level.WARN, Level.WARN, Level.OK]
    assert "no answer within 0.5 s" in verdicts[0].what
    assert "localhost:9 was not tried" in verdicts[1].what


def test_a_star_is_one_label(certificates: Path) -> None:
    """A certificate for ``*.example.org`` is for no host two labels below it, nor for itself."""
    pem = (certificates / "*.example.org.pem").read_bytes()
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    assert checks_tls._is_for(der, "CDN.example.org")
    assert not checks_tls._is_for(der, "a.cdn.example.org")
    assert not checks_tls._is_for(der, "example.org")
    assert not checks_tls._is_for(b"no certificate", "example.org")


async def test_what_is_claimed(tmp_path: Path) -> None:
    """Of targets by https, with the port of their URL; of this server by public_url."""
    targets = [
        {"type": "http", "name": "a", "base_url": "https://a.example:8443/x"},
        {"type": "http", "name": "b", "base_url": "http://b.example", "tls_versions": ["1.3"]},
        {"type": "self", "tls_versions": ["1.3"], "sni_required": False},
    ]
    settings = Settings.model_validate(
        {"data": tmp_path / "data", "targets": targets, "public_url": "https://git.example.org"}
    )
    store = build_store(settings)
    built = await build_targets(settings, Stores(store), signing_keys(settings.data))
    await store.close()
    assert claims(settings, built) == (
        Claim("a", "a.example", 8443, True, ("1.2", "1.3")),
        Claim("self", "git.example.org", 443, False, ("1.3",)),
    )


# --- the whole command, and nginx ---------------------------------------------------------


@contextmanager
def tls_nginx(here: Path, store: Path, certificate: Path) -> Iterator[str]:
    """The base URL of a stock nginx before a directory store, that speaks TLS 1.2 alone."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        server = (
            f"server {{ listen 127.0.0.1:{port} ssl; ssl_protocols TLSv1.2;"
            f" ssl_certificate {certificate}; ssl_certificate_key {certificate};"
            f" location /entities/ {{ root {store}; }} }}"
        )
        with running_nginx(here, server, listener):
            yield f"https://localhost:{port}"


@pytest.mark.nginx
def test_nginx_with_tls(offramp: Offramp, here: Path, trusted: Path) -> None:
    """Content comes back by TLS, and that nginx speaks no 1.3 is told with the remedy."""
    store = here / "offramp-data/store"
    with tls_nginx(here / "nginx", store, trusted / "localhost.pem") as url:
        (here / "offramp.toml").write_text(
            f'[[targets]]\ntype = "http"\nname = "cdn"\nbase_url = "{url}"\n'
        )
        result = offramp("doctor", "--config", "offramp.toml")
    said = [line for line in result.stdout.splitlines() if "target cdn" in line]
    assert "ok    target cdn: content comes back, whole and by Range" in said
    (warned,) = [line for line in said if not line.startswith("ok")]
    assert warned.startswith(
        "warn  target cdn: localhost speaks TLS 1.2, and tls_versions lists 1.2, 1.3: "
    )
    assert warned.endswith('  -> write tls_versions = ["1.2"]')
