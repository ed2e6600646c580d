# Law of this file: a URL means one thing, and a directory that happens to be called "api" takes
# nothing away from git.

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.hg.routes import V1, Apis, CommandUrl, Nothing, route

API = "exp-http-v2-0003"


@pytest.mark.parametrize(
    ("path", "command", "meant"),
    [
        ("/repo", "capabilities", V1("repo", "capabilities")),
        ("/a/b/repo/", "batch", V1("a/b/repo", "batch")),
        ("/repo/api", None, Apis("repo")),
        ("/a/repo/api/", None, Apis("a/repo")),
        (f"/repo/api/{API}", None, Nothing("repo")),
        (f"/repo/api/{API}/", None, Nothing("repo")),
        (f"/repo/api/{API}/ro", None, Nothing("repo")),
        (f"/repo/api/{API}/ro/heads", None, CommandUrl("repo", "ro", "heads")),
        (f"/repo/api/{API}/rw/multirequest", None, CommandUrl("repo", "rw", "multirequest")),
        (f"/repo/api/{API}/odd/heads", None, CommandUrl("repo", "odd", "heads")),
        (f"/repo/api/{API}/ro/heads/more", None, Nothing("repo")),
        (f"/api/api/{API}/ro/heads", None, CommandUrl("api", "ro", "heads")),
        ("/api/project.git/info/refs", None, None),
        ("/repo/api/other/ro/heads", None, None),
        ("/project.git/info/refs", None, None),
        ("/", None, None),
    ],
)
def test_what_urls_mean(path: str, command: str | None, meant: object) -> None:
    """Each kind of URL is told from the others, and from those of git."""
    assert route(path, command) == meant


@given(st.text(max_size=40), st.none() | st.text(max_size=10))
def test_any_path_means_something_or_nothing(path: str, command: str | None) -> None:
    """No path breaks the routing, and none without a word of ours is taken from git."""
    routed = route(path, command)
    if routed is None:
        assert command is None
    elif command is None:
        assert "api" in path
