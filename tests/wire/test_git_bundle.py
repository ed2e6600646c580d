# Law of this file: stock git reads the bundles that we head, and we read the bundles that it makes.

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.git.bundle import BundleHeader, Incomplete, bundle_header, parse_header
from wire.git.pktline import ProtocolError

A, B = "a" * 40, "b" * 40
C = "c" * 64
V2 = (
    b"# v2 git bundle\n"
    b"-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa \n"
    b"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb refs/heads/main\n"
    b"\n"
)
V3 = (
    b"# v3 git bundle\n"
    b"@object-format=sha256\n"
    b"@filter=blob:none\n"
    b"cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc HEAD\n"
    b"\n"
)

oids = st.text("0123456789abcdef", min_size=40, max_size=40)
names = st.binary(min_size=1, max_size=12).filter(
    lambda name: all(byte > 0x20 and byte != 0x7F for byte in name)
)


def git(path: Path, *args: str, stdin: bytes = b"") -> bytes:
    """Run git in ``path``."""
    return subprocess.run(
        ["git", "-C", path, *args], input=stdin, check=True, capture_output=True
    ).stdout


def make(path: Path, object_format: str = "sha1") -> list[str]:
    """A repository with two commits of a file; returns their object ids."""
    path.mkdir()
    git(path, "init", "-q", f"--object-format={object_format}")
    commits = []
    for number in (1, 2):
        (path / "file").write_text(f"{number}\n")
        git(path, "add", "file")
        git(path, "commit", "-q", "-m", f"commit {number}")
        commits.append(git(path, "rev-parse", "HEAD").decode().strip())
    return commits


def test_golden_v2():
    """SHA-1 without a filter is version 2, which every git reads."""
    assert bundle_header("sha1", [(B, b"refs/heads/main")], [A]) == V2
    assert parse_header(V2 + b"PACK") == BundleHeader(
        2, "sha1", None, (A,), ((B, b"refs/heads/main"),), len(V2)
    )


def test_golden_v3():
    """Another object format or a filter makes version 3."""
    assert bundle_header("sha256", [(C, b"HEAD")], filter="blob:none") == V3
    assert parse_header(V3) == BundleHeader(3, "sha256", "blob:none", (), ((C, b"HEAD"),), len(V3))
    assert bundle_header("sha1", [], filter="tree:0") == (
        b"# v3 git bundle\n@object-format=sha1\n@filter=tree:0\n\n"
    )


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_git_reads_ours(object_format, tmp_path):
    """Our header in front of a pack of git's is a bundle: it verifies, and can be cloned."""
    source, file = tmp_path / "source", tmp_path / "file.bundle"
    tip = make(source, object_format)[-1]
    pack = git(source, "pack-objects", "--stdout", "--revs", "-q", stdin=f"{tip}\n".encode())
    refs = [(tip, b"HEAD"), (tip, b"refs/heads/main")]
    file.write_bytes(bundle_header(object_format, refs) + pack)
    git(source, "bundle", "verify", str(file))
    git(tmp_path, "clone", "-q", str(file), "clone")
    assert git(tmp_path / "clone", "rev-parse", "HEAD").decode().strip() == tip
    git(tmp_path / "clone", "fsck", "--strict")


def test_git_reads_ours_with_prerequisites(tmp_path):
    """A bundle on top of a commit is fetched by who has it, and refused by who has not."""
    source, file = tmp_path / "source", tmp_path / "file.bundle"
    base, tip = make(source)
    revs = f"{tip}\n^{base}\n".encode()
    pack = git(source, "pack-objects", "--stdout", "--revs", "--thin", "-q", stdin=revs)
    file.write_bytes(bundle_header("sha1", [(tip, b"refs/heads/main")], [base]) + pack)
    git(tmp_path, "init", "-q", "other")
    other = tmp_path / "other"
    with pytest.raises(subprocess.CalledProcessError):
        git(other, "bundle", "verify", str(file))
    git(other, "fetch", "-q", str(source), base)
    git(other, "fetch", "-q", str(file), "refs/heads/main")
    assert git(other, "rev-parse", "FETCH_HEAD").decode().strip() == tip


def test_git_reads_ours_with_a_filter(tmp_path):
    """A bundle of a partial clone says so to git."""
    source, file = tmp_path / "source", tmp_path / "file.bundle"
    tip = make(source)[-1]
    options = ("--stdout", "--revs", "-q", "--filter=blob:none")
    pack = git(source, "pack-objects", *options, stdin=f"{tip}\n".encode())
    file.write_bytes(bundle_header("sha1", [(tip, b"refs/heads/main")], filter="blob:none") + pack)
    assert b"blob:none" in git(source, "bundle", "verify", str(file))


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
@pytest.mark.parametrize("since", [False, True])
@pytest.mark.parametrize("spec", [None, "blob:none"])
def test_we_read_gits(object_format, since, spec, tmp_path):
    """A bundle that git made is read: its refs, prerequisites, filter, and where its pack is."""
    base, tip = make(tmp_path / "source", object_format)
    what = ["main", *([f"^{base}"] if since else []), *([f"--filter={spec}"] if spec else [])]
    git(tmp_path / "source", "bundle", "create", "-q", "../file.bundle", *what)
    data = (tmp_path / "file.bundle").read_bytes()
    header = parse_header(data)
    assert header == BundleHeader(
        2 if object_format == "sha1" and not spec else 3,
        object_format,
        spec,
        (base,) if since else (),
        ((tip, b"refs/heads/main"),),
        header.size,
    )
    assert data[header.size :].startswith(b"PACK")


@given(
    st.lists(st.tuples(oids, names)),
    st.lists(oids),
    st.none() | st.sampled_from(["blob:none", "combine:blob:none+tree:0"]),
    st.binary(max_size=20),
    st.data(),
)
def test_there_and_back(refs, prerequisites, spec, rest, data):
    """What is written is read again, and any beginning of it is incomplete."""
    written = bundle_header("sha1", refs, prerequisites, spec)
    version = 3 if spec else 2
    expected = BundleHeader(version, "sha1", spec, tuple(prerequisites), tuple(refs), len(written))
    assert parse_header(written + rest) == expected
    with pytest.raises(Incomplete):
        parse_header(written[: data.draw(st.integers(0, len(written) - 1))])


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda rest: V2[:16] + rest))
def test_garbage(data):
    """Garbage is refused with the parser's own error."""
    try:
        parse_header(data)
    except ProtocolError:
        pass
    else:
        assert data == b"# v2 git bundle\n\n" + data[17:]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x", "'x' does not begin a v2 or v3 bundle"),
        (b"\n", "'' does not begin"),
        (b"# v4 git bundle\n", "does not begin"),
        (b"# v2 git bundle and more", "does not begin"),
        (b"# v2 git bundle\n@filter=blob:none\n", "expected a sha1 object id"),
        (b"# v3 git bundle\n@new=1\n", "unknown capability '@new=1' of a bundle"),
        (b"# v3 git bundle\n@object-format=md5\n", "unknown object format 'md5'"),
        (b"# v3 git bundle\n@filter\n", "'@filter' is no filter"),
        (b"# v3 git bundle\n-%b x\n@filter=x\n" % A.encode(), "comes after the first object"),
        (b"# v2 git bundle\n-1234 x\n", "expected a sha1 object id, got '1234'"),
        (b"# v2 git bundle\n%b HEAD\n" % C.encode(), "expected a sha1 object id"),
        (b"# v2 git bundle\n%b\n" % A.encode(), "has no ref name"),
        (b"# v2 git bundle\n%b a b\n" % A.encode(), "has no ref name"),
    ],
)
def test_refused(data, message):
    """What is no bundle that we know is refused as soon as it can be told, in words."""
    with pytest.raises(ProtocolError, match=message) as caught:
        parse_header(data)
    assert not isinstance(caught.value, Incomplete)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("md5", []), "unknown object format 'md5'"),
        (("sha1", [(C, b"HEAD")]), "expected a sha1 object id"),
        (("sha1", [(A, b"")]), "no ref name"),
        (("sha1", [(A, b"a\nb")]), "no ref name"),
        (("sha1", [], [A.upper()]), "expected a sha1 object id"),
        (("sha1", [], [], ""), "the filter"),
        (("sha1", [], [], "a\nb"), "the filter"),
    ],
)
def test_not_written(arguments, message):
    """What would be read as something else is not written."""
    with pytest.raises(ValueError, match=message):
        bundle_header(*arguments)
