# Law of this file: whoever reads a module's inputs and outputs knows what they are. Needs no
# terraform.

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from server.serving import CLOSE_SECONDS
from server.settings_limits import LimitSettings
from tests.terraform.program import TERRAFORM

_BLOCK: Final = re.compile(r'^(variable|output) "(\w+)" \{\n(.*?)^\}', re.MULTILINE | re.DOTALL)

PLACES: Final = sorted({file.parent for file in TERRAFORM.glob("*/*/versions.tf")}) + sorted(
    (TERRAFORM / "examples").iterdir()
)


def place_name(place: Path) -> str:
    """Such as ``modules/bundle-store``."""
    return str(place.relative_to(TERRAFORM))


@pytest.mark.parametrize("place", PLACES, ids=place_name)
def test_inputs_and_outputs_are_described(place: Path) -> None:
    """Every variable has a type and a description, every output a description."""
    text = "\n".join(file.read_text() for file in place.glob("*.tf"))
    found = _BLOCK.findall(text)
    assert {kind for kind, _, _ in found} == {"variable", "output"}
    missing = [
        (name, wanted)
        for kind, name, body in found
        for wanted in ("type", "description")[kind == "output" :]
        if not re.search(rf"^  {wanted} +=", body, re.MULTILINE)
    ]
    assert missing == []


@pytest.mark.parametrize("place", PLACES, ids=place_name)
def test_the_provider_has_a_least_version(place: Path) -> None:
    """Every root and module says which provider it needs."""
    text = "\n".join(file.read_text() for file in place.glob("*.tf"))
    assert re.search(r'source\s+= "hashicorp/aws"\n\s+version = ">= 5\.70"', text)


def test_a_task_is_not_killed_before_it_ends() -> None:
    """ECS waits longer than a server takes to stop, and the default is the server's."""
    text = (TERRAFORM / "modules/index-service/service.tf").read_text()
    found = re.search(r"stop_timeout = var\.stop_seconds \+ (\d+)", text)
    assert found is not None
    assert int(found[1]) > CLOSE_SECONDS
    text = (TERRAFORM / "modules/index-service/variables.tf").read_text()
    found = re.search(r'variable "stop_seconds" \{\n.*\n\s+default\s+= (\d+)\n', text)
    assert found is not None
    assert int(found[1]) == LimitSettings().stop_time
