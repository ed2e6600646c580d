# Law of this file: whatever is wrong with the settings is one line that names the place and the
# remedy, with exit code 2 and without a secret.

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.complaints import unknown_variables
from cli.errors import UserError
from cli.options import Given, settings_from, with_root

Offramp = Callable[..., subprocess.CompletedProcess[str]]

S3 = '[store]\ntype = "s3"\nbucket = "b"\n'
HTTP = '[[targets]]\ntype = "http"\n'


_QUOTES = 'text stands in quotes, as in root = "/srv/git"'


def told(text: str | bytes | None, **flags: object) -> str:
    """What is said about a settings file."""
    file = None
    if text is not None:
        file = Path("offramp.toml")
        file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError) as caught:
        settings_from(Given(config=file, **flags))  # type: ignore[arg-type]
    assert caught.value.exit_code == 2
    return caught.value.format_message()


def fault(file: Path) -> str:
    """What is said about a file that may be right."""
    try:
        settings_from(Given(config=file))
    except UserError as error:
        return error.format_message()
    return ""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "[redirect]\nmin_sise = 1",
            "redirect.min_sise: unknown setting; did you mean redirect.min_size?",
        ),
        ("[redirekt]\nmin_size = 1", "redirekt: unknown setting; did you mean redirect?"),
        ("min_size = 1", "min_size: unknown setting; did you mean redirect.min_size?"),
        ("zzz = 1", "zzz: unknown setting; `offramp config schema` lists what there is"),
        (
            "[mirrors]\nx = 1",
            "mirrors.x: unknown setting; there are max_size, unused, idle, interval, fetches",
        ),
        (S3 + "buket = 1", "store.buket: unknown setting; did you mean store.bucket?"),
        (
            HTTP + 'base_url = "http://h"\nbas_url = 1',
            "targets[0].bas_url: unknown setting; did you mean targets[].base_url?",
        ),
        (HTTP, "targets[0].base_url: not set, and it has no default"),
        ('[store]\nbucket = "b"', 'store.type: not set; write one of "directory", "s3"'),
        ('[store]\ntype = "s4"', 'store.type = "s4": write one of "directory", "s3"'),
        (
            '[redirect]\nmin_size = "abc"',
            'redirect.min_size = "abc": no size; write bytes or a number with KiB, MiB, GiB, TiB',
        ),
        ("workers = 0", "workers = 0: too small; write 1 or more"),
        (
            '[log]\nlevel = "loud"',
            'log.level = "loud": write one of "debug", "info", "warning", "error"',
        ),
        ('[git]\npush = ["a", 3]', 'git.push[1] = 3: no text; write it in quotes: "3"'),
        (
            "a = 3\nb = \n",
            f"line 2, column 5: no value; {_QUOTES}, and numbers, true and false without",
        ),
        (b"\xff", "no UTF-8 at byte 0; TOML files are UTF-8"),
    ],
)
def test_one_line(text: str | bytes, line: str) -> None:
    """A fault is told with its file, its place and what to write instead."""
    assert told(text) == f"offramp.toml: {line}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('listen = "x"', "listen 'x' is not HOST:PORT"),
        ('[retention]\nkeep = "1h"', "retention.keep (3600 s) must be at least twice"),
    ],
)
def test_faults_of_several_settings(text: str, words: str) -> None:
    """Settings that do not go together are named by the message itself."""
    assert words in told(text)


def test_the_unknown_key_comes_first() -> None:
    """A misspelt key is told before the key that is missing for it, and the rest is counted."""
    line = told('[store]\ntype = "s3"\nbuket = "b"')
    assert line.startswith("offramp.toml: store.buket: unknown setting")
    assert line.endswith("(and 1 more; `offramp config check` lists them)")


@pytest.mark.parametrize(
    "text",
    [
        S3 + 'access_key_id = "x"\nsecret_access_key = ["hunter2"]',
        S3 + 'secret_access_key = "hunter2"',
        S3 + 'secret_acess_key = "hunter2"',
        S3 + 'session_token = {x = "hunter2"}',
        HTTP + 'base_url = "https://me:hunter2@host"',
        'public_url = "https://me:hunter2@host/"',
        'public_url = "https://hunter2@host/?a=b"',
    ],
)
def test_no_secret_is_told(text: str) -> None:
    """The value of a secret, also of a misspelt one and of a password in a URL, stays unsaid."""
    assert "hunter2" not in told(text)


def test_one_value_where_a_list_is_wanted() -> None:
    """It is said what to write; a list of secrets is not shown."""
    line = told('[hg]\nbundles = "zstd-v2"')
    assert line.endswith('hg.bundles = "zstd-v2": a list is wanted; write ["zstd-v2"]')
    assert told("[git]\npush = true").endswith("a list is wanted; write [...]")
    assert told('upstreams = "hunter2"').endswith(
        ": a list of tables is wanted; write [[upstreams]], and the settings of each below it"
    )


def test_variables_are_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that came from the environment names the variable, not the file."""
    monkeypatch.setenv("OFFRAMP_LOG__LEVEL", "loud")
    assert told("").startswith('OFFRAMP_LOG__LEVEL = "loud": ')
    monkeypatch.delenv("OFFRAMP_LOG__LEVEL")
    monkeypatch.setenv("OFFRAMP_REDIRECT__MIN_SISE", "1")
    assert told(None) == (
        "OFFRAMP_REDIRECT__MIN_SISE: unknown setting; did you mean OFFRAMP_REDIRECT__MIN_SIZE?"
    )
    monkeypatch.delenv("OFFRAMP_REDIRECT__MIN_SISE")
    monkeypatch.setenv("OFFRAMP_TARGETS", "hunter2")
    assert told(None).startswith("OFFRAMP_TARGETS: not JSON")
    assert "hunter2" not in told(None)


def test_variables_that_name_nothing() -> None:
    """A variable that names no setting is told of, with what was probably meant."""
    environ = {"OFFRAMP_DTAA": "", "OFFRAMP_CONFIG": "", "OFFRAMP_LOG__LEVEL": "", "PATH": ""}
    assert list(unknown_variables(environ)) == [
        "OFFRAMP_DTAA: names no setting and is ignored; did you mean OFFRAMP_DATA?"
    ]


@pytest.mark.parametrize(
    ("path", "why"), [("missing.toml", "no such file or directory"), (".", "is a directory")]
)
def test_unreadable_file(path: str, why: str) -> None:
    """A file that cannot be read is told of by name."""
    with pytest.raises(UserError) as caught:
        settings_from(Given(config=Path(path)))
    assert caught.value.format_message() == f"{path}: {why}"


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_any_file(here: Path, content: bytes) -> None:
    """Any file makes settings or one line."""
    file = here / "any.toml"
    file.write_bytes(content)
    assert "\n" not in fault(file)


VALUES = st.recursive(
    st.one_of(st.text("ab{}", max_size=4), st.integers(), st.booleans()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(st.sampled_from(["type", "name", "bucket", "x"]), inner, max_size=3),
    ),
    max_leaves=6,
)
NAMES = st.sampled_from(["store", "targets", "redirect", "git", "workers", "public_url", "x"])


def as_toml(value: object) -> str:
    """A value of TOML."""
    match value:
        case bool():
            return str(value).lower()
        case list():
            return f"[{', '.join(map(as_toml, value))}]"
        case dict():
            return f"{{{', '.join(f'{key} = {as_toml(inner)}' for key, inner in value.items())}}}"
    return repr(value)


@given(st.dictionaries(NAMES, VALUES, max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_any_values(here: Path, values: dict[str, object]) -> None:
    """Any value in any place makes settings or one line."""
    file = here / "any.toml"
    file.write_text("".join(f"{name} = {as_toml(value)}\n" for name, value in values.items()))
    assert "\n" not in fault(file)


def test_flags_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written on the command line wins over the environment."""
    monkeypatch.setenv("OFFRAMP_LISTEN", "127.0.0.1:1")
    given_flags = Given(listen="127.0.0.1:2", data=Path("d"), root=Path("r"))
    read = settings_from(given_flags)
    assert (read.listen, read.data, read.root) == ("127.0.0.1:2", Path("d"), Path("r"))
    assert settings_from(Given()).listen == "127.0.0.1:1"


def test_root(here: Path) -> None:
    """ROOT must be a directory that can be read, and becomes absolute."""
    (here / "repositories").mkdir()
    (here / "file").touch()
    read = with_root(settings_from(Given(root=Path("repositories"))))
    assert read.root == here / "repositories"
    with pytest.raises(UserError, match="missing: no such directory"):
        with_root(settings_from(Given(root=Path("missing"))))
    with pytest.raises(UserError, match="file: not a directory"):
        with_root(settings_from(Given(root=Path("file"))))


def test_unreadable_root(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ROOT that we may not read is told of."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="permission denied"):
        with_root(settings_from(Given(root=here)))


@pytest.mark.parametrize(
    "args",
    [
        ("index", "missing"),
        ("serve", "--listen", "x"),
        ("doctor", "--config", "missing.toml"),
        ("bundles", "--config", "."),
        ("config", "check", "--config", "missing.toml"),
    ],
)
def test_no_traceback(offramp: Offramp, args: tuple[str, ...]) -> None:
    """In a process of its own: one line on standard error, exit code 2."""
    result = offramp(*args)
    assert result.returncode == 2
    assert result.stderr.startswith("offramp: ")
    assert len(result.stderr.splitlines()) == 1
    assert not result.stdout


def test_config_from_the_environment(offramp: Offramp) -> None:
    """OFFRAMP_CONFIG names the file as --config does."""
    assert "missing.toml: no such file" in offramp("doctor", OFFRAMP_CONFIG="missing.toml").stderr
