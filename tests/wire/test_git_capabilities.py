# Law of this file: what we advertise is what stock git can do and we can read, plus our own.

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.git.capabilities import (
    Capabilities,
    advertise,
    intersect,
    is_v2,
    lacking,
    parse_advertisement,
    service_preface,
    without_preface,
)
from wire.git.pktline import FLUSH, ProtocolError, Special, encode, parse, text
from wire.git.v2 import parse_request

STOCK = (
    b"000eversion 2\n"
    b"0015agent=git/2.39.5\n"
    b"0013ls-refs=unborn\n"
    b"0027fetch=shallow wait-for-done filter\n"
    b"0012server-option\n"
    b"0017object-format=sha1\n"
    b"0010object-info\n"
    b"0000"
)


def packets(*lines: bytes) -> bytes:
    """A message of text lines."""
    return b"".join(map(text, lines)) + FLUSH


def ours(*lines: bytes, packfile_uris: bool = False, bundle_uri: bool = False) -> list[bytes]:
    """The lines of our advertisement over a stock one with ``lines``, without the first two."""
    stock = parse_advertisement(packets(b"version 2", *lines))
    body = advertise(stock, "offramp/1", packfile_uris=packfile_uris, bundle_uri=bundle_uri)
    *sent, end = parse(body)
    assert end is Special.FLUSH
    assert sent[:2] == [b"version 2\n", b"agent=offramp/1\n"]
    assert all(isinstance(line, bytes) and line.endswith(b"\n") for line in sent)
    return [line.removesuffix(b"\n") for line in sent[2:]]


def test_golden_stock():
    """Stock git's advertisement is read into names and values, in its order."""
    capabilities = parse_advertisement(STOCK)
    assert capabilities == Capabilities(
        (
            ("agent", "git/2.39.5"),
            ("ls-refs", "unborn"),
            ("fetch", "shallow wait-for-done filter"),
            ("server-option", None),
            ("object-format", "sha1"),
            ("object-info", None),
        )
    )
    assert capabilities.fetch_features == ("shallow", "wait-for-done", "filter")
    assert capabilities.object_format == "sha1"
    assert capabilities.has("server-option")
    assert not capabilities.has("bundle-uri")
    assert not capabilities.value("bundle-uri")


def test_golden_ours():
    """Ours is stock's with our agent and what we add, byte for byte."""
    body = advertise(parse_advertisement(STOCK), "offramp/0.1", packfile_uris=True, bundle_uri=True)
    assert body == (
        b"000eversion 2\n"
        b"0016agent=offramp/0.1\n"
        b"0013ls-refs=unborn\n"
        b"0035fetch=shallow wait-for-done filter packfile-uris\n"
        b"0012server-option\n"
        b"0017object-format=sha1\n"
        b"0010object-info\n"
        b"000fbundle-uri\n"
        b"0000"
    )


def test_nothing_added():
    """With nothing to add, all but the agent is stock's own."""
    body = advertise(parse_advertisement(STOCK), "git/2.39.5", False, False)
    assert body == STOCK


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_real_git(object_format, tmp_path):
    """The real program's advertisement is understood whole, and a client could use ours."""
    subprocess.run(["git", "init", "-q", f"--object-format={object_format}", tmp_path], check=True)
    for name, value in (
        ("uploadpack.allowFilter", "true"),
        ("uploadpack.allowRefInWant", "true"),
        ("uploadpack.allowSidebandAll", "true"),
        ("transfer.advertiseSID", "true"),
    ):
        subprocess.run(["git", "-C", tmp_path, "config", name, value], check=True)
    body = subprocess.run(
        ["git", "upload-pack", "--stateless-rpc", "--advertise-refs", tmp_path],
        env={**os.environ, "GIT_PROTOCOL": "version=2"},
        check=True,
        capture_output=True,
    ).stdout
    stock = parse_advertisement(body)
    assert stock.object_format == object_format
    assert {"shallow", "filter", "ref-in-want", "sideband-all"} <= set(stock.fetch_features)
    assert stock.has("session-id")
    again = parse_advertisement(advertise(stock, "offramp/1", True, True))
    assert again.value("agent") == "offramp/1"
    assert not again.has("session-id")
    assert "sideband-all" not in again.fetch_features
    assert {"shallow", "filter", "ref-in-want", "packfile-uris"} <= set(again.fetch_features)
    assert again.object_format == object_format


def test_packfile_uris_once():
    """`packfile-uris` is there exactly once if asked for, and not at all if not."""
    for stock in (b"fetch=packfile-uris shallow", b"fetch=shallow"):
        assert ours(stock, packfile_uris=True) == [b"fetch=shallow packfile-uris"]
        assert ours(stock) == [b"fetch=shallow"]
    assert ours(b"fetch", packfile_uris=True) == [b"fetch=packfile-uris"]
    assert ours(b"fetch=packfile-uris") == [b"fetch"]
    assert ours(packfile_uris=True) == []


def test_bundle_uri_once():
    """`bundle-uri` is there exactly once if asked for, and not at all if not."""
    for stock in ((b"bundle-uri",), ()):
        assert ours(*stock, bundle_uri=True) == [b"bundle-uri"]
        assert ours(*stock) == []


def test_unknown_is_not_passed_on():
    """Commands, capabilities and features that we could not read in a request are left out."""
    lines = (b"push=x", b"session-id=1", b"promisor-remote=url", b"ls-refs=unborn new")
    assert ours(*lines, b"fetch=sideband-all filter new", b"object-info=new") == [
        b"ls-refs=unborn",
        b"fetch=filter",
        b"object-info",
    ]


@pytest.mark.parametrize("command", [b"ls-refs", b"fetch", b"object-info", b"bundle-uri"])
def test_what_is_advertised_is_read(command):
    """Each command that we advertise is one that our parser of requests knows."""
    assert ours(command, bundle_uri=command == b"bundle-uri") == [command]
    assert parse_request(text(b"command=" + command) + FLUSH) is not None


@pytest.mark.parametrize("agent", ["", "two words", "new\nline", "\N{SNOWMAN}"])
def test_agent_is_one_word(agent):
    """An agent that would break the line is refused."""
    with pytest.raises(ValueError, match="the agent"):
        advertise(parse_advertisement(STOCK), agent, False, False)


def test_object_format_by_default():
    """A server that does not say has SHA-1 repositories."""
    assert parse_advertisement(packets(b"version 2")).object_format == "sha1"
    assert parse_advertisement(packets(b"version 2")).fetch_features == ()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "does not end with a flush"),
        (FLUSH, "is empty"),
        (STOCK[:-4], "does not end with a flush"),
        (packets(b"version 1"), "use git 2.18 or newer"),
        (packets(b"a" * 40 + b" HEAD\0caps"), "expected 'version 2'"),
        (packets(b"version 2", b"two words"), "is no capability"),
        (packets(b"version 2", b"fetch=\xff"), "is no capability"),
        (packets(b"version 2", b"fetch", b"fetch=filter"), "'fetch' is advertised twice"),
        (packets(b"version 2", b"object-format=md5"), "unknown object format 'md5'"),
        (packets(b"version 2", b"object-format"), "unknown object format ''"),
        (b"000eversion 2\n00010000", "special packet"),
        (b"000eversion 2\n00000000", "special packet"),
        (STOCK[:-3], "in the middle of a packet"),
    ],
)
def test_refused(body, message):
    """What is no v2 advertisement is refused in words."""
    with pytest.raises(ProtocolError, match=message):
        parse_advertisement(body)


@given(
    st.binary(max_size=80)
    | st.lists(st.binary(max_size=20).map(encode)).map(
        lambda lines: b"000eversion 2\n" + b"".join(lines) + FLUSH
    )
)
def test_garbage(body):
    """Garbage is refused with the parser's own error, or can be advertised again."""
    try:
        stock = parse_advertisement(body)
    except ProtocolError:
        return
    parse_advertisement(advertise(stock, "offramp/1", True, True))


def test_service_preface():
    """Over HTTP the service is named first."""
    assert service_preface("git-upload-pack") == b"001e# service=git-upload-pack\n0000"


@pytest.mark.parametrize(
    "preface", [b"", service_preface("git-upload-pack"), b"001d# service=git-upload-pack0000"]
)
def test_with_and_without_a_preface(preface):
    """Over HTTP an advertisement is the same with the service's name before it and without."""
    assert without_preface(preface + STOCK) == STOCK
    assert is_v2(preface + STOCK)
    assert is_v2(preface + b"000dversion 20000")
    assert parse_advertisement(preface + STOCK) == parse_advertisement(STOCK)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>version 2",
        FLUSH,
        service_preface("git-upload-pack"),
        service_preface("git-receive-pack") + STOCK,
        packets(b"version 1"),
        packets(b"version 20"),
        packets(b"a" * 40 + b" HEAD\0version 2"),
    ],
)
def test_not_v2(body):
    """Whatever else a server answers is not taken for protocol v2."""
    assert not is_v2(body)


def both(*theirs: bytes, ours: bytes = STOCK) -> tuple[tuple[str, str | None], ...]:
    """What is common to ours, and a server that advertises these lines."""
    other = parse_advertisement(packets(b"version 2", *theirs))
    return intersect(parse_advertisement(ours), other).entries


def test_an_intersection_has_what_both_have():
    """Commands and features that one of the two lacks are left out; ours give the order."""
    assert both(
        b"object-format=sha1",
        b"promisor-remote=url",
        b"fetch=new filter shallow sideband-all",
        b"ls-refs",
        b"new-command=x",
        b"session-id=1",
        b"agent=forge/1",
    ) == (("ls-refs", None), ("fetch", "shallow filter"), ("object-format", "sha1"))
    assert both(b"server-option", b"object-info=size") == (
        ("server-option", None),
        ("object-info", None),
    )
    assert both() == ()


def test_an_intersection_is_advertised():
    """What both have is advertised like stock git's own, and adds nothing to it."""
    stock = parse_advertisement(STOCK)
    common = intersect(stock, stock)
    assert advertise(common, "git/2.39.5", False, False) == STOCK
    assert intersect(common, common) == common


def test_packfile_uris_of_another_server_are_no_feature_of_ours():
    """Redirects of a server behind us, which is not asked for any, are not offered."""
    packed = packets(b"version 2", b"fetch=packfile-uris shallow sideband-all")
    assert both(b"fetch=packfile-uris shallow sideband-all", ours=packed) == (("fetch", "shallow"),)


def test_no_intersection_of_two_object_formats():
    """Repositories whose objects have other names have nothing in common."""
    with pytest.raises(ProtocolError, match="are sha256 there, and sha1 here"):
        both(b"object-format=sha256")
    with pytest.raises(ProtocolError, match="are sha1 there, and sha256 here"):
        both(ours=packets(b"version 2", b"object-format=sha256"))


def test_what_another_server_lacks():
    """Commands and features that may be asked of us alone; what it has beside is no lack."""
    ours = parse_advertisement(
        packets(b"version 2", b"ls-refs=unborn", b"fetch=shallow filter sideband-all", b"agent=x")
    )

    def lacks(*lines):
        return lacking(ours, parse_advertisement(packets(b"version 2", *lines)))

    assert lacks(b"ls-refs=unborn", b"fetch=filter ref-in-want shallow", b"server-option") == ()
    assert lacks(b"ls-refs", b"fetch=shallow", b"object-format=sha1") == (
        "ls-refs=unborn",
        "fetch=filter",
    )
    assert lacks(b"fetch=shallow filter") == ("ls-refs",)
    assert lacks(b"ls-refs=unborn", b"fetch=shallow filter", b"object-format=sha256") == (
        "object-format=sha1",
    )
