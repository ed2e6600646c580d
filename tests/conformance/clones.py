# Law of this file: what a client has after a fetch is compared whole: refs, objects, shallow
# boundary, HEAD; and `git fsck --strict` agrees.

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.conftest import Finished

_LOCATION: Final = re.compile(r"< ([0-9a-f]{40,64}) (https?://\S+)")
_TRACED: Final = {"GIT_TRACE_PACKET": "1", "GIT_TRACE_REDACT": "0"}
# Commits of clients are the same each time, and so are their haves.
_DATED: Final = {
    "GIT_AUTHOR_DATE": "1710000000 +0000",
    "GIT_COMMITTER_DATE": "1710000000 +0000",
}


@dataclass(frozen=True)
class State:
    """What a repository of a client holds.

    Attributes:
        head: the content of HEAD.
        refs: names, object ids and targets of symbolic refs.
        shallow: the commits where its history ends.
        objects: ids of all objects that it has.
    """

    head: str
    refs: tuple[str, ...]
    shallow: tuple[str, ...]
    objects: frozenset[str]


@dataclass(frozen=True)
class Client:
    """Stock git with some settings.

    Attributes:
        directory: where it runs.
        settings: ``-c`` words.
        environ: on top of ours.
        trusted: what it has came from stock git alone, and needs no `fsck`.
    """

    directory: Path
    settings: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    trusted: bool = False

    async def __call__(self, *args: str | Path, stdin: bytes = b"", check: bool = True) -> Finished:
        """Run ``git ARGS`` to its end; unless ``check`` is False it must end well."""
        settings = [word for setting in self.settings for word in ("-c", setting)]
        process = await asyncio.create_subprocess_exec(
            "git",
            *settings,
            *map(str, args),
            cwd=self.directory,
            env={**os.environ, **_DATED, **self.environ},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        stdout, stderr = await process.communicate(stdin)
        finished = Finished(
            process.returncode or 0, stdout.decode(), stderr.decode(errors="replace")
        )
        assert not check or finished.status == 0, f"git {args}: {finished.stderr}"
        return finished

    def traced(self) -> Client:
        """The same client, saying what it reads; see :func:`locations`."""
        return Client(self.directory, self.settings, {**self.environ, **_TRACED})


def accepting(directory: Path) -> Client:
    """A client that accepts locations."""
    return Client(directory, ("fetch.uriProtocols=http,https",))


def declining(directory: Path) -> Client:
    """A client as it comes."""
    return Client(directory)


def stock(directory: Path) -> Client:
    """A client of stock git's own server, which filters and follows ``file://``."""
    config = directory / "stock.gitconfig"
    own = Path(os.environ["HOME"]) / ".gitconfig"
    config.write_text(f"[include]\n\tpath = {own}\n[uploadpack]\n\tallowFilter = true\n")
    environ = {"GIT_CONFIG_GLOBAL": str(config)}
    return Client(directory, ("protocol.version=2",), environ, trusted=True)


def locations(traced: Finished) -> dict[str, str]:
    """Checksums and URLs of the packs that a traced client was sent to."""
    return dict(_LOCATION.findall(traced.stderr))


async def state(client: Client, clone: Path) -> State:
    """What ``clone`` holds, after git has found nothing wrong with it."""
    plain = Client(client.directory)
    if not client.trusted:
        checked = await plain("-C", clone, "fsck", "--strict")
        complaints = re.findall(
            r"^(?:error|missing|broken).*", checked.stdout + checked.stderr, re.MULTILINE
        )
        assert not complaints
    refs, objects = await asyncio.gather(
        plain("-C", clone, "for-each-ref", "--format=%(refname) %(objectname) %(symref)"),
        plain("-C", clone, "cat-file", "--batch-all-objects", "--batch-check=%(objectname)"),
    )
    git_dir = clone / ".git" if (clone / ".git").is_dir() else clone
    shallow = git_dir / "shallow"
    return State(
        head=(git_dir / "HEAD").read_text().strip(),
        refs=tuple(sorted(refs.stdout.splitlines())),
        shallow=tuple(sorted(shallow.read_text().split())) if shallow.exists() else (),
        objects=frozenset(objects.stdout.split()),
    )


# --- without git ------------------------------------------------------------------------------


def packet(line: str | bytes) -> bytes:
    """One pkt-line."""
    payload = line.encode() if isinstance(line, str) else line
    return f"{len(payload) + 4:04x}".encode() + payload


def packets(body: bytes) -> list[bytes]:
    """The payloads of pkt-lines; delimiters and flushes are left out."""
    found = []
    while body:
        length = max(int(body[:4], 16), 4)
        if length > 4:
            found.append(body[4:length])
        body = body[length:]
    return found


def v2_request(command: str, *arguments: str, object_format: str = "sha1") -> bytes:
    """The body of a protocol v2 request, as stock git writes it."""
    head = (f"command={command}", "agent=git/2.39.5", f"object-format={object_format}")
    return b"".join((*map(packet, head), b"0001", *map(packet, arguments), b"0000"))


V2_HEADERS: Final = {
    "Content-Type": "application/x-git-upload-pack-request",
    "Git-Protocol": "version=2",
}
