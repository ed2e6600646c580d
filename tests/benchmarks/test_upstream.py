# Law of this file: requests at the upstream are counted as what they were, however they are logged.

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from benchmarks.upstream import Arrived, _arrived, kind_of
from tests.conformance.clones import v2_request

UPLOAD = "/r.git/git-upload-pack"
LS_REFS = v2_request("ls-refs", "peel").decode()
FETCH = v2_request("fetch", f"want {'1' * 40}", "done").decode()
PROBE = v2_request("fetch", f"want {'1' * 40}", "deepen 1", "filter tree:0", "done").decode()


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/r.git/info/refs", "", "info-refs"),
        (UPLOAD, LS_REFS, "ls-refs"),
        (UPLOAD, FETCH, "fetch"),
        (UPLOAD, PROBE, "probe"),
        (UPLOAD, "", "fetch"),  # too long to be logged
        (UPLOAD, "0014command=surprise", "other"),
        ("/r.git/HEAD", "", "other"),
    ],
)
def test_requests_are_told_apart(path: str, body: str, kind: str) -> None:
    """A path and what a body begins with say what was asked."""
    assert kind_of(path, body, "") == kind


def test_compressed_bodies_are_read() -> None:
    """A long request, which git compresses, is what it is inside."""
    packed = gzip.compress(FETCH.encode()).decode("latin-1")
    assert kind_of(UPLOAD, packed, "gzip") == "fetch"


def test_only_what_came_since_is_counted(tmp_path: Path) -> None:
    """A log is read from where it ended before; bytes are summed for each kind."""
    log = tmp_path / "log"
    line = json.dumps({"path": UPLOAD, "body": FETCH, "encoding": "", "received": 10, "sent": 1000})
    log.write_text(f"{line}\n")
    before = log.stat().st_size
    log.write_text(f"{line}\n" * 3)
    assert _arrived(log, before) == Arrived({"fetch": 2}, {"fetch": 2000}, {"fetch": 20})
