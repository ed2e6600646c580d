# Law of this file: what crashed processes left goes, what anybody holds stays.

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

import pytest

from cache.errors import CacheUnavailable
from cache.layout import Descriptor, Layout, is_named, lock, write_all

if TYPE_CHECKING:
    from conftest import House

NOW = 1_000_000.0


def test_left_over_files_are_swept(house: House) -> None:
    """Old and held by nobody: gone. Young, or held: kept. Anything else is not ours."""
    names = ("old", "young", "held")
    files = {name: Descriptor(house.layout.create(name)) for name in names}
    for name in names:
        age = 0 if name == "young" else 3601
        os.utime(files[name].number, (NOW - age, NOW - age))
    lock(files["held"].number, fcntl.LOCK_SH)
    folder = house.layout.incoming("folder")
    folder.mkdir()
    os.utime(folder, (0, 0))
    house.layout.incoming("link").symlink_to(house.layout.incoming("young"))
    os.utime(house.layout.incoming("link"), (0, 0), follow_symlinks=False)
    house.layout.sweep(NOW)
    assert house.incoming() == ["folder", "held", "link", "young"]


def test_a_name_stays_with_its_file(house: House) -> None:
    """A file that was replaced is not taken for its successor."""
    first = Descriptor(house.layout.create("name"))
    path = house.layout.incoming("name")
    assert is_named(first.number, path)
    path.unlink()
    assert not is_named(first.number, path)
    second, created = house.layout.create_or_open("name")
    assert created
    assert is_named(second.number, path)
    assert not is_named(first.number, path)
    assert not house.layout.create_or_open("name")[1]


def test_short_writes_are_continued(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may take less than it was given."""
    file = Descriptor(house.layout.create("file"))
    plain = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: plain(fd, bytes(data[:3])))
    write_all(file.number, b"0123456789")
    assert house.layout.incoming("file").read_bytes() == b"0123456789"


def test_errors_say_which_file_and_why(house: House) -> None:
    """An operator can act on the message."""
    house.layout.place("records", "ab" * 32).mkdir(parents=True)
    with pytest.raises(CacheUnavailable, match=r"cannot rename .*abab.*: Is a directory"):
        house.layout.write("records", "ab" * 32, b"")
    house.layout.incoming("file").touch()
    with pytest.raises(CacheUnavailable, match=r"cannot create .*file/x: Not a directory"):
        house.layout.create("file/x")
    house.layout.incoming("folder").mkdir()
    with pytest.raises(CacheUnavailable, match=r"cannot open .*folder: Is a directory"):
        house.layout.create_or_open("folder")


def test_walking_finds_complete_files_only(house: House) -> None:
    """Editors' and operators' files in our folders are not ours."""
    house.layout.write("records", "ab" * 32, b"12")
    folder = house.layout.place("records", "ab" * 32).parent
    (folder / "notes.txt").touch()
    (folder / ("cd" * 32)).touch()
    (house.layout.data / "records" / "file").touch()
    assert [(name, state.st_size) for name, state in house.layout.walk("records")] == [
        ("ab" * 32, 2)
    ]
    assert list(Layout(house.layout.data / "nowhere").walk("records")) == []
