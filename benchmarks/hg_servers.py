# Law of this file: Mercurial serves and clones as its users have it, in an environment of nobody's,
# and is counted as all other servers are.

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from benchmarks import servers
from benchmarks.cpu import meter
from benchmarks.hg_repository import Hg, environment
from benchmarks.servers import CannotStart, Server, running
from tests.hg.versions import V1, V2, executable, stamp

# The one that speaks the protocol, and what users have today, which reads repositories for Offramp.
SPEAKS: Final = V2
READS: Final = V1[-1]

CLIENT_V2: Final = ("--config", "experimental.httppeer.advertise-v2=true")

SERVER_V2: Final = (
    *("--config", "experimental.web.apiserver=true"),
    *("--config", "experimental.web.api.http-v2=true"),
)
PROGRAM: Final = f'[hg]\nprogram = "{executable(READS)}"\n'
"""Setting by which Offramp reads repositories with the Mercurial that users have."""

_SERVE: Final = ("serve", "--address", "127.0.0.1", "--port", "0", "--print-url", "--quiet")
_UNLOGGED: Final = ("--accesslog", "/dev/null", "--errorlog", "/dev/null")


def missing_mercurial() -> str | None:
    """One line that says how to install what is missing, or None if all is there."""
    absent = [version for version in (SPEAKS, READS) if not stamp(version).is_file()]
    if not absent:
        return None
    return f"Mercurial {' and '.join(absent)} is missing; run `python -m tests.hg.install`"


def mercurial(home: Path, version: str = SPEAKS) -> Hg:
    """One of the installed Mercurials."""
    inherited = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    return Hg((str(executable(version)),), environment(home, inherited))


@contextmanager
def stock(
    repository: Path,
    here: Path,
    *,
    version: str = SPEAKS,
    config: Sequence[str] = SERVER_V2,
) -> Iterator[Server]:
    """``hg serve``: by default of the version that speaks both protocols, and both of them.

    Args:
        repository: the only one that it serves.
        here: for its log.
        version: of Mercurial.
        config: options of its command line.
    """
    here.mkdir(parents=True)
    counting = meter(here, "hg")
    hg = mercurial(here / "home", version)
    settings = (f"{name}={value}" for name, value in hg.environ.items() if name.startswith("HG"))
    environ = ("env", "-u", "PYTHONPATH", *settings)
    arguments = (*environ, *hg.program, "--repository", str(repository), *config)
    with ExitStack() as stack:
        stack.callback(counting.close)
        process = stack.enter_context(running((*arguments, *_SERVE, *_UNLOGGED), here, counting))
        assert process.stdout is not None  # noqa: S101 - our pipe
        url = process.stdout.readline().strip()
        if not url.startswith("http"):
            raise CannotStart(f"hg serve did not start: {url} {(here / 'log').read_text()[-600:]}")
        yield Server(url.rstrip("/"), counting, (process.pid,))


@contextmanager
def offramp(
    root: Path,
    data: Path,
    store_url: str,
    here: Path,
    *,
    streams: int | None = None,
    redirects: bool = True,
    redirect_getbundle: str | None = None,
) -> Iterator[Server]:
    """``offramp serve``, reading repositories by the Mercurial that users have.

    Args:
        root: has the repositories.
        data: what it keeps.
        store_url: where the store's files can be read.
        here: for its settings and its log.
        streams: setting ``hg.streams``, if it is not to be left alone.
        redirects: whether it sends anybody elsewhere.
        redirect_getbundle: setting ``hg.redirect_getbundle``, if it is not to be left alone.
    """
    more = f"\n[redirect]\nenabled = {str(redirects).lower()}\n{PROGRAM}"
    if streams is not None:
        more += f"streams = {streams}\n"
    if redirect_getbundle is not None:
        more += f'redirect_getbundle = "{redirect_getbundle}"\n'
    with servers.offramp(root, data, store_url, here, more=more) as server:
        yield server
