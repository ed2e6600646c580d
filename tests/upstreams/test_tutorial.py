# Law of this file: what docs/tutorial-github.md says to type is typed here, with a forge of our own
# in GitHub's place, and what it promises of credentials is looked at where the packs come from.

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import textwrap
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.conformance.clones import locations
from tests.conformance.repositories import Repository, make
from tests.conftest import Finished, Serve, Served
from tests.docs.test_docs import EXAMPLE_ADDRESS, ROOT, blocks, free_port, installed, serving
from tests.upstreams.clients import anonymous, basic, by_header, by_unscoped_header, clone
from tests.upstreams.faults import Proxy
from tests.upstreams.forge import Forge

PAGE: Final = ROOT / "docs/tutorial-github.md"
OFFRAMP: Final = "https://offramp.example.org"
GITHUB: Final = "https://github.com"
TOKEN: Final = "ghs_0123456789abcdefTOKEN"


def block(kind: str) -> str:
    """The tutorial's first block of a kind."""
    return next(found.text for found in blocks(kind) if found.page == PAGE)


def large(root: Path, name: str) -> Repository:
    """A repository whose packs are worth a redirect, with a branch ``main``."""
    repository = make(root, name)
    noise = os.urandom(200_000)
    blob = repository.git("hash-object", "-w", "--stdin", stdin=noise)
    tree = repository.git("mktree", stdin=f"100644 blob {blob}\tnoise\n".encode())
    commit = repository.git("commit-tree", tree, "-m", "Add noise")
    repository.git("update-ref", "refs/heads/main", commit)
    repository.git("symbolic-ref", "HEAD", "refs/heads/main")
    return repository


# --- the server ----------------------------------------------------------------------------------


def test_tutorial_does_as_it_says(forge: Forge, tmp_path: Path) -> None:
    """Its lines, one after another, lead to a mirror and to a clone that is redirected."""
    forge.make("acme/widget.git", maker=large)
    here = tmp_path / "here"
    here.mkdir()
    address = f"127.0.0.1:{free_port()}"
    environ = installed(tmp_path / "bin")
    log = tmp_path / "log"
    output = ""

    def ours(text: str) -> str:
        return text.replace(EXAMPLE_ADDRESS, address).replace(GITHUB, forge.url)

    (here / "offramp.toml").write_text(ours(block("toml")))
    server: subprocess.Popen[str] | None = None
    try:
        for found in [b for b in blocks("sh run", "sh serve", "text log") if b.page == PAGE]:
            text = ours(found.text)
            if found.kind == "sh serve":
                server = serving(text, here, environ, log)
            elif found.kind == "text log":
                assert server is not None
                wait_for(text.strip(), log, server)
            else:
                shell = ("bash", "-euo", "pipefail", "-c", text)
                output += subprocess.run(
                    shell, cwd=here, env=environ, capture_output=True, text=True, check=True
                ).stdout
    finally:
        if server is not None:
            server.terminate()
            server.communicate()
    assert "fetch passthrough" in log.read_text()
    assert re.search(r"< [0-9a-f]{40} http://\S+/-/blobs/", output)
    assert re.search(r'offramp_bytes_total\{.*path="redirected"', output)
    assert (here / "second/noise").read_bytes() == (here / "first/noise").read_bytes()


def wait_for(words: str, log: Path, server: subprocess.Popen[str]) -> None:
    """Read the log as it is written until it has the words, or the server has ended."""
    follow = ("tail", "-n", "+1", "-f", f"--pid={server.pid}", str(log))
    with subprocess.Popen(follow, stdout=subprocess.PIPE, text=True) as tail:
        assert tail.stdout is not None
        found = any(words in line for line in tail.stdout)
        tail.kill()
    assert found, log.read_text()


# --- clients -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """A private repository at a forge, Offramp with a mirror of it, and the host of the packs.

    Attributes:
        served: Offramp, which has the forge as `/github/` and as `/gitlab/`.
        packs: through it packs are read; another host than Offramp's to every client.
        oid: of the repository's branch.
        directory: where clients run.
    """

    served: Served
    packs: Proxy
    oid: str
    directory: Path

    def here(self, text: str) -> str:
        """The tutorial's text for this scene."""
        host = self.served.url.removeprefix("http://")
        text = text.replace(OFFRAMP, self.served.url)
        text = text.replace(
            "protocol=https\nhost=offramp.example.org", f"protocol=http\nhost={host}"
        )
        text = text.replace("--system", "--global")
        return re.sub(
            r"(uriProtocols[ =]|uriProtocols\W+GIT_CONFIG_VALUE_0=)https\b", r"\1http", text
        )

    async def shell(self, text: str, environ: Mapping[str, str]) -> Finished:
        """Run lines of bash as a CI does, and see what git was told."""
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c", text),
            cwd=self.directory,
            env={
                **os.environ,
                "GIT_TERMINAL_PROMPT": "0",
                "GIT_TRACE_PACKET": "1",
                "TOKEN": TOKEN,
                **environ,
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        stdout, stderr = await process.communicate()
        return Finished(process.returncode or 0, stdout.decode(), stderr.decode(errors="replace"))


@pytest.fixture
async def scene(forge: Forge, serve: Serve, tmp_path: Path) -> AsyncIterator[Scene]:
    """Mirrors are made; nobody has read a pack yet."""
    users = dict.fromkeys(("x-access-token", "gitlab-ci-token"), TOKEN)
    repository = forge.make("acme/widget.git", users=users, maker=large)
    packs = await Proxy.start("")
    prefixes = ("/github/", "/gitlab/")
    served = await serve(
        None,
        public_url=packs.url,
        upstreams=[{"prefix": prefix, "url": forge.url} for prefix in prefixes],
    )
    packs.upstream = served.url
    directory = tmp_path / "client"
    directory.mkdir()
    authorization = basic("x-access-token", TOKEN)
    upstreams = served.runtime.upstreams
    assert upstreams is not None
    for prefix in prefixes:
        url = f"{served.url}{prefix}acme/widget"
        client = by_header(anonymous(directory), f"{served.url}{prefix}".rstrip("/"), authorization)
        first = await clone(client, url, directory / f"first{prefix.strip('/')}")
        assert first.well, first.finished.stderr
        routed = upstreams.route(f"{prefix}acme/widget/info/refs")
        assert routed is not None
        await upstreams.mirrors.made(routed.remote)
    assert served.outcomes() == {"passthrough": 2}
    packs.forget()
    yield Scene(served, packs, repository.oid("main"), directory)
    await packs.close()


def actions(scene: Scene) -> str:
    """The step, then what ``actions/checkout`` does in the environment that it leaves."""
    run = re.search(r"run: \|\n((?: {6}.*\n)+)", block("yaml github-actions"))
    assert run is not None
    return f"""
{scene.here(textwrap.dedent(run[1]))}
while IFS= read -r line; do export "$line"; done < "$GITHUB_ENV"
git init clone
cd clone
git remote add origin https://github.com/acme/widget
git config --local http.https://github.com/.extraheader "AUTHORIZATION: basic $basic"
git -c protocol.version=2 fetch --no-tags --prune --depth=1 origin \\
  +{scene.oid}:refs/remotes/origin/main
"""


def runner(scene: Scene) -> str:
    """The variables of the runner's settings, then its clone, with the job's token in the URL."""
    said = block("toml runner")
    exports = "\n".join(
        f"export '{line}'" for line in re.findall(r'"(GIT_\w+=.*)"', scene.here(said))
    )
    url = re.search(r'clone_url = "(.*)"', scene.here(said))
    assert url is not None
    base = url[1].replace("://", f"://gitlab-ci-token:{TOKEN}@")
    return f"{exports}\ngit clone {base}/acme/widget.git clone"


SCRIPTS: Final = {
    "developer": lambda scene: (
        "git config --global credential.helper store\n"
        f"{scene.here(block('sh developer'))}\n"
        "git clone https://github.com/acme/widget clone"
    ),
    "github-actions": actions,
    "gitlab-runner": runner,
    "gitlab-ci": lambda scene: f"mkdir clone; cd clone\n{scene.here(block('sh gitlab-ci'))}",
    "jenkins": lambda scene: (
        f"{scene.here(block('sh jenkins'))}\n"
        "git init clone\ncd clone\n"
        "git fetch --no-tags --force --depth=1 -- https://github.com/acme/widget"
        " +refs/heads/*:refs/remotes/origin/*"
    ),
    "buildkite": lambda scene: (
        f'{scene.here(block("sh buildkite"))}\ngit clone -- "$BUILDKITE_REPO" clone'
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_credentials_reach_offramp_and_never_the_packs_host(scene: Scene, name: str) -> None:
    """With these settings a private clone is redirected, and the packs' host sees no token."""
    askpass = scene.directory / "askpass"
    askpass.write_text(
        f"#!/bin/sh\ncase $1 in User*) echo x-access-token;; *) echo {TOKEN};; esac\n"
    )
    askpass.chmod(0o700)
    environ = {
        "GITHUB_ENV": str(scene.directory / "github-env"),
        "CI_JOB_TOKEN": TOKEN,
        "CI_PROJECT_PATH": "acme/widget",
        "CI_COMMIT_SHA": scene.oid,
        "BUILDKITE_REPO": "git@github.com:acme/widget.git",
        "GIT_ASKPASS": str(askpass) if name == "jenkins" else "",
    }
    done = await scene.shell(SCRIPTS[name](scene), environ)
    assert done.status == 0, done.stderr
    named = locations(done)
    assert named
    assert all(url.startswith(scene.packs.url) for url in named.values())
    assert len(scene.packs.seen()) == len(named)
    assert [exchange.authorization for exchange in scene.packs.seen()] == [None] * len(named)
    got = await scene.shell(f"git -C clone cat-file -e {scene.oid}", {})
    assert got.status == 0


async def test_header_for_the_forge_alone_is_not_sent_to_offramp(scene: Scene) -> None:
    """What is limited to the forge's host stays there: a private repository is refused."""
    client = by_header(anonymous(scene.directory), GITHUB, basic("x-access-token", TOKEN))
    rewritten = f"url.{scene.served.url}/github/.insteadOf={GITHUB}/"
    done = await client("-c", rewritten, "ls-remote", f"{GITHUB}/acme/widget", check=False)
    assert done.status != 0
    assert "Username" in done.stderr
    assert scene.served.url in done.stderr


async def test_unscoped_header_reaches_the_packs_host(scene: Scene) -> None:
    """What the tutorial warns of is so: git shows it to the host of the packs."""
    authorization = basic("x-access-token", TOKEN)
    client = by_unscoped_header(anonymous(scene.directory), authorization)
    done = await clone(client, f"{scene.served.url}/github/acme/widget", scene.directory / "leaky")
    assert done.packs
    assert {exchange.authorization for exchange in scene.packs.seen()} == {authorization}


async def test_longest_rewriting_goes_around(scene: Scene) -> None:
    """The last line of the tutorial has git ask the forge itself."""
    command = block("sh around").replace("ls-remote", "ls-remote --get-url")
    rewritten = f"git config --global url.{scene.served.url}/github/.insteadOf {GITHUB}/\n"
    through = await scene.shell(f"{rewritten}git ls-remote --get-url {GITHUB}/acme/widget", {})
    assert through.stdout.strip() == f"{scene.served.url}/github/acme/widget"
    around = await scene.shell(command, {})
    assert around.stdout.strip() == f"{GITHUB}/acme/widget"
