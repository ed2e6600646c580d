# Law of this file: terraform makes what it describes, finds nothing to change afterwards, and takes
# it away again; in a look-alike of AWS, which is as much of it as can be had here.

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.ministack import running
from tests.terraform.program import Terraform

PLACE: Final = "examples/store-only"
SERVICES: Final = ("s3", "cloudfront", "iam", "sts")
# What the look-alike takes from whom it does not know.
KEYS: Final = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}

pytestmark = [
    pytest.mark.apply,
    pytest.mark.timeout(900),
    pytest.mark.provider,
]


@pytest.fixture
def aws(tmp_path: Path) -> Iterator[str]:
    """The base URL of a look-alike."""
    home = tmp_path / "ministack"
    home.mkdir()
    with running(home, ",".join(SERVICES)) as url:
        yield url


def public_key() -> str:
    """A public key as its owner uploads it."""
    made = subprocess.run(
        ("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout"),
        capture_output=True,
        check=True,
    )
    shown = subprocess.run(
        ("openssl", "pkey", "-pubout"), input=made.stdout, capture_output=True, check=True
    )
    return shown.stdout.decode()


def test_a_store_is_made_and_its_key_changed(terraform: Terraform, aws: str) -> None:
    """A second plan finds nothing to do; keys come and go in order; nothing is left behind."""
    endpoints = "\n".join(f'{service} = "{aws}"' for service in SERVICES)
    folder = terraform.home / "terraform" / PLACE
    (folder / "look_alike_override.tf").write_text(
        'provider "aws" {\nskip_credentials_validation = true\nskip_metadata_api_check = true\n'
        "skip_requesting_account_id = true\ns3_use_path_style = true\n"
        f"endpoints {{\n{endpoints}\n}}\n}}\n"
    )
    terraform.ready(PLACE)

    def run(*words: str) -> str:
        done = terraform.run(PLACE, *words, environ=KEYS)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def apply(*keys: tuple[str, str]) -> list[str]:
        """The names of the keys in the settings, the one that signs first."""
        given = [{"name": name, "pem": pem} for name, pem in keys]
        (folder / "terraform.tfvars.json").write_text(
            json.dumps({"region": "us-east-1", "name": "example-offramp", "public_keys": given})
        )
        run("apply", "-no-color", "-auto-approve", "-input=false")
        # 0: there is nothing to change.
        run("plan", "-no-color", "-input=false", "-detailed-exitcode")
        made = json.loads(run("output", "-json"))
        settings = made["settings_toml"]["value"]
        names = [key["name"] for key in made["signing_keys"]["value"]]
        places = [settings.index(f"/cloudfront-{name}.pem") for name in names]
        assert places == sorted(places)
        return names

    old, new = ("2026-1", public_key()), ("2026-2", public_key())
    assert apply(old) == ["2026-1"]
    assert apply(new, old) == ["2026-2", "2026-1"]
    assert apply(new) == ["2026-2"]
    run("destroy", "-no-color", "-auto-approve", "-input=false")
    assert run("state", "list") == ""
