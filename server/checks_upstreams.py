# Law of this file: an upstream is asked what a mirror would ask it, once, and the line says what is
# to be mended. No credential is shown, to people or to another host than its own.

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from server.checks_machine import is_loopback
from server.checks_upstreams_hg import check_hg_repository, speaks_hg
from server.http_faults import why
from server.settings import Settings
from server.settings_upstreams import UpstreamSettings
from server.upstreams.asking import Asking, Down, Refused, SpeaksV0
from server.upstreams.credentials import own_authorization
from server.upstreams.routes import Remote, Routes
from server.verdict import Level, Verdict
from server.wiring import Unusable

# Repositories that are asked for of one upstream: what is wrong with it is wrong with each.
_ASKED: Final = 3

_CA_REMEDY: Final = "name the certificate of its authority in `ca_file`, or renew its own"


def check_access(settings: Settings) -> Iterator[Verdict]:
    """Look at whom the settings believe."""
    access = settings.access
    for network in access.proxies:
        if ipaddress.ip_network(network).prefixlen == 0:
            what = f"access.proxies {network}: everybody can name a user in {access.user_header}"
            yield Verdict(Level.WARN, what, "list the addresses of the proxies alone")
    for upstream in settings.upstreams:
        if upstream.auth == "none" and upstream.credential is not None and not upstream.public:
            what = f"upstream {upstream.title}: who reaches this server reads with its credential"
            yield Verdict(Level.INFO, what, "give it another `auth` if that is not meant")


async def check_upstreams(
    settings: Settings, session: aiohttp.ClientSession
) -> AsyncGenerator[Verdict, None]:
    """Look at each upstream: its credential, how it is reached, and what of it is listed.

    ``session`` keeps no cookies.
    """
    asking = Asking(session)
    for upstream in settings.upstreams:
        for verdict in _exposed(upstream):
            yield verdict
        try:
            authorization = await asyncio.to_thread(own_authorization, upstream)
        except Unusable as error:
            yield Verdict(
                Level.FAIL, f"upstream {upstream.title}: {error}", "mend its `credential`"
            )
            continue
        if upstream.vcs == "hg" and upstream.repository is not None:
            yield await check_hg_repository(asking, upstream, authorization)
            continue
        remotes = Routes((upstream,)).listed()[:_ASKED]
        readable = []
        for remote in remotes:
            verdict = await _repository(asking, remote, authorization)
            yield verdict
            readable += [remote] if verdict.level is Level.OK else []
        if readable and await _takes_any_case(asking, readable[0], authorization):
            yield Verdict(
                Level.WARN,
                f"upstream {upstream.title}: takes names in upper and lower case alike, and here"
                " each spelling is a repository, with a mirror",
                "write ignore_case = true",
            )
        if not remotes:
            yield await _base(asking, session, upstream)


def _exposed(upstream: UpstreamSettings) -> Iterator[Verdict]:
    """What others could read, on the way or on this machine."""
    title = f"upstream {upstream.title}"
    parts = urlsplit(upstream.url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        whose = ["this server's credential"] if upstream.credential is not None else []
        whose += ["those of callers"] if upstream.auth == "upstream" else []
        if whose:
            what = f"{title}: {' and '.join(whose)} would go to {parts.hostname} without encryption"
            yield Verdict(Level.WARN, what, "write https:// in its `url`")
    credential = upstream.credential
    if credential is not None and credential.file is not None:
        try:
            mode = credential.file.stat().st_mode
        except OSError:
            return  # told by who reads it
        if mode & 0o077:
            what = f"{title}: others may read its credential {credential.file}"
            yield Verdict(Level.WARN, what, f"chmod 600 {credential.file}, then renew it")


async def _repository(asking: Asking, remote: Remote, authorization: str | None) -> Verdict:
    what = f"upstream {remote.upstream.title}: {remote.url}"
    try:
        spoken, _ = await asking.discover(remote, authorization)
    except (Refused, Down) as error:
        if await speaks_hg(asking, remote, authorization):
            remedy = 'write vcs = "hg"'
            return Verdict(Level.FAIL, f"{what}: this is a Mercurial repository", remedy)
        if isinstance(error, Refused):
            return _refused(what, remote.upstream, error)
        return _down(what, error)
    if isinstance(spoken, SpeaksV0):
        remedy = "clients of it are served, less well: have it speak protocol version 2"
        return Verdict(Level.WARN, f"{what}: speaks protocol v0 only", remedy)
    return Verdict(Level.OK, f"{what}: can be read")


async def _takes_any_case(asking: Asking, remote: Remote, authorization: str | None) -> bool:
    """Whether the upstream has a repository in another spelling, too, and nobody said so."""
    upstream = remote.upstream
    if upstream.prefix is None or upstream.any_case or upstream.ignore_case is not None:
        return False
    suffix = ".git" if upstream.same_with_suffix else ""
    name = remote.url.removeprefix(upstream.url).removesuffix(suffix)
    url = f"{upstream.url}{name.swapcase()}{suffix}"
    if url == remote.url:
        return False
    try:
        await asking.discover(replace(remote, url=url), authorization)
    except (Refused, Down):
        return False
    return True


def _refused(what: str, upstream: UpstreamSettings, refused: Refused) -> Verdict:
    said = f"{what}: it answers {refused.status}"
    if upstream.credential is not None:
        remedy = "check the name, and that `credential` is valid and may read it"
        return Verdict(Level.FAIL, f"{said} to this server's credential", remedy)
    if upstream.auth == "upstream":
        remedy = "check the name; if it is private, `credential` lets it be mirrored ahead"
        return Verdict(Level.WARN, f"{said} without a credential", remedy)
    remedy = "check the name, and give `credential`: the callers' own are not shown to it"
    return Verdict(Level.FAIL, f"{said} without a credential", remedy)


def _down(what: str, down: Down) -> Verdict:
    remedy = _CA_REMEDY if "ca_file" in str(down) else "check its `url`, and that we may reach it"
    return Verdict(Level.FAIL, f"{what}: {down}", remedy)


async def _base(
    asking: Asking, session: aiohttp.ClientSession, upstream: UpstreamSettings
) -> Verdict:
    """Whether anybody answers at the base URL; no credential is shown for that."""
    what = f"upstream {upstream.title}: {upstream.url}"
    try:
        context = asking.context(Remote(upstream.title, "", upstream.url, upstream))
        async with session.get(
            URL(upstream.url, encoded=True),
            allow_redirects=False,
            ssl=context,
            timeout=aiohttp.ClientTimeout(total=upstream.timeout),
        ) as response:
            status = response.status
            moved = _host_of(response.headers.get("Location", ""))
    except Down as down:
        return _down(what, down)
    except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError):
        return Verdict(Level.FAIL, f"{what}: its certificate cannot be verified", _CA_REMEDY)
    except (aiohttp.ClientError, OSError) as error:
        said = "does not answer in time" if isinstance(error, TimeoutError) else _kind(error)
        return Verdict(Level.FAIL, f"{what}: {said}", "check its `url`, and that we may reach it")
    if status >= 500:
        return Verdict(Level.WARN, f"{what}: answers with status {status}", "look after it there")
    if upstream.vcs == "git":
        return Verdict(Level.OK, f"{what}: answers; no repository of it is listed to be asked for")
    if moved not in {"", _host_of(upstream.url)}:
        return Verdict(
            Level.WARN,
            f"{what}: redirects to {moved}; of Mercurial no redirect is followed",
            "write the URL below which `hg clone` finds the repositories, without a redirect",
        )
    return Verdict(
        Level.INFO,
        f"{what}: answers with status {status}; whether Mercurial repositories are below it, and"
        " who may read them, is seen only when one is asked for",
        f"try one: hg identify {upstream.url}/NAME",
    )


def _host_of(url: str) -> str:
    """Scheme, host and port; empty of what is relative, or none."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.hostname}{port}" if parts.hostname else ""


def _kind(error: Exception) -> str:
    """What went wrong; the words of libraries may hold URLs."""
    return f"cannot be asked ({why(error)})"
