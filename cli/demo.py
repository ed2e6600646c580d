# Law of this file: the main job on one machine, with stock git and nothing made up: what is shown
# was measured, and whatever is not as it must be makes the exit code 1.

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cli.errors import Failed, UserError, told_plainly

if TYPE_CHECKING:
    from cli.demo_clones import Check, Clone, Cloner
    from cli.demo_page import Page
    from cli.demo_programs import Programs, Serving
    from cli.demo_repository import Example
    from cli.demo_wire import Wire

_NAME: Final = "demo.git"
# The first that follows packfile-uris.
_GIT: Final = (2, 28)
_DEPTHS: Final = (None, 1)
_HEADER: Final = (
    "clone", "content", "asked", "Offramp sent", "store sent", "server CPU", "time", "git fsck",
)  # fmt: skip
_RIGHT: Final = frozenset({3, 4, 5, 6})
_LEGEND: Final = """
Each line is a `git clone` by stock git; redirected ones have fetch.uriProtocols set. Bytes are
counted on the wire. The store is read through a static server, a process of its own that plays
the CDN. CPU is that of `offramp serve` and all that it runs. What was not made in advance is made
when it is first asked for; Offramp then reads it back from the store once before it names it.
"""


@click.command()
@click.option("--keep", is_flag=True, help="Leave the directory, and say how to go on by hand.")
@click.option(
    "--stay",
    is_flag=True,
    help="Go on serving the repository and the status page until Ctrl-C.",
)
@click.option(
    "--page",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File that the status page is saved as; by default a temporary one, and with --json none.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(*, keep: bool, stay: bool, page: Path | None, as_json: bool) -> None:
    """Show the whole way on this machine: an example repository, a server, a CDN, stock git.

    Everything is made in a temporary directory and removed again, but for what the status page
    showed: that is saved, and its address is the last line. Exits with 1 if anything is not as it
    must be.
    """
    _need_git()
    directory = Path(tempfile.mkdtemp(prefix="offramp-demo-"))

    def tell(shown: _Shown) -> None:
        if as_json:
            click.echo(json.dumps(shown.values(directory if keep else None), indent=2))
        else:
            _draw(shown)

    try:
        with told_plainly():
            shown = asyncio.run(_Demo(directory, as_json, tell if stay else None).run())
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)
    if not stay:
        tell(shown)
    if keep and not as_json:
        _tell_how_to_go_on(directory, shown.cdn_port)
    _save(shown.page, page, as_json=as_json)
    if not all(check.ok for check in shown.checks):
        if not keep:
            click.echo("offramp: with --keep the servers' logs are left to look at", err=True)
        raise click.exceptions.Exit(Failed.exit_code)


def _save(page: Page, file: Path | None, *, as_json: bool) -> None:
    """Save the page, and say last where it is."""
    if as_json and file is None:
        return
    saved = page.save(file)
    if not as_json:
        click.echo(f"\nThe status page as it was then, to open in a browser:\n{saved.as_uri()}")


def _need_git() -> None:
    """Stop where there is no git that follows packfile-uris."""
    from repos.git.program import Git, GitFailed

    remedy = f"the demo needs git {_GIT[0]}.{_GIT[1]} or later on PATH"
    if shutil.which("git") is None:
        raise UserError(f"git is not installed; {remedy}")
    try:
        said = Git().run("version").decode(errors="replace").strip()
    except GitFailed as failure:
        raise UserError(f"git cannot be run: {failure.stderr}; {remedy}") from None
    version = re.match(r"git version (\d+)\.(\d+)", said)
    if version is not None and tuple(map(int, version.groups())) < _GIT:
        raise UserError(f"{said} is too old; {remedy}")


@dataclass(frozen=True, slots=True)
class _Shown:
    """What was measured."""

    example: Example
    indexed: list[dict[str, object]]
    clones: tuple[Clone, ...]
    checks: tuple[Check, ...]
    cdn_port: int
    page: Page

    def values(self, kept: Path | None) -> dict[str, object]:
        """For a document."""
        return {
            "ok": all(check.ok for check in self.checks),
            "repository": {"objects": self.example.objects, "size": self.example.size},
            "index": self.indexed,
            "clones": [clone.values for clone in self.clones],
            "checks": [asdict(check) for check in self.checks],
            "page": self.page.values,
            "directory": None if kept is None else str(kept),
        }


@dataclass(frozen=True, slots=True)
class _Demo:
    """The way, step by step.

    Attributes:
        directory: below which all is made.
        quiet: nothing is said of what is being done.
        stays: told what was measured while the servers run, which then go on until a signal comes;
            None: they end when all is measured.
    """

    directory: Path
    quiet: bool
    stays: Callable[[_Shown], None] | None = None

    async def run(self) -> _Shown:
        """Go it.

        Raises:
            Failed: a program could not do what it was asked.
        """
        from cli.demo_wire import wire

        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio.run made one
        # As Ctrl-C, so that nothing is left behind.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        try:
            async with wire() as offramp, wire() as store:
                return await self._all(offramp, store)
        except asyncio.CancelledError:
            raise click.Abort from None

    async def _all(self, offramp: Wire, store: Wire) -> _Shown:
        from cli.demo_clones import checks
        from cli.demo_page import look
        from cli.demo_programs import Programs
        from cli.demo_repository import make_example

        for name in ("home", "repositories", "clones", "store"):
            (self.directory / name).mkdir()
        programs = Programs(self.directory / "home")
        self._say("Making an example repository ...")
        example = await make_example(self.directory / "repositories" / _NAME, programs.git)
        async with programs.cdn(self.directory / "store", self.directory / "cdn.log") as port:
            store.upstream = port
            self._say("Cloning it inline, through `offramp serve` ...")
            async with self._server(programs, "inline", offramp, store) as server:
                cloner = self._cloner(programs, offramp, store, server)
                inline = await _cloned(cloner, redirected=False)
            self._say("Making bundles of it, with `offramp index` ...")
            config = self._config("offramp", store.url)
            said = json.loads(await programs.offramp("index", "--json", "--config", config))
            self._say("Cloning it again, by clients that accept locations ...")
            async with self._server(programs, "offramp", offramp, store) as server:
                cloner = self._cloner(programs, offramp, store, server)
                redirected = await _cloned(cloner, redirected=True)
                clones = (*inline, *redirected)
                shown = _Shown(
                    example,
                    said["repositories"][0]["results"],
                    clones,
                    checks(clones, example.objects),
                    store.port,
                    await look(server.port),
                )
                if self.stays is not None:
                    self.stays(shown)
                    await self._stay(shown.page, server)
        return shown

    @asynccontextmanager
    async def _server(
        self, programs: Programs, data: str, offramp: Wire, store: Wire
    ) -> AsyncIterator[Serving]:
        """A server whose cache in ``data`` is empty at first, behind the relay ``offramp``."""
        config = self._config(data, store.url)
        async with programs.serving(config, self.directory / f"{data}.log") as server:
            offramp.upstream = server.port
            yield server

    def _cloner(self, programs: Programs, offramp: Wire, store: Wire, server: Serving) -> Cloner:
        from cli.demo_clones import Cloner

        return Cloner(programs, self.directory / "clones", offramp, store, server.pid)

    async def _stay(self, page: Page, server: Serving) -> None:
        """Let people look until they press Ctrl-C, or SIGTERM comes.

        Raises:
            Failed: the server ended by itself.
        """
        told = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, told.set)
        self._say(
            f"""
All of it goes on until Ctrl-C. The status page:
  {page.url}
A clone that it counts:
  git -c fetch.uriProtocols=http clone http://127.0.0.1:{server.port}/{_NAME}"""
        )
        waits = asyncio.create_task(told.wait())
        await asyncio.wait({waits, server.ended}, return_when=asyncio.FIRST_COMPLETED)
        waits.cancel()
        if not told.is_set():
            said = (self.directory / "offramp.log").read_text(errors="replace").strip()
            raise Failed(f"offramp serve ended by itself: {said or 'it said nothing'}")

    def _config(self, data: str, cdn: str) -> Path:
        """The settings of a server with a data directory of its own."""
        path = self.directory / f"{data}.toml"
        place = self.directory
        path.write_text(
            f"""\
root = {json.dumps(str(place / "repositories"))}
data = {json.dumps(str(place / data))}
listen = "127.0.0.1:0"

# Here the same clients ask the same again because they are told to.
[health]
suspicion = 0

[store]
type = "directory"
path = {json.dumps(str(place / "store"))}

[[targets]]
type = "http"
name = "cdn"
base_url = {json.dumps(cdn)}

[redirect]
max_wait = "60s"  # a busy machine must not make another thing of this
"""
        )
        return path

    def _say(self, what: str) -> None:
        if not self.quiet:
            click.echo(what, err=True)


async def _cloned(cloner: Cloner, *, redirected: bool) -> list[Clone]:
    """Every shape twice."""
    return [
        await cloner.clone(_NAME, depth, redirected=redirected, warm=warm)
        for depth in _DEPTHS
        for warm in (False, True)
    ]


# --- what is drawn ---------------------------------------------------------------------------


def _draw(shown: _Shown) -> None:
    from cli.tables import size

    example = shown.example
    bundles = ", ".join(
        f"{bundle['kind']} {size(int(str(bundle['size'])))}" for bundle in shown.indexed
    )
    click.echo(
        f"""
The repository has {example.objects:,} objects in {size(example.size)}.
Bundles that were made of it in advance: {bundles}.
"""
    )
    _draw_table([_row(clone) for clone in shown.clones])
    click.echo(_LEGEND)
    for check in shown.checks:
        click.echo(f"{'ok' if check.ok else 'FAIL':<4}  {check.what}")
    for clone in shown.clones:
        if clone.fsck:
            click.echo(f"offramp: {clone.shape}: {clone.fsck}", err=True)
    _draw_page(shown.page)


def _draw_page(page: Page) -> None:
    from server.quantities import duration, percent, size

    share = "nothing" if page.share is None else f"{percent(page.share)} %"
    targets = ", ".join(f"{name} {state}" for name, state in page.targets.items())
    click.echo(
        f"""
The status page of the last server showed
  offloaded   {share} of the bytes of content: {size(page.redirected)} elsewhere, \
{size(page.inline)} from Offramp
  work saved  {page.answers - page.runs} of {page.answers} runs of git, about \
{duration(page.saved_cpu)} of CPU; the others took {duration(page.cpu)}
  bundles     {page.bundles}
  targets     {targets}
Every `offramp serve` has it, at /-/ of its address; with --stay, so has this one, until Ctrl-C."""
    )


def _row(clone: Clone) -> tuple[str, ...]:
    from cli.tables import size

    return (
        clone.shape,
        "redirected" if clone.redirected else "inline",
        "again" if clone.warm else "first",
        size(clone.sent),
        size(clone.stored),
        "-" if clone.cpu is None else f"{1000 * clone.cpu:.0f} ms",
        f"{clone.seconds:.2f} s",
        "FAIL" if clone.fsck else "clean",
    )


def _draw_table(rows: Sequence[tuple[str, ...]]) -> None:
    if not sys.stdout.isatty():
        from cli.tables import table

        click.echo(table(_HEADER, rows, _RIGHT), nl=False)
        return
    from rich.console import Console
    from rich.table import Table

    drawn = Table()
    for number, title in enumerate(_HEADER):
        drawn.add_column(title, justify="right" if number in _RIGHT else "left")
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None and before[1] != row[1]:
            drawn.add_section()
        drawn.add_row(*row)
    Console().print(drawn)


def _tell_how_to_go_on(directory: Path, cdn_port: int) -> None:
    place = shlex.quote(str(directory))
    python = shlex.quote(sys.executable)
    click.echo(
        f"""
All of it is still in {directory}. Go on by hand with the CDN, and the server in another terminal:
  {python} -m cli.demo_cdn {place}/store {cdn_port}
  offramp serve --config {place}/offramp.toml
The server prints a line that clones. `rm -rf {place}` removes everything."""
    )
