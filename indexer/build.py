# Law of this file: a bundle is built from one snapshot of the advertised refs, hidden ones left
# out, as files in the run's own directory. These calls block.

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cache.records import Part
from indexer.plan import Kind
from repos.git.packs import Step, object_format_of, pack_objects
from repos.git.program import Git
from stores.entity import Entity
from wire.git.bundle import bundle_header
from wire.git.refs import Refs

_COPIED: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Built:
    """A bundle's files, not yet published.

    Attributes:
        pack: the pack.
        objects: how many it holds.
        pack_path: where it lies.
        file: the same pack behind a bundle header, and where it lies; None if not asked for.
    """

    pack: Part
    objects: int
    pack_path: Path
    file: tuple[Entity, Path] | None


def build(
    git: Git,
    path: Path,
    refs: Refs,
    kind: Kind,
    directory: Path,
    *,
    bundle_file: bool,
    unnamed: bool,
    told: Callable[[Step], None],
) -> Built:
    """Make a pack of everything that ``refs`` reach, and a bundle file of it.

    Args:
        git: how programs are run.
        path: the repository's git directory.
        refs: what it advertises; not empty.
        kind: what the pack leaves out.
        directory: where the files go.
        bundle_file: make one.
        unnamed: in it, give tips numbers for names: not all who may see all of its content may see
            the names of all refs.
        told: called several times a second; what it raises ends the work.

    Raises:
        GitFailed, BadPack, OSError: see :func:`repos.git.packs.pack_objects`.
    """
    pack_path = directory / f"{kind.name}.pack"
    packed = pack_objects(git, path, refs.tips, kind.filter, pack_path, told=told)
    pack = Part(Entity(packed.digest, packed.size), packed.checksum)
    file = None
    if bundle_file:
        # As `git bundle create --all` does: HEAD too, so that a clone of the file itself knows
        # what to check out. A clone by bundle-uri uses the branches as its haves.
        named = [(ref.oid, ref.name) for ref in refs.refs if ref.oid is not None]
        if unnamed:
            tips = sorted({oid for oid, _ in named})
            named = [(oid, b"refs/heads/%d" % number) for number, oid in enumerate(tips, 1)]
        header = bundle_header(object_format_of(packed.checksum), named, filter=kind.filter)
        file_path = directory / f"{kind.name}.bundle"
        file = (_write_bundle(header, pack_path, file_path, told), file_path)
    return Built(pack, packed.objects, pack_path, file)


def _write_bundle(header: bytes, pack: Path, bundle: Path, told: Callable[[Step], None]) -> Entity:
    digest = hashlib.sha256(header)
    size = len(header)
    with pack.open("rb") as source, bundle.open("wb") as sink:
        sink.write(header)
        while chunk := source.read(_COPIED):
            told(Step())
            digest.update(chunk)
            size += len(chunk)
            sink.write(chunk)
    return Entity(digest.hexdigest(), size)
