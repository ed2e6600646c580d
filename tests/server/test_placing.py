# Law of this file: content is named from no store that it is not for, however the repository's name
# is written, and what reads one store is told from what reads another.

from __future__ import annotations

from pathlib import Path

import pytest

from redirects.targets import HttpTarget
from redirects.window import Window
from server.access.rules import AccessRules
from server.placing import Stores, placements_of
from server.settings import Settings
from server.settings_stores import PlacementSettings
from server.wiring import build_stores, build_targets, signing_keys
from stores.base import Store
from stores.directory import DirectoryStore
from stores.memory import MemoryStore
from stores.replica import Replica

WINDOW = Window(900.0, 3600.0)
NEAR, FAR = (HttpTarget(name, f"http://{name}.example", WINDOW) for name in ("near", "far"))


def stores(*placements: tuple[list[str], list[str]]) -> Stores:
    """Two stores with a target each, and what is placed where."""
    said = [PlacementSettings(repositories=tuple(r), stores=tuple(s)) for r, s in placements]
    reads = {"near": "main", "far": "eu"}
    return Stores(MemoryStore(), {"eu": MemoryStore()}, reads, placements_of(said))


@pytest.mark.parametrize(
    "name", ["acme/secret", "acme/secret.git", "acme/secret/.git", "Acme/SECRET"]
)
@pytest.mark.parametrize("pattern", ["acme/secret", "Acme/Secret.git", "acme/*"])
def test_a_repository_is_one_in_all_spellings(name: str, pattern: str) -> None:
    """With and without `.git`, in upper and lower case: nothing that stays out slips in so."""
    assert stores(([pattern], ["main"])).of(name) == {"main"}


def test_the_first_that_fits_counts() -> None:
    """Without one, content is for every store."""
    placed = stores((["acme/a"], ["main"]), (["acme/*", "b"], ["eu"]))
    found = [placed.of(name) for name in ("acme/a", "acme/c", "b", "c")]
    assert found == [{"main"}, {"eu"}, {"eu"}, {"main", "eu"}]


def test_targets_of_other_stores_are_not_named() -> None:
    """Nor are those of the main store, if it is not among the names; it has the content though."""
    placed = stores((["out"], ["main"]), (["only"], ["eu"]))
    assert placed.unplaced("out") == {"far"}
    assert placed.unplaced("only") == {"near"}
    assert placed.unplaced("any") == frozenset()
    assert placed.targets_of("out", (NEAR, FAR)) == (NEAR,)
    assert placed.targets_of("any", (NEAR, FAR), among={"eu"}) == (FAR,)


def test_an_audience_knows_them() -> None:
    """Of repositories below ROOT and of upstreams."""
    read = Settings.model_validate(
        {"upstreams": [{"prefix": "up", "url": "https://up.example", "targets": ["self"]}]}
    )
    rules = AccessRules(read.access, unplaced=stores((["up/*", "own"], ["main"])).unplaced)
    assert rules.audience_of("own").unplaced == {"far"}
    assert rules.audience_of("other") == rules.audience
    of_upstream = rules.audience_of("up/p", read.upstreams[0])
    assert (of_upstream.targets, of_upstream.unplaced) == ({"self"}, {"far"})


async def fingerprints(tmp_path: Path, main: Store, behind: dict[str, object] | None) -> list[str]:
    """Of three targets, that read a store beside the main one, or that."""
    key = {"id": "k", "secret": "0123456789abcdef0123456789abcdef"}
    targets: list[dict[str, object]] = [
        {"type": "http", "base_url": "http://cdn.example"},
        {"type": "hmac", "base_url": "http://cdn.example", "keys": [key]},
    ]
    values: dict[str, object] = {"data": tmp_path, "targets": targets}
    if behind is not None:
        if behind["type"] == "s3":
            targets.append({"type": "s3", "endpoint": "http://cdn.example"})
        values["stores"] = [{"name": "x", **behind}]
        values["targets"] = [{**target, "store": "x"} for target in targets]
    read = Settings.model_validate(values)
    placed = build_stores(read, main)
    made = await build_targets(read, placed, signing_keys(tmp_path))
    await placed.close()
    assert {placed.store_of(target) for target in made} == {placed.named()[read.targets[0].store]}
    return [target.fingerprint for target in made]


async def test_fingerprints_tell_stores_apart(tmp_path: Path) -> None:
    """What came through a URL from one store is not believed to be in another behind it later."""
    main = MemoryStore()
    s3 = {"type": "s3", "bucket": "b", "region": "r", "access_key_id": "A", "path_style": True}
    behind: tuple[dict[str, object] | None, ...] = (
        None,
        {"type": "directory", "path": tmp_path / "one"},
        {"type": "directory", "path": tmp_path / "two"},
        {**s3, "secret_access_key": "k", "endpoint": "http://one.example"},
        {**s3, "secret_access_key": "k", "endpoint": "http://two.example"},
    )
    found = [await fingerprints(tmp_path, main, each) for each in behind]
    every = [fingerprint for each in found for fingerprint in each]
    assert len(set(every)) == len(every) == 12
    assert [await fingerprints(tmp_path, main, each) for each in behind] == found


async def test_fingerprints_change_when_a_store_is_renewed(tmp_path: Path) -> None:
    """What was read back before counts no more, through none of its targets."""
    main, place = MemoryStore(), tmp_path / "one"
    behind: dict[str, object] = {"type": "directory", "path": place}
    before = await fingerprints(tmp_path, main, behind)
    store = DirectoryStore(place)
    await Replica("x", store, main).renew()
    await store.close()
    assert not set(before) & set(await fingerprints(tmp_path, main, behind))


async def test_those_of_the_main_store_stay(tmp_path: Path) -> None:
    """Through an upgrade, too: otherwise all that there is would be read back anew."""
    main = MemoryStore()
    found = await fingerprints(tmp_path, main, None)
    assert found == ["5aa160fd9ff3bf64", "67719940188939e5"]
    assert not main.documents
