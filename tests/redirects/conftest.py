# Law of this file: what every test of this room names: one entity, one client, one window.

from __future__ import annotations

from collections.abc import Iterator

import pytest

from redirects.acceptance import Client
from redirects.signing import SigningKeys
from redirects.window import Window
from stores.entity import Entity
from tests.ministack import running


@pytest.fixture
def entity() -> Entity:
    """A megabyte that nobody has."""
    return Entity("ab" * 32, 1 << 20)


@pytest.fixture
def client() -> Client:
    """A client that reaches us over TLS."""
    return Client("https://git.example.org")


@pytest.fixture
def window() -> Window:
    """A quarter of an hour, and six hours of life."""
    return Window(900, 6 * 3600)


@pytest.fixture
def keys() -> SigningKeys:
    """An old key and the current one."""
    return SigningKeys("new", {"old": b"o" * 32, "new": b"n" * 32})


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of an S3 look-alike that does check presigned URLs."""
    with running(tmp_path_factory.mktemp("ministack")) as url:
        yield url
