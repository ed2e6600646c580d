# Law of this file: any command can be sent to any server of the frame protocol, and all that it
# answers can be seen.

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cli.errors import Failed, UserError

if TYPE_CHECKING:
    from client import Repository
    from client.targets import Accept
    from wire.hg.cbor import Item, Value

# As wire.hg.encodings has them, which is not read before a command runs.
_ENCODINGS: Final = ("zstd-8mb", "zlib", "identity")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What stands on the command line."""

    url: str
    name: str | None
    arguments: tuple[str, ...]
    form: str
    wire: bool
    redirects: bool
    targets: tuple[str, ...]
    encodings: tuple[str, ...]
    data: Path | None
    checked: bool


@click.command()
@click.argument("url")
@click.argument("name", metavar="[COMMAND]", required=False)
@click.argument("arguments", metavar="[ARG=VALUE]...", nargs=-1)
@click.option("--json", "form", flag_value="json", help="One line of JSON for each object.")
@click.option("--raw", "form", flag_value="raw", help="The objects as a CBOR sequence.")
@click.option("--wire", is_flag=True, help="Show frames and redirects on standard error.")
@click.option("--no-redirects", is_flag=True, help="Have the answer sent inline.")
@click.option("--target", "targets", multiple=True, help="Be redirected to this target only.")
@click.option(
    "--encoding",
    "encodings",
    multiple=True,
    type=click.Choice(_ENCODINGS),
    help="Accept this encoding only.",
)
@click.option(
    "--data",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Send this file as command data.",
)
@click.option("--unchecked", is_flag=True, help="Send what the server does not list, too.")
def command(
    url: str,
    name: str | None,
    arguments: tuple[str, ...],
    *,
    form: str | None,
    wire: bool,
    no_redirects: bool,
    targets: tuple[str, ...],
    encodings: tuple[str, ...],
    data: Path | None,
    unchecked: bool,
) -> None:
    """Send COMMAND to the repository at URL, and show the answer.

    Speaks the frame protocol of Mercurial 4.8 to 6.0 (exp-http-v2-0003). Without COMMAND, shows
    the commands that the server has, and the targets of its redirects. Exits with 1 if the server
    does not answer, or with an error; with 2 if it was not asked.
    """
    if no_redirects and targets:
        raise UserError("--no-redirects and --target exclude each other")
    asked = _Asked(
        url=url,
        name=name,
        arguments=arguments,
        form=form or "text",
        wire=wire,
        redirects=not no_redirects,
        targets=targets,
        encodings=encodings or _ENCODINGS,
        data=data,
        checked=not unchecked,
    )
    _told(asked)


def _told(asked: _Asked) -> None:
    from client import BadAddress, BadCall, ClientError

    try:
        asyncio.run(_call(asked))
    except (BadAddress, BadCall) as error:
        raise UserError(str(error)) from error
    except ClientError as error:
        raise Failed(str(error)) from error
    except BrokenPipeError:
        # Whoever read our output has left: click ends quietly.
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise Failed(f"{where}{error.strerror or error}") from error


async def _call(asked: _Asked) -> None:
    from cli.call_wire import watching
    from client import connect
    from wire.hg.encodings import Encoding

    async with connect(
        asked.url,
        encodings=[Encoding(each) for each in asked.encodings],
        accept=_accept(asked),
        checked=asked.checked,
        watch=watching(wire=asked.wire),
    ) as repository:
        _check_targets(repository, asked.targets)
        if asked.name is None:
            _list(repository, asked.form)
            return
        name = asked.name.encode(errors="surrogateescape")
        args = await _arguments(repository, name, asked.arguments)
        data = None if asked.data is None else asked.data.read_bytes()
        write = _writer(asked.form)
        async with repository.stream(name, args, data=data) as objects:
            async for item in objects:
                write(item)


def _accept(asked: _Asked) -> Accept:
    from client import every_target, no_target

    if not asked.redirects:
        return no_target
    if not asked.targets:
        return every_target
    return lambda target: target.name in asked.targets


def _check_targets(repository: Repository, names: tuple[str, ...]) -> None:
    """Whoever names a target must be able to be redirected there."""
    from client.targets import unusable

    known = {target.name: target for target in repository.api.targets}
    for name in names:
        if name not in known:
            there = f"there are {', '.join(sorted(known))}" if known else "it has none"
            raise UserError(f"{repository.url} has no target {name!r}; {there}")
        reason = unusable(known[name])
        if reason is not None:
            raise UserError(f"the target {name!r} cannot be used: {reason}")


async def _arguments(
    repository: Repository, name: bytes, written: tuple[str, ...]
) -> dict[bytes, Value]:
    from cli.call_arguments import needs_heads, read_revisions, read_value, split_argument

    command = repository.api.commands.get(name)
    kinds = {} if command is None else command.args
    args: dict[bytes, Value] = {}
    for argument, text in map(split_argument, written):
        if argument in args:
            raise UserError(f"{argument.decode(errors='replace')} is given twice")
        if argument == b"revisions":
            heads = (await repository.call(b"heads"))[0] if needs_heads(text) else None
            args[argument] = read_revisions(text, heads)
        else:
            args[argument] = read_value(argument, kinds.get(argument), text)
    return args


# --- what is written --------------------------------------------------------------------------


def _writer(form: str) -> Callable[[Item], object]:
    from cli.call_shown import Shown, as_cbor, as_json

    if form == "raw":
        out = sys.stdout.buffer
        return lambda item: out.write(as_cbor(item))
    if form == "json":
        return lambda item: click.echo(as_json(item))
    text = Shown()

    def write(item: Item) -> None:
        lines = text.lines(item)
        if lines is not None:
            click.echo(lines)

    return write


def _list(repository: Repository, form: str) -> None:
    """What the server says of itself."""
    from cli.call_listing import listing
    from cli.call_shown import as_cbor, as_json

    descriptor = dict(repository.descriptor)
    if form == "raw":
        sys.stdout.buffer.write(as_cbor(descriptor))
    elif form == "json":
        click.echo(as_json(descriptor))
    else:
        click.echo(listing(repository), nl=False)
