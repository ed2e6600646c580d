# Law of this file: every command reads its settings in the same way, and whatever is wrong with
# them is one line and exit code 2.

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.errors import UserError

if TYPE_CHECKING:
    from server.settings import Settings

_Command = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line says of the settings; None is what it leaves to others.

    Attributes:
        config: a TOML file.
        data: ``--data``.
        listen: ``--listen``.
        root: ROOT.
    """

    config: Path | None = None
    data: Path | None = None
    listen: str | None = None
    root: Path | None = None

    def flags(self) -> dict[str, object]:
        """The settings that were given as flags."""
        flags = {"data": self.data, "listen": self.listen, "root": self.root}
        return {name: value for name, value in flags.items() if value is not None}


def settings_options(*, root: bool, listen: bool = True) -> Callable[[_Command], _Command]:
    """Give a command ``--config``, ``--data`` and, if so said, ``--listen`` and the argument ROOT.

    The command gets them as one :class:`Given` in its parameter ``given``.
    """

    def decorate(command: _Command) -> _Command:
        def gather(
            config: Path | None,
            data: Path | None,
            listen: str | None = None,
            root: Path | None = None,
            **others: object,
        ) -> object:
            return command(given=Given(config, data, listen, root), **others)

        gather.__doc__ = command.__doc__
        gather.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
        for option in _options(root=root, listen=listen):
            option(gather)
        return gather

    return decorate


def config_option(command: _Command) -> _Command:
    """``--config`` alone, as the parameter ``config``."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        envvar="OFFRAMP_CONFIG",
        metavar="FILE",
        help="Settings, in TOML.  [env: OFFRAMP_CONFIG]",
    )(command)


def _options(*, root: bool, listen: bool) -> tuple[Callable[[_Command], _Command], ...]:
    # click shows them in the opposite order.
    options: tuple[Callable[[_Command], _Command], ...] = (
        click.option(
            "--data",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Cache, and the embedded store; by default that of the settings, or"
            " ./offramp-data.",
        ),
        config_option,
    )
    if listen:
        where = click.option(
            "--listen",
            metavar="HOST:PORT",
            help="Where the server listens; port 0 takes a free one. By default that of the"
            " settings, or 127.0.0.1:8417.",
        )
        options = (where, *options)
    argument = click.argument("root", type=click.Path(path_type=Path), required=False)
    return (*options, argument) if root else options


def settings_from(given: Given) -> Settings:
    """The settings: flags, then ``OFFRAMP_*`` variables, then the file.

    Raises:
        UserError: they cannot be read or are wrong; the message names the first fault.
    """
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from cli.complaints import complaints, unparsable_variable
    from cli.toml_faults import toml_fault
    from server.settings import load

    file = given.config
    try:
        return load(file, **given.flags())
    except ValidationError as error:
        first, *others = complaints(error, file, os.environ)
        more = f" (and {len(others)} more; `offramp config check` lists them)" if others else ""
        raise UserError(first + more) from None
    except SettingsError as error:
        raise UserError(unparsable_variable(error, os.environ)) from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file}: {toml_fault(error)}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: no UTF-8 at byte {error.start}; TOML files are UTF-8") from None
    except OSError as error:
        raise UserError(f"{file}: {_lower(error.strerror or str(error))}") from None


def with_root(settings: Settings) -> Settings:
    """``settings`` with an absolute ROOT, if there is one, that is a directory we may read.

    Raises:
        UserError: it is none.
    """
    given = settings.local_root
    if given is None:
        return settings
    fault = fault_of_root(given)
    if fault is not None:
        raise UserError(fault)
    return settings.model_copy(update={"root": given.absolute()})


def fault_of_root(root: Path) -> str | None:
    """Why nothing can be served from there; None if ``root`` is a directory that we may read."""
    where = root.absolute()
    try:
        if not where.exists():
            return f"{root}: no such directory; ROOT is where your repositories are"
        if not where.is_dir():
            return f"{root}: not a directory; ROOT is where your repositories are"
    except OSError as error:  # what leads there may not be searched, or the name is too long
        return f"{root}: {_lower(error.strerror or str(error))}; ROOT must be readable"
    if not os.access(where, os.R_OK | os.X_OK):
        return f"{root}: permission denied; ROOT must be readable"
    return None


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
