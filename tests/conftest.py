# Law of this file: every test owns its servers, files and environment, and leaves none behind.

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from redirects.health import Seen
from redirects.targets import Target
from server.accepting import listen
from server.app import make_runner
from server.health import Health
from server.listening import address_of, bind
from server.logs import AccessLog
from server.metrics import Metrics
from server.runtime import Runtime
from server.serving import BACKLOG
from server.settings import Settings, load

# The machines that run these tests are shared: how long one example takes says nothing of us.
hypothesis.settings.register_profile(
    "offramp", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("offramp")


@pytest.fixture(autouse=True)
def _clean_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No test reads the configuration, credentials or identity of whoever runs it."""
    home = tmp_path_factory.mktemp("home")
    (home / ".gitconfig").write_text(
        "[user]\n\tname = Tester\n\temail = tester@example.org\n"
        '[init]\n\tdefaultBranch = main\n[protocol "file"]\n\tallow = always\n'
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for name in tuple(os.environ):
        if name.startswith("OFFRAMP_") or name in {
            "XDG_CONFIG_HOME",
            "GIT_DIR",
            "GIT_WORK_TREE",
            "AWS_PROFILE",
            "http_proxy",
            "https_proxy",
        }:
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(home / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home / "aws-credentials"))


@dataclass(frozen=True)
class Finished:
    """A program that ended."""

    status: int
    stdout: str
    stderr: str


Git = Callable[..., Awaitable[Finished]]


@pytest.fixture
def git() -> Git:
    """Run stock git beside the server; called with its arguments, and ``cwd``.

    A non-zero exit fails the test unless ``check=False``.
    """

    async def run(
        *args: str | Path, cwd: Path | None = None, check: bool = True, stdin: bytes = b""
    ) -> Finished:
        process = await asyncio.create_subprocess_exec(
            "git",
            *map(str, args),
            cwd=cwd,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        stdout, stderr = await process.communicate(stdin)
        status = process.returncode or 0
        finished = Finished(status, stdout.decode(), stderr.decode(errors="replace"))
        assert not check or status == 0, f"git {args} exited with {status}: {finished.stderr}"
        return finished

    return run


@dataclass(frozen=True)
class Served:
    """A server of this process.

    Attributes:
        url: its base URL, without a trailing slash.
        settings: with which it runs.
        runtime: what its handlers work with; faults are injected here.
    """

    url: str
    settings: Settings
    runtime: Runtime

    def executions(self) -> float:
        """How many runs of programs ended well."""
        return sum(self._samples("offramp_executions_total").values())

    def outcomes(self, command: str = "fetch") -> dict[str, float]:
        """How often a command was answered in which way."""
        found: dict[str, float] = {}
        for labels, value in self._samples("offramp_responses_total").items():
            said = dict(labels)
            if said["command"] == command:
                found[said["outcome"]] = found.get(said["outcome"], 0) + value
        return found

    def content(self) -> dict[str, float]:
        """Bytes of content sent ``inline`` and ``redirected``."""
        found = {"inline": 0.0, "redirected": 0.0}
        for labels, value in self._samples("offramp_bytes_total").items():
            found[dict(labels)["path"]] += value
        return found

    def _samples(self, name: str) -> dict[tuple[tuple[str, str], ...], float]:
        return {
            tuple(sample.labels.items()): sample.value
            for metric in self.runtime.metrics._registry.collect()
            for sample in metric.samples
            if sample.name == name
        }


Serve = Callable[..., Awaitable[Served]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Start servers on free ports; called with ROOT, and settings as keyword arguments.

    Unless told otherwise, even tiny packs are redirected, and who asks the same again is no reason
    for suspicion: tests do so all the time. A
    server that is given an earlier one's ``data`` finds what that one left.
    """
    stops: list[Callable[[], Awaitable[Any]]] = []

    async def start(root: Path, **settings: Any) -> Served:
        settings.setdefault("redirect", {"min_size": 0})
        settings.setdefault("health", {"suspicion": 0})
        settings.setdefault("data", tmp_path / "data")
        settings.setdefault("log", {"access": False, "decisions": 0})
        bound = bind("127.0.0.1:0", shared=False)
        loaded = load(None, root=root, listen=address_of(bound), **settings)
        access = AccessLog(loaded.log, open(os.devnull, "w"))  # noqa: ASYNC230, PTH123, SIM115
        stops.append(_closing(access))
        metrics = Metrics(most=loaded.limits.figures)
        runtime = await Runtime.open(loaded, access, metrics, index=loaded.index.enabled)
        runner = make_runner(runtime, stop_seconds=1.0)
        await runner.setup()
        limits = loaded.limits
        await listen(runner, bound, limits.request_time, BACKLOG, limits.connections)
        stops.extend((runtime.close, runner.cleanup))
        return Served(f"http://{loaded.listen}", loaded, runtime)

    yield start
    for stop in reversed(stops):
        await stop()


@pytest.fixture
def all_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every target that is probed answers; for those that are made up."""

    async def well(self: Health, target: Target, doubt: object) -> tuple[Seen, str]:
        return Seen.ANSWERED, Seen.ANSWERED.value

    monkeypatch.setattr(Health, "_probed", well)


def _closing(access: AccessLog) -> Callable[[], Awaitable[None]]:
    async def close() -> None:
        access.stream.close()

    return close
