# Law of this file: a catalog that was written is read as it was, and nothing else is read as one.

from __future__ import annotations

import json
from dataclasses import replace
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.records import Part
from indexer.catalog import (
    Bundle,
    Catalog,
    CatalogError,
    CloneBundle,
    Retired,
    catalog_name,
    encode,
    load,
    parse,
)
from stores.checks import is_document_name
from stores.entity import Entity
from stores.memory import MemoryStore

OID = "1" * 40
TAG = "2" * 40

BUNDLE = Bundle(
    id="full-aaaa",
    filter=None,
    pack=Part(Entity("a" * 64, 1000), "c" * 40),
    bundle_file=Entity("b" * 64, 1100),
    objects=12,
    tips=(OID, TAG),
    peeled={TAG: OID},
    created=1700000000.5,
    creation_token=1700000000,
    readable=("self", "t-1"),
    bundle_readable=("self",),
)
CATALOG = Catalog("group/näme.git", "sha1", (BUNDLE,), (Retired("d" * 64, 1600000000.0),))

CLONE_BUNDLE = CloneBundle(
    id="zstd-v2-eeee",
    kind="zstd-v2",
    spec="zstd-v2",
    entity=Entity("e" * 64, 900),
    heads=(OID,),
    changesets=7,
    created=1700000000.5,
    readable=("self",),
    required_ram=32 << 20,
    store_fingerprint="none",
)

GOLDEN = (
    b'{"bundles":[{"bundle_file":{"digest":"' + b"b" * 64 + b'","readable":["self"],"size":1100},'
    b'"created":1700000000.5,"creation_token":1700000000,"filter":null,"id":"full-aaaa",'
    b'"objects":12,"pack":{"checksum":"' + b"c" * 40 + b'","digest":"' + b"a" * 64 + b'",'
    b'"readable":["self","t-1"],"size":1000},"peeled":{"' + b"2" * 40 + b'":"' + b"1" * 40 + b'"},'
    b'"tips":["' + b"1" * 40 + b'","' + b"2" * 40 + b'"]}],"object_format":"sha1",'
    b'"repository":"group%2Fn%C3%A4me.git","retired":[{"digest":"' + b"d" * 64 + b'",'
    b'"since":1600000000.0}],"version":1}\n'
)

names = st.text(min_size=1).filter(lambda name: name.strip("/"))


def hexes(length: int) -> st.SearchStrategy[str]:
    """Hex of one length."""
    return st.text("0123456789abcdef", min_size=length, max_size=length)


@st.composite
def catalogs(draw: st.DrawFn) -> Catalog:
    """Any catalog that can be."""
    object_format, length = draw(st.sampled_from([("sha1", 40), ("sha256", 64)]))
    entities = st.builds(Entity, hexes(64), st.integers(0, 1 << 50))
    times = st.floats(0, 1e11)
    words = st.lists(st.text("abc-:/", min_size=1), max_size=3).map(tuple)

    def bundles(filter_spec: str | None) -> st.SearchStrategy[Bundle]:
        file = draw(st.none() | entities)
        return st.builds(
            Bundle,
            id=st.from_regex(r"[A-Za-z0-9-]+", fullmatch=True),
            filter=st.just(filter_spec),
            pack=st.builds(Part, entities, hexes(length)),
            bundle_file=st.just(file),
            objects=st.integers(0, 1 << 40),
            tips=st.lists(hexes(length), max_size=4).map(tuple),
            peeled=st.dictionaries(hexes(length), hexes(length), max_size=2),
            created=times,
            creation_token=st.integers(0, 1 << 40),
            readable=words,
            bundle_readable=st.just(()) if file is None else words,
        )

    def clone_bundles(kind: str) -> st.SearchStrategy[CloneBundle]:
        return st.builds(
            CloneBundle,
            id=st.from_regex(r"[a-z0-9-]+", fullmatch=True),
            kind=st.just(kind),
            spec=st.from_regex(r"[!-~]+", fullmatch=True),
            entity=entities,
            heads=st.lists(hexes(40), max_size=4).map(tuple),
            changesets=st.integers(0, 1 << 40),
            created=times,
            readable=words,
            required_ram=st.none() | st.integers(0, 1 << 40),
            store_fingerprint=st.none() | st.from_regex(r"[!-~]+", fullmatch=True),
        )

    chosen = draw(st.lists(st.sampled_from([None, "blob:none"]), unique=True))
    kinds = draw(st.lists(st.sampled_from(["zstd-v2", "gzip-v2", "stream-v2"]), unique=True))
    return Catalog(
        draw(st.text(st.characters() | st.characters(categories=["Cs"]))),
        object_format,
        tuple(draw(bundles(filter_spec)) for filter_spec in chosen),
        tuple(draw(st.lists(st.builds(Retired, hexes(64), times), max_size=3))),
        clone_bundles=tuple(draw(clone_bundles(kind)) for kind in kinds),
    )


class TestDocument:
    def test_a_catalog_is_written_as_these_bytes(self) -> None:
        """The format of the document is this one, byte by byte."""
        assert encode(CATALOG) == GOLDEN

    def test_these_bytes_are_read_as_that_catalog(self) -> None:
        """And back."""
        assert parse(GOLDEN) == CATALOG

    @given(catalogs())
    def test_what_is_written_is_read_as_it_was(self, catalog: Catalog) -> None:
        """Every catalog survives, and is written the same way again."""
        again = parse(encode(catalog))
        assert again == catalog
        assert encode(again) == encode(catalog)

    @given(st.binary())
    def test_garbage_is_refused(self, garbage: bytes) -> None:
        """Bytes that are no catalog give CatalogError and nothing else."""
        with pytest.raises(CatalogError):
            parse(garbage)

    @given(st.integers(0, len(GOLDEN) - 1), st.binary(max_size=4), st.integers(0, 8))
    def test_damage_is_refused_or_harmless(self, at: int, put: bytes, cut: int) -> None:
        """A damaged document gives CatalogError, or a catalog that can be written."""
        damaged = GOLDEN[:at] + put + GOLDEN[at + cut :]
        try:
            catalog = parse(damaged)
        except CatalogError:
            return
        assert parse(encode(catalog)) == catalog

    @pytest.mark.parametrize(
        "change",
        [
            {"version": 2},
            {"version": True},
            {"more": 1},
            {"object_format": "md5"},
            {"object_format": "sha256"},
            {"repository": None},
            {"repository": "%ff"},
            {"bundles": {}},
            {"bundles": [{}]},
            {"retired": [{"digest": "d" * 63, "since": 1}]},
            {"retired": [{"digest": "d" * 64 + "\n", "since": 1}]},
            {"retired": [{"digest": "d" * 64, "since": float("nan")}]},
            {"retired": [{"digest": "d" * 64, "since": "1"}]},
        ],
        ids=str,
    )
    def test_what_is_not_exactly_a_catalog_is_refused(self, change: dict[str, object]) -> None:
        """Unknown keys, other versions and wrong types are no catalog."""
        with pytest.raises(CatalogError, match="no catalog"):
            parse(json.dumps(json.loads(GOLDEN) | change).encode())

    def test_two_bundles_of_one_kind_are_refused(self) -> None:
        """A catalog has one answer to the question which bundle is current."""
        with pytest.raises(CatalogError, match="same filter"):
            parse(GOLDEN.replace(b'"bundles":[', b'"bundles":[' + bundle_bytes() + b","))

    def test_deep_nesting_is_refused(self) -> None:
        """A document cannot exhaust the stack."""
        with pytest.raises(CatalogError):
            parse(b"[" * 100_000)


def bundle_bytes() -> bytes:
    """The golden bundle alone."""
    return json.dumps(json.loads(GOLDEN)["bundles"][0]).encode()


class TestName:
    def test_a_name_is_quoted_whole(self) -> None:
        """Slashes too, so that every catalog lies in one place."""
        assert catalog_name("a b/c.git") == "catalogs/a%20b%2Fc.git.json"

    @given(names, names)
    def test_each_repository_has_its_own_document(self, one: str, other: str) -> None:
        """Names are valid for every store, and two repositories never share one."""
        assert is_document_name(catalog_name(one))
        assert (catalog_name(one) == catalog_name(other)) == (one == other)

    def test_long_names_become_digests(self) -> None:
        """What would not fit into a file name is replaced by a SHA-256."""
        name = catalog_name("ä" * 300)
        assert len(name) == len("catalogs/=.json") + 64
        assert name != catalog_name("ä" * 301)
        assert is_document_name(name)
        assert catalog_name(name.removeprefix("catalogs/").removesuffix(".json")) != name

    def test_a_path_that_is_no_unicode_has_a_name(self) -> None:
        """A file name in another encoding is kept apart from every other one."""
        assert is_document_name(catalog_name("caf\udce9.git"))


class TestLoad:
    async def test_there_may_be_none(self) -> None:
        """A repository that was never indexed has no catalog."""
        assert await load(MemoryStore(), "a") is None

    async def test_what_is_loaded_can_be_replaced(self) -> None:
        """The version that comes with a catalog is the one to write against."""
        store = MemoryStore()
        name = catalog_name(CATALOG.repository)
        version = await store.write_document(name, encode(CATALOG), None)
        assert await load(store, CATALOG.repository) == (CATALOG, version)

    @pytest.mark.parametrize("body", [b"{", GOLDEN])
    async def test_another_document_is_refused(self, body: bytes) -> None:
        """Garbage, or another repository's catalog, is an error that names the document."""
        store = MemoryStore()
        await store.write_document("catalogs/other.json", body, None)
        with pytest.raises(CatalogError, match=r"catalogs/other\.json"):
            await load(store, "other")


class TestChanges:
    def test_a_replaced_bundle_is_retired(self) -> None:
        """What the old one was made of waits for collection, unless the new one has it too."""
        new = replace(BUNDLE, pack=Part(Entity("e" * 64, 1), "c" * 40))
        changed = CATALOG.with_bundle(new, 5.0)
        assert changed.bundles == (new,)
        assert changed.retired == (Retired("a" * 64, 5.0), Retired("d" * 64, 1600000000.0))

    def test_what_is_named_again_is_not_retired(self) -> None:
        """A pack that was made again, byte by byte, leaves the list of what can be deleted."""
        without = CATALOG.without(None, 5.0)
        assert {retired.digest for retired in without.retired} == {c * 64 for c in "abd"}
        assert without.with_bundle(BUNDLE, 6.0).retired == CATALOG.retired

    def test_kinds_do_not_replace_each_other(self) -> None:
        """A blobless bundle stands beside the full one."""
        other = replace(BUNDLE, filter="blob:none", id="blobless-a")
        both = CATALOG.with_bundle(other, 5.0)
        assert both.bundle(None) == BUNDLE
        assert both.bundle("blob:none") == other
        assert both.without(None, 6.0).bundles == (other,)

    def test_another_object_format_empties_it(self) -> None:
        """A repository that was replaced keeps none of its old bundles."""
        assert CATALOG.in_format("sha1", 5.0) is CATALOG
        changed = CATALOG.in_format("sha256", 5.0)
        assert (changed.bundles, changed.object_format) == ((), "sha256")
        assert Retired("a" * 64, 5.0) in changed.retired

    def test_tokens_grow_even_if_the_clock_does_not(self) -> None:
        """A creation token is the time, but always above the last one."""
        assert CATALOG.next_token(1700000099.9) == 1700000099
        assert CATALOG.next_token(1.0) == 1700000001
        assert Catalog("a", "sha1").next_token(7.0) == 7

    def test_readable_entities_are_pack_and_bundle_file(self) -> None:
        """Each with the targets through which it was read back."""
        assert list(BUNDLE.readable_entities()) == [
            ("a" * 64, ("self", "t-1")),
            ("b" * 64, ("self",)),
        ]
        alone = replace(BUNDLE, bundle_file=None, bundle_readable=())
        assert list(alone.readable_entities()) == [("a" * 64, ("self", "t-1"))]

    def test_names_are_quoted_in_the_document(self) -> None:
        """So that the document is Unicode whatever the path is."""
        repository = "caf\udce9"
        body = encode(Catalog(repository, "sha1"))
        assert quote(repository, safe="", errors="surrogatepass").encode() in body
        assert parse(body).repository == repository


def test_an_epoch_is_kept() -> None:
    """It is written once there is one, and read as 0 where there is none."""
    assert parse(GOLDEN).epoch == 0
    later = replace(CATALOG, epoch=7)
    assert parse(encode(later)) == later
    for changed in (later.without(None, 1.0), later.in_format("sha256", 1.0)):
        assert changed.epoch == 7


def test_a_purged_catalog_names_nothing_of_what_went() -> None:
    """Bundles that hold it are retired; the others stay."""
    gone = CATALOG.purged(CATALOG.named(), 1, 5.0)
    assert (gone.bundles, gone.epoch) == ((), 1)
    assert CATALOG.named() <= {retired.digest for retired in gone.retired}
    assert CATALOG.purged(frozenset(), 1, 5.0) == replace(CATALOG, epoch=1)


class TestCloneBundles:
    def test_they_are_written_as_these_bytes(self) -> None:
        """Beside all else; a catalog without any is what earlier versions write."""
        body = encode(replace(CATALOG, clone_bundles=(CLONE_BUNDLE,)))
        added = (
            b'"clone_bundles":[{"changesets":7,"created":1700000000.5,"file":{"digest":"'
            + b"e" * 64
            + b'","readable":["self"],"size":900},"heads":["'
            + b"1" * 40
            + b'"],"id":"zstd-v2-eeee","kind":"zstd-v2","required_ram":33554432,"spec":"zstd-v2",'
            b'"store_fingerprint":"none"}],'
        )
        assert body.replace(added, b"") == GOLDEN
        assert parse(body).clone_bundles == (CLONE_BUNDLE,)

    @pytest.mark.parametrize(
        "change",
        [
            {"kind": "bzip2-v1"},
            {"id": "a b"},
            {"spec": "none-v2 URL"},
            {"spec": ""},
            {"heads": ["1" * 64]},
            {"heads": ["X" * 40]},
            {"changesets": -1},
            {"required_ram": "much"},
            {"store_fingerprint": "a\nb"},
            {"file": {"digest": "e" * 64, "size": 1}},
            {"more": 1},
        ],
    )
    def test_what_is_not_exactly_one_is_refused(self, change: dict[str, object]) -> None:
        """Manifests are made of its words, so none may be more than one."""
        document = json.loads(encode(replace(CATALOG, clone_bundles=(CLONE_BUNDLE,))))
        document["clone_bundles"][0] |= change
        with pytest.raises(CatalogError, match="clone_bundles"):
            parse(json.dumps(document).encode())

    def test_two_of_one_kind_are_refused(self) -> None:
        """Which one would a client be told of?"""
        document = json.loads(encode(replace(CATALOG, clone_bundles=(CLONE_BUNDLE,))))
        document["clone_bundles"] *= 2
        with pytest.raises(CatalogError, match="same kind"):
            parse(json.dumps(document).encode())

    def test_a_replaced_one_is_retired(self) -> None:
        """Others, and what git has in the same directory, stay."""
        other = replace(CLONE_BUNDLE, kind="gzip-v2", entity=Entity("f" * 64, 9))
        both = CATALOG.with_clone_bundle(CLONE_BUNDLE, 5.0).with_clone_bundle(other, 5.0)
        assert {CLONE_BUNDLE.entity.digest, other.entity.digest} <= both.named()
        assert both.clone_bundle("gzip-v2") == other
        new = replace(CLONE_BUNDLE, entity=Entity("9" * 64, 1))
        changed = both.with_clone_bundle(new, 6.0)
        assert changed.clone_bundles == (other, new)
        assert Retired("e" * 64, 6.0) in changed.retired
        dropped = changed.without_clone_bundle("gzip-v2", 7.0)
        assert dropped.clone_bundles == (new,)
        assert Retired("f" * 64, 7.0) in dropped.retired
        assert dropped.clone_bundle("gzip-v2") is None
        for kept in (dropped.without(None, 8.0), dropped.in_format("sha256", 8.0)):
            assert kept.clone_bundles == (new,)
        assert dropped.bundles == CATALOG.bundles

    def test_a_purge_takes_them(self) -> None:
        """All that are made of what went."""
        catalog = CATALOG.with_clone_bundle(CLONE_BUNDLE, 5.0)
        gone = catalog.purged(frozenset(("e" * 64,)), 1, 6.0)
        assert (gone.clone_bundles, gone.bundles, gone.epoch) == ((), CATALOG.bundles, 1)
        assert Retired("e" * 64, 6.0) in gone.retired
