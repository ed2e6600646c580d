# Law of this file: a promise of the threat model names tests that are there.

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs/threat-model.md").read_text()
NAMES: Final = sorted(set(re.findall(r"`(tests/[^`]*)`", PAGE)))
PROMISES: Final = re.findall(r"^\| (?!it |---)(.*?) \| (.*) \|$", PAGE, re.MULTILINE)
PARTIES: Final = 8


@cache
def _tests(file: str) -> dict[str, str]:
    """The tests of a file, and what each says that it promises."""
    tree = ast.parse((ROOT / file).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    return {node.name: ast.get_docstring(node) or "" for node in found if "test_" in node.name[:5]}


@pytest.mark.parametrize("name", NAMES)
def test_the_test_is_there(name: str) -> None:
    """Each test that is named exists, and states a promise itself."""
    file, _, test = name.partition("::")
    assert _tests(file).get(test), f"{name}: no such test, or it says nothing"


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise[0][:50])
def test_every_promise_is_held(promise: tuple[str, str]) -> None:
    """Each row of each table names a test."""
    assert re.search(r"`tests/\S+::test_\w+`", promise[1])


def test_every_party_has_promises() -> None:
    """Each party's section says what it cannot do."""
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    assert len(sections) == PARTIES
    assert [text.splitlines()[0] for text in sections if "`tests/" not in text] == []
