# Law of this file: the site is built as `make docs` does, and whoever reads it asks nobody else.

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted((ROOT / "docs").glob("*.md"))

# By these a page loads something; what `a` names is only followed by who wants to.
_LOADING: Final = {"script": "src", "link": "href", "img": "src", "iframe": "src"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built anew; a warning is an error."""
    built = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        (sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(built)),
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return built


_CODE: Final = frozenset(("code", "pre", "script", "style"))


class _Loaded(HTMLParser):
    """What a page loads, and what its paragraphs show outside of code."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.text = ""
        self._code = 0
        self._paragraph = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        url = said.get(_LOADING.get(tag, ""))
        if url and said.get("rel") not in {"canonical", "next", "prev"}:
            self.urls.append(url)
        self._code += tag in _CODE
        self._paragraph |= tag == "p"

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag in _CODE
        self._paragraph &= tag != "p"

    def handle_data(self, data: str) -> None:
        self.text += data if self._paragraph and not self._code else ""


def _loaded(site: Path) -> Iterator[tuple[str, _Loaded]]:
    for page in sorted(site.glob("*.html")):
        found = _Loaded()
        found.feed(page.read_text())
        yield page.name, found


def test_every_page_is_on_the_site(site: Path) -> None:
    """Links and anchors lead somewhere, and each page of docs/ is in the navigation."""
    built = {page.stem for page in site.glob("*.html")}
    assert built >= {"overview", "changelog", *(page.stem for page in PAGES)}
    shown = (site / "index.html").read_text()
    assert [page.name for page in PAGES if f'href="{page.stem}.html"' not in shown] == []


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """No script, style, font or picture comes from another host."""
    loaded = {url for _, page in _loaded(site) for url in page.urls}
    assert any(url.endswith(".css") for url in loaded)
    assert [url for url in loaded if re.match(r"(\w+:)?//", url)] == []
    styles = "".join(file.read_text() for file in site.rglob("*.css"))
    assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^\s)]*", styles) == []


def test_markdown_is_rendered(site: Path) -> None:
    """What a forge shows as a list, a table or a block of code is one here, too."""
    left = [
        (name, line)
        for name, page in _loaded(site)
        for line in page.text.splitlines()
        if re.match(r"\s*(```|\* |\| |\d\. )|.*\]\(", line)
    ]
    assert left == []
