# Law of this file: what refused everything is told once; what took something is not.

from __future__ import annotations

from server.refusals import Refusals


def test_what_refused_everything() -> None:
    """A line each, with how often it was tried and the last reason."""
    run = Refusals()
    run.told("target", "cdn", "status 403")
    run.told("target", "cdn", "status 404 where 200 was expected")
    run.told("store", "eu", "it is read-only")
    run.told("target", "self", "")
    target, store = run.faults()
    assert target == (
        "nothing came back through the target cdn, tried 2 times; what was tried is not named"
        " there: status 404 where 200 was expected; `offramp doctor` looks further"
    )
    assert store == (
        "the store eu took nothing, tried once; no content is named there: it is read-only"
    )


def test_what_refused_some() -> None:
    """It is told as it happens, and at the end no more."""
    run = Refusals()
    for name, every in (("a", ("bad", "")), ("b", ("", "bad"))):
        for why in every:
            run.told("target", name, why)
    # Of another kind, and the same name.
    run.told("store", "a", "bad")
    assert [line.split(", ")[0] for line in run.faults()] == ["the store a took nothing"]
