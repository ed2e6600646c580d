# Law of this file: a catalog is one small document that says which bundles a repository has. What
# it names is in the store and was read back; what is not exactly a catalog is refused.
#
# A git repository has bundles, a Mercurial one clone bundles.
#
# The document is JSON in UTF-8; the models at the end of this file are its schema. Digests,
# checksums and object ids are lower-case hex, times are seconds since the epoch.

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal, Self
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from cache.records import Part
from stores.base import Store
from stores.entity import Entity
from wire.git.pack import HASH_SIZES

PREFIX: Final = "catalogs/"
SCHEMA: Final = 1

# With `.json` a document's last segment must fit into a file name of 255 bytes.
_LONGEST_NAME: Final = 200


class CatalogError(Exception):
    """A document is no catalog, or not the one that was asked for."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A pack that was made in advance, and the repository state that it holds.

    Attributes:
        id: its name in a bundle list: letters, digits and dashes.
        filter: what the pack leaves out, ``blob:none``; None if it is whole.
        pack: the pack itself.
        bundle_file: the same pack behind a bundle header, or None if that was not made.
        objects: how many objects the pack holds.
        tips: the object ids, sorted, that everything in the pack is reachable from.
        peeled: for each annotated tag among them, the object that it names in the end.
        created: seconds since the epoch.
        creation_token: grows from bundle to bundle, as clients of bundle lists expect.
        readable: fingerprints, sorted, of the targets through which the pack was read back.
        bundle_readable: likewise of ``bundle_file``.
    """

    id: str
    filter: str | None
    pack: Part
    bundle_file: Entity | None
    objects: int
    tips: tuple[str, ...]
    peeled: Mapping[str, str]
    created: float
    creation_token: int
    readable: tuple[str, ...]
    bundle_readable: tuple[str, ...] = ()

    def entities(self) -> tuple[Entity, ...]:
        """The pack, and the bundle file if there is one."""
        return (self.pack.entity, *([] if self.bundle_file is None else [self.bundle_file]))

    def readable_entities(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """The digest of each entity, with the targets through which it was read back."""
        yield self.pack.entity.digest, self.readable
        if self.bundle_file is not None:
            yield self.bundle_file.digest, self.bundle_readable


@dataclass(frozen=True, slots=True)
class CloneBundle:
    """A file that a stock Mercurial client begins a clone with, as ``hg bundle`` made it.

    Attributes:
        id: ``<kind>-<the first 16 digits of its digest>``.
        kind: ``zstd-v2``, ``gzip-v2`` or ``stream-v2``, as in the settings.
        spec: its BUNDLESPEC as clients are told it: ``zstd-v2``, or
            ``none-v2;stream=v2;requirements%3D...``.
        entity: the file.
        heads: nodes in hex, sorted; all that it holds are these and their ancestors.
        changesets: how many it holds.
        created: seconds since the epoch.
        readable: fingerprints, sorted, of the targets through which it was read back.
        required_ram: bytes that decompression needs, where that is much; else None.
        store_fingerprint: of a stream bundle that clients take only if they can use a store of
            this fingerprint; else None.
    """

    id: str
    kind: str
    spec: str
    entity: Entity
    heads: tuple[str, ...]
    changesets: int
    created: float
    readable: tuple[str, ...]
    required_ram: int | None = None
    store_fingerprint: str | None = None

    def entities(self) -> tuple[Entity, ...]:
        """Its file."""
        return (self.entity,)

    def readable_entities(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """The digest of its entity, with the targets through which it was read back."""
        yield self.entity.digest, self.readable


@dataclass(frozen=True, slots=True)
class Retired:
    """An entity that a bundle once named.

    Attributes:
        digest: SHA-256, hex.
        since: seconds since the epoch; URLs of it may have been handed out until then.
    """

    digest: str
    since: float


@dataclass(frozen=True, slots=True)
class Catalog:
    """The bundles of one repository.

    Attributes:
        repository: the path at which it is served.
        object_format: ``sha1`` or ``sha256``.
        bundles: at most one for each filter.
        retired: what bundles before these were made of, until garbage collection.
        epoch: rises with each purge; what was recorded in an earlier one is not used any more.
        clone_bundles: at most one of each kind; of Mercurial repositories only.
    """

    repository: str
    object_format: str
    bundles: tuple[Bundle, ...] = ()
    retired: tuple[Retired, ...] = ()
    epoch: int = 0
    clone_bundles: tuple[CloneBundle, ...] = ()

    def bundle(self, filter_spec: str | None) -> Bundle | None:
        """The bundle with this filter."""
        return next((bundle for bundle in self.bundles if bundle.filter == filter_spec), None)

    def clone_bundle(self, kind: str) -> CloneBundle | None:
        """The clone bundle of this kind."""
        return next((bundle for bundle in self.clone_bundles if bundle.kind == kind), None)

    def named(self) -> frozenset[str]:
        """Digests of everything that the bundles are made of."""
        packs = (entity.digest for b in self.bundles for entity in b.entities())
        return frozenset(packs).union(b.entity.digest for b in self.clone_bundles)

    def with_bundle(self, bundle: Bundle, now: float) -> Catalog:
        """The catalog with ``bundle`` in the place of the one with its filter."""
        others = tuple(b for b in self.bundles if b.filter != bundle.filter)
        return self._with((*others, bundle), self.clone_bundles, now)

    def without(self, filter_spec: str | None, now: float) -> Catalog:
        """The catalog without the bundle of this filter."""
        left = tuple(b for b in self.bundles if b.filter != filter_spec)
        return self._with(left, self.clone_bundles, now)

    def with_clone_bundle(self, bundle: CloneBundle, now: float) -> Catalog:
        """The catalog with ``bundle`` in the place of the one of its kind."""
        others = tuple(b for b in self.clone_bundles if b.kind != bundle.kind)
        return self._with(self.bundles, (*others, bundle), now)

    def without_clone_bundle(self, kind: str, now: float) -> Catalog:
        """The catalog without the clone bundle of this kind."""
        left = tuple(b for b in self.clone_bundles if b.kind != kind)
        return self._with(self.bundles, left, now)

    def purged(self, digests: frozenset[str], epoch: int, now: float) -> Catalog:
        """The catalog in ``epoch``, without the bundles that are made of any of ``digests``."""
        left = (b for b in self.bundles if not digests & {e.digest for e in b.entities()})
        clones = (b for b in self.clone_bundles if b.entity.digest not in digests)
        return replace(self._with(tuple(left), tuple(clones), now), epoch=epoch)

    def in_format(self, object_format: str, now: float) -> Catalog:
        """The catalog, without bundles if the repository is now of another object format.

        Clone bundles stay: what Mercurial has beside it has no object format.
        """
        if object_format == self.object_format:
            return self
        return replace(self._with((), self.clone_bundles, now), object_format=object_format)

    def forget(self, digests: frozenset[str]) -> Catalog:
        """The catalog without these retired entities."""
        return replace(self, retired=tuple(r for r in self.retired if r.digest not in digests))

    def next_token(self, now: float) -> int:
        """A creation token above that of every bundle here: the time, as a rule."""
        return max((int(now), *(bundle.creation_token + 1 for bundle in self.bundles)))

    def _with(
        self, bundles: tuple[Bundle, ...], clone_bundles: tuple[CloneBundle, ...], now: float
    ) -> Catalog:
        changed = replace(self, bundles=bundles, clone_bundles=clone_bundles)
        since = {retired.digest: retired.since for retired in self.retired}
        since |= dict.fromkeys(self.named(), now)
        named = changed.named()
        retired = tuple(Retired(d, s) for d, s in sorted(since.items()) if d not in named)
        return replace(changed, retired=retired)


def catalog_name(repository: str) -> str:
    """The document that holds a repository's catalog: ``catalogs/<name, URL-quoted>.json``.

    A name that would be too long for a file is replaced by ``=`` and its SHA-256; quoting never
    leaves a ``=``, so the two cannot meet.
    """
    return f"{PREFIX}{document_segment(repository)}.json"


def document_segment(repository: str) -> str:
    """What a repository is called in names of documents; see :func:`catalog_name`."""
    quoted = quoted_name(repository)
    if len(quoted) > _LONGEST_NAME:
        return "=" + hashlib.sha256(quoted.encode("ascii")).hexdigest()
    return quoted


def quoted_name(repository: str) -> str:
    """A repository's name as ASCII without slashes, for documents.

    A file name that is no UTF-8 reaches us with lone surrogates, which JSON readers refuse.
    """
    return quote(repository, safe="", errors="surrogatepass")


async def load(store: Store, repository: str) -> tuple[Catalog, str] | None:
    """A repository's catalog and the document's version, or None if it has none.

    Raises:
        CatalogError: the document is no catalog, or that of another repository.
        stores.base.StoreUnavailable: the store did not answer.
    """
    document = await store.read_document(catalog_name(repository))
    if document is None:
        return None
    return read(document.body, repository, store.name), document.version


def read(body: bytes, repository: str, store: str) -> Catalog:
    """Read the document of ``repository`` that the store named ``store`` gave.

    Raises:
        CatalogError: it is no catalog, or that of another repository.
    """
    name = catalog_name(repository)
    try:
        catalog = parse(body)
    except CatalogError as error:
        raise CatalogError(
            f"{store}, {name}: {error}; use the version of Offramp that wrote it, or remove"
            " it to have it made again"
        ) from error
    if catalog.repository != repository:
        raise CatalogError(
            f"{store}, {name}: it is the catalog of {catalog.repository!r}, not of"
            f" {repository!r}; remove it to have it made again"
        )
    return catalog


def encode(catalog: Catalog) -> bytes:
    """Write a catalog; equal catalogs give equal bytes."""
    written = _Document(
        version=SCHEMA,
        repository=quoted_name(catalog.repository),
        object_format=_FORMAT.validate_python(catalog.object_format),
        bundles=tuple(_write_bundle(bundle) for bundle in catalog.bundles),
        retired=tuple(_Retired(digest=r.digest, since=r.since) for r in catalog.retired),
        epoch=catalog.epoch,
        clone_bundles=tuple(_write_clone_bundle(bundle) for bundle in catalog.clone_bundles),
    )
    document = written.model_dump(mode="json")
    for young in ("epoch", "clone_bundles"):
        if not document[young]:  # unwritten, so that versions before there were any can read it
            del document[young]
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


def parse(body: bytes) -> Catalog:
    """Read a catalog.

    Raises:
        CatalogError: it is not what :func:`encode` writes.
    """
    try:
        document = _Document.model_validate_json(body)
        return Catalog(
            repository=unquote(document.repository, errors="surrogatepass"),
            object_format=document.object_format,
            bundles=tuple(_read_bundle(bundle) for bundle in document.bundles),
            retired=tuple(Retired(r.digest, r.since) for r in document.retired),
            epoch=document.epoch,
            clone_bundles=tuple(_read_clone_bundle(bundle) for bundle in document.clone_bundles),
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise CatalogError(f"it is no catalog{where and ' at '}{where}: {first['msg']}") from None
    except UnicodeDecodeError as error:
        raise CatalogError(
            f"it is no catalog: the repository's name is not UTF-8: {error}"
        ) from error


# --- the document -----------------------------------------------------------------------

_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Oid = Annotated[str, Field(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")]
_Node = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
_Count = Annotated[int, Field(ge=0)]
_Seconds = Annotated[float, Field(allow_inf_nan=False)]
_Format = Literal["sha1", "sha256"]
_CloneKind = Literal["zstd-v2", "gzip-v2", "stream-v2"]
_KIND: Final[TypeAdapter[_CloneKind]] = TypeAdapter(_CloneKind)
_FORMAT: Final[TypeAdapter[_Format]] = TypeAdapter(_Format)
_FILTER: Final[TypeAdapter[Literal["blob:none"] | None]] = TypeAdapter(Literal["blob:none"] | None)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Entity(_Strict):
    digest: _Digest
    size: _Count
    readable: tuple[str, ...]


class _Pack(_Entity):
    checksum: _Oid


class _Bundle(_Strict):
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")]
    filter: Literal["blob:none"] | None
    pack: _Pack
    bundle_file: _Entity | None
    objects: _Count
    tips: tuple[_Oid, ...]
    peeled: dict[_Oid, _Oid]
    created: _Seconds
    creation_token: _Count


class _CloneBundle(_Strict):
    id: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    kind: _CloneKind
    # Goes into a line of words.
    spec: Annotated[str, Field(pattern=r"^[!-~]+$")]
    file: _Entity
    heads: tuple[_Node, ...]
    changesets: _Count
    created: _Seconds
    required_ram: _Count | None
    store_fingerprint: Annotated[str, Field(pattern=r"^[!-~]+$")] | None


class _Retired(_Strict):
    digest: _Digest
    since: _Seconds


class _Document(_Strict):
    """``repository`` is URL-quoted, for a path need not be Unicode."""

    version: Annotated[int, Field(ge=SCHEMA, le=SCHEMA)]
    repository: str
    object_format: _Format
    bundles: tuple[_Bundle, ...]
    retired: tuple[_Retired, ...]
    epoch: _Count = 0
    clone_bundles: tuple[_CloneBundle, ...] = ()

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        filters = [bundle.filter for bundle in self.bundles]
        if len(set(filters)) != len(filters):
            raise ValueError("two bundles have the same filter")
        kinds = [bundle.kind for bundle in self.clone_bundles]
        if len(set(kinds)) != len(kinds):
            raise ValueError("two clone bundles are of the same kind")
        length = 2 * HASH_SIZES[self.object_format]
        for bundle in self.bundles:
            oids = (bundle.pack.checksum, *bundle.tips, *bundle.peeled, *bundle.peeled.values())
            if any(len(oid) != length for oid in oids):
                raise ValueError(f"bundle {bundle.id} has an object id that is not {length} digits")
        return self


def _write_bundle(bundle: Bundle) -> _Bundle:
    pack, file = bundle.pack, bundle.bundle_file
    return _Bundle(
        id=bundle.id,
        filter=_FILTER.validate_python(bundle.filter),
        pack=_Pack(
            digest=pack.entity.digest,
            size=pack.entity.size,
            readable=bundle.readable,
            checksum=pack.checksum,
        ),
        bundle_file=None
        if file is None
        else _Entity(digest=file.digest, size=file.size, readable=bundle.bundle_readable),
        objects=bundle.objects,
        tips=bundle.tips,
        peeled=dict(bundle.peeled),
        created=bundle.created,
        creation_token=bundle.creation_token,
    )


def _read_bundle(read: _Bundle) -> Bundle:
    pack, file = read.pack, read.bundle_file
    return Bundle(
        id=read.id,
        filter=read.filter,
        pack=Part(Entity(pack.digest, pack.size), pack.checksum),
        bundle_file=None if file is None else Entity(file.digest, file.size),
        objects=read.objects,
        tips=read.tips,
        peeled=read.peeled,
        created=read.created,
        creation_token=read.creation_token,
        readable=pack.readable,
        bundle_readable=() if file is None else file.readable,
    )


def _write_clone_bundle(bundle: CloneBundle) -> _CloneBundle:
    entity = bundle.entity
    return _CloneBundle(
        id=bundle.id,
        kind=_KIND.validate_python(bundle.kind),
        spec=bundle.spec,
        file=_Entity(digest=entity.digest, size=entity.size, readable=bundle.readable),
        heads=bundle.heads,
        changesets=bundle.changesets,
        created=bundle.created,
        required_ram=bundle.required_ram,
        store_fingerprint=bundle.store_fingerprint,
    )


def _read_clone_bundle(read: _CloneBundle) -> CloneBundle:
    return CloneBundle(
        id=read.id,
        kind=read.kind,
        spec=read.spec,
        entity=Entity(read.file.digest, read.file.size),
        heads=read.heads,
        changesets=read.changesets,
        created=read.created,
        readable=read.file.readable,
        required_ram=read.required_ram,
        store_fingerprint=read.store_fingerprint,
    )
