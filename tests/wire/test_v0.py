# Law of this file: a v0 request is read as stock git means it, and its canonical form asks for the
# same, whoever asks.

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.git.pktline import DELIM, FLUSH, ProtocolError, encode, text
from wire.git.v0 import LONGEST_CAPABILITIES, V0Fetch, parse_request

A, B, C = ("a" * 40, "b" * 40, "c" * 40)

CLONE = (
    b"008dwant bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb multi_ack_detailed no-done"
    b" side-band-64k thin-pack ofs-delta agent=git/2.39.5 session-id=1\n"
    b"0032want aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n"
    b"0000"
    b"0009done\n"
)
CLONE_CANONICAL = (
    b"007bwant aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa multi_ack_detailed no-done"
    b" no-progress ofs-delta side-band-64k thin-pack\n"
    b"0032want bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\n"
    b"0000"
    b"0009done\n"
)


def want(oid: str, capabilities: str = "") -> bytes:
    """A want line."""
    return text(f"want {oid} {capabilities}".rstrip().encode())


def have(oid: str) -> bytes:
    """A have line."""
    return text(f"have {oid}".encode())


DONE = text(b"done")


def test_a_clone():
    """A clone's request, as bytes, is read in full and made canonical."""
    capabilities = {"multi_ack_detailed", "no-done", "side-band-64k", "thin-pack", "ofs-delta"}
    assert parse_request(CLONE) == V0Fetch(
        wants=(B, A),
        capabilities=frozenset(capabilities),
        agent="git/2.39.5",
        done=True,
        canonical=CLONE_CANONICAL,
    )


def test_every_line():
    """Shallow, deepen and filter lines go to their fields and are written in one order."""
    fetch = parse_request(
        want(A, "filter deepen-since")
        + text(b"filter blob:none")
        + text(f"shallow {C}".encode())
        + text(f"shallow {B}".encode())
        + text(b"deepen-not refs/tags/b")
        + text(b"deepen-not refs/tags/a")
        + text(b"deepen-since 1700000000")
        + text(b"deepen 3")
        + FLUSH
    )
    assert (fetch.shallows, fetch.deepen, fetch.deepen_since) == ((C, B), 3, 1700000000)
    assert (fetch.deepen_not, fetch.filter) == ((b"refs/tags/b", b"refs/tags/a"), "blob:none")
    assert (fetch.haves, fetch.done) == ((), False)
    assert fetch.canonical == (
        b"0046want aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa deepen-since filter\n"
        b"0035shallow bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\n"
        b"0035shallow cccccccccccccccccccccccccccccccccccccccc\n"
        b"000ddeepen 3\n"
        b"001cdeepen-since 1700000000\n"
        b"001bdeepen-not refs/tags/a\n"
        b"001bdeepen-not refs/tags/b\n"
        b"0015filter blob:none\n"
        b"0000"
    )


def test_a_negotiation_keeps_its_order():
    """Haves and the flushes between them stay where the client put them."""
    rounds = have(C) + have(A) + FLUSH + have(B) + have(C) + FLUSH
    fetch = parse_request(want(A, "multi_ack") + FLUSH + rounds)
    assert (fetch.haves, fetch.done) == ((C, A, B), False)
    assert fetch.canonical.endswith(FLUSH + rounds)


def test_progress_is_only_a_matter_of_sidebands():
    """Without a sideband there is no progress to turn off."""
    assert parse_request(want(A, "ofs-delta") + FLUSH + DONE).canonical == (
        want(A, "ofs-delta") + FLUSH + DONE
    )
    assert b"no-progress side-band\n" in parse_request(want(A, "side-band") + FLUSH).canonical


def test_nothing_wanted():
    """A lone flush wants nothing and is no error."""
    assert parse_request(FLUSH) == V0Fetch()
    assert V0Fetch().canonical == FLUSH


def test_a_flush_after_done():
    """What some clients send after done changes nothing."""
    assert parse_request(CLONE + FLUSH) == parse_request(CLONE)


def test_sha256():
    """With object-format=sha256 object ids have 64 digits."""
    fetch = parse_request(want("d" * 64, "object-format=sha256") + FLUSH + have("e" * 64) + DONE)
    assert (fetch.object_format, fetch.wants, fetch.haves) == ("sha256", ("d" * 64,), ("e" * 64,))
    with pytest.raises(ProtocolError, match="expected a sha256 object id"):
        parse_request(want(A, "object-format=sha256") + FLUSH)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "expected flush after the wants"),
        (want(A), "expected flush after the wants"),
        (FLUSH + DONE, "nothing is wanted"),
        (FLUSH + FLUSH, "nothing is wanted"),
        (text(b"shallow " + A.encode()) + FLUSH, "expected a want first"),
        (text(b"want") + FLUSH, "expected a sha1 object id"),
        (text(b"want " + b"A" * 40) + FLUSH, "expected a sha1 object id"),
        (want(A) + want(B, "ofs-delta") + FLUSH, "expected a sha1 object id"),
        (want(A, "object-format=md5") + FLUSH, "unknown object format 'md5'"),
        (want(A, "x\x1by") + FLUSH, "invalid capabilities"),
        (want(A, "\u00fc") + FLUSH, "invalid capabilities"),
        (want(A, "x" * (LONGEST_CAPABILITIES + 1)) + FLUSH, "invalid capabilities"),
        (want(A) + DELIM + FLUSH, "expected flush"),
        (want(A) + text(b"deepen 0") + FLUSH, "invalid number"),
        (want(A) + text(b"deepen-since soon") + FLUSH, "invalid number"),
        (want(A) + text(b"deepen-not ") + FLUSH, "expected to get object ID"),
        (want(A) + text(b"filter ") + FLUSH, "invalid filter-spec"),
        (want(A) + text(b"filter a") + text(b"filter a") + FLUSH, "multiple filter-specs"),
        (want(A) + text(b"want-ref x") + FLUSH, "expected to get object ID"),
        (want(A) + FLUSH + have("x"), "expected a sha1 object id, got 'x'"),
        (want(A) + FLUSH + have(A), "expected done or flush"),
        (want(A) + FLUSH + FLUSH + have(A), "expected done or flush"),
        (want(A) + FLUSH + want(A) + FLUSH, "expected a have"),
        (want(A) + FLUSH + DELIM, "expected flush"),
        (want(A) + FLUSH + DONE + DONE, "goes on after done"),
        (want(A) + FLUSH + DONE + FLUSH + have(A), "goes on after done"),
        (want(A) + FLUSH + encode(b"done\0"), "a NUL"),
        (CLONE[:-1], "in the middle of a packet"),
    ],
)
def test_refused(body: bytes, message: str):
    """What is not a request is refused, and the client is told why."""
    with pytest.raises(ProtocolError, match=message):
        parse_request(body)


oids = st.sampled_from([c * 40 for c in "0123456789abcdef"])
words = st.sampled_from(["ofs-delta", "thin-pack", "side-band", "side-band-64k", "include-tag"])
rounds_of = st.lists(oids.map(have) | st.just(FLUSH), max_size=6).map(b"".join)


def request(wants: list[str], capabilities: list[str], shallows: list[str], rounds: bytes) -> bytes:
    """A request body that ends with done."""
    first, *others = wants
    lines = [want(first, " ".join(capabilities)), *map(want, others)]
    lines += [text(f"shallow {oid}".encode()) for oid in shallows]
    return b"".join((*lines, FLUSH, rounds, DONE))


@given(
    st.lists(oids, min_size=1, unique=True),
    st.lists(words, unique=True),
    st.lists(oids, unique=True),
    rounds_of,
    st.randoms(use_true_random=False),
)
def test_equal_questions_are_equal_bytes(
    wants: list[str],
    capabilities: list[str],
    shallows: list[str],
    rounds: bytes,
    order: random.Random,
):
    """Neither order, duplicates nor who asks tell two requests apart, and canonical is stable."""
    one = parse_request(request(wants, capabilities, shallows, rounds))
    agent = ["agent=x/1", "session-id=2"]
    other = parse_request(
        request(
            order.sample(wants, len(wants)) + wants[:1],
            order.sample([*capabilities, *agent], len(capabilities) + 2),
            order.sample(shallows, len(shallows)) + shallows[:1],
            rounds,
        )
    )
    assert other.canonical == one.canonical
    again = parse_request(one.canonical)
    assert again.canonical == one.canonical
    assert (set(again.wants), again.haves, again.done) == (set(wants), one.haves, True)
    assert again.capabilities - {"no-progress"} == one.capabilities


pieces = st.sampled_from(
    [FLUSH, DELIM, DONE, want(A), want(B, "agent=\xff"), have(C), text(b"deepen 1"), text(b"\xff")]
)


@given(st.lists(pieces | st.binary(max_size=20) | st.binary(max_size=20).map(text), max_size=8))
def test_garbage(parts: list[bytes]):
    """Any bytes are a request or a ProtocolError, and what was read is canonical in one step."""
    try:
        fetch = parse_request(b"".join(parts))
    except ProtocolError:
        return
    assert parse_request(fetch.canonical).canonical == fetch.canonical
