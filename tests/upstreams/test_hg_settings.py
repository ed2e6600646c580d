# Law of this file: an upstream of Mercurial takes the settings that mean something for it, and
# paths lead to it only as Mercurial's clients ask.

from __future__ import annotations

from typing import Any, Final

import pytest
from pydantic import ValidationError

from server.settings_upstreams import UpstreamSettings
from server.upstreams.routes import Routes

URL: Final = "https://hg.example.org/repos"


def upstream(**settings: Any) -> UpstreamSettings:
    """Settings of an upstream of Mercurial."""
    return UpstreamSettings.model_validate({"vcs": "hg", "url": URL, **settings})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mirror", ["a/*"]),
        ("listed", ["a"]),
        ("git_suffix", False),
        ("refs", ["refs/heads/*"]),
        ("redirect_hosts", ["example.org"]),
        ("max_wait", "1s"),
    ],
)
def test_settings_of_mirrors_are_refused(name: str, value: object) -> None:
    """What means nothing without a mirror is refused, with its name and why."""
    with pytest.raises(ValidationError, match=f'`{name}` goes with vcs = "git"'):
        upstream(prefix="/hg/", **{name: value})


def test_unused_credential_is_refused() -> None:
    """A credential that would never be shown is refused."""
    credential = {"username": "robot", "password": "secret-of-robots"}
    with pytest.raises(ValidationError, match="own credentials only"):
        upstream(prefix="/hg/", credential=credential)
    assert upstream(prefix="/hg/", credential=credential, auth="none").credential is not None


def test_routes() -> None:
    """The whole path is the name, as it is written; the longest prefix counts, whoever's it is."""
    routes = Routes(
        (
            upstream(prefix="/code/", deny=["secret/*"]),
            upstream(repository="/one", url="https://one.example.org/r"),
            UpstreamSettings(prefix="/code/git/", url="https://git.example.org"),
        )
    )
    found = routes.hg("/code/a/b.git")
    assert found is not None
    assert (found.name, found.url) == ("code/a/b.git", f"{URL}/a/b.git")
    single = routes.hg("/one/")
    assert single is not None
    assert single.url == "https://one.example.org/r"
    for path in (
        "/one/more",
        "/code",
        "/code/secret/x",
        "/code/git/a",
        "/code/../x",
        "/other",
        "x",
    ):
        assert routes.hg(path) is None, path


def test_git_does_not_see_them() -> None:
    """No request of git leads to an upstream of Mercurial, and none of its is mirrored."""
    routes = Routes((upstream(prefix="/code/"), upstream(repository="/one")))
    for path in ("/code/a/info/refs", "/code/a.git/info/refs", "/one/info/refs", "/one.git"):
        assert routes.route(path, lambda _: True) is None
    assert routes.listed() == ()
    assert routes.named("code/a") is None
    assert routes.named("one") is None


def test_shorter_prefix_of_git_does_not_take_it() -> None:
    """A repository of Mercurial below a prefix of git is none of git's."""
    git = UpstreamSettings(prefix="/code/", url="https://git.example.org")
    routes = Routes((git, upstream(prefix="/code/hg/")))
    assert routes.route("/code/hg/a/info/refs", lambda _: True) is None
    assert routes.route("/code/a/info/refs", lambda _: True) is not None
    assert routes.hg("/code/a") is None
