# Law of this file: settings that are read again replace the old ones whole, or not at all. What
# cannot change while a server runs stays as it is, and is told by name.

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel

from server.settings import Settings

_log = logging.getLogger("offramp.reloading")

LIVE: Final = frozenset((
    "redirect.enabled",
    "redirect.off_repositories",
    "redirect.off_networks",
    "redirect.percentage",
    "redirect.shadow",
    "redirect.min_size",
    "redirect.max_wait",
    "redirect.other_regions",
    "regions.proxies",
    "regions.networks",
    "index.interval",
    "index.growth",
    "index.min_objects",
    "index.blobless",
    "index.bundle_uri",
    "limits.rate",
    "limits.burst",
    "log.format",
    "log.level",
    "log.access",
    "log.decisions",
))  # fmt: skip
"""Settings that can change while a server runs. The others shape what is made when it starts: how
long URLs live is in every lease of what was read back, for one."""

Read = Callable[[], Settings]
"""Read the settings again, as they were read at the start. Other processes are given it, too.

Raises:
    Unreadable: they are wrong, or not to be had.
"""


class Unreadable(Exception):  # noqa: N818 - what they are
    """The settings cannot be used; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of settings when they are read again.

    Attributes:
        settings: those that count from now on.
        taken: paths of what changes now, such as ``redirect.shadow``.
        left: paths of what is written otherwise, and needs a restart.
    """

    settings: Settings
    taken: tuple[str, ...]
    left: tuple[str, ...]


def change(old: Settings, new: Settings) -> Change:
    """What changes when ``new`` is read where ``old`` counts."""
    paths = tuple(_differences(old, new))
    taken = tuple(path for path in paths if path in LIVE)
    sections: dict[str, dict[str, object]] = {}
    for path in taken:
        section, _, name = path.partition(".")
        sections.setdefault(section, {})[name] = getattr(getattr(new, section), name)
    update = {name: getattr(old, name).model_copy(update=each) for name, each in sections.items()}
    settings = old.model_copy(update=update)
    return Change(settings, taken, tuple(path for path in paths if path not in LIVE))


def _differences(old: BaseModel, new: BaseModel, above: str = "") -> Iterator[str]:
    """Paths of the settings that differ; a list is one, and so is what has another ``type``."""
    for name in type(old).model_fields:
        was, now = getattr(old, name), getattr(new, name)
        if isinstance(was, BaseModel) and type(was) is type(now):
            yield from _differences(was, now, f"{above}{name}.")
        elif was != now:
            yield f"{above}{name}"


@dataclass(slots=True)
class Reloading:
    """Reads the settings again when it is told to.

    Attributes:
        settings: as they were read, with what was taken over since.
        read: reads them.
        adopt: goes on with those that it is given.
        quiet: somebody else tells what is wrong with them.
    """

    settings: Settings
    read: Read
    adopt: Callable[[Settings], Awaitable[None]]
    quiet: bool = False

    async def run(self, told: asyncio.Event) -> None:
        """Read them each time that ``told`` is set, until cancelled."""
        while True:
            await told.wait()
            told.clear()
            await self.once()

    async def once(self) -> None:
        """Read them, and go on with what is new; with the old ones, if they cannot be used."""
        try:
            found = await asyncio.to_thread(look, self.settings, self.read, quiet=self.quiet)
            if found is None or not found.taken:
                return
            await self.adopt(found.settings)
        except Exception:  # noqa: BLE001 - whatever it is, the server goes on
            _log.exception("the settings were not taken over")
            return
        self.settings = found.settings
        _log.info("process %d goes on with new %s", os.getpid(), ", ".join(found.taken))


def look(settings: Settings, read: Read, *, quiet: bool = False) -> Change | None:
    """What has changed in the settings; None if they cannot be used. The log says so.

    ``quiet``: it does not.
    """
    try:
        found = change(settings, read())
    except Unreadable as error:
        if not quiet:
            _log.error("the settings of before stay: %s", error)
        return None
    if found.left and not quiet:
        _log.warning("changed, but only by a restart: %s", ", ".join(found.left))
    if not found.taken and not found.left and not quiet:
        _log.info("the settings were read again, and nothing in them is different")
    return found


def hangs_up(was_terminal: bool) -> bool:
    """Whether SIGHUP was sent because the terminal from which we were started is gone."""
    return was_terminal and not on_terminal()


def on_terminal() -> bool:
    """Whether standard input is a terminal that is still there."""
    try:
        return os.isatty(0)
    except OSError:
        return False
