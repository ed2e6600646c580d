# Law of this file: what the threat model promises of parties that lie, shown by stock git itself.

from __future__ import annotations

from pathlib import Path

from stores.entity import entity_key
from tests.conformance.clones import accepting, declining, locations, state, stock
from tests.conformance.repositories import Repository, commit, empty
from tests.conftest import Serve
from tests.edges import edge


async def test_a_target_that_lies_fails_the_clone(
    serve: Serve, repository: Repository, tmp_path: Path
) -> None:
    """A CDN that gives clients another pack, a good one, makes git fail, and take nothing of it."""
    other = empty(tmp_path / "others", "other.git")
    history = commit("refs/heads/main", 1, "", {"other": "not what was asked for\n"})
    other.git("fast-import", "--quiet", stdin=history)
    other.git("repack", "-adq")
    (wrong,) = (other.path / "objects/pack").glob("*.pack")
    store = tmp_path / "data" / "store"
    with edge(store, lambda url, query: True) as cdn:
        target = {"type": "http", "name": "cdn", "base_url": cdn.url}
        server = await serve(repository.root, targets=[target])
        client = accepting(tmp_path)
        url = repository.url(server.url)
        first = await client.traced()("clone", "--bare", url, tmp_path / "first")
        (location,) = locations(first).values()
        file = store / entity_key(location[-64:])
        file.unlink()  # it may be the very file of the cache
        file.write_bytes(wrong.read_bytes())
        lied_to = await client("clone", "--bare", url, tmp_path / "second", check=False)
        assert lied_to.status != 0
        assert "pack downloaded from" in lied_to.stderr
        assert "does not match expected hash" in lied_to.stderr
        assert not (tmp_path / "second").exists()
        # Who takes no location is not harmed: the store is not what the answer came from.
        await declining(tmp_path)("clone", "--bare", url, tmp_path / "inline")
    await stock(tmp_path)("clone", "--bare", repository.stock_url, tmp_path / "theirs")
    assert await state(client, tmp_path / "inline") == await state(client, tmp_path / "theirs")
