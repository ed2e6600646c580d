# Law of this file: what compose.yaml starts has no more rights than it needs, and works together.

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import boto3
import pytest
import yaml

from server.serving import CLOSE_SECONDS
from server.setting_types import parse_duration
from server.settings import load
from server.settings_limits import LimitSettings
from tests.ministack import running

ROOT: Final = Path(__file__).parents[2]
TEXT: Final = (ROOT / "compose.yaml").read_text()
COMPOSE: Final[dict[str, Any]] = yaml.safe_load(TEXT)
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
OURS: Final = sorted(set(SERVICES) - {"s3"})


@pytest.mark.parametrize("service", OURS)
def test_what_is_ours_is_held_tight(service: str) -> None:
    """No capabilities, no new privileges, and nothing of its own to write to."""
    found = SERVICES[service]
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]


def test_one_that_is_root_does_one_thing() -> None:
    """Root gives a directory away, without a network; nobody else is root."""
    assert [name for name in OURS if SERVICES[name]["user"] == "root"] == ["data"]
    assert SERVICES["data"]["network_mode"] == "none"
    assert SERVICES["data"]["cap_add"] == ["CHOWN"]
    assert not any("cap_add" in SERVICES[name] for name in SERVICES if name != "data")


def test_images_are_pinned() -> None:
    """Every image has a version, and ours is that of the project."""
    images = {found["image"] for found in SERVICES.values()}
    assert all(re.fullmatch(r"[\w./-]+:\d[\w.-]*", image) for image in images)
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert {SERVICES[name]["image"] for name in OURS} == {f"offramp:{version[1]}"}


def test_nobody_else_reaches_them() -> None:
    """Ports are of this machine alone."""
    ports = [port for found in SERVICES.values() for port in found.get("ports", ())]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_offramp_is_not_killed_before_it_ends() -> None:
    """Docker waits longer than a server takes to stop."""
    patience = parse_duration(SERVICES["offramp"]["stop_grace_period"])
    assert isinstance(patience, float)
    assert patience > LimitSettings().stop_time + CLOSE_SECONDS


def test_the_repositories_cannot_be_changed() -> None:
    """They are mounted read-only, and it is said where they are to be named."""
    (volume,) = [each for each in SERVICES["offramp"]["volumes"] if "/repositories" in each]
    assert volume.endswith(":/repositories:ro")
    assert volume.startswith("${REPOSITORIES:?")


def test_what_is_written_to_can_be_written() -> None:
    """Each volume of the Dockerfile is one here, for nothing else can be written to."""
    offramp = SERVICES["offramp"]
    mounted = {each.split(":")[1] for each in offramp["volumes"] if each.startswith("data:")}
    assert mounted | set(offramp["tmpfs"]) == {"/data", "/run/offramp", "/tmp"}  # noqa: S108


def test_no_secret_is_written_here() -> None:
    """Keys come from the environment, and compose stops where there are none."""
    for names in ("bucket", "offramp"):
        keys = {k: v for k, v in SERVICES[names]["environment"].items() if k.startswith("AWS_")}
        assert len(keys) == 2
        assert all(re.match(r"\$\{S3_\w+:\?", value) for value in keys.values())
    identities = json.loads(COMPOSE["configs"]["s3"]["content"])["identities"]
    assert identities[0]["credentials"] == [
        {"accessKey": "${S3_ACCESS_KEY}", "secretKey": "${S3_SECRET_KEY}"}
    ]


def test_offramp_reads_its_settings(tmp_path: Path) -> None:
    """The settings file is a good one, and its store is where the bucket is made."""
    file = tmp_path / "offramp.toml"
    file.write_text(COMPOSE["configs"]["offramp"]["content"])
    store = load(file).store
    assert store.type == "s3"
    (script,) = SERVICES["bucket"]["command"]
    assert f'endpoint_url="{store.endpoint}"' in script
    assert f'create_bucket(Bucket="{store.bucket}")' in script
    assert f'"{store.region}"' in script


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 that checks who asks."""
    with running(tmp_path_factory.mktemp("s3")) as url:
        yield url


def test_the_bucket_is_made_once(s3: str) -> None:
    """The script makes the bucket, and finds nothing wrong with one that is there already."""
    (script,) = SERVICES["bucket"]["command"]
    script = script.replace("http://127.0.0.1:8333", s3)
    environ = {**os.environ, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    for _ in range(2):
        subprocess.run((sys.executable, "-c", script), env=environ, check=True)
    client = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test").client(
        "s3", region_name="us-east-1", endpoint_url=s3
    )
    try:
        assert [bucket["Name"] for bucket in client.list_buckets()["Buckets"]] == ["offramp"]
    finally:
        client.close()
