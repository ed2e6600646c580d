# Law of this file: the command line answers at once, and mistakes are told in one line.

from __future__ import annotations

import importlib.util
import shlex
import subprocess
import sys
from collections.abc import Callable

import click
import pytest
from click.testing import CliRunner

from cli.commands_page import commands
from cli.errors import Failed, UserError, told_plainly
from cli.examples import EXAMPLES
from cli.main import _SUBCOMMANDS
from cli.main import offramp as group
from repos.git.program import GitFailed
from server.wiring import Unusable
from stores.base import StoreUnavailable

Offramp = Callable[..., subprocess.CompletedProcess[str]]

HEAVY = ("aiohttp", "boto3", "botocore", "rich", "pydantic", "structlog", "prometheus_client")


def test_help_imports_nothing_heavy() -> None:
    """`offramp --help` loads none of the libraries that commands need."""
    program = (
        "import sys\nfrom cli.main import offramp\n"
        "try: offramp(['--help'])\nexcept SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert output.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", ["index", "bundles", "config", "doctor", "explain"])
def test_command_files_import_nothing_heavy(name: str) -> None:
    """A command's own help is as fast."""
    program = f"import sys, cli.{name}\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert output.strip() == "[]"


def test_help_lists_every_command() -> None:
    """Every subcommand is listed."""
    output = CliRunner().invoke(group, ["--help"]).output
    for name, summary in _SUBCOMMANDS.items():
        assert f"{name} " in output
        assert summary in output


@pytest.mark.parametrize("name", _SUBCOMMANDS)
def test_each_command_has_help(name: str) -> None:
    """A command that is there says what it does."""
    if importlib.util.find_spec(f"cli.{name}") is None:
        pytest.skip("no such file")
    result = CliRunner().invoke(group, [name, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: offramp {name}")


def test_version(offramp: Offramp) -> None:
    """The version is told in one line."""
    result = offramp("--version")
    assert result.stdout.startswith("offramp ")
    assert len(result.stdout.splitlines()) == 1


def test_unknown_command(offramp: Offramp) -> None:
    """A command that is none is a mistake in usage."""
    result = offramp("clone")
    assert result.returncode == 2
    assert "No such command 'clone'" in result.stderr


@pytest.mark.parametrize(
    ("error", "told", "code"),
    [
        (StoreUnavailable("s3 b: GetObject was refused"), "s3 b: GetObject was refused", 1),
        (GitFailed("upload-pack", 128, "no\nrepository"), "128: no repository", 1),
        (PermissionError(13, "Permission denied", "/data/x"), "/data/x: Permission denied", 1),
        (Unusable("store s3 b: no such region"), "store s3 b: no such region", 2),
    ],
)
def test_told_plainly(error: Exception, told: str, code: int) -> None:
    """What a person can mend becomes one line, and the exit code says whose fault it was."""
    with pytest.raises(UserError) as caught, told_plainly():
        raise error
    assert told in caught.value.format_message()
    assert "\n" not in caught.value.format_message()
    assert caught.value.exit_code == code


def test_bugs_stay_bugs() -> None:
    """What nobody can mend but us keeps its traceback."""
    with pytest.raises(KeyError), told_plainly():
        raise KeyError("x")


def test_names_that_are_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    """A path that is no UTF-8 can be told, too."""
    Failed("/root/\udcff: gone").show()
    assert capsys.readouterr().err == "offramp: /root/\\udcff: gone\n"
    assert issubclass(Failed, click.ClickException)


@pytest.mark.parametrize(
    "context", list(commands(group, "offramp")), ids=lambda context: context.info_name
)
def test_each_command_has_examples(context: click.Context) -> None:
    """Its help ends with lines to paste, each of which the command takes."""
    assert context.info_name is not None
    name = context.info_name.removeprefix("offramp ")
    lines = EXAMPLES[name]
    said = CliRunner().invoke(group, [*name.split(), "--help"]).output
    for line in lines:
        assert f"\n    {line}\n" in f"{said}\n"
        words = shlex.split(line.partition(" > ")[0])
        assert words[: len(name.split()) + 1] == ["offramp", *name.split()]
        context.command.make_context(name, words[len(name.split()) + 1 :]).close()


def test_no_example_is_of_a_command_that_is_not_there() -> None:
    """Whoever removes a command removes its examples."""
    names = {str(context.info_name) for context in commands(group, "offramp")}
    assert {f"offramp {name}" for name in EXAMPLES} == names
