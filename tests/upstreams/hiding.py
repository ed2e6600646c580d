# Law of this file: an upstream that shows each user other refs, and gives nobody an object that no
# ref of theirs reaches: stock upload-pack with a configuration per user, behind Basic auth.

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from aiohttp import web

from tests.conformance.clones import packet, packets
from tests.conformance.repositories import Repository
from tests.upstreams.clients import basic

_RESULT: Final = "application/x-git-upload-pack-result"
_ADVERTISEMENT: Final = "application/x-git-upload-pack-advertisement"


@dataclass
class Hiding:
    """A running upstream of one repository.

    Attributes:
        url: its base URL, without a trailing slash.
        repository: what it serves, at whatever path.
        hidden: prefixes of refs that a user does not see, by the header of that user.
    """

    url: str
    repository: Repository
    hidden: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _runner: web.AppRunner | None = None

    @classmethod
    async def start(
        cls, root: Path, repository: Repository, users: Mapping[str, tuple[str, ...]]
    ) -> Self:
        """Listen on a free port of loopback.

        Args:
            root: of the repository.
            repository: what is served.
            users: prefixes of the refs that each does not see; passwords are names.
        """
        assert repository.root == root
        hidden = {basic(name, name): prefixes for name, prefixes in users.items()}
        hiding = cls("", repository, hidden)
        app = web.Application()
        app.router.add_get("/{name:.+}/info/refs", hiding._info_refs)
        app.router.add_post("/{name:.+}/git-upload-pack", hiding._upload_pack)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        hiding.url, hiding._runner = f"http://{host}:{port}", runner
        return hiding

    async def close(self) -> None:
        """Stop."""
        if self._runner is not None:
            await self._runner.cleanup()

    def _unseen(self, request: web.Request) -> tuple[str, ...]:
        unseen = self.hidden.get(request.headers.get("Authorization", ""))
        if unseen is None:
            challenge = {"WWW-Authenticate": 'Basic realm="hiding"'}
            raise web.HTTPUnauthorized(headers=challenge)
        return unseen

    async def _info_refs(self, request: web.Request) -> web.Response:
        unseen = self._unseen(request)
        said = await self._git(request, unseen, b"", "--advertise-refs")
        body = packet("# service=git-upload-pack\n") + b"0000" + said
        return web.Response(body=body, content_type=_ADVERTISEMENT)

    async def _upload_pack(self, request: web.Request) -> web.Response:
        unseen = self._unseen(request)
        body = await request.read()
        wants = [line.decode().split()[1] for line in packets(body) if line.startswith(b"want ")]
        visible = await asyncio.to_thread(self._visible, unseen)
        for oid in wants:
            if oid not in visible:
                said = packet(f"ERR upload-pack: not our ref {oid}")
                return web.Response(body=said, content_type=_RESULT)
        said = await self._git(request, unseen, body)
        return web.Response(body=said, content_type=_RESULT)

    def _visible(self, unseen: tuple[str, ...]) -> set[str]:
        """Everything that the refs which are not hidden reach."""
        words = [f"--exclude={prefix}*" for prefix in unseen]
        return {
            line.split()[0]
            for line in self.repository.git("rev-list", "--objects", *words, "--all").splitlines()
        }

    async def _git(
        self, request: web.Request, unseen: tuple[str, ...], body: bytes, *words: str
    ) -> bytes:
        config = ["-c", "uploadpack.allowFilter=true", "-c", "uploadpack.allowAnySHA1InWant=true"]
        for prefix in unseen:
            config += ["-c", f"uploadpack.hideRefs={prefix}"]
        process = await asyncio.create_subprocess_exec(
            "git",
            *config,
            "upload-pack",
            "--stateless-rpc",
            *words,
            str(self.repository.path),
            env={**os.environ, "GIT_PROTOCOL": request.headers.get("Git-Protocol", "")},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate(body)
        return said
