# Law of this file: whatever is written in a settings file in place of what should be, it is told in
# our words, with its place and what to write; never in those of a library.

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cli.complaint_words import PATTERNS
from cli.complaints import complaints
from cli.main import offramp as group
from cli.setting_list import Section, Setting, sections
from cli.toml_faults import toml_fault
from server.settings import Settings, load

FILE: Final = Path("x.toml")

# Words with which pydantic begins or ends what it says; see its list of errors.
THEIRS: Final = re.compile(
    r"(?i)input should|should (have|match)|valid (string|integer|number|boolean|dictionary|tuple)"
    r"|unable to|<class|instance of|field required|pydantic"
)

# What each line says beside what is wrong.
REMEDY: Final = re.compile(r"; |write|must be at|such as|: not set, and it has no default")

BAD: Final = ("~ ~", "", -1, 10**30, 1.5, float("nan"), True, [], [[]], [7], {}, {"~": 1}, ["~ ~"])


def document(setting: Setting, value: object) -> dict[str, Any]:
    """The settings with nothing in them but this one, and the types that lead to it."""
    *above, name = setting.path.removesuffix("[]").split(".")
    inner: dict[str, Any] = {name: value}
    for place, part in reversed(tuple(enumerate(above))):
        if place == 0 and setting.variant:
            inner = {"type": setting.variant, **inner}
        table = part.removesuffix("[]")
        inner = {table: [inner]} if part.endswith("[]") else {table: inner}
    return inner


def told(values: dict[str, Any]) -> tuple[str, ...]:
    """What is said of settings; nothing if they are right."""
    try:
        Settings.model_validate(values)
    except ValidationError as error:
        return complaints(error, FILE, {})
    return ()


@pytest.mark.parametrize("section", sections(), ids=lambda s: f"{s.path} {s.variant}")
def test_no_word_is_a_librarys(section: Section) -> None:
    """Of each setting, a value of every wrong type is told in our words, with what to write."""
    for setting in section.settings:
        lines = [line for value in BAD for line in told(document(setting, value))]
        assert lines, setting.path
        for line in lines:
            assert not THEIRS.search(line), line
            assert REMEDY.search(line), line


def patterns(schema: object) -> Iterator[str]:
    """The patterns that a JSON schema holds."""
    match schema:
        case dict():
            if isinstance(schema.get("pattern"), str):
                yield schema["pattern"]
            for inner in schema.values():
                yield from patterns(inner)
        case list():
            for inner in schema:
                yield from patterns(inner)


def test_every_pattern_has_words() -> None:
    """No setting must match a pattern of which it is not said what to write."""
    assert set(patterns(Settings.model_json_schema())) <= set(PATTERNS)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"workers": "many"}, 'workers = "many": no whole number; write digits alone, such as 1'),
        ({"redirect": {"percentage": 120}}, "= 120: too large; write 100 or less"),
        ({"redirect": {"lifetime": "7d"}}, 'lifetime = "7d": too large; write "6d" or less'),
        ({"redirect": {"lifetime": 0}}, "lifetime = 0: too small; write more than 0"),
        (
            {"redirect": {"min_size": 1.5}},
            '1.5: no size; write whole bytes, or text such as "64KiB"',
        ),
        ({"redirect": {"max_wait": []}}, 'no duration; write seconds, or text such as "10s"'),
        (
            {"redirect": True},
            "redirect: a table is wanted; write [redirect], and its settings below",
        ),
        (
            {"access": {"tokens": ["x"]}},
            "[0]: a table is wanted; write { ... }, with token, sha256",
        ),
        ({"reuse_port": "x"}, '"x": neither true nor false; write one of them, without quotes'),
        ({"data": 5}, "data = 5: no path; write it in quotes"),
    ],
)
def test_words(values: dict[str, Any], line: str) -> None:
    """A fault names what is wanted, in the units in which people write it."""
    assert any(line in each for each in told(values)), told(values)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("bucket", "Bad_Bucket!", "no name of a bucket; write letters, digits"),
        ("region", "x y", "no name of a region; write one such as eu-west-1"),
        ("region", "-eu", "no name of a region"),
    ],
)
def test_what_botocore_would_refuse(key: str, value: str, said: str) -> None:
    """It is told as a fault of the settings, and not when a request is made."""
    store = {"type": "s3", "bucket": "arn:aws:s3:eu-west-1:1:accesspoint/x", key: value}
    (line,) = told({"store": store})
    assert line.startswith(f'x.toml: store.{key} = "{value}": {said}')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('root = "/srv/git', "at its end: text that begins with a quote must end with one"),
        (
            'root = "/srv/git\n',
            "line 1, column 17: text that begins with a quote must end with one",
        ),
        ("\nroot = /srv/git", "line 2, column 8: no value; text stands in quotes"),
        ('data = "a"\ndata = "b"\n', "line 2, column 11: this is set a second time; write it once"),
        ("[log]\n[log]", "a second time"),
        ("[log\nlevel", "line 1, column 5: the name of a table ends with ]"),
        ("[[targets]\n", "the name of a table in a list ends with ]]"),
        ("workers", "at its end: after the name of a setting stands ="),
        ("workers = 1 2", "something follows the value; write one setting on a line"),
        ('regions = ["a" "b"]', "a list ends with ], and a comma stands"),
        ("log = { level = 'x' access = 1 }", "a table in a line ends with }"),
        ('root = "C:\\git"', "a backslash means something in text"),
        ("= 1", "neither a setting (name = value) nor a table ([name])"),
    ],
)
def test_a_file_that_is_no_toml(text: str, said: str) -> None:
    """Line and column are told, and what TOML wants there."""
    with pytest.raises(tomllib.TOMLDecodeError) as caught:
        tomllib.loads(text)
    assert said in toml_fault(caught.value)


@given(st.text("[]{}=,.'\"#\\\n \tab1-"))
def test_no_text_of_a_file_is_shown(text: str) -> None:
    """Whatever is no TOML, there are words for it, and none of the file is in them."""
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said = toml_fault(error)
        assert re.match(r"line \d+, column \d+: \w|at its end: \w", said)
        assert "from here on" not in said


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("missing", "missing: no such directory; ROOT is where your repositories are (root)"),
        ("file", "file: not a directory; ROOT is where your repositories are (root)"),
        ("x" * 300, "file name too long; ROOT must be readable (root)"),
    ],
)
def test_a_root_that_cannot_be_served(here: Path, root: str, said: str) -> None:
    """`config check` says so, unless the settings are for another machine."""
    (here / "file").touch()
    FILE.write_text(f'root = "{root}"\n')
    command = ["config", "check", "--config", str(FILE)]
    done = CliRunner().invoke(group, command)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.endswith(f"{said}\n")
    assert CliRunner().invoke(group, [*command, "--no-files"]).exit_code == 0
    # Nothing is wrong with the settings themselves.
    assert load(FILE).root == Path(root)
