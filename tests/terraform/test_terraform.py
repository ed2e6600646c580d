# Law of this file: terraform itself finds nothing wrong, and what it makes is what Offramp reads.

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from tests.terraform.program import TERRAFORM, Terraform

PAGE: Final = TERRAFORM.parent / "docs/deploy-aws.md"

CODE: Final = "from cli.main import main; main()"


def test_it_is_formatted(terraform: Terraform) -> None:
    """``terraform fmt`` would change nothing."""
    done = terraform.run(".", "fmt", "-check", "-recursive", "-diff")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.provider
@pytest.mark.parametrize("module", ["bundle-store", "index-service"])
def test_the_tests_of_a_module(terraform: Terraform, module: str) -> None:
    """What its own tests promise is so, with a provider that makes nothing."""
    place = f"modules/{module}"
    terraform.ready(place)
    terraform.tested(place)


@pytest.mark.provider
@pytest.mark.parametrize("example", ["store-only", "complete"])
def test_an_example(terraform: Terraform, tmp_path: Path, example: str) -> None:
    """It is valid, and the settings that come out are good ones, and those that are documented."""
    place = f"examples/{example}"
    terraform.ready(place)
    valid = json.loads(terraform.run(place, "validate", "-json").stdout)
    assert (valid["valid"], valid["diagnostics"]) == (True, [])
    (state,) = [
        told["test_state"] for told in terraform.tested(place, states=True) if "test_state" in told
    ]
    settings = state["outputs"]["settings_toml"]["value"]
    assert f"```toml\n{settings}```\n" in PAGE.read_text()
    if example == "store-only":
        file = tmp_path / "offramp.toml"
        file.write_text(settings)
    else:
        file = written(state, tmp_path)
        assert file.read_text() == settings
    checked = subprocess.run(
        (sys.executable, "-c", CODE, "config", "check", "--no-files", "--config", str(file)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    assert "cloudfront (cloudfront) https://d111111abcdef8.cloudfront.net" in checked.stdout


def written(state: Any, tmp_path: Path) -> Path:
    """The settings that a task's first container writes, when it is run as it would be there."""
    (task,) = [
        found["values"]
        for module in state["root_module"]["child_modules"]
        for found in module["resources"]
        if found["type"] == "aws_ecs_task_definition"
    ]
    files = json.loads(task["container_definitions"])[0]
    environ = {each["name"]: each["value"] for each in files["environment"]}
    environ |= {each["name"]: f"the secret of {each['valueFrom']}" for each in files["secrets"]}
    (script,) = files["command"]
    for place in ("/run/offramp", "/data"):
        (tmp_path / place[1:]).mkdir(parents=True)
        script = script.replace(place, str(tmp_path / place[1:]))
    subprocess.run(
        (*files["entryPoint"], script), env={**os.environ, **environ}, check=True, cwd=tmp_path
    )
    made = {
        str(path.relative_to(tmp_path)): path
        for folder in ("run", "data")
        for path in (tmp_path / folder).rglob("*")
        if path.is_file()
    }
    assert set(made) == {
        "data/secret.key",
        "run/offramp/cloudfront-2026-1.pem",
        "run/offramp/forge.token",
        "run/offramp/offramp.toml",
    }
    assert {path.stat().st_mode & 0o777 for path in made.values()} == {0o600}
    assert made["run/offramp/forge.token"].read_text().endswith(":secret:forge\n")
    return made["run/offramp/offramp.toml"]
