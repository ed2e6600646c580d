# Law of this file: a real browser shows the page to people who have a telephone, like the dark,
# hear instead of seeing, or let no page run anything.

from __future__ import annotations

import asyncio
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import aiohttp
import pytest

from indexer.report import Silent
from server.indexing import index_all
from tests.conftest import Serve, Served
from tests.status.chromium import PROGRAM, Browser, browser
from tests.status.scene import repository, troubles, week

pytestmark = pytest.mark.skipif(
    PROGRAM is None and "CI" not in os.environ,
    reason="chromium is not installed; on Debian: apt-get install chromium",
)

T = TypeVar("T")

# Nobody listens there.
MIRROR = f"http://127.0.0.1:1/{'a-long-path-' * 12}"
WIDTHS = (320, 360, 768, 1280)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One for all tests of this file: it takes a second to start."""
    with browser() as found:
        yield found


async def scene(serve: Serve, tmp_path: Path) -> Served:
    """A server with traffic, bundles, warnings, and names that do not want to fit."""
    root = tmp_path / "repos"
    repository(root / f"group/{'a-very-long-name-' * 8}.git", 1000)
    mirrors = [{"name": f"{'mirror-' * 6}near", "url": MIRROR, "regions": ["eu-*", "us-east-1"]}]
    targets = [{"type": "self", "regions": [f"region-{n}-*" for n in range(9)], "weight": 0.25}]
    served = await serve(root, session_mirrors=mirrors, targets=targets)
    async with aiohttp.ClientSession() as session:
        for found in root.rglob("*.git"):
            first = f"{served.url}/{found.relative_to(root)}/info/refs?service=git-upload-pack"
            async with session.get(first) as answer:
                assert answer.status == 200
    await index_all(served.settings, Silent(), gc=False)
    await asyncio.to_thread(week, served.settings.data, step=21_600)
    await asyncio.to_thread(troubles, served.settings.data)
    return served


async def aside(what: Callable[[], T]) -> T:
    """Ask the browser, while the server of this process goes on."""
    return await asyncio.to_thread(what)


async def test_it_fits(serve: Serve, chromium: Browser, tmp_path: Path) -> None:
    """Nothing has to be scrolled to the side, from the smallest telephone on, full or empty."""
    (tmp_path / "nothing").mkdir()
    full = await scene(serve, tmp_path)
    empty = await serve(tmp_path / "nothing", data=tmp_path / "other")
    for served in (full, empty):
        for width in WIDTHS:
            mobile = width < 500
            await aside(lambda w=width, m=mobile: chromium.look(w, 740, dark=False, mobile=m))
            await aside(lambda s=served: chromium.open(f"{s.url}/-/?span=week"))
            assert await aside(chromium.content_width) == width, (served.url, width)


async def test_it_needs_nothing_else(serve: Serve, chromium: Browser, tmp_path: Path) -> None:
    """One request makes the page; no script runs, and the browser has nothing to complain of."""
    served = await scene(serve, tmp_path)
    url = f"{served.url}/-/"
    await aside(lambda: chromium.look(1120, 800, dark=False))
    await aside(lambda: chromium.open(url))
    asked = [each for each in chromium.requested if not each.startswith("data:")]
    assert asked == [url]
    assert chromium.complaints == []


async def test_light_and_dark(serve: Serve, chromium: Browser, tmp_path: Path) -> None:
    """Who likes the dark gets a dark page, everybody else a light one."""
    served = await serve(tmp_path)

    def paper(*, dark: bool) -> bytes:
        chromium.look(360, 300, dark=dark)
        chromium.open(f"{served.url}/-/")
        return first_pixel(chromium.screenshot())

    assert max(await aside(lambda: paper(dark=True))) < 40
    assert min(await aside(lambda: paper(dark=False))) > 240


def first_pixel(picture: bytes) -> bytes:
    """Red, green and blue at the top left of a PNG (W3C PNG, sections 5.3 and 9).

    Whatever the filter of the first line: it has nothing to its left and nothing above.
    """
    data, at = b"", 8
    while at < len(picture):
        length = int.from_bytes(picture[at : at + 4])
        if picture[at + 4 : at + 8] == b"IDAT":
            data += picture[at + 8 : at + 8 + length]
        at += 12 + length
    return zlib.decompress(data)[1:4]


async def test_what_is_heard(serve: Serve, chromium: Browser, tmp_path: Path) -> None:
    """A screen reader finds headings, tables with headers, and words for every picture."""
    served = await scene(serve, tmp_path)
    await aside(lambda: chromium.look(1120, 800, dark=False))
    await aside(lambda: chromium.open(f"{served.url}/-/"))
    spoken = await aside(chromium.spoken)
    headings = [(name, said["level"]) for role, name, said in spoken if role == "heading"]
    assert headings[0] == ("Offramp", 1)
    assert [name for name, level in headings if level == 2] == [
        "Offloaded", "Traffic", "Work saved", "Targets", "Session mirrors",
        "Repositories", "Indexing", "Last warnings and errors",
    ]  # fmt: skip
    pictures = [name for role, name, _ in spoken if role == "image"]
    assert len(pictures) == 5
    assert all(pictures)
    assert "Answers by outcome, last 24 hours" in pictures
    headers = {name for role, name, _ in spoken if role == "columnheader"}
    assert {"answers", "CPU saved", "state", "size", "covers"} <= headers
    assert all(name for role, name, _ in spoken if role in {"link", "table", "navigation"})
