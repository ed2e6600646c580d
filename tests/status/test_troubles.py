# Law of this file: warnings are kept for all processes to read, few enough, and without secrets.

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import structlog

from server.logs import configure, heard_by
from server.settings import LogSettings
from server.status import troubles as module
from server.status.troubles import Keeper, Trouble, Troubles

_log = logging.getLogger("offramp.example")


def said(directory: Path) -> list[str]:
    """What was kept, the newest first."""
    return [each.message for each in Troubles(directory).last(1000)]


def test_warnings_are_kept(tmp_path: Path) -> None:
    """Warnings and errors are kept with who said them and when, and nothing that is less."""
    with heard_by(Keeper(Troubles(tmp_path))):
        _log.info("nothing")
        _log.warning("the %s is %s", "target", "down")
        _log.error("worse")
    worse, down = Troubles(tmp_path).last(10)
    assert (down.level, down.logger, down.message) == (
        "warning", "offramp.example", "the target is down",
    )  # fmt: skip
    assert (worse.level, worse.message) == ("error", "worse")
    assert worse.at >= down.at
    _log.warning("after that, nobody listens")
    assert len(said(tmp_path)) == 2


def test_secrets_are_not_kept(tmp_path: Path) -> None:
    """Neither in what is said nor in an exception is a secret kept."""
    with heard_by(Keeper(Troubles(tmp_path))):
        _log.warning("GET https://user:hunter2@example.org/x?X-Amz-Signature=0123456789abcdef")
        try:
            raise ValueError("Authorization: Basic aHVudGVyMg==")
        except ValueError:
            _log.exception("it failed")
    kept = (tmp_path / "troubles.jsonl").read_text()
    for secret in ("hunter2", "0123456789abcdef", "aHVudGVyMg"):
        assert secret not in kept
    assert said(tmp_path)[0].startswith("it failed: ValueError: Authorization: ")


def test_structured_records(tmp_path: Path) -> None:
    """What is logged through structlog is kept by its event."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        with heard_by(Keeper(Troubles(tmp_path))):
            configure(LogSettings(), open("/dev/null", "w"))  # noqa: PTH123, SIM115 - closed below
            structlog.get_logger("x").warning("an event", count=1)
    finally:
        root.handlers[0].stream.close()  # type: ignore[attr-defined]
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    assert said(tmp_path) == ["an event"]


def test_a_new_log_does_not_end_it(tmp_path: Path) -> None:
    """Who changes the settings of the log still has warnings kept."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        with heard_by(Keeper(Troubles(tmp_path))):
            configure(LogSettings(level="error"))
            configure(LogSettings(level="info"))
            _log.warning("still heard")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    assert said(tmp_path) == ["still heard"]


def test_a_flood_is_cut_off(tmp_path: Path) -> None:
    """A process that complains without end keeps no disk busy."""
    with heard_by(Keeper(Troubles(tmp_path))):
        for number in range(1000):
            _log.warning("complaint %d", number)
    assert said(tmp_path) == [f"complaint {number}" for number in range(19, -1, -1)]


def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept is the last of it, in two files of a bounded size."""
    monkeypatch.setattr(module, "_LARGEST", 2000)
    troubles = Troubles(tmp_path)
    for number in range(100):
        troubles.add(
            Trouble(at=number, level="error", logger="x", process=1, message=f"{number}" * 20)
        )
    assert said(tmp_path)[:3] == ["99" * 20, "98" * 20, "97" * 20]
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) < 2200


def test_long_and_odd_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message is one line of a bounded length, whatever bytes a name has."""
    # What pytest keeps of the log goes to another process, which takes no such bytes.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with heard_by(Keeper(Troubles(tmp_path))):
        _log.warning("a\nb \udcff%s", "x" * 10_000)
    (message,) = said(tmp_path)
    assert message.startswith("a b \\udcffxxx")
    assert len(message) == 501


def test_half_a_line(tmp_path: Path) -> None:
    """What a killed process left unfinished hides nothing else."""
    with heard_by(Keeper(Troubles(tmp_path))):
        _log.warning("before")
    with (tmp_path / "troubles.jsonl").open("ab") as file:
        file.write(b'{"at": 1, "lev\n')
    with heard_by(Keeper(Troubles(tmp_path))):
        _log.warning("after")
    assert said(tmp_path) == ["after", "before"]


def test_a_disk_that_refuses(tmp_path: Path) -> None:
    """A warning that cannot be kept is no failure of what warns."""
    (tmp_path / "status").write_text("in the way")
    with heard_by(Keeper(Troubles(tmp_path / "status"))):
        _log.warning("lost")
    assert said(tmp_path / "status") == []
