# Law of this file: a clone bundle is what hg gave, whole to its end, and every changeset in it was
# read: who publishes it checks them (see `offered.py`). These calls block.
#
# hg is asked for an uncompressed bundle, once for all compressions, on its standard output. We
# compress what follows the 8 bytes of its header, as hg would. For a stream bundle it gives the
# files of its store, of which we read the changelog.

from __future__ import annotations

import hashlib
import os
import select
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from repos.hg.bundle_file import BundleFile
from repos.hg.bundle_reading import BadBundle, Changesets, StoreFiles
from repos.hg.bundling import SERVED
from repos.hg.nodes import NODE
from repos.hg.outlet import outlet
from repos.hg.program import Hg
from wire.hg.bundle2 import MAGIC

STREAM: Final = "stream-v2"

PUBLIC: Final = "heads(public())"
"""What is in the bundles of a repository that does not publish: a draft may change tomorrow."""

# Beside the magic: no stream parameters.
_PLAIN_HEADER: Final = MAGIC + bytes(4)
_STREAM_TYPE: Final = "none-v2;stream=v2"

# Markers speak of hidden changesets too.
_CONFIG: Final = (
    *("--config", "experimental.evolution.bundle-obsmarker=no"),
    *("--config", "experimental.bundle-phases=no"),
)

_PIECE: Final = 256 << 10
# How long hg may be silent before the caller is asked again whether it should go on, in seconds.
_LOOK_SECONDS: Final = 0.25

Told = Callable[[], object]
"""Called several times a second; what it raises ends the work, and hg."""


@dataclass(frozen=True, slots=True)
class Made:
    """A clone bundle, not yet published.

    Attributes:
        kind: ``zstd-v2``, ``gzip-v2`` or ``stream-v2``.
        spec: its BUNDLESPEC, as it stands in a manifest.
        path: where it lies.
        digest: its SHA-256, hex.
        size: in bytes.
        nodes: of the changesets in it, 20 bytes each, parents first.
        required_ram: bytes that decompression needs, where that is much; else None.
        store_fingerprint: what hg said of a store of which clients may have a part only.
    """

    kind: str
    spec: str
    path: Path
    digest: str
    size: int
    nodes: bytes
    required_ram: int | None = None
    store_fingerprint: str | None = None

    @property
    def changesets(self) -> int:
        """How many it holds."""
        return len(self.nodes) // NODE


def make_bundles(
    hg: Hg,
    repository: Path,
    paths: Mapping[str, Path],
    *,
    publishing: bool,
    level: int,
    told: Told,
) -> tuple[Made, ...]:
    """Make bundles of changesets, in one run of hg.

    Equal repositories give equal bundles.

    Args:
        hg: how to run it.
        repository: the directory that has the ``.hg``.
        paths: of each kind (``zstd-v2``, ``gzip-v2``), where it goes: into one directory, which the
            caller alone uses now.
        publishing: clients are told that drafts are public.
        level: of zstd, 1 to 22.
        told: see :data:`Told`.

    Raises:
        HgFailed: hg would not bundle.
        BadBundle: what it gave is no bundle, or not whole.
        OSError: the disk refused.
    """
    reading = Changesets()
    with ExitStack() as stack:
        files = [stack.enter_context(BundleFile(kind, path, level)) for kind, path in paths.items()]
        revs = SERVED if publishing else PUBLIC
        args = ("-t", "none-v2", "-r", revs, "--base", "null")
        directory = next(iter(paths.values())).parent
        pieces = stack.enter_context(closing(_bundled(hg, repository, args, directory, told)))
        header = b""
        for piece in pieces:
            reading.take(piece)
            start = len(_PLAIN_HEADER) - len(header)
            if start:
                header += piece[:start]
            for file in files:
                file.write(piece[start:])
        reading.end()
        if header != _PLAIN_HEADER:
            raise BadBundle(f"hg gave a bundle with stream parameters: {header!r}")
        return tuple(_made(file, bytes(reading.nodes)) for file in files)


def _made(file: BundleFile, nodes: bytes) -> Made:
    written = file.finish()
    return Made(
        file.kind,
        file.kind,
        file.path,
        written.digest,
        written.size,
        nodes,
        required_ram=written.required_ram,
    )


def make_stream_bundle(hg: Hg, repository: Path, path: Path, told: Told) -> Made:
    """Make a bundle of the store's own files; only of a store in which all is offered.

    Args:
        hg: how to run it.
        repository: the directory that has the ``.hg``.
        path: where it goes, into a directory that the caller alone uses now.
        told: see :data:`Told`.

    Raises:
        HgFailed: hg would not bundle.
        BadBundle: what it gave is no stream of a store that can be read, or not whole.
        OSError: the disk refused.
    """
    reading = StoreFiles()
    digest = hashlib.sha256()
    size = 0
    args = ("--all", "-t", _STREAM_TYPE)
    pouring = _bundled(hg, repository, args, path.parent, told)
    with path.open("wb") as file, closing(pouring) as pieces:
        for piece in pieces:
            reading.take(piece)
            digest.update(piece)
            size += len(piece)
            file.write(piece)
    nodes = reading.end()
    spec = f"{_STREAM_TYPE};requirements%3D{reading.requirements}"
    fingerprint = reading.fingerprint
    return Made(STREAM, spec, path, digest.hexdigest(), size, nodes, store_fingerprint=fingerprint)


def _bundled(
    hg: Hg, repository: Path, args: tuple[str, ...], directory: Path, told: Told
) -> Generator[bytes, None, None]:
    """What ``hg bundle`` writes; its end is only reached if hg ended well."""
    with (
        outlet(directory) as output,
        hg.start("bundle", *_CONFIG, *args, str(output), repository=repository) as running,
    ):
        pipe = running.stdout.fileno()
        while True:
            told()
            ready, _, _ = select.select((pipe,), (), (), _LOOK_SECONDS)
            if not ready:
                continue
            piece = os.read(pipe, _PIECE)
            if not piece:
                break
            yield piece
