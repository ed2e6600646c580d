# Law of this file: what this machine's git can do as server is asked of it, once, and of no
# repository that anybody has.

from __future__ import annotations

import asyncio
import functools
import tempfile
from concurrent.futures import Executor
from dataclasses import dataclass, field

from repos.git.program import Git
from repos.git.repository import V2
from server.upstreams.asking import SERVICE
from wire.git.capabilities import Capabilities, parse_advertisement, service_preface
from wire.git.v0_advertisement import parse_advertisement as parse_v0


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the local git can do.

    Attributes:
        git: how it is run.
        questions: threads for that.
    """

    git: Git
    questions: Executor
    _known: dict[str, tuple[Capabilities, tuple[str, ...]]] = field(default_factory=dict)

    async def of(self, object_format: str) -> tuple[Capabilities, tuple[str, ...]]:
        """In protocol v2, and its words of v0.

        Raises:
            repos.git.program.GitFailed: it does not run.
        """
        known = self._known.get(object_format)
        if known is None:
            ask = functools.partial(_ask, self.git, object_format)
            known = await asyncio.get_running_loop().run_in_executor(self.questions, ask)
            self._known[object_format] = known
        return known


def _ask(git: Git, object_format: str) -> tuple[Capabilities, tuple[str, ...]]:
    """Ask git, of a repository with one blob and a tag of it; blocks.

    Of an empty one, git before 2.41 says nothing in protocol v0.
    """
    config = (("uploadpack.allowFilter", "true"), ("uploadpack.allowAnySHA1InWant", "true"))
    with tempfile.TemporaryDirectory(prefix="offramp-") as empty:
        git.run(
            "init",
            "--quiet",
            "--bare",
            f"--object-format={object_format}",
            "--template=",
            empty,
        )
        stored = git.run(f"--git-dir={empty}", "hash-object", "-w", "--stdin")
        tag = ("update-ref", "refs/tags/one", stored.decode().strip())
        git.run(f"--git-dir={empty}", *tag)
        asked = ("upload-pack", "--stateless-rpc", "--advertise-refs", "--strict", empty)
        second = git.run(*asked, config=config, env=V2)
        first = git.run(*asked, config=config)
    preface = service_preface(SERVICE)
    return parse_advertisement(second), parse_v0(preface + first).capabilities
