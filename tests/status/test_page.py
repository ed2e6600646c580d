# Law of this file: the page says what is so, in words for people, and nothing that comes from
# outside becomes part of it.

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from redirects.decision import Reason
from redirects.health import State
from server.quantities import age, count, duration, percent, size
from server.sessions.watch import ComparedRepository
from server.status import page
from server.status.page import COMPARED_SHOWN, HEADERS, REPOSITORIES_SHOWN, cover, part, render
from server.status.pictures import LAYERS
from server.status.places import ShownMirror, ShownTarget
from server.status.progress import Last, Step
from server.status.published import Published, Shelf, Shown
from server.status.report import Report
from server.status.spans import SPANS, Saved, Share
from server.status.troubles import Trouble
from tests.status.test_pictures import NOON, point

EMPTY = Report(
    at=NOON,
    shares=tuple(Share(name, f"last {name}", 0, 0, None) for name in ("now", *SPANS))[:4],
    saved=tuple(Saved(name, f"last {name}", 0, 0, 0, 0, 0, 0, 0) for name in SPANS)[:3],
    span=SPANS["day"],
    points=(),
    targets=(),
    store_down=False,
    indexing=(),
    last_run=None,
    indexes=False,
    shelf=None,
    troubles=(),
)
BUNDLE = Published("full-1", "full", 5 << 20, 100, NOON - 7200, ("cdn",), covered=3, tips=3)
FULL = replace(
    EMPTY,
    shares=(
        Share("now", "last 5 minutes", 0, 0, None),
        Share("hour", "last hour", 950 << 20, 50 << 20, 0.95),
        Share("day", "last 24 hours", 950 << 20, 50 << 20, 0.95),
        Share("week", "last 7 days", 950 << 20, 50 << 20, 0.95),
    ),
    saved=tuple(
        Saved(name, f"last {name}", 100, 4, 96, 10.0, 250.0, 240.0, 7) for name in list(SPANS)[:3]
    ),
    points=(point(0, 1800, redirect=90, miss=10), point(1, 1800, error=3, watched=0.0)),
    targets=(
        ShownTarget("cdn", State.DOWN, False, 200.0, 200.0, "no answer within 4 s", None, 0.0,
            "http",
            regions=("eu-*", "us-1"), weight=0.5),
        ShownTarget("s3", State.UP, True, 90_000.0, 90_000.0, "a probe came back", 0.034, 0.0,
            "s3",
            "copies", priority=2, weight=0.0),
    ),
    mirrors=(
        ShownMirror("near", "https://near", State.SUSPECT, False, 70.0, "status 502", 9.0, 1234,
            ("eu-*",), 1, 2.0, (
                ComparedRepository("git", "a.git", None, 12.0),
                ComparedRepository("git", "b.git", Reason.MIRROR_LACKS, 12.0, "no filter"),
                ComparedRepository("hg", "c", Reason.MIRROR_UNKNOWN, None),
            )),
        ShownMirror("far", "https://far", State.UP, True, 70.0, "", None, 0, priority=2),
    ),
    indexing=(Step(repository="big.git", step="full: writing", done=5, total=10, began=NOON - 60),),
    last_run=Last(
        ended=NOON - 600, seconds=75, outcomes={"made": 2}, failures=(("x", "full", "why"),)
    ),
    indexes=True,
    shelf=Shelf((Shown("a.git", "git", (BUNDLE,)), Shown("b.git", "git")), NOON - 5),
    troubles=(Trouble(at=NOON - 60, level="error", logger="x", process=7, message="it broke"),),
)  # fmt: skip


def words(html: bytes) -> str:
    """What can be read, without markup."""
    text = re.sub(r"<style>.*?</style>|<[^>]*>", " ", html.decode(), flags=re.DOTALL)
    return " ".join(unescape(text).split())


def test_an_empty_page_says_what_to_do() -> None:
    """Where there is nothing yet, the page says how to have something."""
    shelf = Shelf((Shown("a.git", "git"),), NOON)
    said = words(render(replace(EMPTY, shelf=shelf)))
    for sentence in (
        "No content was asked for in the last 7 days.",
        "Clone something from this server",
        "There is no target",
        "No bundles yet: run offramp index , or serve with --index .",
        "This server does not index by itself",
        "None was logged.",
    ):
        assert sentence in said
    assert "No repository is served yet" in words(render(replace(EMPTY, shelf=Shelf((), NOON))))
    assert "being read for the first time" in words(render(EMPTY))


def test_a_full_page() -> None:
    """Every section shows its figures."""
    said = words(render(FULL))
    for sentence in (
        "In the last hour, clients were sent to targets for 95 % of 1000.0 MiB, and 96 runs of a",
        "runs of a program were not needed, about 4.0 min of CPU.",
        "950.0 MiB at targets 50.0 MiB in answers",
        "redirect 90 known, and named elsewhere",
        "last hour 100 4 96 10.0 s 4.0 min",
        "Of 7 of the answers of the last 7 days nothing is known yet",
        "cdn down 3m \N{EN DASH} http, for eu-*, us-1, priority 1, weight 0.5, store main; no",
        "s3 up 1d 34 ms s3, for everywhere, priority 2, weight 0: nobody is sent there, store cop",
        "near suspect 1m 9s ago 1,234 https://near, for eu-*, priority 1, weight 2; status 502",
        "1 of 3 that clients ask for is as fresh as here",
        "a.git: its refs are ours compared 12s ago b.git: no filter compared 12s ago c: not comp",
        "far up 1m \N{EN DASH} 0 https://far, for everywhere, priority 2, weight 1; no client has",
        "a.git git full 5.0 MiB 2h all refs cdn",
        "b.git git no bundle yet: run offramp index , which says why",
        "big.git: full: writing, 5 of 10 (since 1m)",
        "The last run ended 10m ago and took 1.2 min: 2 made.",
        "x, full: why",
        "error · process 7 it broke",
    ):
        assert sentence in said


def test_concerns() -> None:
    """What somebody should look at stands at the top, and in the title."""
    html = render(FULL)
    said = words(html)
    assert b"<title>Not every target is up: cdn." in html
    for sentence in (
        "Not every target is up: cdn.",
        "Not every session mirror is up: near.",
        "1 error in the last hour.",
        "The last run of the index failed for some repositories.",
    ):
        assert sentence in said
    assert EMPTY.concerns() == ()
    assert "everything is sent inline" in replace(FULL, store_down=True).concerns()[0]
    assert "history" in replace(EMPTY, fault="disk").concerns()[0]


def test_every_step_is_in_the_table() -> None:
    """The figures of the picture are there as text, for who does not see it."""
    html = render(FULL).decode()
    table = words(html[html.index("<details>") : html.index("</details>")].encode())
    assert "12:00 90 0 0 10 0 0 0 B 0 B" in table
    drawn = html[html.index('<svg class="chart"') :]
    assert 'role="img"' in drawn[:200]
    assert "redirect 90" in drawn[drawn.index("<desc") : drawn.index("</desc>")]


@pytest.mark.parametrize("evil", ["<script>alert(1)</script>", "\"'><img src=x>", "&amp;{{ 7*7 }}"])
def test_nothing_from_outside_is_markup(evil: str) -> None:
    """Names and messages are shown as they are, wherever they come from."""
    report = replace(
        FULL,
        shelf=Shelf((Shown(evil, "git", (replace(BUNDLE, kind=evil),), evil),), NOON, evil),
        targets=(ShownTarget(evil, State.DOWN, False, 1, 1, evil),),
        mirrors=(
            replace(
                FULL.mirrors[0],
                repositories=(ComparedRepository("git", evil, Reason.MIRROR_LACKS, 1, evil),),
                seen=evil,
            ),
        ),
        indexing=(Step(repository=evil, step=evil, done=1, total=2, began=NOON),),
        last_run=Last(ended=NOON, seconds=1, outcomes={evil: 1}, failures=((evil, evil, evil),)),
        troubles=(Trouble(at=NOON, level="error", logger=evil, process=1, message=evil),),
    )
    html = render(report).decode()
    assert "<script" not in html
    assert "<img" not in html
    assert words(html.encode()).count(evil) >= 13


def test_names_that_are_no_unicode() -> None:
    """A name that is no UTF-8 does not break the page."""
    html = render(replace(FULL, shelf=Shelf((Shown("a\udcff.git", "git"),), NOON)))
    assert b"a\\udcff.git" in html


def test_the_policy_lets_nothing_in() -> None:
    """The page may run nothing, load nothing and be framed by nobody; its style is that one."""
    policy = HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    html = render(FULL).decode()
    assert "style=" not in html
    assert "src=" not in html
    assert set(re.findall(r'href="([^"]+)"', html)) <= {
        "data:,", "#main", "/-/metrics", "/-/api/status", "/-/api/history?span=day",
        "/-/api/repositories", "/-/api/errors", "/-/?span=day&amp;refresh=60",
        *(f"/-/?span={name}#traffic" for name in SPANS),
    }  # fmt: skip


def test_refresh() -> None:
    """The page loads itself anew if that was asked for, and can be told to stop."""
    assert b"http-equiv" not in render(FULL)
    html = render(FULL, refresh=30)
    assert b'<meta http-equiv="refresh" content="30">' in html
    assert b'<a href="/-/?span=day">Stop that</a>' in html
    assert b'href="/-/?span=hour&amp;refresh=30#traffic"' in html


def test_many_repositories() -> None:
    """They come in pages, each of which leads to its neighbours."""
    many = tuple(Shown(f"{n:04}.git", "git") for n in range(2 * REPOSITORIES_SHOWN + 1))
    report = replace(FULL, shelf=Shelf(many, NOON))
    middle = render(report, page=2)
    assert b"0100.git" in middle
    assert b"0099.git" not in middle
    assert "101 to 200 of 201" in words(middle)
    assert b'rel="prev" href="/-/?span=day#repositories"' in middle
    assert b'rel="next" href="/-/?span=day&amp;page=3#repositories"' in middle
    last = part(report.shelf, 99)
    assert (last.page, last.first, last.last, len(last.repositories)) == (3, 201, 201, 1)
    assert part(None, 5).page == 1


def test_many_repositories_at_a_mirror() -> None:
    """The first are shown, and it is said where the others are."""
    many = tuple(
        ComparedRepository("git", f"{n:04}.git", None, 1.0) for n in range(COMPARED_SHOWN + 5)
    )
    html = render(replace(FULL, mirrors=(replace(FULL.mirrors[0], repositories=many),)))
    said = words(html)
    assert "25 of 25 that clients ask for are as fresh as here" in said
    assert "0019.git" in said
    assert "0020.git" not in said
    assert "and 5 more, in the API" in said


def test_cover_in_words() -> None:
    """How much a bundle holds is said in the words of its kind."""
    hg = replace(BUNDLE, covered=None, tips=None)
    assert cover(BUNDLE) == "all refs"
    assert cover(replace(BUNDLE, covered=2)) == "2 of 3 tips"
    assert cover(hg) == "not known here"
    assert cover(replace(hg, behind=0)) == "everything"
    assert cover(replace(hg, behind=1)) == "all but 1 changeset"
    assert cover(replace(hg, behind=2000)) == "all but 2,000 changesets"
    assert cover(replace(hg, withheld=True)).startswith("withheld")


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0, "0"), (1, "100"), (0.001, "<1"), (0.5, "50"), (0.99, "99"), (0.9949, "99.4"),
     (0.999999, "99.9")],
)  # fmt: skip
def test_percent(share: float, shown: str) -> None:
    """Nothing is rounded to all or to nothing."""
    assert percent(share) == shown


def test_quantities() -> None:
    """Sizes, times and numbers have a unit and few digits."""
    assert [size(n) for n in (0, 1023, 1536, 5 << 40)] == ["0 B", "1023 B", "1.5 KiB", "5.0 TiB"]
    assert [age(n) for n in (0, 59, 3600, 200_000)] == ["0s", "59s", "1h", "2d"]
    assert [duration(n) for n in (0, 0.5, 59, 90, 7200, 200_000)] == [
        "0 ms", "500 ms", "59.0 s", "1.5 min", "2.0 h", "2.3 days",
    ]  # fmt: skip
    assert count(1234567.0) == "1,234,567"


# --- contrast ----------------------------------------------------------------------------------

CSS = (Path(page.__file__).parent / "templates/status.css").read_text()


def colours(block: str) -> dict[str, str]:
    """Custom properties of a block of the style."""
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    """Contrast ratio (WCAG 2.2)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("number", [0, 1], ids=["light", "dark"])
def test_contrast(number: int) -> None:
    """Words can be read, light and dark: 4.5 to 1, as WCAG 2.2 (1.4.3) asks for."""
    scheme = colours(CSS.split(":root")[number + 1].split("}")[0])
    for words_of in ("ink", "muted", "accent", "bad", "doubt"):
        for behind in ("paper", "raised"):
            assert contrast(scheme[words_of], scheme[behind]) >= 4.5, (words_of, behind)
    for bar in ("accent", "accent-2", "work", "bad"):
        assert contrast(scheme[bar], scheme["paper"]) >= 3, bar


def test_every_outcome_has_a_colour() -> None:
    """A bar of each kind can be told from the paper."""
    assert all(f".{layer} {{ fill: var(--" in CSS for layer in LAYERS)
