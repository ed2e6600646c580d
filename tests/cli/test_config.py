# Law of this file: a file is checked before a server needs it, and every setting is described.

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.main import offramp as group
from cli.setting_list import Section, Setting, sections
from cli.settings_page import page

Offramp = Callable[..., subprocess.CompletedProcess[str]]

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"


def test_page_is_up_to_date() -> None:
    """docs/settings.md is what `offramp config docs` prints."""
    assert DOCS.read_text() == page(), "run: offramp config docs > docs/settings.md"
    assert CliRunner().invoke(group, ["config", "docs"]).output == page()


@pytest.mark.parametrize(
    "setting", [s for section in sections() for s in section.settings], ids=lambda s: s.path
)
def test_every_setting_is_described(setting: Setting) -> None:
    """A setting has a meaning, which is a sentence."""
    assert setting.meaning.endswith(".")


@pytest.mark.parametrize("section", sections(), ids=lambda s: f"{s.path} {s.variant}")
def test_every_section_is_described(section: Section) -> None:
    """So has a section."""
    assert section.meaning.endswith(".")


def test_settings_are_found() -> None:
    """The walk knows plain settings, those of a variant, those of a list, and secrets."""
    found = {(s.path, s.variant): s for section in sections() for s in section.settings}
    assert found["redirect.min_size", ""].default == '"64KiB"'
    assert found["redirect.lifetime", ""].default == '"6h"'
    assert found["store.bucket", "s3"].default == "required"
    assert found["store.secret_access_key", "s3"].secret
    assert found["targets[].base_url", "http"].default == "required"
    assert found["public_url", ""].default == "-"
    assert ("store.type", "s3") not in found


def test_check(offramp: Offramp, s3_config: Path) -> None:
    """A right file is said to be, with what follows from it and without its secrets."""
    result = offramp("config", "check", "--config", "offramp.toml", OFFRAMP_DTAA="x")
    assert result.returncode == 0
    assert result.stdout.startswith("offramp.toml: ok\n")
    assert "s3 bucket-" in result.stdout
    assert "hunter2" not in result.stdout
    assert "did you mean OFFRAMP_DATA?" in result.stderr


def test_check_without_a_file(offramp: Offramp) -> None:
    """Without a file the defaults and the environment are checked."""
    assert offramp("config", "check").stdout.startswith("defaults and environment: ok\n")


def test_check_tells_all(offramp: Offramp, here: Path) -> None:
    """Every fault is a line."""
    (here / "x.toml").write_text('workerz = 1\n[log]\nlevel = "loud"\n')
    result = offramp("config", "check", "--config", "x.toml")
    assert result.returncode == 2
    assert not result.stdout
    assert [line.split(":")[2] for line in result.stderr.splitlines()] == [
        " workerz",
        ' log.level = "loud"',
    ]


def test_check_says_when_nothing_is_redirected(here: Path) -> None:
    """A server that redirects nothing is worth a word."""
    (here / "x.toml").write_text("[redirect]\nenabled = false\n")
    output = CliRunner().invoke(group, ["config", "check", "--config", "x.toml"]).output
    assert "everything is sent inline" in output


def test_schema() -> None:
    """The schema is JSON and knows the sections."""
    schema = json.loads(CliRunner().invoke(group, ["config", "schema"]).output)
    assert {"redirect", "store", "targets"} <= schema["properties"].keys()
    assert schema["additionalProperties"] is False
