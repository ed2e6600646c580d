# Law of this file: what the guides tell somebody to type in a hurry does what they say.

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner

from cli.main import offramp
from server.wiring import signing_keys
from tests.conformance.clones import accepting, locations
from tests.conformance.repositories import Repository, make
from tests.conftest import Git, Serve, Served
from tests.docs.test_docs import ROOT, blocks, installed

CI: Final = ROOT / "docs/howto-ci.md"
KEYS: Final = ROOT / "docs/howto-keys.md"
OPERATIONS: Final = ROOT / "docs/operations.md"
INCIDENTS: Final = ROOT / "docs/howto-incidents.md"
TOKEN: Final = "0123456789abcdef-opens-team"


def documented(page: Path, kind: str) -> str:
    """The one block of its kind on a page."""
    (found,) = (block.text for block in blocks(kind) if block.page == page)
    return found


async def shell(text: str, here: Path, **environ: str) -> str:
    """Run lines; what they said on standard error."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-eu", "-c", text),
        cwd=here,
        env={**os.environ, **environ},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode(errors="replace")


# --- CI ------------------------------------------------------------------------------------


async def test_ci_without_any_file(serve: Serve, tmp_path: Path) -> None:
    """By variables alone two jobs check a private commit out, by location and one run of git."""
    repository = make(tmp_path / "root", "team/project.git")
    access = {"auth": "token", "tokens": [{"token": TOKEN, "repositories": ["team/*"]}]}
    server = await serve(repository.root, access=access)
    commit = repository.git("rev-parse", "main")
    lines = documented(CI, "sh ci") + documented(CI, "sh checkout")
    lines = lines.replace("=https\n", "=http\n").replace("https://git.example.org", server.url)
    assert "https://old-git.example.org/" in lines  # which there is not, and nobody asks
    for job in ("one", "two"):
        here = tmp_path / job
        here.mkdir()
        traced = {"TOKEN": TOKEN, "COMMIT": commit, "GIT_TRACE_PACKET": "1"}
        said = await shell(lines, here, **traced)
        assert re.search(rf"< [0-9a-f]{{40}} {server.url}/-/blobs/", said)
        assert (here / "README").exists()
        assert (here / ".git/shallow").read_text().split() == [commit]
        assert "extraheader" not in (here / ".git/config").read_text().lower()
    assert server.executions() == 1


async def test_ci_with_a_wrong_token(serve: Serve, git: Git, tmp_path: Path) -> None:
    """The same lines with another token open nothing."""
    repository = make(tmp_path / "root", "team/project.git")
    access = {"auth": "token", "tokens": [{"token": TOKEN, "repositories": ["team/*"]}]}
    server = await serve(repository.root, access=access)
    lines = documented(CI, "sh ci").replace("https://git.example.org", server.url)
    lines += "! git ls-remote https://old-git.example.org/team/project.git 2>&1 | grep refs/heads"
    await shell(lines, tmp_path, TOKEN="of-somebody-else", GIT_TERMINAL_PROMPT="0")


# --- keys ----------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository with some history."""
    return make(tmp_path / "root")


async def located(server: Served, repository: Repository, here: Path, name: str) -> str:
    """Where a clone was sent to."""
    url = repository.url(server.url)
    (found,) = locations(await accepting(here).traced()("clone", "--bare", url, name)).values()
    return found


async def status(url: str, git: Path) -> str:
    """Of a GET by curl, which is what incidents.md tells to use."""
    command = ("curl", "-s", "-o", os.devnull, "-w", "%{http_code}", url)
    process = await asyncio.create_subprocess_exec(
        *command, cwd=git, stdout=asyncio.subprocess.PIPE
    )
    return (await process.communicate())[0].decode()


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can give files away")
@pytest.mark.parametrize("page", [KEYS, OPERATIONS], ids=lambda page: page.name)
async def test_secret_key_stays_the_servers(page: Path, tmp_path: Path) -> None:
    """Root changes it, and it belongs to the server's user as before, and to nobody else."""
    secret = tmp_path / "secret.key"
    secret.write_text(f"old {'ab' * 32}\n")
    secret.chmod(0o600)
    os.chown(secret, 12345, 12346)
    await shell(documented(page, "sh rotate").replace("/var/lib/offramp", str(tmp_path)), tmp_path)
    found = secret.stat()
    assert "old" not in secret.read_text().partition("\n")[0]
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (12345, 12346, 0o600)


async def test_secret_key_is_changed(serve: Serve, repository: Repository, tmp_path: Path) -> None:
    """Old URLs work until the old key is removed, new ones at each step."""
    data = tmp_path / "data"
    lines = documented(KEYS, "sh rotate").replace("/var/lib/offramp", str(data))
    add, remove = lines.split("# Restart the server now")
    server = await serve(repository.root)
    before = await located(server, repository, tmp_path, "before")

    await shell(add, tmp_path)
    server = await serve(repository.root, data=data)
    between = await located(server, repository, tmp_path, "between")
    path = before.partition("/-/")[2]
    assert await status(f"{server.url}/-/{path}", tmp_path) == "200"

    await shell(f"cd {data}\n#{remove}", tmp_path)
    server = await serve(repository.root, data=data)
    assert len(signing_keys(data).secrets) == 1
    assert await status(f"{server.url}/-/{path}", tmp_path) == "403"
    assert await status(f"{server.url}/-/{between.partition('/-/')[2]}", tmp_path) == "200"


async def test_a_leaked_secret_key_opens_nothing(
    serve: Serve, repository: Repository, tmp_path: Path
) -> None:
    """After it was removed, and the server started, URLs that it signed are refused."""
    lines = documented(INCIDENTS, "sh leaked").replace("/var/lib/offramp", str(tmp_path / "data"))
    server = await serve(repository.root)
    leaked = await located(server, repository, tmp_path, "before")
    await shell("systemctl() { :; }\n" + lines, tmp_path)
    server = await serve(repository.root, data=tmp_path / "data")
    assert await status(f"{server.url}/-/{leaked.partition('/-/')[2]}", tmp_path) == "403"
    await located(server, repository, tmp_path, "after")


# --- incidents -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Etc:
    """A machine's settings.

    Attributes:
        here: a directory of the test.
        file: the settings.
        environ: in which `offramp` is a program, and `systemctl` says what it was told.
    """

    here: Path
    file: Path
    environ: dict[str, str]

    def run(self, lines: str) -> subprocess.CompletedProcess[str]:
        """Run lines of the page with this file as /etc/offramp.toml."""
        text = lines.replace("/etc/offramp.toml", str(self.file))
        return subprocess.run(
            ("bash", "-eu", "-c", 'systemctl() { echo "systemctl $*"; }\n' + text),
            cwd=self.here,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def etc(repository: Repository, tmp_path: Path) -> Etc:
    """Settings of a server of one repository."""
    file = tmp_path / "offramp.toml"
    file.write_text(f'root = "{repository.root}"\ndata = "{tmp_path / "data"}"\n')
    return Etc(tmp_path, file, installed(tmp_path / "bin"))


def test_the_brake(etc: Etc) -> None:
    """It is in the settings, which are right, and the server is told."""
    done = etc.run(documented(INCIDENTS, "sh brake"))
    assert done.returncode == 0, done.stderr
    assert "redirect   never: everything is sent inline" in done.stdout
    assert done.stdout.endswith("systemctl reload offramp\n")
    again = etc.run(documented(INCIDENTS, "sh brake"))  # there are two sections now
    assert again.returncode != 0
    assert "systemctl" not in again.stdout


def typed(*programs: str) -> list[str]:
    """Lines of the page's steps that call these programs, in order."""
    steps = re.findall(r"^ {8}(\S.*)$", INCIDENTS.read_text(), re.MULTILINE)
    return [line for line in steps if line.startswith(programs)]


def test_a_bad_bundle(etc: Etc, repository: Repository) -> None:
    """The steps of the page find it, throw it away and make another one."""

    def do(line: str) -> str:
        program, *args = shlex.split(line.replace("/etc/offramp.toml", str(etc.file)))
        assert program == "offramp"
        done = CliRunner().invoke(offramp, args)  # a process for each would take its time
        assert done.exit_code == 0, done.output
        return done.stdout

    do("offramp index --config /etc/offramp.toml")
    (fsck,) = typed("git -C")
    repository.git(*shlex.split(fsck)[3:])
    lines = typed("offramp")
    assert [line.split()[1] for line in lines] == ["bundles", "explain", "purge", "purge", "index"]
    named, explained, dry, purged, made = map(do, lines)
    assert "self" in named
    # `--accepts` is https alone, as clients have it; a server of this machine is http.
    assert "protocol_not_accepted" in explained
    assert "would" in dry
    assert "would" not in purged
    assert "made" in made


async def test_a_dead_cdn(
    serve: Serve, repository: Repository, unused_tcp_port: int, tmp_path: Path
) -> None:
    """The page's questions are answered with which target it is, and that it is down."""
    cdn = {"type": "http", "name": "cdn", "base_url": f"http://127.0.0.1:{unused_tcp_port}"}
    health = {"interval": 0.2, "timeout": 0.1, "down_after": 1}
    server = await serve(
        repository.root,
        targets=[cdn, {"type": "self"}],
        health=health,
        access={"operators": ["127.0.0.1"]},
    )
    lines = typed("curl")
    assert len(lines) == 2
    for line in lines:
        asked = line.replace("http://127.0.0.1:8417", server.url)
        await shell(f"{asked} > said", tmp_path)
        said = (tmp_path / "said").read_text()
        assert re.search(r"\bcdn\b", said)
        assert "down" in said
    assert "/-/blobs/" in await located(server, repository, tmp_path, "clone")
