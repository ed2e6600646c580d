# Law of this file: the settings in examples/ can be used, and the guides show just these.

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner

from cli.main import offramp
from tests.docs.test_docs import Block, blocks

ROOT: Final = Path(__file__).parents[2]
EXAMPLES: Final = sorted((ROOT / "examples").glob("*.toml"))
GUIDES: Final = [block for block in blocks("toml") if block.page.name.startswith("howto-")]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_right(example: Path) -> None:
    """`offramp config check` finds nothing wrong with it, without the keys that it names."""
    command = ["config", "check", "--no-files", "--config", str(example)]
    checked = CliRunner().invoke(offramp, command)
    assert checked.exit_code == 0, checked.output
    assert "warning" not in checked.output


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_a_guide_shows_it(example: Path) -> None:
    """It stands in one guide, to the letter."""
    assert [block.text for block in GUIDES].count(example.read_text()) == 1


@pytest.mark.parametrize("guide", [b for b in GUIDES if "data = " in b.text], ids=str)
def test_whole_settings_of_a_guide_are_an_example(guide: Block) -> None:
    """A guide's whole file of settings can be taken from examples/."""
    assert guide.text in [example.read_text() for example in EXAMPLES]
