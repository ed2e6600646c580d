# Law of this file: systemd itself reads the units, and says how much they leave open.

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from server.serving import BACKLOG, CLOSE_SECONDS
from server.settings_limits import LimitSettings
from tests.packaging.test_image import ROOT

UNITS: Final = ROOT / "packaging/systemd"
PROGRAM: Final = "/opt/offramp/bin/offramp"

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="systemd-analyze (Debian: systemd) is not installed",
)

# What systemd calls the exposure of a unit, in tenths: 96 without any setting, 0 with all.
_EXPOSURE: Final = 20


def unit(name: str) -> configparser.RawConfigParser:
    """A unit; of a key that comes twice, the last."""
    read = configparser.RawConfigParser(strict=False, comment_prefixes=("#",))
    read.optionxform = str  # type: ignore[assignment,method-assign]
    read.read(UNITS / name)
    return read


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units in a directory, with a program that is on this machine."""
    for file in UNITS.iterdir():
        text = file.read_text().replace(PROGRAM, "/bin/true")
        (tmp_path / file.name).write_text(text)
    return tmp_path


@needs_systemd
def test_systemd_finds_nothing_wrong(installed: Path) -> None:
    """Every section and setting is one that systemd knows, and the units fit together."""
    done = analyze("verify", "./offramp.service", "./offramp.socket", there=installed)
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_systemd_finds_what_is_wrong(installed: Path) -> None:
    """A misspelt setting would be found."""
    service = installed / "offramp.service"
    service.write_text(service.read_text().replace("ProtectHome=", "ProtectHouse="))
    done = analyze("verify", "./offramp.service", there=installed)
    assert "ProtectHouse" in done.stderr


@needs_systemd
def test_the_service_is_left_little(installed: Path) -> None:
    """What systemd counts as open stays below a line."""
    done = analyze(
        "security",
        "--offline=true",
        f"--threshold={_EXPOSURE}",
        "./offramp.service",
        there=installed,
    )
    assert done.returncode == 0, done.stdout.splitlines()[-1]


def analyze(*words: str, there: Path) -> subprocess.CompletedProcess[str]:
    """Run ``systemd-analyze``."""
    return subprocess.run(
        ("systemd-analyze", "--no-pager", *words),
        cwd=there,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_service_is_not_killed_before_it_ends() -> None:
    """Systemd waits longer than a server takes to stop."""
    patience = unit("offramp.service")["Service"]["TimeoutStopSec"]
    assert int(patience) > LimitSettings().stop_time + CLOSE_SECONDS


def test_the_socket_holds_one_address_and_many_who_wait() -> None:
    """The server takes one socket, and as many wait in it as in one of its own."""
    text = (UNITS / "offramp.socket").read_text()
    assert len(re.findall(r"^ListenStream=", text, re.MULTILINE)) == 1
    assert int(unit("offramp.socket")["Socket"]["Backlog"]) == BACKLOG
    assert not unit("offramp.socket")["Socket"].get("Accept")
