# Law of this file: nothing is made, not even in a look-alike of AWS, unless it is asked for by
# `-m apply`. Nothing is left out on CI because terraform is not there.

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.terraform.program import NO_PROGRAM, NO_PROVIDER, Terraform, demanded


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what makes something."""
    if "apply" in config.option.markexpr:
        return
    left = [item for item in items if item.get_closest_marker("apply")]
    if left:
        items[:] = [item for item in items if item not in left]
        config.hook.pytest_deselected(items=left)


@pytest.fixture
def terraform(request: pytest.FixtureRequest, tmp_path: Path) -> Terraform:
    """A copy of ``terraform/`` of the test's own.

    A test marked ``provider`` needs that of AWS, too. Where what a test needs is not there it is
    skipped, and on CI it fails.
    """
    missing = NO_PROVIDER if request.node.get_closest_marker("provider") else NO_PROGRAM
    if wrong := demanded(missing, os.environ):
        pytest.fail(wrong)
    if missing:
        pytest.skip(missing)
    home = tmp_path / "terraform-home"
    home.mkdir()
    return Terraform.copied(home)
