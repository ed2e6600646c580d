# Law of this file: who has several stores is told of each, by its name, what is well in it and what
# is not.

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import boto3
import pytest
from click.testing import CliRunner, Result

from cli.main import offramp as group
from server.checks_control import check_placements
from server.settings import Settings
from stores.base import StoreUnavailable
from stores.entity import Entity
from stores.s3 import S3Store

CONFIG = """\
root = "root"

[[stores]]
name = "eu"
type = "s3"
bucket = "{bucket}"
region = "us-east-1"
endpoint = "{endpoint}"
path_style = true
access_key_id = "AKIATEST"
secret_access_key = "hunter2"
max_attempts = 1

[[placements]]
repositories = ["private/*"]
stores = ["main"]

[[targets]]
type = "s3"
store = "eu"

[[targets]]
type = "self"
"""


def run(*args: str, code: int = 0) -> Result:
    """Run a command with the settings of this directory."""
    result = CliRunner().invoke(group, [*args, "--config", "offramp.toml"])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def bucket(s3_endpoint: str, root: Path, here: Path) -> str:
    """That of the other store, which exists."""
    name = f"bucket-{uuid4().hex}"
    session = boto3.Session(aws_access_key_id="AKIATEST", aws_secret_access_key="hunter2")
    with closing(session.client("s3", region_name="us-east-1", endpoint_url=s3_endpoint)) as client:
        client.create_bucket(Bucket=name)
    write(here, name, s3_endpoint)
    return name


def write(here: Path, bucket: str, endpoint: str) -> None:
    """The settings file."""
    (here / "offramp.toml").write_text(CONFIG.format(bucket=bucket, endpoint=endpoint))


def test_what_follows_from_the_settings(bucket: str, s3_endpoint: str) -> None:
    """Each store, placement and target, and no secret."""
    said = run("config", "check").stdout
    assert f"store      eu: s3 {bucket} at {s3_endpoint}\n" in said
    assert "placement  content of private/* is named from main only\n" in said
    assert "target     s3 (s3), of eu\n" in said
    assert "target     self (self), of main\n" in said
    assert "hunter2" not in said


def test_each_store_is_looked_at(bucket: str) -> None:
    """Written, read and deleted in, and through its targets; only the main one has documents."""
    said = run("doctor", code=1).stdout  # moto checks no signature, which the doctor finds out
    for line in (
        f"ok    store s3 {bucket}: writes, finds and reads",
        f"ok    store s3 {bucket}: deletes",
        "ok    target s3: content comes back, whole and by Range",
        "ok    target self: content comes back, whole and by Range",
    ):
        assert line in said
    assert said.count("conditional writes") == 1
    assert not list(Path().rglob("documents/stores/*"))  # who only looks begins nothing
    assert "warn  placements: 'private/*' matches no repository below" in said


def test_a_store_that_does_not_answer(bucket: str, s3_endpoint: str, here: Path) -> None:
    """The checks go on with the next; so does an index run, which tells of it and fails."""
    write(here, "no-such-bucket", s3_endpoint)
    said = run("doctor", code=1).stdout
    assert "fail  store eu: " in said
    assert "fail  targets of the store eu: " in said
    assert "ok    target self: content comes back" in said
    indexed = run("index", code=1)
    assert "no bundle was looked for in the store eu: " in indexed.stderr
    assert "nothing was collected there: " in indexed.stderr
    assert "group/a.git" in run("bundles").stdout
    write(here, bucket, s3_endpoint)
    assert run("index").stdout.count("published again") == 2
    assert "s3,self" in run("bundles").stdout
    explained = run("explain", "--repo", "group/a.git", "--from", "192.0.2.7", "--accepts", "http")
    assert "target    s3 of eu: " in explained.stdout


def test_a_target_and_a_store_that_refuse_everything(
    bucket: str, s3_endpoint: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is one line at the end and exit code 1, though every bundle was made; so in JSON."""
    cdn = '[[targets]]\ntype = "http"\nname = "cdn"\nbase_url = "http://127.0.0.1:1"\n'
    with (here / "offramp.toml").open("a") as config:
        config.write(cdn)

    async def put(self: S3Store, entity: Entity, path: Path) -> None:
        if "work" in path.parts:  # no probe, and no seal
            raise StoreUnavailable("s3 is full")
        await unharmed(self, entity, path)

    unharmed = S3Store.put
    monkeypatch.setattr(S3Store, "put", put)
    indexed = run("index", code=1)
    assert indexed.stdout.count("made") == 2
    said = indexed.stderr.splitlines()
    store = "the store eu took nothing, tried once; no content is named there: s3 is full"
    target = (
        "nothing came back through the target cdn, tried 4 times; what was tried is not named"
        " there: no connection: connection refused; `offramp doctor` looks further"
    )
    assert said.count(f"offramp: {store}") == said.count(f"offramp: {target}") == 1
    told = json.loads(run("index", "--json", code=1).stdout)["faults"]
    assert any(line.startswith("nothing came back through the target cdn") for line in told)
    assert "self" in run("bundles").stdout


def test_patterns_that_fit(root: Path) -> None:
    """As placements are read: in any spelling."""
    for pattern, count in (("GROUP/a", 0), ("group/*.git", 0), ("a.git", 1)):
        placements = [{"repositories": [pattern], "stores": ["main"]}]
        read = Settings.model_validate({"root": root, "placements": placements})
        assert len(list(check_placements(read))) == count


def test_a_store_that_was_emptied(bucket: str, s3_endpoint: str) -> None:
    """Whoever looks says so, and how to begin anew; until then commands that write to it fail."""
    run("index")
    session = boto3.Session(aws_access_key_id="AKIATEST", aws_secret_access_key="hunter2")
    with closing(session.client("s3", region_name="us-east-1", endpoint_url=s3_endpoint)) as client:
        for found in client.list_objects_v2(Bucket=bucket)["Contents"]:
            client.delete_object(Bucket=bucket, Key=found["Key"])
    was = f"the store eu (s3 {bucket}) is not the one that it was"
    assert f"fail  {was}" in run("doctor", code=1).stdout
    assert was in run("index", code=1).stderr
    asked = ("explain", "--repo", "group/a.git", "--from", "192.0.2.7", "--accepts", "http")
    assert was in run(*asked).stdout
    purged = run("purge", "group/a.git", "root", code=1)
    assert f"{was}: " in purged.stderr
    assert f"eu (s3 {bucket}) begins anew" in run("stores", "renew", "eu").stdout
    assert run("index").stdout.count("made") == 2
    assert "s3,self" in run("bundles").stdout


@pytest.mark.parametrize(("name", "said"), [("main", "needs no renewing"), ("us", "there are eu")])
def test_what_cannot_be_renewed(bucket: str, name: str, said: str) -> None:
    """Only what stands in the settings can, beside the main store."""
    del bucket
    assert said in run("stores", "renew", name, code=2).stderr
