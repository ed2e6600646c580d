# Law of this file: what a person can mend is one line on standard error and an exit code, never a
# traceback.

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from cli.tables import printable


class UserError(click.ClickException):
    """It was asked in a way that cannot work; exit code 2, as click's own."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.split())))

    def show(self, file: IO[Any] | None = None) -> None:
        """Write ``offramp: <message>``."""
        click.echo(f"offramp: {self.message}", file=file, err=file is None)


class Failed(UserError):  # noqa: N818 - what happened
    """What was asked could not be done; exit code 1."""

    exit_code = 1


@contextmanager
def told_plainly() -> Iterator[None]:
    """Turn what stores, git and the disk report into one line.

    A bug stays a traceback: it is not the user's to mend.
    """
    from repos.git.program import GitFailed
    from server.wiring import Unusable
    from stores.base import StoreError

    try:
        yield
    except Unusable as error:
        raise UserError(str(error)) from error
    except (StoreError, GitFailed) as error:
        raise Failed(str(error)) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise Failed(f"{where}{error.strerror or error}") from error
