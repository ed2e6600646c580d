# Law of this file: who keeps clients from being redirected is told that it is so, before somebody
# wonders why a server with targets names none.

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from redirects.acceptance import Client
from redirects.control import Control
from repos.git.discovery import discover as discover_git
from repos.hg.discovery import discover as discover_hg
from server.placing import Placement
from server.settings import Settings
from server.settings_stores import MAIN, PlacementSettings
from server.verdict import Level, Verdict

_ANYBODY = Client("http://anybody.example")

_PROXY = (
    "name it in regions.proxies, so that its X-Forwarded-For is believed (none is needed where"
    " clients connect to this server themselves)"
)


def check_control(settings: Settings) -> Iterator[Verdict]:
    """Look at the settings by which clients are not redirected."""
    redirect = settings.redirect
    if not redirect.enabled:
        yield Verdict(Level.INFO, "redirects: switched off (redirect.enabled)")
        return
    if redirect.shadow:
        yield Verdict(
            Level.INFO,
            "redirects: decided and counted, and everything is sent inline (redirect.shadow)",
            "compare offramp_decisions_total with what you expect, then write shadow = false",
        )
    if redirect.percentage < 100:
        share = f"redirects: for {redirect.percentage:g} % of the networks of clients"
        yield Verdict(Level.INFO, f"{share} (redirect.percentage)")
    by_address = redirect.off_networks or redirect.percentage < 100
    if by_address and settings.public_url is not None and not settings.regions.proxies:
        what = "redirects: behind a proxy, all clients seem to have its one address"
        yield Verdict(Level.WARN, what, _PROXY)
    yield from _unmatched(settings)


def check_placements(settings: Settings) -> Iterator[Verdict]:
    """A pattern that matches nothing keeps nothing out of any store."""
    patterns = [pattern for each in settings.placements for pattern in each.repositories]

    def fits(name: str, pattern: str) -> bool:
        return Placement.of(PlacementSettings(repositories=(pattern,), stores=(MAIN,))).hold(name)

    yield from _without_match("placements", patterns, settings, fits)


def _unmatched(settings: Settings) -> Iterator[Verdict]:
    """A pattern that matches nothing switches nothing off."""
    patterns = settings.redirect.off_repositories

    def fits(name: str, pattern: str) -> bool:
        return Control(off_repositories=(pattern,)).held_back(_ANYBODY, name) is not None

    yield from _without_match("redirect.off_repositories", patterns, settings, fits)


def _without_match(
    where: str,
    patterns: Sequence[str],
    settings: Settings,
    fits: Callable[[str, str], bool],
) -> Iterator[Verdict]:
    """Patterns that fit no repository below ROOT. What upstreams have is not known."""
    root = settings.local_root
    if not patterns or root is None or settings.upstreams or not root.is_dir():
        return
    names = [found.name for found in discover_git(root, settings.data)]
    names += [found.name for found in discover_hg(root, settings.data)]
    for pattern in patterns:
        if not any(fits(name, pattern) for name in names):
            yield Verdict(
                Level.WARN,
                f"{where}: {pattern!r} matches no repository below {root}",
                "write it as the path in its URL, or a shell pattern for that",
            )
