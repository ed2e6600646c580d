# Law of this file: an index grows by what `hg bundle` gives, and by nothing that was not whole: the
# program ended well, and the bundle and its changegroup came to their ends.

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from repos.hg.build import Builder, Misfit
from repos.hg.outlet import outlet
from repos.hg.program import Hg
from wire.hg.bundle2 import BundleError, BundleReader, Part, PartData
from wire.hg.changegroup import ChangegroupError, ChangegroupReader

SERVED: Final = "heads(not secret())"
"""What clients may have; hidden changesets are left out by hg itself."""

# Parts that save a Mercurial work, and say nothing that the changegroup does not.
_CACHES: Final = (b"hgtagsfnodes", b"cache:rev-branch-cache")

_PIECE: Final = 256 << 10


def pour(
    hg: Hg, repository: Path, base: Sequence[bytes], builder: Builder, directory: Path
) -> None:
    """Put what is served, and is no ancestor of ``base``, into the index of ``builder``.

    Args:
        hg: how to run it.
        repository: the directory that has the ``.hg``.
        base: changesets that the index has with all their ancestors; hg must know them.
        builder: takes it.
        directory: of the index; under its lock.

    Raises:
        HgFailed: hg would not bundle.
        Misfit: what it bundled does not fit the index.
        OSError: the disk refused.
    """
    bases = [word for node in base for word in ("--base", node.hex())] or ["--base", "null"]
    reading = _Reading(builder)
    wrong: Misfit | None = None
    with outlet(directory) as output:
        args = ("-t", "none-v2", "-r", SERVED, *bases, str(output))
        with hg.start("bundle", *args, repository=repository) as running:
            while piece := running.stdout.read1(_PIECE):  # type: ignore[attr-defined]
                if wrong is None:
                    try:
                        reading.take(piece)
                    except Misfit as misfit:
                        # A bundle that hg breaks off does not fit; why, it says at its end.
                        wrong = misfit
    if wrong is not None:
        raise wrong
    reading.end()


class _Reading:
    """One bundle on its way into an index."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self._bundle = BundleReader()
        self._changegroup: ChangegroupReader | None = None
        self._inside = False

    def take(self, piece: bytes) -> None:
        try:
            for event in self._bundle.feed(piece):
                if isinstance(event, Part):
                    self._begin(event)
                elif isinstance(event, PartData) and self._inside and self._changegroup is not None:
                    for inner in self._changegroup.feed(event.data):
                        self._builder.take(inner)
        except (BundleError, ChangegroupError) as error:
            raise Misfit(str(error)) from error

    def end(self) -> None:
        try:
            self._bundle.end()
            if self._changegroup is None:
                raise BundleError("the bundle has no changegroup")
            self._changegroup.end()
        except (BundleError, ChangegroupError) as error:
            raise Misfit(str(error)) from error
        self._builder.finish()

    def _begin(self, part: Part) -> None:
        self._inside = part.type == b"changegroup"
        if not self._inside:
            if part.mandatory and part.type not in _CACHES:
                raise BundleError(f"the bundle has a part {part.type!r} that must be understood")
            return
        version = part.params.get(b"version", b"01")
        if version != b"02" or b"treemanifest" in part.params:
            raise BundleError(f"a changegroup of version {version!r}, or of many manifests")
        if self._changegroup is not None:
            raise BundleError("the bundle has more than one changegroup")
        self._changegroup = ChangegroupReader()
