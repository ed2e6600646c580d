# Law of this file: prometheus_client reads what is written, a worker that was started again goes
# on, and a disk that refuses costs no figure.

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.mmap_dict import MmapedDict

from server.figures_file import FiguresFile


def read(path: Path) -> dict[str, float]:
    """What others read, by prometheus_client's own reader."""
    values = MmapedDict.read_all_values_from_file(str(path))  # type: ignore[no-untyped-call]
    return {key: value for key, value, _, _ in values}


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=300), st.floats()))
def test_others_read_it(tmp_path_factory: pytest.TempPathFactory, told: dict[str, float]) -> None:
    """Whatever its name, a figure is read as it was written."""
    path = tmp_path_factory.mktemp("figures") / "counter_a.db"
    file = FiguresFile(str(path))
    for key, value in told.items():
        file.write_value(key, 1.0, 0.0)
        file.write_value(key, value, 2.0)
        assert repr(file.read_value(key)) == repr((value, 2.0))
    file.close()
    assert repr(read(path) if told else {}) == repr(told)


def test_one_that_is_started_again(tmp_path: Path) -> None:
    """It finds what there was, and adds to it."""
    path = tmp_path / "counter_a.db"
    first = FiguresFile(str(path))
    first.write_value("one", 1.0, 0.0)
    first.close()
    second = FiguresFile(str(path))
    assert second.read_value("one") == (1.0, 0.0)
    second.write_value("one", 2.0, 0.0)
    second.write_value("two", 3.0, 0.0)
    second.close()
    assert read(path) == {"one": 2.0, "two": 3.0}


@pytest.mark.parametrize(
    "damage", [b"", b"x", b"\xff" * 4096, b"\x40\0\0\0\0\0\0\0\xff\xff\xff\x7f"]
)
def test_a_damaged_one(tmp_path: Path, damage: bytes) -> None:
    """It is begun anew."""
    path = tmp_path / "counter_a.db"
    path.write_bytes(damage)
    file = FiguresFile(str(path))
    file.write_value("one", 1.0, 0.0)
    file.close()
    assert read(path) == {"one": 1.0}


def test_what_is_new_is_read_by_nobody_half(tmp_path: Path) -> None:
    """What came behind the end that the file tells, as one wrote that was killed, is no figure."""
    path = tmp_path / "counter_a.db"
    file = FiguresFile(str(path))
    file.write_value("one", 1.0, 0.0)
    file.close()
    with path.open("ab") as behind:
        behind.write(b"\x08\0\0\0half")
    assert read(path) == {"one": 1.0}
    again = FiguresFile(str(path))
    again.write_value("two", 2.0, 0.0)
    again.close()
    assert read(path) == {"one": 1.0, "two": 2.0}


def test_a_disk_that_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be written is kept, told once, and written when it can be."""
    path = tmp_path / "metrics" / "counter_a.db"
    file = FiguresFile(str(path))  # its directory is not there
    file.write_value("early", 1.0, 0.0)
    assert file.read_value("early") == (1.0, 0.0)
    path.parent.mkdir()
    file.write_value("placed", 1.0, 0.0)
    assert read(path) == {"early": 1.0, "placed": 1.0}
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", lambda *_: 0)
        file.write_value("new", 1.0, 0.0)
        file.write_value("new", 2.0, 0.0)
        file.write_value("placed", 2.0, 0.0)
    assert read(path) == {"early": 1.0, "placed": 1.0}
    file.write_value("placed", 3.0, 0.0)
    file.write_value("newer", 5.0, 0.0)
    file.close()
    assert read(path) == {"early": 1.0, "placed": 3.0, "new": 2.0, "newer": 5.0}
    assert len(caplog.records) == 1
