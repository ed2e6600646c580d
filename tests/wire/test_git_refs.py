# Law of this file: our answer to any `ls-refs` is stock git's, byte for byte.

from __future__ import annotations

import hashlib
import os
import subprocess
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.git import refs as module
from wire.git.pktline import FLUSH, ProtocolError, encode, parse, text
from wire.git.refs import Ref, Refs, parse_ls_refs
from wire.git.v2 import encode_ls_refs

A, B, C = "a" * 40, "b" * 40, "c" * 40
GOLDEN = (
    b"0050aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa HEAD symref-target:refs/heads/main\n"
    b"003daaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa refs/heads/main\n"
    b"006abbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb refs/tags/v1"
    b" peeled:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n"
    b"0000"
)
SNAPSHOT = (
    Ref(b"HEAD", A, b"refs/heads/main"),
    Ref(b"refs/heads/main", A),
    Ref(b"refs/tags/v1", B, None, A),
)
PREFIXES: list[tuple[bytes, ...]] = [
    (),
    (b"",),
    (b"HEAD",),
    (b"H",),
    (b"HEAD", b"refs/heads/", b"refs/tags/"),
    (b"refs/tags/", b"refs/heads/", b"HEAD"),
    (b"refs/heads/main", b"refs/tags/main", b"refs/main", b"main"),
    (b"refs/heads/", b"refs/heads/a", b"refs/heads/a/"),
    (b"refs/heads/a",),
    (b"refs/heads/a", b"refs/heads/b"),
    (b"refs/heads/\xc3\xa9",),
    (b"refs/tags/v", b"refs/tags/v"),
    (b"refs/tags/", b""),
    (b"refs", b"refs/heads/main"),
    (b"refs/heads//", b"nothing", b"/", b"\xff"),
]


def git(path: Path, *args: str, stdin: bytes = b"") -> bytes:
    """Run git in ``path``."""
    return subprocess.run(
        ["git", "-C", path, *args],
        input=stdin,
        check=True,
        capture_output=True,
        env={**os.environ, "GIT_PROTOCOL": "version=2"},
    ).stdout


def new(path: Path, object_format: str = "sha1") -> Path:
    """An empty repository whose HEAD is an unborn main."""
    path.mkdir()
    git(path, "init", "-q", f"--object-format={object_format}")
    return path


def full(path: Path, object_format: str = "sha1") -> Path:
    """A repository with branches, tags of every kind, notes and symbolic refs."""
    new(path, object_format)
    for number in (1, 2):
        git(path, "commit", "-q", "--allow-empty", "-m", f"{number}")
    for name in ("a-b", "a/b", "a/c", "b", "\N{LATIN SMALL LETTER E WITH ACUTE}", "main2"):
        git(path, "branch", name, "HEAD~1")
    git(path, "tag", "light")
    git(path, "tag", "-a", "-m", "one", "v1")
    git(path, "tag", "-a", "-m", "of a tag", "v1-nested", "v1")
    git(path, "tag", "-a", "-m", "of a tree", "v1-tree", "HEAD^{tree}")
    git(path, "pack-refs", "--all")
    git(path, "tag", "-a", "-m", "loose", "v2")
    git(path, "notes", "add", "-m", "a note")
    git(path, "update-ref", "refs/pull/1/head", "v1")
    git(path, "symbolic-ref", "refs/remotes/origin/HEAD", "refs/heads/main")
    git(path, "symbolic-ref", "refs/heads/to-tag", "refs/tags/v1")
    git(path, "symbolic-ref", "refs/heads/to-nothing", "refs/heads/nothing")
    return path


def detached(path: Path) -> Path:
    """HEAD is a commit."""
    git(full(path), "checkout", "-q", "--detach", "HEAD~1")
    return path


def unborn(path: Path) -> Path:
    """There are refs, but HEAD's branch is not one of them."""
    git(full(path), "symbolic-ref", "HEAD", "refs/heads/later")
    return path


def hidden(path: Path) -> Path:
    """Some refs are hidden from clients."""
    git(full(path), "config", "transfer.hideRefs", "refs/pull")
    return path


def stock(
    path: Path,
    *,
    peel: bool,
    symrefs: bool,
    unborn: bool,
    prefixes: tuple[bytes, ...] = (),
    object_format: str = "sha1",
) -> bytes:
    """What the real program answers; prefixes are given as they are."""
    request = encode_ls_refs(
        object_format, peel=peel, symrefs=symrefs, unborn=unborn, prefixes=()
    ).removesuffix(FLUSH)
    request += b"".join(text(b"ref-prefix " + prefix) for prefix in prefixes) + FLUSH
    return git(path, "upload-pack", "--stateless-rpc", "--strict", ".git", stdin=request)


@pytest.mark.parametrize(
    ("make", "object_format"),
    [
        (new, "sha1"),
        (full, "sha1"),
        (detached, "sha1"),
        (unborn, "sha1"),
        (hidden, "sha1"),
        (lambda path: new(path, "sha256"), "sha256"),
        (lambda path: full(path, "sha256"), "sha256"),
    ],
    ids=["empty", "full", "detached", "unborn", "hidden", "empty-sha256", "full-sha256"],
)
def test_stock_git_answers_the_same(make, object_format, tmp_path):
    """For every repository and every combination of arguments our bytes are stock git's."""
    path = make(tmp_path / "repository")
    ask = {"object_format": object_format}
    body = stock(path, peel=True, symrefs=True, unborn=True, **ask)
    snapshot = parse_ls_refs(body)
    for peel, symrefs, with_unborn in product((False, True), repeat=3):
        for prefixes in PREFIXES:
            asked = {"peel": peel, "symrefs": symrefs, "unborn": with_unborn, "prefixes": prefixes}
            expected = stock(path, **asked, **ask)
            assert snapshot.answer(**asked) == expected, asked
            assert snapshot.answer(**asked) == expected, asked


def test_golden():
    """An answer is read into its refs, and written again as it was."""
    snapshot = parse_ls_refs(GOLDEN)
    assert snapshot.refs == SNAPSHOT
    assert snapshot.answer(True, True, True, ()) == GOLDEN
    assert snapshot.answer(False, False, False, (b"refs/tags/",)) == (
        b"003abbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb refs/tags/v1\n0000"
    )


def test_golden_unborn():
    """An empty repository names its branch to come, to those who ask for it."""
    body = b"002eunborn HEAD symref-target:refs/heads/main\n0000"
    snapshot = parse_ls_refs(body)
    assert snapshot.refs == (Ref(b"HEAD", None, b"refs/heads/main"),)
    assert snapshot.answer(False, True, True, ()) == body
    assert snapshot.answer(True, False, True, ()) == FLUSH
    assert snapshot.oid(b"HEAD") is None
    assert snapshot.tips == frozenset()


def test_real_tags(tmp_path):
    """Tips are what refs point to; annotated tags are known by object and by what they name."""
    path = full(tmp_path / "repository")
    snapshot = parse_ls_refs(stock(path, peel=True, symrefs=True, unborn=True))
    tag, nested, commit = git(path, "rev-parse", "v1", "v1-nested", "HEAD").decode().split()
    assert snapshot.oid(b"refs/tags/v1") == tag
    assert snapshot.oid(b"refs/tags/light") == snapshot.oid(b"HEAD") == commit
    assert snapshot.oid(b"refs/tags/v") is None
    assert snapshot.oid(b"refs/zzz") is None
    assert snapshot.peeled[tag] == snapshot.peeled[nested] == commit
    assert len(snapshot.peeled) == 4
    listed = git(path, "for-each-ref", "--format=%(objectname)").decode().split()
    assert snapshot.tips == {*listed, commit}


def test_digests():
    """The digest tells any two snapshots apart; that of the tags only those whose tags differ."""
    base = Refs(SNAPSHOT)
    assert base.digest == hashlib.sha256(GOLDEN.removesuffix(FLUSH)).hexdigest()
    assert Refs(SNAPSHOT).digest == base.digest
    moved = Refs((SNAPSHOT[0], Ref(b"refs/heads/main", C), SNAPSHOT[2]))
    assert moved.digest != base.digest
    assert moved.tags_digest == base.tags_digest
    for tag in (
        Ref(b"refs/tags/v2", C),
        Ref(b"refs/tags/v1", B, None, C),
        Ref(b"refs/pull/1", B, None, A),
    ):
        assert Refs((*SNAPSHOT[:2], tag)).digest != base.digest
        assert Refs((*SNAPSHOT[:2], tag)).tags_digest != base.tags_digest
    assert Refs(()).answer(True, True, True, ()) == FLUSH


names = st.lists(st.sampled_from([b"a", b"b", b"/", b"-", b"\xff"]), min_size=1, max_size=5)


@given(
    st.lists(names.map(b"".join), unique=True),
    st.lists(names.map(b"".join) | st.just(b""), max_size=5).map(tuple),
)
def test_prefixes(all_names, prefixes):
    """Refs in any order are chosen by their prefixes as the plain definition says, order kept."""
    snapshot = Refs(Ref(name, A) for name in all_names)
    chosen = [name for name in all_names if not prefixes or name.startswith(prefixes)]
    assert parse_ls_refs(snapshot.answer(True, True, True, prefixes)).refs == tuple(
        Ref(name, A) for name in chosen
    )
    assert all(snapshot.oid(name) == A for name in all_names)


def test_answers_are_remembered():
    """The same question, in other words even, gets the very same answer, made once."""
    snapshot = Refs(SNAPSHOT)
    first = snapshot.answer(True, True, True, (b"HEAD", b"refs/heads/"))
    assert snapshot.answer(True, True, True, (b"refs/heads/main", b"HEAD", b"HEAD")) is first
    assert snapshot.answer(True, True, False, ()) is not snapshot.answer(True, True, True, ())


def test_memory_is_bounded(monkeypatch):
    """However many questions are asked, few answers and few bytes are kept, the latest always."""
    snapshot = Refs(Ref(b"refs/heads/%03d" % i, A) for i in range(200))
    for i in range(200):
        snapshot.answer(True, True, True, (b"refs/heads/%03d" % i,))
    assert len(snapshot._memo) == module.MEMO_ANSWERS
    assert snapshot._memo_bytes == sum(map(len, snapshot._memo.values()))
    monkeypatch.setattr(module, "MEMO_BYTES", 1000)
    whole = snapshot.answer(True, True, True, ())
    assert list(snapshot._memo.values()) == [whole]
    assert snapshot._memo_bytes == len(whole) > 1000
    assert snapshot.answer(True, True, True, ()) is whole


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "does not end with a flush"),
        (GOLDEN[:-4], "does not end with a flush"),
        (GOLDEN[:-3], "in the middle of a packet"),
        (b"00010000", "special packet"),
        (b"00000000", "special packet"),
        (text(b"ERR no") + FLUSH, "expected an object id in 'ERR no'"),
        (text(A.encode()) + FLUSH, "expected a ref"),
        (text(A.encode() + b" ") + FLUSH, "expected a ref"),
        (text(A.encode() + b" a\tb") + FLUSH, "expected a ref"),
        (text(b"A" * 40 + b" HEAD") + FLUSH, "expected an object id"),
        (text(b"a" * 41 + b" HEAD") + FLUSH, "expected an object id"),
        (text(A.encode() + b" HEAD new:1") + FLUSH, "unknown attribute 'new:1'"),
        (text(A.encode() + b" HEAD symref-target:") + FLUSH, "unknown attribute"),
        (text(A.encode() + b" HEAD peeled:1") + FLUSH, "expected an object id"),
        (text(b"unborn HEAD") + FLUSH, "an unborn ref stands for a branch"),
    ],
)
def test_refused(body, message):
    """What is no list of refs is refused in words."""
    with pytest.raises(ProtocolError, match=message):
        parse_ls_refs(body)


words = st.sampled_from(
    [A.encode(), b"unborn", b"HEAD", b"symref-target:x", b"peeled:" + B.encode()]
)
lines = st.lists(words | st.binary(max_size=5), max_size=5).map(b" ".join)


@given(
    st.binary(max_size=80)
    | st.lists(lines.map(encode)).map(lambda packets: b"".join(packets) + FLUSH)
)
def test_garbage(body):
    """Garbage is refused with the parser's own error; what is read can be answered."""
    try:
        snapshot = parse_ls_refs(body)
    except ProtocolError:
        return
    assert len(parse(snapshot.answer(True, True, True, ()))) == len(parse(body))
