# Law of this file: the image is small, runs as nobody in particular, and holds what is installed
# from here.

from __future__ import annotations

import subprocess
import sysconfig
import tomllib
from pathlib import Path
from typing import Final

import pytest

from server.serving import CLOSE_SECONDS
from server.settings_limits import LimitSettings
from tests.packaging.dockerfile import faults, instructions

ROOT: Final = Path(__file__).parents[2]
DOCKERFILE: Final = ROOT / "Dockerfile"
TEXT: Final = DOCKERFILE.read_text()
GOOD: Final = """\
FROM python:3.11.1-slim AS build
RUN apt-get update && apt-get install --no-install-recommends git && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir .
FROM build
COPY server server
USER 10001:10001
HEALTHCHECK --interval=30s CMD ["python", "-c", "pass"]
ENTRYPOINT ["offramp"]
CMD ["serve"]
"""


def test_the_dockerfile_breaks_no_rule() -> None:
    """Ours is as it should be, and so is the example that the rules are tried on."""
    assert faults(TEXT) == []
    assert faults(GOOD) == []


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        ("python:3.11.1-slim", "python:latest", "not pinned"),
        ("python:3.11.1-slim", "python", "not pinned"),
        ("python:3.11.1-slim", "python:3", "not pinned"),
        ("COPY server", "ADD https://example.org/x", "use COPY"),
        ("COPY server server", "COPY . /src", "COPY of everything"),
        (" --no-install-recommends", "", "only recommended"),
        (" && rm -rf /var/lib/apt/lists/*", "", "lists of apt"),
        (" --no-cache-dir", "", "pip's cache"),
        ("USER 10001:10001", "", "USER is 'root'"),
        ("USER 10001:10001", "USER 0", "USER is '0'"),
        ("USER 10001:10001", "USER offramp", "USER is 'offramp'"),
        ('ENTRYPOINT ["offramp"]', "ENTRYPOINT offramp", "ENTRYPOINT is run by a shell"),
        ('CMD ["serve"]', "CMD serve", "CMD is run by a shell"),
        ('["python", "-c", "pass"]', "python -c pass", "no HEALTHCHECK"),
        ('["python", "-c", "pass"]', '["curl", "x"]', "neither curl"),
        ("COPY server", "ENV AWS_SECRET_ACCESS_KEY=x\nCOPY server", "holds a secret"),
    ],
)
def test_a_dockerfile_that_breaks_a_rule(was: str, becomes: str, said: str) -> None:
    """Each rule finds what breaks it, and nothing else does."""
    assert was in GOOD
    (fault,) = faults(GOOD.replace(was, becomes, 1))
    assert said in fault


def test_hadolint_finds_nothing() -> None:
    """Nor does hadolint, which comes with what tests need."""
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run((hadolint, DOCKERFILE), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def copied() -> set[str]:
    """What is copied from here."""
    words = [rest.split() for word, rest in instructions(TEXT) if word == "COPY"]
    return {source for each in words if not each[0].startswith("--") for source in each[:-1]}


def test_every_package_is_in_the_image() -> None:
    """A package that pyproject.toml names is copied, and is there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    files = {"constraints.txt", "pyproject.toml", project["project"]["readme"], "LICENSE"}
    assert copied() == files | {package.rstrip("*") for package in packages}
    assert all((ROOT / name).exists() for name in copied())


def test_what_is_copied_is_sent_to_docker() -> None:
    """.dockerignore lets in what the Dockerfile copies, and nothing else."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied()


def test_the_python_is_one_that_offramp_runs_on() -> None:
    """The base's Python is the one that tests and types are checked with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert f"ARG BASE=python:{project['tool']['mypy']['python_version']}." in TEXT


def test_the_user_and_port_are_those_of_terraform() -> None:
    """A task of ECS is that user, and asks that port for its health."""
    settings = (ROOT / "terraform/modules/index-service/settings.tf").read_text()
    service = (ROOT / "terraform/modules/index-service/service.tf").read_text()
    assert "user    = 10001" in settings
    assert "port    = 8417" in settings
    assert "USER 10001:10001" in TEXT
    assert "OFFRAMP_LISTEN=0.0.0.0:8417" in TEXT
    asked = "urlopen('http://127.0.0.1:{}/-/livez', timeout=4)"
    assert asked.format("${local.port}") in service
    assert asked.format(8417) in TEXT


def test_the_comment_tells_how_long_it_takes_to_stop() -> None:
    """The Dockerfile and the module say for how long a stop lasts at most."""
    assert f"{LimitSettings().stop_time + CLOSE_SECONDS:.0f} seconds" in TEXT
    service = (ROOT / "terraform/modules/index-service/service.tf").read_text()
    assert f"within {CLOSE_SECONDS:.0f} seconds after limits.stop_time" in service
