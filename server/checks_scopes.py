# Law of this file: a signature that opens all content is as much as the widest of those rights for
# which it is given out; who reads only some of it is told of, before a digest is passed on.

from __future__ import annotations

from collections.abc import Iterator

from server.settings import Settings
from server.verdict import Level, Verdict


def check_scopes(settings: Settings) -> Iterator[Verdict]:
    """Look for signatures that open everything, among several who may each read a part.

    Beside what is public they are refused by the settings themselves.
    """
    wide = [
        target.name
        for target in settings.targets
        if target.type == "cloudfront" and target.scope == "prefix"
    ]
    apart = _apart(settings) if wide and settings.private else None
    if apart is None:
        return
    for name in wide:
        yield Verdict(
            Level.WARN,
            f'target {name}: scope = "prefix", and {apart}: what one of them is given for its own'
            " repository opens the content of the others' too, for whoever knows its SHA-256",
            'write scope = "entity", unless all of them may read everything',
        )


def _apart(settings: Settings) -> str | None:
    """Who may each read something else; None if all may read the same."""
    access = settings.access
    private = [upstream for upstream in settings.upstreams if not upstream.public]
    asked = {upstream.auth for upstream in private}
    if settings.local_root is not None and access.private:
        asked.add(access.auth)
    if "token" in asked and len({frozenset(each.repositories) for each in access.tokens}) > 1:
        return "access.tokens open different repositories"
    if "proxy" in asked and len({frozenset(each.repositories) for each in access.users}) > 1:
        return "access.users read different repositories"
    if "upstream" in asked:
        return 'an upstream says of each caller what it may read (auth = "upstream")'
    if len(asked) > 1:
        return f"different rules say who may read ({', '.join(sorted(asked))})"
    return None
