# Law of this file: whatever bytes a client puts into a request, nothing is contacted but what the
# settings name, below the path that they name.

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.settings_upstreams import UpstreamSettings
from server.upstreams.routes import Routed, Routes

FORGE: Final = "https://forge.example.org/base"
ONE: Final = "https://one.example.org/team/alone.git"
SERVICES: Final = ("/info/refs", "/git-upload-pack", "/git-receive-pack", "/info/lfs/objects/batch")


def upstream(**values: Any) -> UpstreamSettings:
    """Settings of one upstream; below ``/up/`` unless told otherwise."""
    values = {"url": FORGE, **values}
    if "repository" not in values:
        values.setdefault("prefix", "/up/")
    return UpstreamSettings.model_validate(values)


ROUTES: Final = Routes(
    (
        upstream(deny=["secret/*"]),
        upstream(prefix="/open/", url="http://open.example.org", git_suffix=False, public=True),
        upstream(repository="/up/alone", url=ONE),
    )
)
PLACES: Final = (f"{FORGE}/", "http://open.example.org/", ONE)


def to(routes: Routes, path: str, *known: str) -> tuple[str, str, str] | None:
    """Name, URL and rest of where a path leads."""
    routed = routes.route(path, lambda name: name in known)
    return None if routed is None else (routed.remote.name, routed.remote.url, routed.rest)


# --- where paths lead ----------------------------------------------------------------------------


@pytest.mark.parametrize("service", [*SERVICES, "/info/lfs"])
@pytest.mark.parametrize("name", ["acme/widget", "a", "a/b/c/d", "acme/wid get", "a/-b", "a/+~x"])
def test_services_say_where_a_name_ends(name: str, service: str) -> None:
    """With and without `.git` it is one repository, of one name and one URL."""
    expected = (f"up/{name}", f"{FORGE}/{quote(name)}.git", service)
    for spelling in (name, f"{name}.git"):
        assert to(ROUTES, f"/up/{quote(spelling)}{service}") == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/up/a/b.git/HEAD", ("up/a/b", f"{FORGE}/a/b.git", "/HEAD")),
        ("/up/a/b.git", ("up/a/b", f"{FORGE}/a/b.git", "")),
        ("/up/a/b.git/", ("up/a/b", f"{FORGE}/a/b.git", "")),
        ("/up/a/b.git/objects/%3Fx", ("up/a/b", f"{FORGE}/a/b.git", "/objects/%3Fx")),
        ("/up/a/b.git/c.git/HEAD", ("up/a/b", f"{FORGE}/a/b.git", "/c.git/HEAD")),
        ("/up/alone/info/refs", ("up/alone", ONE, "/info/refs")),
        ("/up/alone.git/any/thing", ("up/alone", ONE, "/any/thing")),
        ("/up/alone/any/thing", ("up/alone", ONE, "/any/thing")),
        ("/open/x.git/info/refs", ("open/x.git", "http://open.example.org/x.git", "/info/refs")),
        ("/open/x/info/refs", ("open/x", "http://open.example.org/x", "/info/refs")),
        # Encoded once more than it had to be, or less.
        ("/%75p/a/%62/info/refs", ("up/a/b", f"{FORGE}/a/b.git", "/info/refs")),
        ("/up/a/100%25/info/refs", ("up/a/100%", f"{FORGE}/a/100%25.git", "/info/refs")),
        ("/up/a/b%252fc/info/refs", ("up/a/b%2fc", f"{FORGE}/a/b%252fc.git", "/info/refs")),
    ],
)
def test_paths(path: str, expected: tuple[str, str, str]) -> None:
    """What is after the name is handed on as it came; what is encoded stays so."""
    assert to(ROUTES, path) == expected


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/up",
        "/up/",
        "/up/info/refs",
        "/up/.git/info/refs",
        "/up/.git.git/info/refs",
        "/up/a/-.git/info/refs",
        "/up/a/..git/info/refs",
        "/up/a/...git/info/refs",
        "/up/a/b.git.git/info/refs",
        "/up/alone.git.git/info/refs",
        "/other/a/b/info/refs",
        "/upper/a/b/info/refs",
        "/UP/a/b/info/refs",
        "//up/a/b/info/refs",
        "/up//a/b/info/refs",
        "/up/a//info/refs",
        "/up/a/../b/info/refs",
        "/up/a/./b/info/refs",
        "/up/a/%2e%2e/b/info/refs",
        "/up/a/%2E./b/info/refs",
        "/up/a/..%2fb/info/refs",
        "/up/a%2fb/info/refs",
        "/up/a%5cb/info/refs",
        "/up/a\\b/info/refs",
        "/up/a/b%00/info/refs",
        "/up/a/b%0d%0aHost:%20evil/info/refs",
        "/up/a/b%0a.git/info/refs",
        "/up/a/b%ff/info/refs",
        "/up/a/b%c0%ae%c0%ae/info/refs",
        "/up/a/b%e2%80%ae/info/refs",
        "/up/a/-/b/info/refs",
        "/up/-/blobs/info/refs",
        "/up/secret/x/info/refs",
        "/up/SECRET/x/info/refs",
        "/up/secret/x.git/info/refs",
        "/up/secret/x.git.git/info/refs",
        "/up/%73ecret/x/info/refs",
        "/up/a/b.git/../../../c",
        "/up/a/b.git/%2e%2e/%2e%2e/c",
        "/up/alone/../a",
        "http://forge.example.org/up/a/b/info/refs",
        "up/a/b/info/refs",
        "*",
        f"/up/{'a' * 1100}/info/refs",
    ],
)
def test_what_leads_nowhere(path: str) -> None:
    """What could be taken for another path, or may not be asked for, leads to no upstream."""
    assert to(ROUTES, path, "up/a", "up/a/b", "up/secret/x") is None


def test_whether_something_private_is_mirrored_is_not_told() -> None:
    """Where a path does not say where the name ends, only public mirrors are looked for."""
    assert to(ROUTES, "/open/a/b/HEAD", "open/a/b") == (
        "open/a/b",
        "http://open.example.org/a/b",
        "/HEAD",
    )
    assert to(ROUTES, "/open/a/b/HEAD") is None
    assert to(ROUTES, "/up/a/b/HEAD", "up/a/b") is None


def test_names_lead_back() -> None:
    """The name of a mirror leads to the repository that it was made of, if it still may be."""
    for path in ("/up/a/b/info/refs", "/open/x.git/info/refs", "/up/alone/info/refs"):
        routed = ROUTES.route(path, lambda _: False)
        assert routed is not None
        assert ROUTES.named(routed.remote.name) == routed.remote
    for name in ("up/secret/x", "other/a", "up", "", "up/a/../b", "up//b", "-/x"):
        assert ROUTES.named(name) is None


# --- whatever bytes ------------------------------------------------------------------------------


def _is_inside(routed: Routed) -> bool:
    """Whether an upstream that decodes and resolves the path stays below what is named."""
    url = routed.remote.url + routed.rest
    parts = urlsplit(url)
    decoded = unquote(parts.path)
    return (
        url.startswith(PLACES)
        and not parts.query
        and not parts.fragment
        and parts.username is None
        and url.isascii()
        and url.isprintable()
        and not {".", ".."} & set(decoded.split("/"))
        and "\\" not in decoded
        and "//" not in decoded
    )


PIECES: Final = st.sampled_from(
    (
        *("up", "open", "alone", "alone.git", "secret", "SECRET", "a", "b.git", ".git", "-"),
        *("info", "refs", "lfs", "git-upload-pack", "..", ".", "", "%2e%2e", "%2F", "%5c", "\\"),
        *("%00", "%0a", "@evil.example", "http:", "evil.example:80", "?", "#", ";x", "%", "%zz"),
    )
)
PATHS: Final = st.one_of(
    st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=9).map("/".join),
    st.binary(max_size=60).map(lambda data: data.decode("latin-1")),
    st.lists(PIECES, max_size=6).map("".join),
)


@example("@evil.example/a/info/refs")
@example("-.git")
@example(".git.git")
@example("a/...git/info/refs")
@example("a/b.git/%2e%2e%2f%2e%2e/c")
@given(PATHS)
def test_any_path_stays_inside(rest: str) -> None:
    """A path leads below a URL of the settings, or nowhere; and `deny` holds in any spelling."""
    for path in (f"/up/{rest}", f"/open/{rest}", f"/{rest}", rest, f"/up/alone/{rest}"):
        routed = ROUTES.route(path, lambda _: True)
        if routed is None:
            continue
        assert _is_inside(routed), routed
        assert not routed.remote.name.casefold().startswith("up/secret/")
        again = ROUTES.route(f"/{quote(routed.remote.name)}/info/refs", lambda _: False)
        assert again is not None
        assert again.remote == routed.remote
