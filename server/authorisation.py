# Law of this file: whether a caller may ask is settled before anything is looked up for it.

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from repos.git.repository import Snapshot
from server.settings_repositories import GitSettings


class Permission(StrEnum):
    """What a command needs."""

    PULL = "pull"
    PUSH = "push"


@dataclass(frozen=True, slots=True)
class Forbidden(Exception):  # noqa: N818 - an answer, not a failure
    """The caller may not ask this; ``reason`` is told to it."""

    reason: str


def authorise(
    permission: Permission, repository: str, snapshot: Snapshot, settings: GitSettings
) -> None:
    """Let a command pass, or say why it may not.

    Whoever reaches this server may read every repository below ROOT, as with git's http-backend,
    unless the repository itself says ``http.uploadpack=false``. Pushing must be enabled here, and
    ``http.receivepack=false`` in the repository forbids it still.

    Raises:
        Forbidden: it may not be asked.
    """
    if permission is Permission.PULL:
        if not snapshot.readable:
            raise Forbidden(f"Fetching from '{repository}' is switched off (http.uploadpack).")
        return
    if not settings.may_push(repository):
        raise Forbidden(
            f"Pushing to '{repository}' through this server is not enabled. Push to where the"
            " repository lives, or have the operator list it in git.push."
        )
    if snapshot.pushable is False:
        raise Forbidden(f"Pushing to '{repository}' is switched off (http.receivepack).")
