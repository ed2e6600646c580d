# Law of this file: a v2 request is read as stock git means it, written in one form only, and what
# is not a request is refused in words that the client can be shown.

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.git import pktline
from wire.git.pktline import DELIM, FLUSH, ProtocolError, text
from wire.git.v2 import (
    BundleUri,
    Fetch,
    LsRefs,
    ObjectInfo,
    Session,
    encode_fetch,
    encode_ls_refs,
    parse_request,
)

A, B, C = ("a" * 40, "b" * 40, "c" * 40)

CI_CHECKOUT = (
    b"0011command=fetch"
    b"0014agent=git/2.39.5"
    b"0016object-format=sha1"
    b"0001"
    b"000dthin-pack"
    b"000fno-progress"
    b"000dofs-delta"
    b"000cdeepen 1"
    b"0017packfile-uris https"
    b"0032want aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n"
    b"0009done\n"
    b"0000"
)

oids = st.sampled_from([c * 40 for c in "0123456789abcdef"])
names = st.binary(min_size=1, max_size=12).filter(lambda n: b"\0" not in n and n[-1:] != b"\n")
flags = st.booleans()
fetches = st.builds(
    Fetch,
    session=st.builds(Session, agent=st.sampled_from(["", "git/2.39.5"])),
    wants=st.lists(oids, unique=True).map(tuple),
    want_refs=st.lists(names, unique=True, max_size=4).map(tuple),
    haves=st.lists(oids, unique=True).map(tuple),
    shallows=st.lists(oids, unique=True).map(tuple),
    deepen=st.none() | st.integers(1, 2**31 - 1),
    deepen_since=st.none() | st.integers(1, 2**63 - 1),
    deepen_not=st.lists(names, unique=True, max_size=4).map(tuple),
    deepen_relative=flags,
    filter=st.none() | st.sampled_from(["blob:none", "tree:0", "combine:a+b"]),
    done=flags,
    thin_pack=flags,
    ofs_delta=flags,
    include_tag=flags,
    no_progress=flags,
    wait_for_done=flags,
    packfile_uris=st.sampled_from([(), ("https",), ("http", "https")]),
)


def body(*arguments: bytes, command: bytes = b"fetch", extra: tuple[bytes, ...] = ()) -> bytes:
    """A request body of these lines."""
    head = (b"command=" + command, *extra)
    return b"".join((*map(text, head), DELIM, *map(text, arguments), FLUSH))


def test_what_ci_sends():
    """The commonest request there is, as bytes, is read in full."""
    assert parse_request(CI_CHECKOUT) == Fetch(
        Session(agent="git/2.39.5"),
        wants=(A,),
        deepen=1,
        done=True,
        thin_pack=True,
        ofs_delta=True,
        no_progress=True,
        packfile_uris=("https",),
    )


def test_every_argument_of_a_fetch():
    """Each argument goes to its own field, in the client's order and without duplicates."""
    request = parse_request(
        body(
            f"want {B}".encode(),
            f"want {A}".encode(),
            f"want {B}".encode(),
            b"want-ref refs/heads/main",
            f"have {C}".encode(),
            f"have {C}".encode(),
            f"shallow {A}".encode(),
            b"deepen-since 1700000000",
            b"deepen-not refs/tags/v1",
            b"deepen-relative",
            b"filter blob:limit=1k",
            b"include-tag",
            b"wait-for-done",
            b"packfile-uris HTTPS,http,https,bad scheme,",
        )
    )
    assert request == Fetch(
        Session(),
        wants=(B, A),
        want_refs=(b"refs/heads/main",),
        haves=(C,),
        shallows=(A,),
        deepen_since=1700000000,
        deepen_not=(b"refs/tags/v1",),
        deepen_relative=True,
        filter="blob:limit=1k",
        include_tag=True,
        wait_for_done=True,
        packfile_uris=("https", "http"),
    )


def test_capabilities_come_in_any_order():
    """The agent may stand before the command, and the session id is forgotten."""
    head = (b"agent=git/2.56", b"server-option=region=eu", b"session-id=secret")
    tail = (b"server-option=b", b"object-format=sha256")
    request = b"".join(map(text, (*head, b"command=bundle-uri", *tail))) + FLUSH
    session = Session("git/2.56", "sha256", ("region=eu", "b"))
    assert parse_request(request) == BundleUri(session)


def test_bundle_uri_with_an_empty_section():
    """A delimiter before no arguments is the same as none."""
    assert parse_request(body(command=b"bundle-uri")) == BundleUri(Session())


def test_ls_refs():
    """Prefixes keep their order, flags may come between them."""
    arguments = (b"peel", b"ref-prefix refs/tags/", b"symrefs", b"unborn", b"ref-prefix HEAD")
    expected = LsRefs(Session(), True, True, True, (b"refs/tags/", b"HEAD"))
    assert parse_request(body(*arguments, command=b"ls-refs")) == expected
    assert parse_request(text(b"command=ls-refs") + FLUSH) == LsRefs(Session())


def test_too_many_prefixes_are_none():
    """A client with an unreasonable number of prefixes is shown every ref."""
    many = [b"ref-prefix refs/%d" % i for i in range(65537)]
    most = parse_request(body(*many[1:], command=b"ls-refs"))
    assert isinstance(most, LsRefs)
    assert len(most.prefixes) == 65536
    assert parse_request(body(*many, command=b"ls-refs")) == LsRefs(Session())


def test_object_info():
    """Objects are listed once, and their size is asked for or not."""
    arguments = (b"size", f"oid {B}".encode(), f"oid {A}".encode(), f"oid {B}".encode())
    expected = ObjectInfo(Session(), (B, A), size=True)
    assert parse_request(body(*arguments, command=b"object-info")) == expected


@pytest.mark.parametrize("goodbye", [b"", FLUSH])
def test_goodbye(goodbye: bytes):
    """A client that only ends the session asks for nothing."""
    assert parse_request(goodbye) is None


def test_sha256():
    """With sha256, object ids have 64 digits and no other number."""
    extra = (b"object-format=sha256",)
    request = parse_request(body(b"want " + b"d" * 64, extra=extra))
    assert isinstance(request, Fetch)
    assert request.wants == ("d" * 64,)
    with pytest.raises(ProtocolError, match="expected a sha256 object id"):
        parse_request(body(b"want " + b"d" * 40, extra=extra))


@pytest.mark.parametrize(
    ("request_body", "message"),
    [
        (text(b"agent=x") + FLUSH, "no command requested"),
        (DELIM + FLUSH, "no command requested"),
        (body(command=b"x"), "unknown command 'x'"),
        (body(command=b"push"), "unknown command 'push'"),
        (
            body(extra=(b"command=ls-refs",)),
            "command 'ls-refs' requested after already requesting command 'fetch'",
        ),
        (body(extra=(b"colour=red",)), "unknown capability 'colour=red'"),
        (body(extra=(b"object-format=md5",)), "unknown object format 'md5'"),
        (body() + text(b"more"), "expected flush at the end"),
        (body() + FLUSH, "expected flush after"),
        (body() + body(), "expected flush after"),
        (text(b"command=fetch"), "expected flush at the end"),
        (text(b"command=fetch") + DELIM + DELIM + FLUSH, "expected flush after"),
        (text(b"command=fetch") + b"0002" + FLUSH, "expected flush after"),
        (b"0011command", "in the middle of a packet"),
        (body(b"sideband-all"), "unexpected line: 'sideband-all'"),
        (body(b"done please"), "unexpected line: 'done please'"),
        (body(b""), "unexpected line: ''"),
        (body(b"want-ref "), "unexpected line: 'want-ref '"),
        (body(b"want-ref a\0b"), "a NUL in the line"),
        (body(b"want"), "expected a sha1 object id, got ''"),
        (body(b"want " + b"a" * 39), "expected a sha1 object id"),
        (body(b"want " + b"A" * 40), "expected a sha1 object id"),
        (body(b"have " + b"a" * 64), "expected a sha1 object id"),
        (body(b"shallow x"), "expected a sha1 object id, got 'x'"),
        (body(b"deepen 0"), "invalid number: 'deepen 0'"),
        (body(b"deepen -1"), "invalid number: 'deepen -1'"),
        (body(b"deepen 2147483648"), "invalid number"),
        (body(b"deepen two"), "invalid number: 'deepen two'"),
        (body(b"deepen"), "invalid number"),
        (body(b"deepen-since 0"), "invalid number"),
        (body(b"deepen-since " + b"9" * 4000), "invalid number"),
        (body(b"filter"), "invalid filter-spec"),
        (body(b"filter \xff"), "invalid filter-spec"),
        (body(b"filter tree:0", b"filter tree:1"), "multiple filter-specs"),
        (body(b"packfile-uris http", b"packfile-uris http"), "multiple packfile-uris"),
        (body(b"foo", command=b"ls-refs"), "unexpected line: 'foo'"),
        (body(b"ref-prefix", command=b"ls-refs"), "unexpected line: 'ref-prefix'"),
        (body(b"foo", command=b"bundle-uri"), "unexpected argument: 'foo'"),
        (body(b"type", command=b"object-info"), "unexpected line: 'type'"),
        (
            text(b"command=fetch") + DELIM + pktline.encode(b"want-ref " + b"x" * 65507) + FLUSH,
            "is 65516 bytes long",
        ),
    ],
)
def test_refused(request_body: bytes, message: str):
    """What is not a request is refused, and the client is told which line is at fault."""
    with pytest.raises(ProtocolError, match=message):
        parse_request(request_body)


def test_canonical_fetch():
    """The backend is given these bytes and no others."""
    fetch = Fetch(
        Session("git/2.39.5", "sha1", ("region=eu",)),
        wants=(B, A),
        haves=(C,),
        deepen=1,
        filter="blob:none",
        done=True,
        ofs_delta=True,
        packfile_uris=("https",),
    )
    assert encode_fetch(fetch, "offramp/1") == (
        b"0012command=fetch\n"
        b"0014agent=offramp/1\n"
        b"0017object-format=sha1\n"
        b"0001"
        b"0009done\n"
        b"0010no-progress\n"
        b"000eofs-delta\n"
        b"0032want aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n"
        b"0032want bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\n"
        b"0032have cccccccccccccccccccccccccccccccccccccccc\n"
        b"000ddeepen 1\n"
        b"0015filter blob:none\n"
        b"0000"
    )


def test_canonical_ls_refs():
    """Prefixes are sorted, and one that another one covers is left out."""
    prefixes = [b"refs/tags/", b"HEAD", b"refs/tags/v1", b"refs/tags/"]
    expected = (
        b"0014command=ls-refs\n"
        b"0017object-format=sha1\n"
        b"0001"
        b"0009peel\n"
        b"000csymrefs\n"
        b"0014ref-prefix HEAD\n"
        b"001aref-prefix refs/tags/\n"
        b"0000"
    )
    got = encode_ls_refs("sha1", peel=True, symrefs=True, unborn=False, prefixes=prefixes)
    assert got == expected
    everything = [
        encode_ls_refs("sha256", peel=False, symrefs=False, unborn=True, prefixes=p)
        for p in ((), (b"", b"refs/"))
    ]
    assert everything[0] == everything[1]


@given(fetches)
def test_a_canonical_fetch_is_read_again(fetch: Fetch):
    """The canonical request means what was asked, and writing it again changes nothing."""
    written = encode_fetch(fetch)
    again = parse_request(written)
    assert again == fetch.canonical()
    assert isinstance(again, Fetch)
    assert set(again.wants) == set(fetch.wants)
    assert (again.deepen, again.filter, again.done) == (fetch.deepen, fetch.filter, fetch.done)
    assert encode_fetch(again) == written


@given(fetches, st.randoms(use_true_random=False))
def test_equal_questions_are_equal_bytes(fetch: Fetch, order: random.Random):
    """Neither order, duplicates, who asks nor progress tell two requests apart."""

    def shuffled(values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(order.sample(values, len(values))) + values[:1]

    other = replace(
        fetch,
        session=Session("other/1", server_options=("x",)),
        wants=shuffled(fetch.wants),
        haves=shuffled(fetch.haves),
        shallows=shuffled(fetch.shallows),
        no_progress=not fetch.no_progress,
        packfile_uris=(),
    )
    assert encode_fetch(other) == encode_fetch(fetch)


@given(fetches, fetches)
def test_different_questions_are_different_bytes(one: Fetch, two: Fetch):
    """Two requests are written alike only if their canonical values are alike."""
    assert (encode_fetch(one) == encode_fetch(two)) == (one.canonical() == two.canonical())


@given(st.lists(names, max_size=6), flags, flags, flags)
def test_a_canonical_ls_refs_is_read_again(
    prefixes: list[bytes], peel: bool, symrefs: bool, unborn: bool
):
    """The canonical request selects the same refs, and writing it again changes nothing."""
    flagged = {"peel": peel, "symrefs": symrefs, "unborn": unborn}
    written = encode_ls_refs("sha1", prefixes=prefixes, **flagged)
    again = parse_request(written)
    assert isinstance(again, LsRefs)
    assert (again.peel, again.symrefs, again.unborn) == (peel, symrefs, unborn)
    for ref in (b"refs/heads/main", *prefixes):
        assert ref.startswith(tuple(prefixes)) == ref.startswith(again.prefixes)
    assert encode_ls_refs("sha1", prefixes=again.prefixes, **flagged) == written


lines_of = st.lists(
    st.sampled_from(
        [
            b"command=fetch",
            b"command=ls-refs",
            b"agent=\xff",
            b"want " + b"a" * 40,
            b"have x",
            b"deepen 1",
            b"filter \xff",
            b"packfile-uris \xff,http",
            b"done",
            b"peel",
        ]
    )
    | st.binary(max_size=30),
    max_size=6,
)


@given(lines_of, lines_of)
def test_garbage_lines(head: list[bytes], arguments: list[bytes]):
    """Any lines are a request, a good-bye or a ProtocolError; what was read can be written."""
    raw = b"".join((*map(text, head), DELIM, *map(text, arguments), FLUSH))
    try:
        request = parse_request(raw)
    except ProtocolError:
        return
    if isinstance(request, Fetch):
        assert parse_request(encode_fetch(request)) == request.canonical()


@given(st.binary(max_size=80))
def test_garbage_bytes(raw: bytes):
    """Bytes that are no request are a good-bye or a ProtocolError."""
    with suppress(ProtocolError):
        assert parse_request(raw) is None
