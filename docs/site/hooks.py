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
_PAGES: Final = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}

# What follows a fence's language tells our tests what to do with it, and nobody else.
_FENCE: Final = re.compile(r"^```([a-z]+) [a-z-]+$", re.MULTILINE)
_LINK: Final = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies outside docs/."""
    changelog = (_ROOT / "CHANGELOG.md").read_text()
    # Its links start where it lies, which is above docs/.
    text = changelog.replace("](docs/", "](")
    files.append(File.generated(config, _PAGES["CHANGELOG.md"], content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write a page as the site has it."""
    del page, config, files
    return _LINK.sub(_link, _FENCE.sub(r"```\1", markdown))


def _link(found: re.Match[str]) -> str:
    """A link that leads out of docs/, to a page of the site, or to a file that is only named."""
    text, link = found[1], found[2]
    path, _, _ = link.partition("#")
    if not path.startswith("../"):
        return found[0]
    inside = PurePosixPath(path).relative_to("..").as_posix()
    if inside in _PAGES:
        return f"[{text}]({_PAGES[inside]})"
    return text if "`" in text else f"`{inside}`"
