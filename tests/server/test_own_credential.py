# Law of this file: the server's own credential is sent as the settings say, and shown nowhere.

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from server.settings_upstreams import UpstreamSettings
from server.upstreams.credentials import own_authorization
from server.wiring import Unusable

SECRET = "hunter2-hunter2"


def header(**credential: Any) -> str | None:
    """What is shown with this credential."""
    return own_authorization(
        UpstreamSettings.model_validate(
            {"prefix": "x", "url": "https://example.org", "credential": credential or None}
        )
    )


def test_none() -> None:
    """Without a credential nothing is shown."""
    assert header() is None


def test_bearer_and_basic() -> None:
    """A user name makes it Basic, in UTF-8; without one it is Bearer."""
    assert header(password=SECRET) == f"Bearer {SECRET}"
    assert header(username="me", password=SECRET) == (
        f"Basic {base64.b64encode(f'me:{SECRET}'.encode()).decode()}"
    )
    shown = header(username="j\u00fcrgen", password="a b:\u00e9")
    assert shown is not None
    assert base64.b64decode(shown.removeprefix("Basic ")).decode() == "j\u00fcrgen:a b:\u00e9"


@pytest.mark.parametrize("text", [SECRET, f"{SECRET}\n", f"{SECRET}\r\nmore\n"])
def test_from_a_file(tmp_path: Path, text: str) -> None:
    """The first line of a file counts, however it ends, each time it is asked for."""
    file = tmp_path / "token"
    file.write_bytes(text.encode())
    assert header(file=file) == f"Bearer {SECRET}"
    file.write_text("another")
    assert header(file=file) == "Bearer another"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"\nhunter2", "is empty"),
        (b"hunter2 hunter2\n", "no Bearer token holds"),
        (b"hunter2\x00\n", "control characters"),
        (b"\xffhunter2\n", "no UTF-8"),
        (b"hunter2" * 1000, "longer than"),
    ],
    ids=("empty", "empty line", "spaces", "control", "no text", "long"),
)
def test_unusable_files(tmp_path: Path, content: bytes, why: str) -> None:
    """What can be no credential is told with the file's name, and without what is in it."""
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(Unusable, match=why) as caught:
        header(file=file)
    assert str(file) in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Neither is what is not there, or is no file, a traceback."""
    with pytest.raises(Unusable, match="no such file"):
        header(file=tmp_path / "missing")
    with pytest.raises(Unusable, match="directory"):
        header(file=tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_somebody_else(tmp_path: Path) -> None:
    """A file that may not be read says so."""
    file = tmp_path / "token"
    file.write_text(SECRET)
    file.chmod(0)
    with pytest.raises(Unusable, match="permission denied"):
        header(file=file)
