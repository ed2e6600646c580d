# Law of this file: what is looked at on this machine: git, ROOT, the data directory, public_url and
# the git settings of whoever asks. Values that may be secret are looked at and not shown.

from __future__ import annotations

import ipaddress
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from repos.git.discovery import Found, discover
from repos.git.program import Git, GitFailed
from repos.hg.discovery import discover as discover_hg
from server.checks_keys import not_ours
from server.setting_types import host_port
from server.settings import Settings
from server.verdict import Level, Verdict
from server.wiring import SECRET_FILE, Unusable, signing_keys

# What a git must know: as server, to list the objects of partial clones; as client, to be told
# where content is: `packfile-uris`, and for clones the command `bundle-uri`.
_SERVER: Final = (2, 25)
_PACKFILE_URIS: Final = (2, 28)
_BUNDLE_URI: Final = (2, 40)

# git is asked about this many repositories: enough to find an owner that it does not trust.
_ASKED: Final = 25

_VERSION: Final = re.compile(rb"git version (\d+)\.(\d+)(\S*)")


def check_machine(settings: Settings, git: Git) -> Iterator[Verdict]:
    """Everything but the store and its targets; blocks."""
    version = _git_version(git)
    yield _excused(version) if version.level is Level.FAIL and _only_hg(settings) else version
    if settings.local_root is not None:
        yield from _root(settings.local_root, settings.data, git)
    yield from _data(settings.data)
    yield _public_url(settings)
    if version.level is not Level.FAIL:
        yield _extra_header(git)
        yield _uri_protocols(git)


def _git_version(git: Git) -> Verdict:
    try:
        output = git.run("version")
    except GitFailed as error:
        return Verdict(
            Level.FAIL, f"git cannot be run: {error.stderr}", "install git 2.28 or later"
        )
    match = _VERSION.match(output)
    if match is None:
        said = output.decode(errors="replace").strip()
        return Verdict(Level.WARN, f"git: the version is not clear from {said!r}")
    version = (int(match[1]), int(match[2]))
    name = f"git {version[0]}.{version[1]}{match[3].decode(errors='replace')}"
    if version < _SERVER:
        return Verdict(Level.FAIL, f"{name}: too old to serve", "install git 2.28 or later")
    if version < _PACKFILE_URIS:
        remedy = "clients need git 2.28 or later for packfile-uris; others get everything inline"
        return Verdict(Level.WARN, f"{name}: serves, but follows no packfile-uris", remedy)
    if version < _BUNDLE_URI:
        return Verdict(Level.OK, f"{name}: serves, follows packfile-uris; bundle-uri needs 2.40")
    return Verdict(Level.OK, f"{name}: serves, follows packfile-uris and bundle-uri")


def _excused(version: Verdict) -> Verdict:
    """Only what is served of git needs it."""
    return replace(
        version,
        level=Level.WARN,
        what=f"{version.what}; nothing of git is served now",
        remedy=f"{version.remedy}, before a git repository comes",
    )


def _only_hg(settings: Settings) -> bool:
    """Whether there are Mercurial repositories, and nothing of git."""
    if any(upstream.vcs == "git" for upstream in settings.upstreams):
        return False
    root, data = settings.local_root, settings.data
    if root is None:
        return True  # an upstream of Mercurial, since there must be one
    return any(discover_hg(root, data)) and not any(discover(root, data))


def _root(root: Path, data: Path, git: Git) -> Iterator[Verdict]:
    if not root.is_dir():
        remedy = "give the directory that holds your repositories"
        yield Verdict(Level.FAIL, f"ROOT {root}: no such directory", remedy)
        return
    if not os.access(root, os.R_OK | os.X_OK):
        yield Verdict(Level.FAIL, f"ROOT {root}: permission denied", "let this user read it")
        return
    found = list(discover(root, data))
    of_hg = sum(1 for _ in discover_hg(root, data))
    if not found and not of_hg:
        remedy = "git init --bare a repository below it, or give another ROOT"
        yield Verdict(Level.WARN, f"ROOT {root}: no repository found", remedy)
        return
    count = len(found) + of_hg
    what = "1 repository" if count == 1 else f"{count} repositories"
    of_them = f", {of_hg} of Mercurial" if of_hg else ""
    yield Verdict(Level.OK, f"ROOT {root}: {what}{of_them}")
    yield from _refused(found, git)


def _refused(found: list[Found], git: Git) -> Iterator[Verdict]:
    """What stock git would not serve, in its own words."""
    for repository in islice(found, _ASKED):
        try:
            git.run(
                "upload-pack",
                "--stateless-rpc",
                "--advertise-refs",
                "--strict",
                str(repository.git_dir),
                env={"GIT_PROTOCOL": "version=2"},
            )
        except GitFailed as error:
            said = " ".join(error.stderr.split())[:200]
            remedy = "run as the owner of the repository, or name it in git's safe.directory"
            yield Verdict(
                Level.FAIL, f"repository {repository.name}: git refuses it: {said}", remedy
            )


def _data(data: Path) -> Iterator[Verdict]:
    remedy = "let this user write there, or give another --data"
    try:
        data.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data) as file:
            file.write(b"probe")
        signing_keys(data)
    except OSError as error:
        if error.filename == str(data / SECRET_FILE):
            yield not_ours(data, error)
            return
        yield Verdict(Level.FAIL, f"data {data}: cannot write: {error.strerror}", remedy)
        return
    except Unusable as error:
        yield Verdict(Level.FAIL, str(error), "mend the file, or remove it to have one made")
        return
    yield Verdict(Level.OK, f"data {data}: writable")
    secret = data / SECRET_FILE
    if secret.stat().st_uid != data.stat().st_uid:
        what = f"{secret} belongs to another user than {data}; the server may not read it"
        yield Verdict(Level.WARN, what, f"chown --reference={data} {secret}")
    if secret.stat().st_mode & 0o077:
        what = f"{secret}: others may read it, and with it any content"
        yield Verdict(Level.WARN, what, f"chmod 600 {secret}, then put a new key first in it")


def _public_url(settings: Settings) -> Verdict:
    url = settings.public_url
    listens_here_only = is_loopback(host_port(settings.listen)[0])
    if url is None:
        if listens_here_only:
            return Verdict(Level.OK, "public_url: not set; clients are on this machine")
        remedy = "set public_url if clients come by https or through a proxy"
        return Verdict(Level.INFO, "public_url: not set; URLs are made from http and Host", remedy)
    parts = urlsplit(url)
    if is_loopback(parts.hostname or "") and not listens_here_only:
        remedy = "set it to the name by which clients reach this server"
        return Verdict(Level.WARN, f"public_url {url}: leads other machines to themselves", remedy)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        remedy = "put a proxy that speaks TLS in front; signed URLs are keys to content"
        return Verdict(Level.WARN, f"public_url {url}: not encrypted", remedy)
    return Verdict(Level.OK, f"public_url {url}")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name or address alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _extra_header(git: Git) -> Verdict:
    """An Authorization that git would send to every host, thus to that of the content too."""
    try:
        output = git.run(
            "config", "--null", "--show-scope", "--show-origin", "--get-all", "http.extraheader"
        )
    except GitFailed as error:
        if error.status == 1:  # not set
            return Verdict(Level.OK, "http.extraHeader: no Authorization for all hosts")
        said = error.stderr.partition("\n")[0]
        return Verdict(Level.WARN, f"git config cannot be read: {said}")
    # --null --show-scope --show-origin: scope, origin and value, each ended by NUL.
    words = output.decode(errors="replace").split("\0")
    origins = [
        f"{scope} {origin}".strip()
        for scope, origin, value in zip(words[::3], words[1::3], words[2::3], strict=False)
        if value.lower().startswith("authorization")
    ]
    if not origins:
        return Verdict(Level.OK, "http.extraHeader: no Authorization for all hosts")
    return Verdict(
        Level.WARN,
        f"http.extraHeader ({', '.join(origins)}): git sends this Authorization to the host of"
        " the content too, and S3 refuses signed URLs with it",
        "scope it by URL: http.https://git.example.org/.extraHeader",
    )


def _uri_protocols(git: Git) -> Verdict:
    try:
        value = git.run("config", "--get", "fetch.uriProtocols").decode(errors="replace").strip()
    except GitFailed:
        return Verdict(
            Level.INFO,
            "fetch.uriProtocols: not set; this user's git gets everything inline",
            "git config --global fetch.uriProtocols https,http",
        )
    return Verdict(Level.INFO, f"fetch.uriProtocols: {value}")
