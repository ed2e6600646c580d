# Law of this file: pages are written for a checkout; whatever a site needs otherwise is changed
# here while it is built, and nothing of it is in the pages.

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT: Final = Path(__file__).parents[2]

# Files of the checkout that are pages of the site, too, and by which name.
_PAGES: Final = {"README.md": "overview.md", "CHANGELOG.md": "changelog.md"}

# What follows a fence's language tells our tests what to do with it, and nobody else.
_FENCE: Final = re.compile(r"^```([a-z]+) [a-z-]+$", re.MULTILINE)
_LINK: Final = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies outside docs/."""
    for name, page in _PAGES.items():
        text = _LINK.sub(_from_above, (_ROOT / name).read_text())
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write a page as the site has it."""
    del page, config, files
    return _LINK.sub(_link, _FENCE.sub(r"```\1", markdown))


def _from_above(found: re.Match[str]) -> str:
    """A link of a page that lies above docs/, as one of a page in it would be written."""
    text, link = found[1], found[2]
    if "://" in link or link.startswith("#"):
        return found[0]
    below = link.removeprefix("docs/")
    return f"[{text}]({below if below != link else f'../{link}'})"


def _link(found: re.Match[str]) -> str:
    """A link that leads out of docs/, to a page of the site, or to a file that is only named."""
    text, link = found[1], found[2]
    path, mark, anchor = link.partition("#")
    if not path.startswith("../"):
        return found[0]
    inside = PurePosixPath(path).relative_to("..").as_posix()
    if inside in _PAGES:
        return f"[{text}]({_PAGES[inside]}{mark}{anchor})"
    return f"`{text}`" if "/" in text and "`" not in text else text
