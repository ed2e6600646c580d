# Law of this file: a stock `hg serve` on a free port of loopback, ended by its own process. It is
# the judge: what it gives to a client, and what its client accepts, is the protocol.

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.hg.versions import environment

SERVER_V2: Final = ("experimental.web.apiserver=true", "experimental.web.api.http-v2=true")
"""Lets `hg serve` of 5.9.3 speak wire protocol v2."""

CLIENT_V2: Final = ("--config", "experimental.httppeer.advertise-v2=true")
"""Lets a command of 5.9.3 speak wire protocol v2."""


def client_encodings(*names: str) -> tuple[str, str]:
    """Lets a command of 5.9.3 say which content encodings it takes, best first."""
    return ("--config", f"experimental.httppeer.v2-encoder-order={','.join(names)}")


@contextmanager
def serving(program: Sequence[str], repository: Path, *config: str) -> Iterator[str]:
    """Serve a repository; gives its URL without a final slash.

    Args:
        program: as `versions.hg` gives it.
        repository: its directory.
        config: `section.name=value` of hg, as `SERVER_V2`.
    """
    settings = [word for setting in config for word in ("--config", setting)]
    with started(program, repository, *settings) as url:
        yield url


@contextmanager
def started(program: Sequence[str], directory: Path, *options: str) -> Iterator[str]:
    """Start `hg serve` with further options; gives its URL without a final slash.

    Args:
        program: as `versions.hg` gives it.
        directory: where it runs, and what it takes for its user's home.
        options: of `hg serve`; without any, it serves the repository in `directory`.
    """
    # Quiet, but for the URL: nobody reads what hg logs, and a full pipe would stop it.
    command = ["serve", "--address", "127.0.0.1", "--port", "0", "--print-url", "--quiet"]
    command += ["--accesslog", "/dev/null", "--errorlog", "/dev/null"]
    with subprocess.Popen(
        [*program, *command, *options],
        cwd=directory,
        env=environment(directory),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            url = process.stdout.readline().decode().strip()
            if not url.startswith("http"):
                said = process.stderr.read().decode(errors="replace")
                raise AssertionError(f"hg serve in {directory} did not start: {url} {said}")
            yield url.rstrip("/")
        finally:
            process.terminate()
