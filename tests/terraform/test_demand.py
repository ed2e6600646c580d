# Law of this file: CI does not pass because terraform was not there to find what is wrong.

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.terraform.program import TERRAFORM, WITHOUT, demanded

ROOT: Final = TERRAFORM.parent


def run(*words: str, path: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run Python on a machine where ``path`` is all of PATH."""
    kept = {name: value for name, value in os.environ.items() if name not in {"CI", WITHOUT}}
    return subprocess.run(
        (sys.executable, *words),
        env={**kept, **environ, "PATH": str(path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("environ", "exit_code", "said"),
    [
        ({"CI": "true"}, 1, "put Terraform 1.9 or later on PATH. Where that cannot be,"),
        ({"CI": "true", WITHOUT: "1"}, 0, "1 skipped"),
    ],
)
def test_without_terraform_tests_fail_on_ci(
    tmp_path: Path, environ: Mapping[str, str], exit_code: int, said: str
) -> None:
    """Without terraform a test fails on CI and says what to install; told so, it is skipped."""
    test = "tests/terraform/test_terraform.py::test_it_is_formatted"
    # No conftest.py above: what that loads takes longer than all else.
    alone = ("-p", "no:cacheprovider", "--no-header", "--confcutdir=tests/terraform")
    words = ("-m", "pytest", "-q", *alone, test)
    done = run(*words, path=tmp_path, **environ)
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert said in " ".join(done.stdout.split())


def test_ci_looks_before_it_begins(tmp_path: Path) -> None:
    """What .ci/run asks first ends it where there is no terraform, unless told otherwise."""
    words = ("-m", "tests.terraform.program")
    assert f"python3 {' '.join(words)}\n" in (ROOT / ".ci/run").read_text()
    done = run(*words, path=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("NOT CHECKED: terraform is not installed")
    assert run(*words, path=tmp_path, **{WITHOUT: "1"}).returncode == 0


def test_nothing_is_demanded_in_vain() -> None:
    """Nothing fails where nothing is missing, nor on a machine that is not CI's."""
    assert demanded("", {"CI": "true"}) == ""
    assert demanded("terraform is not here", {}) == ""
    assert demanded("terraform is not here", {"CI": ""}) == ""
    assert demanded("terraform is not here", {"CI": "true", WITHOUT: "0"}) != ""
