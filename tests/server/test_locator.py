# Law of this file: whatever comes in place of a list, the last good one counts on, in this process,
# in the others, and after a restart.

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict

from server import range_lists
from server.checks_regions import check_regions
from server.locator import Locator
from server.range_lists import RETRY_SECONDS, RangeList
from server.settings import Settings
from server.settings_regions import RegionSettings
from server.verdict import Level, Verdict

DAY = 86400.0
LATER = DAY + 1.0


def aws(**regions: str) -> bytes:
    """A list with one network of each region."""
    entries = [
        {"ip_prefix": net, "region": name.replace("_", "-")} for name, net in regions.items()
    ]
    return json.dumps({"prefixes": entries, "ipv6_prefixes": []}).encode()


@dataclass
class Publisher:
    """A web server that publishes a list.

    Attributes:
        body: what it answers.
        status: with which status.
        asked: how often it was asked.
    """

    body: bytes = b""
    status: int = 200
    asked: int = 0
    url: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    async def answer(self, request: web.Request) -> web.Response:
        """Answer."""
        self.asked += 1
        return web.Response(body=self.body, status=self.status, headers=self.headers)


@pytest.fixture
async def publisher() -> AsyncIterator[Publisher]:
    """On a free port."""
    publisher = Publisher(aws(eu_west_1="192.0.2.0/24"))
    app = web.Application()
    app.router.add_get("/ip-ranges.json", publisher.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    publisher.url = f"http://{host}:{port}/ip-ranges.json"
    yield publisher
    await runner.cleanup()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Makes requests."""
    async with aiohttp.ClientSession() as session:
        yield session


def from_url(publisher: Publisher) -> RegionSettings:
    """Settings with that list alone."""
    listed = {"format": "aws", "url": publisher.url}
    return RegionSettings.model_validate({"lists": [listed], "refresh": DAY})


def region(locator: Locator, address: str) -> str | None:
    """Where an address is."""
    return locator.locality.find(address).region


def now(tmp_path: Path) -> float:
    """When the copy was written, or the beginning of time."""
    copies = list(tmp_path.glob("regions/*.json"))
    return copies[0].stat().st_mtime if copies else 0.0


async def test_a_list_is_fetched_kept_and_fetched_again(
    publisher: Publisher, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """At the start from the URL; a day later again; in between not, and not by the next process."""
    locator = await Locator.open(from_url(publisher), tmp_path)
    assert region(locator, "192.0.2.7") is None
    await locator.look(session, now(tmp_path))
    assert region(locator, "192.0.2.7") == "eu-west-1"
    began = now(tmp_path)

    other = await Locator.open(from_url(publisher), tmp_path)
    assert region(other, "192.0.2.7") == "eu-west-1"
    for later in (1.0, DAY - 1):
        await other.look(session, began + later)
        await locator.look(session, began + later)
    assert publisher.asked == 1

    publisher.body = aws(us_east_1="192.0.2.0/24")
    await locator.look(session, began + LATER)
    assert region(locator, "192.0.2.7") == "us-east-1"
    # The other process finds the new copy, which is of that day.
    os.utime(next(tmp_path.glob("regions/*.json")), (began + LATER, began + LATER))
    await other.look(session, began + LATER)
    assert region(other, "192.0.2.7") == "us-east-1"
    assert publisher.asked == 2


@pytest.mark.parametrize("fault", ["empty", "cut off", "error", "moved", "page", "huge", "gone"])
async def test_a_bad_list_changes_nothing(  # noqa: PLR0917 - fixtures
    publisher: Publisher,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    """It is told, tried again later, and neither memory nor disk takes it."""
    locator = await Locator.open(from_url(publisher), tmp_path)
    await locator.look(session, now(tmp_path))
    before, good, began = locator.locality, publisher.body, now(tmp_path)
    match fault:
        case "empty":
            publisher.body = b""
        case "cut off":
            publisher.body = good[:-10]
        case "error":
            publisher.status = 503
        case "moved":
            publisher.status, publisher.headers = 302, {"Location": "/ip-ranges.json"}
        case "page":
            publisher.body = b"<html>log in</html>"
        case "huge":
            monkeypatch.setattr(range_lists, "LARGEST", len(good) - 1)
        case _:
            publisher.url = "http://127.0.0.1:1/list"
            locator.lists[0].settings = from_url(publisher).lists[0]
    for _ in range(3):
        await locator.look(session, began + LATER)
    assert locator.locality is before
    assert next(tmp_path.glob("regions/*")).read_bytes() == good
    assert caplog.text.count("not read") == 1
    assert publisher.url in caplog.text
    assert locator.lists[0].fault is not None

    if fault in {"huge", "gone"}:
        return
    publisher.body, publisher.status = aws(us_east_1="192.0.2.0/24"), 200
    await locator.look(session, began + LATER + RETRY_SECONDS)
    assert region(locator, "192.0.2.7") == "us-east-1"
    assert locator.lists[0].fault is None


async def test_a_copy_that_is_damaged_is_fetched_again(
    publisher: Publisher, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """A disk that lost its power in the middle of a write costs one download."""
    await (await Locator.open(from_url(publisher), tmp_path)).look(session, now(tmp_path))
    copy = next(tmp_path.glob("regions/*.json"))
    copy.write_bytes(b"")
    locator = await Locator.open(from_url(publisher), tmp_path)
    assert region(locator, "192.0.2.7") is None
    await locator.look(session, now(tmp_path))
    assert region(locator, "192.0.2.7") == "eu-west-1"


async def test_a_clock_that_was_set_back_keeps_no_list_for_ever(
    publisher: Publisher, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """A copy of the future is as old as any."""
    locator = await Locator.open(from_url(publisher), tmp_path)
    await locator.look(session, now(tmp_path))
    publisher.body = aws(us_east_1="192.0.2.0/24")
    await locator.look(session, now(tmp_path) - DAY)
    assert region(locator, "192.0.2.7") == "us-east-1"


async def test_a_full_disk_keeps_no_copy_but_counts(
    publisher: Publisher, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """What was fetched is known, though not to the next process."""
    (tmp_path / "regions").write_text("no directory")
    locator = await Locator.open(from_url(publisher), tmp_path)
    await locator.look(session, 0.0)
    assert region(locator, "192.0.2.7") == "eu-west-1"


async def test_a_full_disk_makes_no_list_due(
    publisher: Publisher, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """A list that cannot be kept is not fetched again before it is due."""
    (tmp_path / "regions").write_text("in the way")
    locator = await Locator.open(from_url(publisher), tmp_path)
    for passed in (0.0, RETRY_SECONDS + 1, 2 * RETRY_SECONDS + 2):
        await locator.look(session, DAY + passed)
    assert publisher.asked == 1
    await locator.look(session, DAY + LATER)
    assert publisher.asked == 2


async def test_a_host_that_can_be_none(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    """A URL that nobody can ask is told, and stops no other list."""
    listed = tmp_path / "list.json"
    listed.write_bytes(aws(eu_west_1="192.0.2.0/24"))
    settings = RegionSettings.model_validate(
        {
            "lists": [
                {"format": "aws", "url": "http://a..example.org/ip-ranges.json"},
                {"format": "aws", "file": str(listed)},
            ]
        }
    )
    locator = await Locator.open(settings, tmp_path / "data")
    await locator.look(session, DAY)
    assert region(locator, "192.0.2.1") == "eu-west-1"
    assert "a..example.org" in (locator.lists[0].fault or "")


async def test_a_file_is_read_when_it_changes(
    session: aiohttp.ClientSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also after it was missing or broken, which is told once; its last good copy survives it."""
    file = tmp_path / "list.json"
    listed = {"format": "aws", "file": str(file)}
    settings = RegionSettings.model_validate({"lists": [listed]})
    locator = await Locator.open(settings, tmp_path)
    for _ in range(2):
        await locator.look(session, 0.0)
    assert caplog.text.count("not read") == 1
    file.write_bytes(aws(eu_west_1="192.0.2.0/24"))
    await locator.look(session, 0.0)
    assert region(locator, "192.0.2.7") == "eu-west-1"
    file.write_bytes(b"{")
    for _ in range(2):
        await locator.look(session, 0.0)
    assert caplog.text.count("not read") == 2
    again = await Locator.open(settings, tmp_path)
    assert region(locator, "192.0.2.7") == region(again, "192.0.2.7") == "eu-west-1"
    file.unlink()
    await again.look(session, 0.0)
    assert region(again, "192.0.2.7") == "eu-west-1"


async def test_a_file_that_could_not_be_read_once_is_read_again(
    session: aiohttp.ClientSession,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As it is, on the next look: a disk or a mount that failed says nothing of the list."""
    file = tmp_path / "list.json"
    file.write_bytes(aws(eu_west_1="192.0.2.0/24"))
    listed = {"format": "aws", "file": str(file)}
    settings = RegionSettings.model_validate({"lists": [listed]})
    locator = await Locator.open(settings, tmp_path)
    opened = Path.open

    def stale(self: Path, *args: object, **options: object) -> object:
        if self == file:
            raise OSError(errno.ESTALE, "Stale file handle")
        return opened(self, *args, **options)  # type: ignore[call-overload]

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", stale)
        for _ in range(2):
            await locator.look(session, 0.0)
    assert region(locator, "192.0.2.7") is None
    assert caplog.text.count("Stale file handle") == 1
    await locator.look(session, 0.0)
    assert region(locator, "192.0.2.7") == "eu-west-1"
    assert locator.lists[0].fault is None


async def test_a_file_that_is_too_large_is_read_once(
    session: aiohttp.ClientSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong with it stays so until it is another one."""
    file = tmp_path / "list.json"
    file.write_bytes(aws(eu_west_1="192.0.2.0/24"))
    listed = {"format": "aws", "file": str(file)}
    settings = RegionSettings.model_validate({"lists": [listed]})
    locator = await Locator.open(settings, tmp_path)
    reads: list[Path] = []
    read = RangeList._bytes

    def counted(self: RangeList, path: Path) -> bytes:
        reads.append(path)
        return read(self, path)

    monkeypatch.setattr(RangeList, "_bytes", counted)
    monkeypatch.setattr(range_lists, "LARGEST", 5)
    for _ in range(3):
        await locator.look(session, 0.0)
    assert reads == [file]
    assert "more than" in (locator.lists[0].fault or "")


async def test_the_settings_win_over_lists(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    """Of the same network; a smaller one of a list is still the smaller."""
    file = tmp_path / "list.json"
    file.write_bytes(aws(eu_west_1="192.0.2.0/24", us_east_1="192.0.2.0/28"))
    locator = await Locator.open(
        RegionSettings.model_validate(
            {
                "networks": {"office": ["192.0.2.0/24"]},
                "lists": [{"format": "aws", "file": str(file)}],
            }
        ),
        tmp_path,
    )
    await locator.look(session, 0.0)
    assert (region(locator, "192.0.2.77"), region(locator, "192.0.2.7")) == ("office", "us-east-1")
    found = locator.locality.find("192.0.2.7").prefix
    assert found is not None
    assert (found.network, found.source) == (IPv4Network("192.0.2.0/28"), str(file))


async def test_the_loop_looks_at_once(
    publisher: Publisher, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Nobody waits for the first list longer than the download takes."""
    locator = await Locator.open(from_url(publisher), tmp_path)
    task = asyncio.create_task(locator.run(session))
    while region(locator, "192.0.2.7") is None:
        assert not task.done()
        await asyncio.sleep(0)
    task.cancel()


@dataclass
class Request:
    """As much of a request as is looked at."""

    remote: str | None
    headers: CIMultiDict[str]


@pytest.mark.parametrize(
    ("remote", "headers", "found"),
    [
        ("192.0.2.7", {}, ("192.0.2.7", "office")),
        ("192.0.2.7", {"x-offramp-region": "US-East-1"}, ("192.0.2.7", "us-east-1")),
        ("192.0.2.7", {"X-Offramp-Region": "?"}, ("192.0.2.7", "office")),
        ("10.0.0.1", {"X-Forwarded-For": "192.0.2.7"}, ("192.0.2.7", "office")),
        ("198.51.100.1", {"X-Forwarded-For": "192.0.2.7"}, ("198.51.100.1", None)),
        (None, {}, ("", None)),
    ],
)
async def test_requests_are_located(
    tmp_path: Path, remote: str | None, headers: dict[str, str], found: tuple[str, str | None]
) -> None:
    """By the header, else by the address, which a listed proxy may tell."""
    settings = {"networks": {"office": ["192.0.2.0/24"]}, "proxies": ["10.0.0.0/8"]}
    locator = await Locator.open(RegionSettings.model_validate(settings), tmp_path)
    where = locator.find(Request(remote, CIMultiDict(headers)))  # type: ignore[arg-type]
    assert (where.address, where.region) == found


# --- the doctor ------------------------------------------------------------------------------


async def checked(session: aiohttp.ClientSession, **values: object) -> list[Verdict]:
    """What the doctor finds."""
    read = Settings.model_validate(values)
    return [verdict async for verdict in check_regions(read, session)]


async def test_the_doctor_reads_lists(
    publisher: Publisher, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """A good one is counted, a bad one fails, and where an earlier one counts on it is said."""
    cdn = {"type": "http", "base_url": "https://cdn.example.org", "regions": ["eu-*"]}
    values = {"data": tmp_path, "targets": [cdn], "regions": from_url(publisher)}
    (good,) = await checked(session, **values)
    assert (good.level, "1 networks in 1 regions" in good.what) == (Level.OK, True)
    publisher.status = 404
    copy = next(tmp_path.glob("regions/*.json"))
    os.utime(copy, (1.0, 1.0))
    (old,) = await checked(session, **values)
    assert (old.level, "status 404" in old.what) == (Level.WARN, True)
    copy.unlink()
    bad, unserved = await checked(session, **values)
    assert (bad.level, unserved.level) == (Level.FAIL, Level.WARN)
    assert "eu-*" in unserved.what


async def test_the_doctor_says_nothing_where_nothing_is_set(
    session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Who uses no regions hears of none; who sets networks alone hears that they decide nothing."""
    assert await checked(session, data=tmp_path) == []
    (idle,) = await checked(
        session, data=tmp_path, regions={"networks": {"office": ["192.0.2.0/24"]}}
    )
    assert idle.level is Level.INFO


async def test_other_settings_count_beside_the_lists(tmp_path: Path) -> None:
    """Networks and proxies are replaced; what a list says stays, and goes behind them as before."""
    file = tmp_path / "list.json"
    file.write_bytes(aws(eu="192.0.2.0/24", us="198.51.100.0/24"))
    lists = [{"format": "aws", "file": str(file)}]
    old = RegionSettings.model_validate({"lists": lists, "networks": {"home": ["192.0.2.0/24"]}})
    locator = await Locator.open(old, tmp_path)
    async with aiohttp.ClientSession() as session:
        await locator.look(session, 0.0)
    assert locator.locality.find("192.0.2.1").region == "home"
    new = {"lists": lists, "networks": {"office": ["198.51.100.0/24"]}, "proxies": ["10.0.0.0/8"]}
    await locator.adopt(RegionSettings.model_validate(new))
    assert locator.locality.find("192.0.2.1").region == "eu"
    assert locator.locality.find("198.51.100.1").region == "office"
    assert locator.locality.find("10.0.0.1", ["198.51.100.1"]).region == "office"
    # What a list says later does not bring back what the settings said before.
    file.write_bytes(aws(asia="203.0.113.0/24"))
    async with aiohttp.ClientSession() as session:
        await locator.look(session, 0.0)
    assert locator.locality.find("192.0.2.1").region is None
    assert locator.locality.find("10.0.0.1", ["203.0.113.1"]).region == "asia"
