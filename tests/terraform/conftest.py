# Law of this file: nothing is made, not even in a look-alike of AWS, unless it is asked for by
# `-m apply`.

from __future__ import annotations

from pathlib import Path

import pytest

from tests.terraform.program import Terraform


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what makes something."""
    if "apply" in config.option.markexpr:
        return
    left = [item for item in items if item.get_closest_marker("apply")]
    if left:
        items[:] = [item for item in items if item not in left]
        config.hook.pytest_deselected(items=left)


@pytest.fixture
def terraform(tmp_path: Path) -> Terraform:
    """A copy of ``terraform/`` of the test's own."""
    home = tmp_path / "terraform-home"
    home.mkdir()
    return Terraform.copied(home)
