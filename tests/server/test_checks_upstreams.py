# Law of this file: the doctor says of an upstream what its mirror would meet, and how to mend it.

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from server.checks_upstreams import check_access, check_upstreams
from server.settings import Settings
from server.verdict import Level, Verdict
from wire.git import pktline

TOKEN = "hunter2-hunter2"
V2 = (
    pktline.text(b"# service=git-upload-pack")
    + pktline.FLUSH
    + b"".join(map(pktline.text, (b"version 2", b"ls-refs", b"fetch", b"object-format=sha1")))
    + pktline.FLUSH
)

Forge = Callable[..., Awaitable[str]]


async def answer(request: web.Request) -> web.Response:
    """A forge with `open`, `mine` for a token, and `moved`; everything else is not there."""
    shown = request.headers.get("Authorization")
    assert shown in {None, f"Bearer {TOKEN}"}
    match request.path:
        case "/":
            return web.Response(text="welcome")
        case "/open.git/info/refs" | "/any.git/info/refs" | "/ANY.git/info/refs":
            pass
        case "/mine.git/info/refs" if shown:
            pass
        case "/mine.git/info/refs":
            return web.Response(status=401, headers={"WWW-Authenticate": "Basic"})
        case "/page.git/info/refs":
            return web.Response(text="<html>")
        case "/moved.git/info/refs":
            return web.Response(
                status=301, headers={"Location": "https://other.example.org" + request.path_qs}
            )
        case "/broken/":
            return web.Response(status=502)
        case _:
            return web.Response(status=404)
    assert request.headers["Git-Protocol"] == "version=2"
    return web.Response(
        body=V2, headers={"Content-Type": "application/x-git-upload-pack-advertisement"}
    )


@pytest.fixture
async def forge() -> AsyncIterator[Forge]:
    """Start forges; called with a certificate or nothing, returns the base URL."""
    async with AsyncExitStack() as stack:

        async def start(context: ssl.SSLContext | None = None) -> str:
            app = web.Application()
            app.router.add_get("/{path:.*}", answer)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
            port = runner.addresses[0][1]
            return f"{'http' if context is None else 'https'}://127.0.0.1:{port}"

        yield start


async def found(**upstream: Any) -> list[Verdict]:
    """What is found out about one upstream; it holds no secret."""
    settings = Settings.model_validate({"upstreams": [{"prefix": "forge", **upstream}]})
    async with aiohttp.ClientSession() as session:
        verdicts = [verdict async for verdict in check_upstreams(settings, session)]
    assert "hunter2" not in str(verdicts)
    assert all(verdict.remedy for verdict in verdicts if verdict.level in {"warn", "fail"})
    assert all(verdict.what.startswith("upstream forge: ") for verdict in verdicts)
    return verdicts


async def sole(**upstream: Any) -> tuple[Level, str]:
    """The one thing that is found out."""
    (verdict,) = await found(**upstream)
    return verdict.level, f"{verdict.what} -> {verdict.remedy}"


async def test_all_is_well(forge: Forge) -> None:
    """Repositories that are listed are asked for as a mirror does, with the credential."""
    url = await forge()
    credential = {"password": TOKEN}
    verdicts = await found(url=url, listed=["open", "mine"], credential=credential)
    assert [verdict.level for verdict in verdicts] == [Level.OK, Level.OK]
    assert "open.git: can be read" in verdicts[0].what


async def test_case_means_nothing(forge: Forge) -> None:
    """A forge that takes another spelling is told of, unless the settings say what it does."""
    url = await forge()
    known, told = await found(url=url, listed=["any"])
    assert (known.level, told.level, told.remedy) == ("ok", "warn", "write ignore_case = true")
    for said in (True, False):
        assert (await sole(url=url, listed=["any"], ignore_case=said))[0] == "ok"


async def test_nothing_is_listed(forge: Forge) -> None:
    """Then it is only seen whether anybody answers, and nobody is shown the credential."""
    level, said = await sole(url=await forge())
    assert (level, "answers" in said) == (Level.OK, True)
    level, said = await sole(url=f"{await forge()}/broken/x/..")
    assert level is Level.OK


async def test_a_single_repository(forge: Forge) -> None:
    """One repository is asked for at its own URL."""
    url = f"{await forge()}/open.git"
    settings = Settings.model_validate({"upstreams": [{"repository": "one", "url": url}]})
    async with aiohttp.ClientSession() as session:
        (verdict,) = [verdict async for verdict in check_upstreams(settings, session)]
    assert verdict.level is Level.OK
    assert verdict.what == f"upstream one: {url}: can be read"


@pytest.mark.parametrize(
    ("values", "level", "word"),
    [
        ({"listed": ["mine"]}, Level.WARN, "401 without a credential -> check the name; if"),
        ({"listed": ["mine"], "auth": "none"}, Level.FAIL, "give `credential`"),
        ({"listed": ["gone"], "credential": {"password": TOKEN}}, Level.FAIL, "404 to this server"),
        ({"listed": ["page"]}, Level.FAIL, "does not answer as git does"),
        ({"listed": ["moved"]}, Level.FAIL, "redirect_hosts"),
    ],
)
async def test_refusals(forge: Forge, values: dict[str, Any], level: Level, word: str) -> None:
    """A no, and what is neither yes nor no, are told with what to do about them."""
    assert (await sole(url=await forge(), **values))[0] is level
    assert word in (await sole(url=await forge(), **values))[1]


@pytest.mark.parametrize("values", [{}, {"listed": ["open"]}])
async def test_nobody_is_there(values: dict[str, Any], unused_tcp_port: int) -> None:
    """An upstream that cannot be reached fails, with what to look at."""
    level, said = await sole(url=f"http://127.0.0.1:{unused_tcp_port}", **values)
    assert level is Level.FAIL
    assert "check its `url`" in said


@pytest.mark.parametrize("values", [{}, {"listed": ["open"]}])
async def test_certificates(forge: Forge, tmp_path: Path, values: dict[str, Any]) -> None:
    """An authority that nobody knows is told with `ca_file`, and with it all is well."""
    certificate = made(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    url = await forge(context)
    level, said = await sole(url=url, **values)
    assert (level, "`ca_file`" in said) == (Level.FAIL, True)
    assert (await sole(url=url, ca_file=certificate, **values))[0] is Level.OK
    level, said = await sole(url=url, ca_file=tmp_path / "missing", **values)
    assert (level, "missing cannot be used" in said) == (Level.FAIL, True)


def made(directory: Path) -> Path:
    """A file with a certificate for 127.0.0.1 that its own key signed, and that key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "forge")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = directory / "forge.pem"
    file.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return file


async def test_credential_files(forge: Forge, tmp_path: Path) -> None:
    """A credential that cannot be used fails, one that others can read is worth a warning."""
    file = tmp_path / "token"
    values = {"url": await forge(), "listed": ["mine"], "credential": {"file": file}}
    level, said = await sole(**values)
    assert (level, "no such file" in said) == (Level.FAIL, True)
    file.write_text(TOKEN)
    file.chmod(0o640)
    readable, verdict = await found(**values)
    assert (readable.level, verdict.level) == (Level.WARN, Level.OK)
    assert readable.remedy.startswith(f"chmod 600 {file}")
    file.chmod(0o600)
    assert (await sole(**values))[0] is Level.OK


@pytest.mark.parametrize(
    ("values", "whose"),
    [
        ({"auth": "upstream"}, "those of callers would"),
        ({"credential": {"password": TOKEN}, "auth": "none"}, "this server's credential would"),
        ({"credential": {"password": TOKEN}}, "this server's credential and those of callers"),
    ],
)
async def test_credentials_in_the_clear(values: dict[str, Any], whose: str) -> None:
    """Credentials that others on the way could read are worth a warning."""
    first, _ = await found(url="http://forge.invalid", timeout=20, **values)
    assert first.level is Level.WARN
    assert whose in first.what
    assert "without encryption" in first.what


async def test_nothing_secret_in_the_clear() -> None:
    """Where no credential is sent there is nothing to warn of."""
    assert (await sole(url="http://forge.invalid", auth="none"))[0] is Level.FAIL


def test_access() -> None:
    """A proxy that is everybody, and a credential that serves everybody, are pointed out."""
    settings = Settings.model_validate(
        {
            "root": ".",
            "access": {"auth": "proxy", "proxies": ["10.0.0.1", "0.0.0.0/0", "::/0"]},
            "upstreams": [
                {"prefix": "a", "url": "https://a.invalid", "auth": "none"},
                {
                    "prefix": "b",
                    "url": "https://b.invalid",
                    "auth": "none",
                    "credential": {"password": TOKEN},
                },
            ],
        }
    )
    one, two, three = check_access(settings)
    assert (one.level, two.level, three.level) == (Level.WARN, Level.WARN, Level.INFO)
    assert "0.0.0.0/0" in one.what
    assert "::/0" in two.what
    assert "upstream b" in three.what
    assert list(check_access(Settings())) == []
