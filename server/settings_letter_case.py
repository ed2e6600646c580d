# Law of this file: where an upstream takes a name in upper and lower case alike, it has one name
# here; a pattern that could only match another spelling is refused, and never fails silently.

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from server.settings_upstreams import UpstreamSettings

_WILD: Final = re.compile(r"[*?\[]")


def check_patterns(
    upstreams: Iterable[UpstreamSettings], patterns: Mapping[str, Sequence[str]]
) -> None:
    """See that patterns of served names match what they say.

    Args:
        upstreams: of the settings.
        patterns: by the path of the setting that they are in.

    Raises:
        ValueError: one is about an upstream of any case, and has letters in upper case that no
            name there has.
    """
    for upstream in upstreams:
        if not upstream.any_case:
            continue
        for setting, those in patterns.items():
            for pattern in those:
                lower = _lower(upstream, pattern)
                if lower not in those:
                    raise ValueError(
                        f"{setting} names {pattern!r}, and below /{upstream.prefix}/ all names are"
                        f" in lower case, since it takes any (ignore_case); write {lower!r}, or"
                        " that as well"
                    )


def _lower(upstream: UpstreamSettings, pattern: str) -> str:
    """What a pattern is to be; itself if it is about nothing below the upstream's prefix."""
    below = f"{upstream.prefix}/"
    wild = _WILD.search(pattern)
    known = pattern if wild is None else pattern[: wild.start()]
    if known.startswith(below):
        return below + upstream.canonical(pattern.removeprefix(below))
    return upstream.canonical(pattern) if wild is not None and below.startswith(known) else pattern
