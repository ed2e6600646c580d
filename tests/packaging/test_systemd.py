# Law of this file: systemd itself reads the units, and says how much they leave open; what they set
# is what the server needs.

from __future__ import annotations

import asyncio
import configparser
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from server.serving import BACKLOG, CLOSE_SECONDS
from server.settings_limits import LimitSettings
from tests.conformance.processes import Offramp
from tests.packaging.test_image import ROOT

UNITS: Final = ROOT / "packaging/systemd"
SERVICES: Final = ("offramp.service", "offramp@.service")
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
    for units in (("./offramp.service", "./offramp.socket"), ("./offramp@.service",)):
        done = analyze("verify", *units, there=installed)
        assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_systemd_finds_what_is_wrong(installed: Path) -> None:
    """A misspelt setting would be found."""
    service = installed / "offramp.service"
    service.write_text(service.read_text().replace("ProtectHome=", "ProtectHouse="))
    done = analyze("verify", "./offramp.service", there=installed)
    assert "ProtectHouse" in done.stderr


@needs_systemd
@pytest.mark.parametrize("name", SERVICES)
def test_the_service_is_left_little(installed: Path, name: str) -> None:
    """What systemd counts as open stays below a line."""
    done = analyze(
        "security",
        "--offline=true",
        f"--threshold={_EXPOSURE}",
        f"./{name}",
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


@pytest.mark.parametrize("name", SERVICES)
def test_the_service_is_not_killed_before_it_ends(name: str) -> None:
    """Systemd waits longer than a server takes to stop."""
    patience = unit(name)["Service"]["TimeoutStopSec"]
    assert int(patience) > LimitSettings().stop_time + CLOSE_SECONDS


def test_the_documented_stop_time_is_waited_for() -> None:
    """Systemd waits for servers beside each other as long as the page lets them take."""
    text = (ROOT / "docs/deploy-systemd.md").read_text()
    (minutes,) = re.findall(r'^stop_time = "(\d+)m"$', text, re.MULTILINE)
    patience = unit("offramp@.service")["Service"]["TimeoutStopSec"]
    assert int(patience) > int(minutes) * 60 + CLOSE_SECONDS


def test_the_units_differ_in_what_they_must() -> None:
    """A right that one service is given or loses, the other is, too."""
    one, template = (
        {
            line
            for line in (UNITS / name).read_text().partition("[Service]")[2].splitlines()
            if line and not line.startswith("#")
        }
        for name in SERVICES
    )
    assert one - template == {"TimeoutStopSec=45"}
    assert template - one == {"TimeoutStopSec=620", "Environment=OFFRAMP_REUSE_PORT=true"}


@pytest.mark.parametrize("name", SERVICES)
def test_the_socket_of_operators_has_a_directory(name: str) -> None:
    """The one that is documented, for the server's user alone; it outlives one of two servers."""
    service = unit(name)["Service"]
    directory = f"/run/{service['RuntimeDirectory']}"
    page = (ROOT / "docs/operations.md").read_text()
    assert f'listen = "unix:{directory}/admin.sock"' in page
    assert service["RuntimeDirectoryMode"] == "0700"
    assert service["RuntimeDirectoryPreserve"] == "yes"


async def test_two_of_the_template_share_the_port(tmp_path: Path) -> None:
    """With what the unit sets, a second server starts beside the first, and says when it serves."""
    environ = dict(
        line.removeprefix("Environment=").split("=", 1)
        for line in (UNITS / "offramp@.service").read_text().splitlines()
        if line.startswith("Environment=") and "OFFRAMP_CONFIG" not in line
    )
    assert unit("offramp@.service")["Service"]["Type"] == "notify"
    environ |= {"OFFRAMP_DATA": str(tmp_path / "data"), "NOTIFY_SOCKET": str(tmp_path / "told")}
    (tmp_path / "root").mkdir()
    offramp = Offramp(tmp_path / "data")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(environ["NOTIFY_SOCKET"])
        told.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            one = await offramp.serve(tmp_path / "root", environ=environ)
            at = ("--listen", one.url.removeprefix("http://"))
            other = await offramp.serve(tmp_path / "root", *at, environ=environ)
            assert [await loop.sock_recv(told, 64) for _ in range(2)] == [b"READY=1"] * 2
            assert await one.stop() == 0
            livez = f"{other.url}/-/livez"
            async with aiohttp.ClientSession() as session, session.get(livez) as answer:
                assert answer.status == 200
            assert await other.stop() == 0
        finally:
            await offramp.close()


def test_the_socket_holds_one_address_and_many_who_wait() -> None:
    """The server takes one socket, and as many wait in it as in one of its own."""
    text = (UNITS / "offramp.socket").read_text()
    assert len(re.findall(r"^ListenStream=", text, re.MULTILINE)) == 1
    assert int(unit("offramp.socket")["Socket"]["Backlog"]) == BACKLOG
    assert not unit("offramp.socket")["Socket"].get("Accept")
