# Law of this file: stock git reads from our bundle lists exactly what we meant.

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from string import ascii_letters, digits

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wire.git.bundle_list import BundleEntry, BundleList
from wire.git.pktline import Special, parse

TWO = BundleList(
    (
        BundleEntry("base", "https://cdn.example.org/a.bundle?X-Sig=a%2Fb&e=1", 1),
        BundleEntry("day-1", "http://10.0.0.1:8417/-/blobs/b#x;y", 1700000000),
    )
)

# The characters of RFC 3986, in random order behind a host.
uris = st.text(ascii_letters + digits + "-._~:/?#[]@!$&'()*+,;=%", max_size=60).map(
    lambda tail: f"https://host/{tail}"
)


def test_golden_lines():
    """Over the protocol each pair is a packet, and the token is spelt in lower case."""
    assert TWO.to_lines() == (
        b"0014bundle.version=1"
        b"0013bundle.mode=all"
        b"0022bundle.heuristic=creationToken"
        b"0044bundle.base.uri=https://cdn.example.org/a.bundle?X-Sig=a%2Fb&e=1"
        b"001fbundle.base.creationtoken=1"
        b"0037bundle.day-1.uri=http://10.0.0.1:8417/-/blobs/b#x;y"
        b"0029bundle.day-1.creationtoken=1700000000"
        b"0000"
    )


def test_golden_config():
    """A list file is a git configuration file."""
    assert TWO.to_config().decode() == (
        "[bundle]\n"
        "\tversion = 1\n"
        "\tmode = all\n"
        "\theuristic = creationToken\n"
        '[bundle "base"]\n'
        '\turi = "https://cdn.example.org/a.bundle?X-Sig=a%2Fb&e=1"\n'
        "\tcreationToken = 1\n"
        '[bundle "day-1"]\n'
        '\turi = "http://10.0.0.1:8417/-/blobs/b#x;y"\n'
        "\tcreationToken = 1700000000\n"
    )


def test_empty_list():
    """A list without bundles says its version and mode, and nothing else."""
    assert BundleList().to_lines() == b"0014bundle.version=10013bundle.mode=all0000"
    assert BundleList().to_config() == b"[bundle]\n\tversion = 1\n\tmode = all\n"


def test_no_heuristic_without_tokens():
    """A list of alternatives has neither tokens nor a heuristic."""
    one_of = BundleList((BundleEntry("a", "https://h/a"), BundleEntry("b", "https://h/b")), "any")
    assert parse(one_of.to_lines()) == [
        b"bundle.version=1",
        b"bundle.mode=any",
        b"bundle.a.uri=https://h/a",
        b"bundle.b.uri=https://h/b",
        Special.FLUSH,
    ]
    assert b"heuristic" not in one_of.to_config()
    assert b"creationToken" not in one_of.to_config()


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(uris, st.integers(1, 2**64 - 1)), max_size=4))
def test_git_reads_the_file(tmp_path: Path, bundles: list[tuple[str, int]]) -> None:
    """Git's own reader finds every URI and token of the file as they were given."""
    entries = tuple(BundleEntry(f"Id-{i}", *bundle) for i, bundle in enumerate(bundles))
    file = tmp_path / "list"
    file.write_bytes(BundleList(entries).to_config())
    read = subprocess.run(
        ["git", "config", "-f", file, "--null", "--list"], check=True, capture_output=True
    ).stdout
    expected = ["bundle.version\n1", "bundle.mode\nall"]
    expected += ["bundle.heuristic\ncreationToken"] * bool(entries)
    for entry in entries:
        expected += [
            f"bundle.{entry.id}.uri\n{entry.uri}",
            f"bundle.{entry.id}.creationtoken\n{entry.creation_token}",
        ]
    assert read.decode().split("\0")[:-1] == expected


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory, and the URL at which it is served."""
    directory = tmp_path / "site"
    directory.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield directory, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_git_clones_with_the_file(site, tmp_path):
    """`git clone --bundle-uri` downloads the bundles of our list."""
    directory, url = site
    source = tmp_path / "source"
    git = ["git", "-C", str(source)]
    subprocess.run(["git", "init", "-q", source], check=True)
    for number in (1, 2):
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", f"{number}"], check=True)
        subprocess.run([*git, "branch", f"b{number}"], check=True)
    for name, *what in (("one", "b1"), ("two", "b1..b2")):
        bundle = str(directory / f"{name}.bundle")
        subprocess.run([*git, "bundle", "create", "-q", bundle, *what], check=True)
    entries = (
        BundleEntry("one", f"{url}/one.bundle?a=1&b=2;c", 1),
        BundleEntry("two", f"{url}/two.bundle", 2),
    )
    (directory / "list").write_bytes(BundleList(entries).to_config())
    clone = tmp_path / "clone"
    subprocess.run(
        ["git", "clone", "-q", f"--bundle-uri={url}/list", f"file://{source}", clone], check=True
    )
    names = subprocess.run(
        ["git", "-C", clone, "for-each-ref", "--format=%(refname)", "refs/bundles"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert [name.rpartition("/")[2] for name in names] == ["b1", "b2"]


@pytest.mark.parametrize(
    "bad", ["", "a.b", "a b", 'a"]', "a\n", "\N{LATIN SMALL LETTER E WITH ACUTE}"]
)
def test_ids(bad):
    """An id that would be another key is refused."""
    with pytest.raises(ValueError, match="bundle id"):
        BundleEntry(bad, "https://h/a")


@pytest.mark.parametrize("bad", [*' "\\<>^`{|}\n\r\t\0\x7f', "\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_characters_of_uris(bad):
    """A character that no URI may have is refused, and the URI, a secret perhaps, is not shown."""
    with pytest.raises(ValueError, match=r"the URI of bundle x has .* at position 19") as caught:
        BundleEntry("x", f"https://h/a?sig=top{bad}secret")
    assert "sig=top" not in str(caught.value)


@pytest.mark.parametrize(
    "bad",
    ["", "/a", "//h/a", "ftp://h/a", "file:///a", "HTTP://h/a", "https://", "https:///a", "h/a"],
)
def test_schemes_of_uris(bad):
    """Nothing but http(s) with a host is written."""
    with pytest.raises(ValueError, match="is not http://HOST or https://HOST"):
        BundleEntry("x", bad)


@pytest.mark.parametrize("bad", [0, -1, 2**64])
def test_tokens(bad):
    """A token that git would read as another number, or as none, is refused."""
    with pytest.raises(ValueError, match="creation token"):
        BundleEntry("x", "https://h/a", bad)


def test_lists():
    """Ids are unique, and tokens are for all or for none."""
    a, b = BundleEntry("a", "https://h/a", 1), BundleEntry("b", "https://h/b")
    with pytest.raises(ValueError, match="'a'"):
        BundleList((a, a))
    with pytest.raises(ValueError, match="either all"):
        BundleList((a, b))


def test_too_long_for_a_packet():
    """A URI that does not fit into a packet is refused, not cut."""
    with pytest.raises(ValueError, match="do not fit"):
        BundleList((BundleEntry("a", "https://h/" + "a" * 65536),)).to_lines()
