# Law of this file: a short question that asks for the same again and again is no long work and has
# no long answer.

from __future__ import annotations

import pytest

from repos.hg import v1_answers
from repos.hg.repository import HgSnapshot
from server.hg.v1 import small
from tests.conftest import Serve
from tests.hg.asking import serve_hg
from tests.hg.v1.conftest import Shelf
from tests.hg.v1.raw import bundle_arguments, put
from tests.hg.v1.test_bad_requests_v1 import post
from wire.hg.v1.requests import MAX_BATCH

TIMES = 5000


async def test_the_same_keys_many_times(serve: Serve, shelf: Shelf) -> None:
    """A bundle of keys has each namespace once, however often it was asked for."""
    served = await serve_hg(serve, shelf.root("branches"), data=shelf.data("branches"))
    head = (await put(served, "heads")).string.decode().split()[0]
    once, often = [
        (
            await put(
                served,
                "getbundle",
                bundle_arguments(head, cg="0", bookmarks="0", listkeys=",".join(keys)),
            )
        ).stream
        for keys in (["bookmarks", "phases"], ["bookmarks", "phases"] * TIMES)
    ]
    assert b"first\t" in once
    assert often == once


async def test_an_answer_that_is_too_long(
    serve: Serve, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch whose answers come to more than anybody needs is refused with a sentence."""
    served = await serve_hg(serve, shelf.root("branches"), data=shelf.data("branches"))
    one = len((await put(served, "branchmap")).string)
    calls = min(MAX_BATCH, (8 << 20) // one)
    body = b"cmds=" + b"%3B".join([b"branchmap+"] * calls)
    assert len((await post(served, "batch", body)).string) > 2 << 20
    monkeypatch.setattr(small, "LONGEST", 1 << 20)
    assert "longer than 1 MiB; ask for less" in (await post(served, "batch", body)).error
    # It is of answers, not of one.
    assert len((await put(served, "branchmap")).string) == one


async def test_the_same_in_a_batch(
    serve: Serve, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal commands of a batch are answered once, and told as often as they were asked."""
    served = await serve_hg(serve, shelf.root("linear"), data=shelf.data("linear"))
    heads = (await put(served, "heads")).string
    counted = []
    encode = v1_answers.heads

    def noted(snapshot: HgSnapshot) -> bytes:
        counted.append(snapshot)
        return encode(snapshot)

    monkeypatch.setattr(v1_answers, "heads", noted)
    said = await put(served, "batch", {"cmds": ";".join(["heads "] * 1000)})
    assert said.string == b";".join([heads] * 1000)
    assert len(counted) == 1
