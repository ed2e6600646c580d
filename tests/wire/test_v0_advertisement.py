# Law of this file: a v0 advertisement is read as stock git means it, or refused in words; ours is
# stock upload-pack's, byte for byte.

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.git.capabilities import service_preface
from wire.git.pktline import FLUSH, ProtocolError, encode, text
from wire.git.refs import Ref, Refs, parse_ls_refs
from wire.git.response import RemoteError
from wire.git.v0_advertisement import encode_advertisement, parse_advertisement
from wire.git.v2 import encode_ls_refs

A, B, C = "a" * 40, "b" * 40, "c" * 40
PREFACE = service_preface("git-upload-pack")
GOLDEN = (
    PREFACE + b"007baaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa HEAD\0ofs-delta"
    b" symref=HEAD:refs/heads/main object-format=sha1 agent=offramp/1\n"
    b"003daaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa refs/heads/main\n"
    b"003abbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb refs/tags/v1\n"
    b"003daaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa refs/tags/v1^{}\n"
    b"0000"
)
REFS = (
    Ref(b"HEAD", A, b"refs/heads/main"),
    Ref(b"refs/heads/main", A),
    Ref(b"refs/tags/v1", B, None, A),
)
FIRST = A.encode() + b" HEAD\0"


def body(*lines: bytes) -> bytes:
    """An answer with these lines."""
    return PREFACE + b"".join(map(text, lines)) + FLUSH


def git(path: Path, *args: str, stdin: bytes = b"", protocol: str = "") -> bytes:
    """Run git in ``path``."""
    return subprocess.run(
        ["git", "-C", path, *args],
        input=stdin,
        check=True,
        capture_output=True,
        env={**os.environ, "GIT_PROTOCOL": protocol},
    ).stdout


def advertised(path: Path, protocol: str = "") -> bytes:
    """What stock upload-pack advertises."""
    arguments = ("upload-pack", "--stateless-rpc", "--advertise-refs", ".")
    return git(path, *arguments, protocol=protocol)


def listed(path: Path, object_format: str) -> Refs:
    """The same refs as protocol v2 tells them."""
    request = encode_ls_refs(object_format, peel=True, symrefs=True, unborn=True, prefixes=())
    arguments = ("upload-pack", "--stateless-rpc", ".")
    return parse_ls_refs(git(path, *arguments, stdin=request, protocol="version=2"))


def repository(path: Path, object_format: str = "sha1") -> Path:
    """A repository with branches and tags, of which one is of a tag."""
    subprocess.run(["git", "init", "-q", f"--object-format={object_format}", path], check=True)
    for number in (1, 2):
        git(path, "commit", "-q", "--allow-empty", "-m", f"{number}")
    for name in ("a-b", "a/b", "\N{LATIN SMALL LETTER E WITH ACUTE}"):
        git(path, "branch", name, "HEAD~1")
    git(path, "tag", "light")
    git(path, "tag", "-a", "-m", "one", "v1")
    git(path, "tag", "-a", "-m", "of a tag", "v1-nested", "v1")
    return path


def test_golden():
    """An advertisement, as bytes, is read in full and written again."""
    read = parse_advertisement(GOLDEN)
    assert read.refs.refs == REFS
    assert read.object_format == "sha1"
    assert read.capabilities == (
        "ofs-delta",
        "symref=HEAD:refs/heads/main",
        "object-format=sha1",
        "agent=offramp/1",
    )
    written = encode_advertisement(read.refs, read.capabilities, "sha1", "offramp/1")
    assert PREFACE + written == GOLDEN


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_real_git(object_format, tmp_path):
    """Stock git's advertisement is what protocol v2 says of the refs; ours is stock git's."""
    path = repository(tmp_path / "r", object_format)
    stock = advertised(path)
    read = parse_advertisement(PREFACE + stock)
    assert read.refs.refs == listed(path, object_format).refs
    assert read.object_format == object_format
    agent = next(word for word in read.capabilities if word.startswith("agent="))
    given = ["symref=HEAD:refs/heads/other", "session-id=1", *read.capabilities]
    ours = encode_advertisement(
        listed(path, object_format), given, object_format, agent.removeprefix("agent=")
    )
    assert ours == stock
    first = parse_advertisement(PREFACE + advertised(path, "version=1"))
    assert (first.capabilities, first.refs.refs) == (read.capabilities, read.refs.refs)


def test_a_head_on_a_branch_that_is_no_ascii(tmp_path):
    """A symbolic ref is read, and written, as the repository spells it."""
    path = repository(tmp_path / "r")
    git(path, "symbolic-ref", "HEAD", "refs/heads/\N{LATIN SMALL LETTER E WITH ACUTE}")
    read = parse_advertisement(PREFACE + advertised(path))
    assert read.refs.refs[0].symref == b"refs/heads/\xc3\xa9"
    again = parse_advertisement(PREFACE + encode_advertisement(read.refs, (), "sha1", "x"))
    assert again.refs.refs == read.refs.refs


def test_a_head_that_is_detached_or_unborn(tmp_path):
    """A detached HEAD stands for nothing; an unborn one is not named, as by stock git."""
    path = repository(tmp_path / "r")
    git(path, "checkout", "-q", "--detach")
    assert parse_advertisement(PREFACE + advertised(path)).refs.refs[0].symref is None
    git(path, "symbolic-ref", "HEAD", "refs/heads/unborn")
    read = parse_advertisement(PREFACE + advertised(path))
    assert read.refs.refs[0].name != b"HEAD"
    agent = read.capabilities[-1].removeprefix("agent=")
    refs = listed(path, "sha1")
    assert encode_advertisement(refs, read.capabilities, "sha1", agent) == advertised(path)


@pytest.mark.parametrize(("object_format", "digits"), [("sha1", 40), ("sha256", 64)])
def test_an_empty_repository(object_format, digits):
    """Without refs the capabilities stand beside no object; a bare flush says as much."""
    written = encode_advertisement(Refs(()), ["shallow"], object_format, "x/1")
    line = b"0" * digits + b" capabilities^{}\0shallow object-format=%b agent=x/1"
    assert written == text(line % object_format.encode()) + FLUSH
    read = parse_advertisement(PREFACE + written)
    assert (read.refs.refs, read.object_format) == ((), object_format)
    assert parse_advertisement(PREFACE + FLUSH).refs.refs == ()


def test_a_real_clone_of_ours(tmp_path):
    """Stock git reads an advertisement of ours as it reads its own."""
    read = parse_advertisement(GOLDEN)
    written = encode_advertisement(read.refs, read.capabilities, "sha1", "offramp/1")
    said = tmp_path / "said"
    said.write_bytes(written)
    program = f"--upload-pack=cat '{said}'; cat >/dev/null; #"
    seen = git(tmp_path, "-c", "protocol.version=0", "ls-remote", "--symref", program, ".")
    assert seen.splitlines() == [
        b"ref: refs/heads/main\tHEAD",
        A.encode() + b"\tHEAD",
        A.encode() + b"\trefs/heads/main",
        B.encode() + b"\trefs/tags/v1",
        A.encode() + b"\trefs/tags/v1^{}",
    ]


def test_what_is_tolerated():
    """A version line, shallow lines, lines without line feeds, and a word that comes twice."""
    plain = parse_advertisement(GOLDEN).refs.refs
    lines = GOLDEN[len(PREFACE) : -len(FLUSH)]
    shallow = text(b"shallow " + C.encode())
    versioned = PREFACE + text(b"version 1") + lines + shallow + shallow + FLUSH
    assert parse_advertisement(versioned).refs.refs == plain
    bare = b"001d# service=git-upload-pack0000" + encode(FIRST) + FLUSH
    assert parse_advertisement(bare).refs.refs == (Ref(b"HEAD", A),)
    several = body(FIRST + b"object-format=sha1 object-format=sha256")
    assert parse_advertisement(several).object_format == "sha1"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "expected '# service=git-upload-pack', got ''"),
        (b"<!DOCTYPE html><title>Sign in</title>", "got '<!DOCTYPE html>"),
        (A.encode() + b"\trefs/heads/main\n", "expected '# service"),
        (GOLDEN[len(PREFACE) :], "expected '# service"),
        (PREFACE + b"000eversion 2\n0000", "got one of v2"),
        (PREFACE, "does not end with a flush"),
        (GOLDEN[:-4], "does not end with a flush"),
        (GOLDEN[:-6], "in the middle of a packet"),
        (GOLDEN + b"x", "in the middle of a packet"),
        (GOLDEN + FLUSH, "special packet"),
        (body(b"version 3"), "expected a ref and capabilities, got 'version 3'"),
        (body(A.encode() + b" HEAD"), "expected a ref and capabilities"),
        (body(FIRST + b"a\x01b"), "expected a ref and capabilities"),
        (body(FIRST + b"object-format=md5"), "unknown object format 'md5'"),
        (body(FIRST + b"object-format=sha256"), "expected a sha256 object id"),
        (body(FIRST + b"symref=HEAD"), "'symref=HEAD' names no symbolic ref"),
        (body(FIRST, b"x" * 40 + b" refs/heads/a"), "expected a sha1 object id"),
        (body(FIRST, A.encode()), "expected one more ref"),
        (body(FIRST, A.encode() + b" HEAD"), "expected one more ref"),
        (body(FIRST, A.encode() + b" refs/heads/a b"), "expected one more ref"),
        (body(FIRST, A.encode() + b" refs/heads/a\0b"), "expected one more ref"),
        (body(FIRST, B.encode() + b" refs/tags/v^{}"), "does not follow its tag"),
        (body(FIRST, *[B.encode() + b" HEAD^{}"] * 2), "does not follow its tag"),
        (body(FIRST, b"shallow x"), "expected a sha1 object id"),
        (body(b"0" * 40 + b" capabilities^{}\0", A.encode() + b" HEAD"), "does not follow"),
    ],
)
def test_refused(answer, message):
    """What is no v0 advertisement is refused in words."""
    with pytest.raises(ProtocolError, match=message):
        parse_advertisement(answer)


def test_a_server_that_fails():
    """A server's own words come through."""
    with pytest.raises(RemoteError, match="access denied") as failed:
        parse_advertisement(body(b"ERR access denied"))
    assert str(failed.value) == "access denied"


@pytest.mark.parametrize("words", [["two words"], [""], ["new\nline"], ["a\0b"]])
def test_a_capability_is_one_word(words):
    """A capability that would break the line is refused."""
    with pytest.raises(ValueError, match="the capability"):
        encode_advertisement(Refs(REFS), words, "sha1", "offramp/1")
    with pytest.raises(ValueError, match="the capability"):
        encode_advertisement(Refs(REFS), [], "sha1", (words[0] and f"x{words[0]}") or "a b")


names = st.binary(min_size=1, max_size=12).map(
    lambda raw: b"refs/heads/" + bytes(b for b in raw if b > 0x20 and b not in b"\x7f^{}") + b"x"
)
oids = st.integers(0, 16**40 - 1).map(lambda number: f"{number:040x}")
tips = st.dictionaries(names, st.tuples(oids, st.none() | oids), max_size=6)


@given(tips, st.none() | st.tuples(oids, st.none() | names))
def test_round_trip(found, head):
    """Whatever the refs are, what is written is read as the same refs."""
    refs = [Ref(name, oid, None, peeled) for name, (oid, peeled) in sorted(found.items())]
    if head is not None:
        refs.insert(0, Ref(b"HEAD", *head))
    written = encode_advertisement(Refs(reversed(refs)), ["thin-pack"], "sha1", "offramp/1")
    read = parse_advertisement(PREFACE + written)
    assert read.refs.refs == tuple(refs)
    assert read.capabilities[0] == "thin-pack"
    for end in range(len(PREFACE + written)):
        with pytest.raises(ProtocolError):
            parse_advertisement((PREFACE + written)[:end])


@given(
    st.binary(max_size=80)
    | st.lists(st.binary(max_size=60).map(encode)).map(
        lambda lines: PREFACE + text(FIRST) + b"".join(lines) + FLUSH
    )
)
def test_garbage(answer):
    """Garbage is refused with the parser's own error, or can be written again."""
    try:
        read = parse_advertisement(answer)
    except ProtocolError:
        return
    encode_advertisement(read.refs, read.capabilities, read.object_format, "offramp/1")
