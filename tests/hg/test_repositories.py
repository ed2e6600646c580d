# Law of this file: the tools of the tests keep their own promises: what a test builds on is there.

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hg.capture import read
from tests.hg.recording import recorded
from tests.hg.repositories import KINDS
from tests.hg.session import Session
from tests.hg.stock import CLIENT_V2, SERVER_V2, client_encodings, serving
from tests.hg.versions import V1, V2, hg, output, run

_NODES = ("log", "--hidden", "--rev", "all()", "--template", "{node} {phase} {bookmarks}\n")


@pytest.mark.parametrize("kind", ["branches", "names"])
def test_every_version_makes_the_same_repository(kind: str, tmp_path: Path) -> None:
    """A maker gives the same nodes, phases and bookmarks, whichever Mercurial it is given."""
    oldest, newest = (
        output(hg(version), KINDS[kind](hg(version), tmp_path / version), *_NODES)
        for version in (V2, V1[-1])
    )
    assert oldest == newest
    assert oldest


def test_obsolete_changesets_are_hidden(tmp_path: Path) -> None:
    """The kind `obsolete` has changesets in its store that hg shows only if asked to."""
    made = KINDS["obsolete"](hg(), tmp_path / "made")
    shown = output(hg(), made, "log", "--template", "{node}\n").split()
    assert len(shown) < len(output(hg(), made, *_NODES).splitlines())


def test_a_session_tells_what_hg_says_of_an_error(tmp_path: Path) -> None:
    """A command that fails raises hg's own words, and the next one still runs."""
    made = KINDS["empty"](hg(), tmp_path / "made")
    with Session(hg(), made) as session:
        with pytest.raises(AssertionError, match="unknown revision 'nothing'"):
            session("log", "--rev", "nothing")
        assert session("root").decode().strip() == str(made)


def test_stock_speaks_protocol_v2_to_stock(tmp_path: Path) -> None:
    """Client and server of 5.9.3 use v2 as configured, and the proxy between sees all of it."""
    made = KINDS["linear"](hg(), tmp_path / "made")
    with serving(hg(), made, *SERVER_V2) as origin, recorded(origin) as recording:
        encoding = client_encodings("identity")
        done = run(hg(), tmp_path, *CLIENT_V2, *encoding, "clone", recording.url, "clone")
    assert done.returncode == 0, done.stderr
    asked = [exchange.target for exchange in recording.exchanges]
    assert asked == [exchange.target for exchange in read("clone-identity")]
