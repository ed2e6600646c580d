# Law of this file: what a getbundle asks is read as stock servers read it, and requests for the
# same bytes have one form, while requests for others never share it.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hg.capture_v1 import POSTED, read
from tests.hg.versions import VERSIONS
from wire.hg.v1.capabilities import decode_bundle2, encode_bundle2
from wire.hg.v1.getbundle import UNREAD, GetBundle, argument_bytes
from wire.hg.v1.requests import BadRequest, read_arguments

NULL, A, B = bytes(20), b"\xaa" * 20, b"\xbb" * 20

NODES = st.none() | st.lists(st.sampled_from((NULL, A, B)), max_size=4).map(tuple)
VALUES = st.lists(st.sampled_from((b"", b"phases", b"b%m")), min_size=1, max_size=3).map(tuple)
DESCRIBED = st.dictionaries(
    st.sampled_from((*sorted(UNREAD), "HG20", "changegroup", "phases", "unknown", "b%")),
    st.lists(st.sampled_from(("01", "02", "heads", "")), max_size=3).map(tuple),
)
WORDS = st.sampled_from((b"HG20", b"remotefilelog", b"")) | DESCRIBED.map(
    lambda described: b"bundle2=" + encode_bundle2(described)
)

BUNDLES = st.builds(
    GetBundle,
    heads=NODES,
    common=NODES,
    bundlecaps=st.none() | st.frozensets(WORDS, min_size=1, max_size=4),
    listkeys=st.just(()) | VALUES,
    includepats=st.just(()) | VALUES,
    other=st.dictionaries(st.just(b"narrow") | st.just(b"depth"), st.binary(max_size=4)).map(
        lambda found: tuple(sorted(found.items()))
    ),
    **{
        name: st.booleans()
        for name in ("cg", "bookmarks", "phases", "obsmarkers", "cbattempted", "stream")
    },
)


def stock(version: str, operation: str) -> GetBundle:
    """What a stock client asks in an operation."""
    question = next(
        each for each in read(version) if (each.operation, each.command) == (operation, "getbundle")
    )
    return GetBundle.read(read_arguments(question.query, question.headers, question.body.encode()))


def caps(*words: bytes, **described: tuple[str, ...]) -> frozenset[bytes]:
    """Words, and a description of bundle2."""
    return frozenset({*words, b"bundle2=" + encode_bundle2(described)})


def refusal(read: Callable[[], object]) -> str:
    """Why something is refused; empty if it is not."""
    try:
        read()
    except BadRequest as wrong:
        return str(wrong)
    return ""


# --- stock clients --------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_stock_clone(version: str):
    """A clone asks for all heads, has nothing, and wants bookmarks and phases beside changesets."""
    asked = stock(version, "clone")
    assert asked.heads is not None
    assert len(asked.heads) == 5
    assert asked.common == (NULL,)
    assert asked.bundle2
    assert (asked.cg, asked.bookmarks, asked.phases, asked.stream) == (True, True, True, False)
    assert asked.listkeys == (b"bookmarks",)
    assert not asked.other
    assert stock(version, POSTED) == asked


@pytest.mark.parametrize("version", VERSIONS)
def test_stock_others(version: str):
    """A stream, a pull without news and an incoming ask for other parts."""
    stream = stock(version, "clone --stream")
    assert (stream.cg, stream.stream, stream.phases) == (False, True, False)
    idle = stock(version, "pull of nothing")
    assert (idle.cg, idle.stream, idle.phases, idle.bookmarks) == (False, False, True, True)
    assert {*(idle.heads or ())} == {*(idle.common or ())}
    incoming = stock(version, "incoming")
    assert (incoming.cg, incoming.phases, incoming.bookmarks) == (True, False, False)


@pytest.mark.parametrize("version", VERSIONS)
def test_stock_canonical(version: str):
    """What is left of a stock client's words is what servers look at."""
    found = dict(stock(version, "clone").canonical())
    assert found.keys() == {b"bookmarks", b"bundlecaps", b"heads", b"listkeys", b"phases"}
    magic, described = found[b"bundlecaps"].split(b",")
    assert magic == b"HG20"
    expected = {"HG20", "bookmarks", "changegroup", "hgtagsfnodes", "phases", "stream"}
    named = decode_bundle2(described.removeprefix(b"bundle2=")).keys()
    assert named - {"delta-compression"} == expected


def test_golden_canonical():
    """The canonical bytes, which records are found by, do not change by themselves."""
    asked = GetBundle(
        heads=(B, A, B),
        common=(NULL,),
        bundlecaps=caps(b"HG20", error=("abort",), changegroup=("02", "01"), HG20=()),
        listkeys=(b"phases", b"bookmarks"),
        cbattempted=True,
        bookmarks=True,
        cg=False,
    )
    assert argument_bytes(asked.canonical()) == (
        b"bookmarks=1"
        b"&bundlecaps=HG20%2Cbundle2%3DHG20%250Achangegroup%253D01%252C02"
        b"&cg=0"
        b"&heads=" + A.hex().encode() + b"+" + B.hex().encode() + b"&listkeys=bookmarks%2Cphases"
    )


# --- one form -------------------------------------------------------------------------------


@given(BUNDLES)
def test_canonical_is_the_end(asked: GetBundle):
    """The canonical form is a request, whose form is itself, also when sent and read again."""
    form = asked.canonical()
    assert GetBundle.read(dict(form)).canonical() == form
    text = argument_bytes(form)
    posted = [("X-HgArgs-Post", str(len(text)))]
    assert read_arguments("cmd=getbundle", posted, text) == dict(form)


@given(BUNDLES)
def test_order(asked: GetBundle):
    """Order and repetition mean nothing."""
    turned = replace(
        asked,
        heads=asked.heads and (*reversed(asked.heads), asked.heads[0]),
        common=asked.common and (*reversed(asked.common), asked.common[0]),
        listkeys=(*reversed(asked.listkeys), *asked.listkeys),
        includepats=(*reversed(asked.includepats), *asked.includepats),
        cbattempted=not asked.cbattempted,
    )
    assert turned.canonical() == asked.canonical()


@pytest.mark.parametrize("name", ["cg", "bookmarks", "phases", "obsmarkers", "stream"])
@given(asked=BUNDLES)
def test_parts_differ(name: str, asked: GetBundle):
    """Requests for other parts never have the same form."""
    other = replace(asked, **{name: not getattr(asked, name)})
    assert other.canonical() != asked.canonical()


def test_not_given():
    """To have nothing is said in three ways; to want no heads is not to want all of them."""
    plain = GetBundle()
    assert plain.canonical() == ()
    for common in ((), (NULL,), (NULL, NULL)):
        assert replace(plain, common=common).canonical() == ()
    assert dict(replace(plain, common=(A, NULL)).canonical()).keys() == {b"common"}
    assert replace(plain, heads=()).canonical() == ((b"heads", b""),)
    assert not plain.bundle2
    assert not GetBundle(bundlecaps=caps(b"remotefilelog")).bundle2


def test_unread_words():
    """Of what a client says of bundle2, what nobody reads is left out; the rest is kept."""
    described = {"changegroup": ("01", "02"), "stream": ("v2",), "of-an-extension": ("2", "1")}
    more = dict.fromkeys(sorted(UNREAD), ("value",))
    lean, full = (
        GetBundle(bundlecaps=caps(b"HG20", b"remotefilelog", **words)).canonical()
        for words in (described, described | more)
    )
    assert lean == full
    words = dict(full)[b"bundlecaps"].split(b",")
    assert words[:2] == [b"HG20", b"bundle2=" + encode_bundle2(described | {"HG20": ()})]
    assert words[2:] == [b"remotefilelog"]


def test_able_to_do_nothing():
    """Who describes nothing gets no changesets: its form is not that of who describes something."""
    nothing = GetBundle(bundlecaps=frozenset({b"HG20", b"bundle2="}))
    useless = GetBundle(bundlecaps=caps(b"HG20", error=("abort",)))
    assert dict(nothing.canonical())[b"bundlecaps"] == b"HG20"
    assert dict(useless.canonical())[b"bundlecaps"] == b"HG20,bundle2=HG20"


def test_versions_differ():
    """Who reads other changegroups, or deltas in other compressions, has another form."""
    forms = {
        GetBundle(bundlecaps=caps(b"HG20", **described)).canonical()
        for described in (
            {"changegroup": ("01", "02")},
            {"changegroup": ("01", "02", "03")},
            {"changegroup": ()},
            {"changegroup": ("",)},
            {"changegroup": ("01", "02", "03"), "delta-compression": ("zstd",)},
        )
    }
    assert len(forms) == 5


# --- reading --------------------------------------------------------------------------------


def test_others():
    """Arguments of extensions are kept; that for hidden changesets is not passed on."""
    asked = GetBundle.read({b"narrow": b"1", b"depth": b"", b"access-hidden": b"1"})
    assert asked.other == ((b"depth", b""), (b"narrow", b"1"))
    assert asked.canonical() == asked.other


@pytest.mark.parametrize(("value", "truth"), [(b"0", False), (b"", False), (b"1", True)])
def test_truth(value: bytes, truth: bool):
    """Truth values are as stock clients write them."""
    asked = GetBundle.read({b"cg": value, b"phases": value})
    assert (asked.cg, asked.phases) == (truth, truth)


@pytest.mark.parametrize(
    ("name", "value"),
    [(b"cg", b"yes"), (b"stream", b"2"), (b"heads", b"tip"), (b"common", A.hex().encode() + b"0")],
)
def test_malformed(name: bytes, value: bytes):
    """What is malformed is refused, by its argument's name."""
    with pytest.raises(BadRequest, match=name.decode()):
        GetBundle.read({name: value})


@given(
    st.dictionaries(
        st.sampled_from([each.name.encode() for each in fields(GetBundle)]) | st.binary(),
        st.binary() | st.text("01a, %=").map(str.encode),
    )
)
def test_any_arguments(arguments: dict[bytes, bytes]):
    """Any arguments are read or refused."""
    reason = refusal(lambda: argument_bytes(GetBundle.read(arguments).canonical()))
    assert reason.isprintable()
