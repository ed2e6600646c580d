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


SIGNED = """\
[[targets]]
type = "secure_link"
name = "cdn"
base_url = "https://cdn.example.org"
keys = [
  { id = "new", file = "cdn.key" },
  { id = "old", secret = "hunter2-hunter2-hunter2-hunter2" },
]
[[targets]]
type = "cloudfront"
base_url = "https://d1.cloudfront.net/git/"
keys = [{ id = "K2JCJMDEHXQW5F", file = "cloudfront.pem" }]
"""


def test_check_shows_what_signs(here: Path) -> None:
    """Of each signed target the keys are confirmed by their ids, the signing one first."""
    (here / "x.toml").write_text(SIGNED)
    args = ["config", "check", "--config", "x.toml", "--no-files"]
    output = CliRunner().invoke(group, args).output
    lines = [line.split(maxsplit=1) for line in output.splitlines()[1:]]
    assert [value for name, value in lines if name == "target"] == [
        "cdn (secure_link) https://cdn.example.org, signed by key new (then old)",
        "cloudfront (cloudfront) https://d1.cloudfront.net/git, signed by key K2JCJMDEHXQW5F",
    ]
    assert "hunter2" not in output


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ("secret", "secrets", "x.toml: targets[0].keys[1].secrets: unknown setting; did you mean"),
        (', file = "cdn.key"', "", "x.toml: targets[0].keys[0]: a key is given either as `secret`"),
        ('"old"', '"new"', "x.toml: targets[0]: two keys have the id 'new'; give each its own"),
        ('"old"', '"a b"', 'x.toml: targets[0].keys[1].id = "a b": write letters, digits'),
        ('{ id = "new", file = "cdn.key" }', '"hunter2"', "x.toml: targets[0].keys[0]: "),
        ('[{ id = "K2', '[{ idd = "K2', "x.toml: targets[1].keys[0].idd: unknown setting; did you"),
        ("https://cdn", "https://me:hunter2@cdn", "x.toml: targets[0].base_url = "),
    ],
)
def test_faults_of_keys(before: str, after: str, line: str, here: Path) -> None:
    """Each fault is a line with its place, and no secret is in it."""
    (here / "x.toml").write_text(SIGNED.replace(before, after))
    result = CliRunner().invoke(group, ["config", "check", "--config", "x.toml"])
    assert result.exit_code == 2
    assert line in result.output
    assert "hunter2" not in result.output


PRIVATE = """\
root = "."
[access]
auth = "token"
tokens = [{ token = "hunter2-hunter2-hunter2", repositories = ["*"] }]
[[upstreams]]
prefix = "/forge/"
url = "https://forge.example.org/"
credential = { password = "hunter2-hunter2-hunter2" }
[[upstreams]]
repository = "one"
url = "https://other.example.org/one.git"
public = true
auth = "none"
"""


def test_check_shows_who_may_read(offramp: Offramp, here: Path) -> None:
    """Upstreams, for whom they are and by whose word are confirmed, and no secret is shown."""
    (here / "x.toml").write_text(PRIVATE)
    result = offramp("config", "check", "--config", "x.toml")
    assert result.returncode == 0, result.stderr
    lines = [line.split(maxsplit=1) for line in result.stdout.splitlines()[1:]]
    assert ["access", "who shows one of access.tokens may read what it opens"] in lines
    assert [value for name, value in lines if name == "upstream"] == [
        "/forge -> https://forge.example.org (private, auth upstream)",
        "/one -> https://other.example.org/one.git (public, auth none)",
    ]
    assert "hunter2" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ('prefix = "/forge/"', "", "x.toml: upstreams[0]: an upstream has either `prefix` or"),
        ("public = true", "publik = true", "x.toml: upstreams[1].publik: unknown setting; did you"),
        ('"/forge/"', '"a//b"', 'x.toml: upstreams[0].prefix = "a//b": no path to serve at'),
        (
            "https://forge",
            "https://me:hunter2@forge",
            'x.toml: upstreams[0].url = "https://***@forge.example.org/": no base URL; write',
        ),
        ("[access]", "[access]\ntokenz = 1", "x.toml: access.tokenz: unknown setting; did you"),
        ('{ token = "hunter2-', '{ toke = "hunter2-', "x.toml: access.tokens[0].toke: unknown"),
        (
            '{ token = "hunter2-hunter2-hunter2"',
            '{ token = "hunter2"',
            "x.toml: access.tokens[0]: ",
        ),
        ('{ token = "', '{ sha256 = "', "x.toml: access.tokens[0]: `sha256` is 64 lower-case hex"),
        ('{ password = "', '{ passwort = "', "x.toml: upstreams[0].credential.passwort: unknown"),
        ('{ password = "', '{ password = "a b ', "x.toml: upstreams[0].credential: the password"),
        ('auth = "token"', 'auth = "none"', "access.tokens are given, and nothing asks for them"),
        ('auth = "none"', 'freshness = "now"', 'x.toml: upstreams[1].freshness = "now": no age;'),
        (
            "[access]",
            '[[targets]]\ntype = "http"\nbase_url = "https://cdn.example.org"\n[access]',
            "repositories below ROOT are private (access.auth = 'token'), and the URLs of target",
        ),
        (
            'prefix = "/forge/"',
            'prefix = "forge"\ntargets = ["cdn"]',
            "upstream 'forge' names the target 'cdn', and there is none of that name; there are",
        ),
    ],
)
def test_check_says_each_fault_plainly(here: Path, before: str, after: str, line: str) -> None:
    """A fault of who may read is one line with its place and remedy, and without any secret."""
    assert before in PRIVATE
    (here / "x.toml").write_text(PRIVATE.replace(before, after, 1))
    result = CliRunner().invoke(group, ["config", "check", "--config", "x.toml"])
    assert result.exit_code == 2
    first, *others = result.stderr.splitlines()
    assert first.startswith(f"offramp: {line}"), first
    assert "hunter2" not in result.output
    # A key that is not known is missing elsewhere, which is a line of its own.
    assert not others or "unknown" in first


def test_sections_of_lists_are_written_as_in_toml() -> None:
    """A table within a list is named as a file would name it."""
    assert "## `[[access.tokens]]`" in page()
    assert "## `[upstreams.credential]`" in page()


def test_schema() -> None:
    """The schema is JSON and knows the sections."""
    schema = json.loads(CliRunner().invoke(group, ["config", "schema"]).output)
    assert {"redirect", "store", "targets"} <= schema["properties"].keys()
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("shadow = true", "decided and counted, but everything is sent inline"),
        (
            'percentage = 5\noff_networks = ["10.0.0.0/8"]\noff_repositories = ["a/*"]',
            "to 5 % of the networks of clients, not to 10.0.0.0/8, not of a/*, by URLs",
        ),
    ],
)
def test_check_says_who_is_redirected(here: Path, lines: str, told: str) -> None:
    """What keeps clients from being redirected is confirmed."""
    (here / "x.toml").write_text(f"[redirect]\n{lines}\n")
    result = CliRunner().invoke(group, ["config", "check", "--config", "x.toml"])
    assert result.exit_code == 0, result.output
    assert told in result.output
