# Law of this file: what is not for clients is where it was put, and nowhere else; who may see it
# there is who was named, or who gets there.

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import ValidationError

from server.accepting import listen
from server.admin import CannotListenHere, admin_socket, name_of
from server.app import make_runner
from server.checks_admin import check_admin_socket
from server.listening import bind
from server.serving import BACKLOG
from server.settings import Settings, load
from server.verdict import Level
from tests.conftest import Serve
from tests.server.asking import ask

ADMIN = ("/-/metrics",)
OPERATORS = ("/-/", "/-/metrics", "/-/%6Detrics", "/%2D/metrics", "/-/api/decisions")
EVERYBODY = ("/-/livez", "/-/readyz")
AUTH = {"auth": "token", "tokens": [{"sha256": "0" * 64, "repositories": ["*"]}]}


Asking = Callable[..., Awaitable[int]]


def settings(tmp_path: Path, listen_at: str, **more: Any) -> Settings:
    """Settings with a listener for those who run the server."""
    return load(None, root=tmp_path, admin={"listen": listen_at}, **more)


@asynccontextmanager
async def private(serve: Serve, root: Path, at: str, **more: Any) -> AsyncIterator[Asking]:
    """A server with a listener of its own for admin routes; asks it for the status of a path."""
    served = await serve(root, admin={"listen": at}, **more)
    async with AsyncExitStack() as stack:
        binding = partial(bind, shared=False)
        bound = stack.enter_context(admin_socket(served.settings, binding))
        assert bound is not None
        runner = make_runner(served.runtime, stop_seconds=0.0, admin=True)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await listen(runner, bound, 60.0, BACKLOG)
        path = served.settings.admin.socket_path
        connector = None if path is None else aiohttp.UnixConnector(str(path))
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        base = "http://localhost" if path else name_of(bound).rstrip("/")

        async def asking(path: str, *, admin: bool = True, **headers: str) -> int:
            if not admin:
                return (await ask(served, "GET", path)).status
            async with session.get(f"{base}{path}", headers=headers) as answer:
                return answer.status

        yield asking


@pytest.mark.parametrize("at", ["127.0.0.1:0", "unix:{}/admin.sock"])
async def test_admin_routes_are_at_the_admin_listener_alone(
    serve: Serve, tmp_path: Path, at: str
) -> None:
    """There they are found and no repository is; at the public one it is the other way round."""
    (tmp_path / "root").mkdir()
    async with private(serve, tmp_path / "root", at.format(tmp_path)) as asking:
        for path in ADMIN:
            assert await asking(path) == 200
            assert await asking(path, admin=False) == 404
        for path in EVERYBODY:
            assert await asking(path) == 200
        assert await asking("/-/livez", admin=False) == 200
        assert await asking("/p.git/info/refs?service=git-upload-pack") == 404
        assert await asking("/-/blobs/none") == 404


async def test_whoever_reaches_it_is_let_in(serve: Serve, tmp_path: Path) -> None:
    """Where something private is served, too, and if a proxy asks for somebody."""
    async with private(serve, tmp_path, "127.0.0.1:0", access=AUTH) as asking:
        assert await asking("/-/metrics", **{"X-Forwarded-For": "192.0.2.1"}) == 200


async def test_operators_are_who_is_named(serve: Serve, tmp_path: Path) -> None:
    """With access.operators nobody else is let in; at a socket its file says who is."""
    access = {"operators": ["192.0.2.1"]}
    async with private(serve, tmp_path, "127.0.0.1:0", access=access) as asking:
        assert await asking("/-/metrics") == 403
    async with private(serve, tmp_path, f"unix:{tmp_path}/s", access=access) as asking:
        assert await asking("/-/metrics") == 200


@pytest.mark.parametrize("path", OPERATORS)
async def test_an_operator_finds_nothing_where_clients_ask(
    serve: Serve, tmp_path: Path, path: str
) -> None:
    """However it is written: a load balancer that is listed would hand it to everybody."""
    (tmp_path / "root").mkdir()
    access = {"operators": ["127.0.0.1"]}
    async with private(serve, tmp_path / "root", "127.0.0.1:0", access=access) as asking:
        assert await asking(path) == 200
        assert await asking(path, admin=False) == 404


# --- its socket ----------------------------------------------------------------------------------


def test_a_socket_file_is_its_owners(tmp_path: Path) -> None:
    """Nobody else may open it, and it goes with the server; what a crash left is replaced."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with admin_socket(settings(tmp_path, f"unix:{path}"), _no_port) as bound:
        assert bound is not None
        assert name_of(bound) == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


def test_a_socket_of_another_server(tmp_path: Path) -> None:
    """It is left alone, unless both are to share the port; then it is the later one's."""
    path = tmp_path / "s"
    here = settings(tmp_path, f"unix:{path}")
    with admin_socket(here, _no_port) as bound:
        assert bound is not None
        bound.listen()
        with (
            pytest.raises(CannotListenHere, match="another server does; stop it"),
            admin_socket(here, _no_port),
        ):
            pass
        shared = settings(tmp_path, f"unix:{path}", reuse_port=True)
        second = admin_socket(shared, _no_port)
        second.__enter__()
    assert path.exists()
    second.__exit__(None, None, None)
    assert not path.exists()


def test_what_is_in_the_way_of_a_socket(tmp_path: Path) -> None:
    """A file that is none stays, and so says the error."""
    path = tmp_path / "s"
    path.write_text("precious")
    with (
        pytest.raises(CannotListenHere, match="Address already in use"),
        admin_socket(settings(tmp_path, f"unix:{path}"), _no_port),
    ):
        pass
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("at", "why"),
    [
        ("unix:relative", "absolute path"),
        ("unix:/" + 107 * "x", "at most 107 bytes"),
        ("9000", "is not HOST:PORT"),
        ("127.0.0.1:8417", "ports of their own"),
        ("localhost:8417", "ports of their own"),
        ("0.0.0.0:8417", "ports of their own"),
        ("[::]:8417", "ports of their own"),
        ("[::ffff:127.0.0.1]:8417", "ports of their own"),
    ],
)
def test_what_is_no_place_to_listen(tmp_path: Path, at: str, why: str) -> None:
    """It is refused as the settings are read."""
    with pytest.raises(ValidationError, match=why):
        settings(tmp_path, at)


@pytest.mark.parametrize(
    "at", ["127.0.0.1:9417", "10.0.0.1:8417", "[::1]:8417", "files.example:8417", "unix:/s"]
)
def test_what_is_a_place_of_its_own(tmp_path: Path, at: str) -> None:
    """Another port, or another address of this machine; names are not asked for here."""
    assert settings(tmp_path, at, listen="127.0.0.1:8417").admin.listen == at


def test_a_socket_without_a_directory(tmp_path: Path) -> None:
    """It is said which there must be."""
    with (
        pytest.raises(CannotListenHere, match=f"there is no directory {tmp_path}/none: make it"),
        admin_socket(settings(tmp_path, f"unix:{tmp_path}/none/s"), _no_port),
    ):
        pass


def test_the_directory_of_a_socket_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `config check` and `doctor`: that it is there, and that a file can be made in it."""
    assert not list(check_admin_socket(settings(tmp_path, f"unix:{tmp_path}/s")))
    assert not list(check_admin_socket(settings(tmp_path, "127.0.0.1:9417")))
    (missing,) = check_admin_socket(settings(tmp_path, f"unix:{tmp_path}/offramp/s"))
    assert missing.level is Level.WARN
    assert f"there is no directory {tmp_path}/offramp" in missing.what
    assert "RuntimeDirectory=offramp" in missing.remedy
    monkeypatch.setattr("os.access", lambda *_: False)  # as for whoever is not root
    (closed,) = check_admin_socket(settings(tmp_path, f"unix:{tmp_path}/s"))
    assert closed.level is Level.WARN
    assert f"no file can be made in {tmp_path}" in closed.what


def _no_port(listen_at: str) -> socket.socket:
    raise AssertionError(f"{listen_at} was to be bound, and no port is")


def test_a_umask_is_put_back(tmp_path: Path) -> None:
    """Files that are made later are as they would have been."""
    before = os.umask(0o022)
    try:
        with admin_socket(settings(tmp_path, f"unix:{tmp_path}/s"), _no_port):
            assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
