# Law of this file: the doctor finds what is broken, says how to mend it, and harms nothing.

from __future__ import annotations

import json
import os
import subprocess
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import boto3
import pytest
from click.testing import CliRunner

from cli.main import offramp as group
from repos.git.program import Git
from server.checks_clock import SKEW_FAIL, SKEW_WARN, skew
from server.checks_machine import check_machine
from server.checks_store import RACE_DOCUMENT, check_store
from server.settings import Settings
from server.verdict import Level, Verdict
from stores.base import Store
from stores.faulty import Fail, FaultyStore, Flip, Lose
from stores.memory import MemoryStore

Offramp = Callable[..., subprocess.CompletedProcess[str]]


def levels(output: str) -> list[str]:
    """The first word of each line."""
    return [line.split()[0] for line in output.splitlines()]


async def verdicts(store: Store) -> list[Verdict]:
    """What is found out about a store."""
    return [verdict async for verdict in check_store(store)]


def machine(here: Path, **values: object) -> dict[str, Verdict]:
    """What is found out about this machine, by its first word."""
    read = Settings.model_validate({"root": here, "data": here / "data", **values})
    return {v.what.split()[0].rstrip(":"): v for v in check_machine(read, Git())}


# --- the whole command -------------------------------------------------------------------


def test_all_is_well(offramp: Offramp, root: Path, here: Path) -> None:
    """With a directory store and a repository everything is ok, and the store stays empty."""
    result = offramp("doctor", "root")
    assert result.returncode == 0, result.stdout
    assert set(levels(result.stdout)) <= {"ok", "info"}
    assert "1 repository" in result.stdout
    assert "20 raced, 1 won" in result.stdout
    assert "target self: content comes back" in result.stdout
    assert not result.stderr
    assert not list(here.glob("offramp-data/store/entities/*/*"))


def test_s3(offramp: Offramp, root: Path, s3_config: Path) -> None:
    """With an S3 store its target is read as clients do, and clocks are compared.

    This look-alike takes any signature, and that is found.
    """
    result = offramp("doctor", "root", "--config", "offramp.toml")
    assert result.returncode == 1, result.stdout + result.stderr
    assert levels(result.stdout).count("fail") == 1
    assert "fail  target s3: content comes with an altered signature" in result.stdout
    assert "target s3: content comes back, whole and by Range" in result.stdout
    assert "target s3: clocks agree" in result.stdout
    assert "20 raced, 1 won" in result.stdout
    assert "hunter2" not in result.stdout


@pytest.mark.parametrize(
    ("readable", "code", "said"),
    [
        ("*", 1, "fail  target s3: whoever reaches it can read documents"),
        ("entities/*", 0, "ok    target s3: documents cannot be read through it"),
    ],
)
def test_public_bucket(  # noqa: PLR0917 - fixtures and a table
    offramp: Offramp,
    root: Path,
    s3_config: Path,
    s3_endpoint: str,
    readable: str,
    code: int,
    said: str,
) -> None:
    """A bucket that is public as a whole gives its documents away; a policy keeps them."""
    text = s3_config.read_text()
    bucket = tomllib.loads(text)["store"]["bucket"]
    statement = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{bucket}/{readable}",
    }
    session = boto3.Session(aws_access_key_id="AKIATEST", aws_secret_access_key="hunter2")
    with closing(session.client("s3", region_name="us-east-1", endpoint_url=s3_endpoint)) as client:
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        client.put_bucket_policy(Bucket=bucket, Policy=policy)
    s3_config.write_text(text + '[[targets]]\ntype = "s3"\npublic = true\n')
    result = offramp("doctor", "root", "--config", "offramp.toml")
    assert said in result.stdout
    assert result.returncode == code


def test_again(offramp: Offramp, root: Path, s3_config: Path) -> None:
    """The document that a first run left does not disturb the next."""
    for _ in range(2):
        result = offramp("doctor", "root", "--config", "offramp.toml")
        assert "20 raced, 1 won" in result.stdout


def test_the_clock_of_a_store(here: Path, s3_config: Path) -> None:
    """Of S3 behind targets of other kinds, since it checks our own signatures."""
    s3_config.write_text(s3_config.read_text() + '[[targets]]\ntype = "self"\n')
    output = CliRunner().invoke(group, ["doctor", "--config", "offramp.toml"]).output
    bucket = tomllib.loads(s3_config.read_text())["store"]["bucket"]
    assert f"ok    store s3 {bucket}: clocks agree" in output


def test_bucket_out_of_reach(offramp: Offramp, root: Path, here: Path) -> None:
    """A bucket that cannot be reached is one failed line, with what to look at."""
    (here / "offramp.toml").write_text(
        '[store]\ntype = "s3"\nbucket = "b"\nregion = "us-east-1"\npath_style = true\n'
        'endpoint = "http://127.0.0.1:9"\nmax_attempts = 1\ntimeout = "2s"\n'
        'access_key_id = "AKIATEST"\nsecret_access_key = "hunter2"\n'
    )
    result = offramp("doctor", "root", "--config", "offramp.toml")
    assert result.returncode == 1
    assert "fail  store: s3 b: HeadObject failed: no connection; look whether" in result.stdout
    assert "  -> check that it runs" in result.stdout
    assert "hunter2" not in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


def test_bucket_that_is_not_there(offramp: Offramp, root: Path, s3_config: Path) -> None:
    """It is said that it must be created."""
    text = s3_config.read_text()
    bucket = tomllib.loads(text)["store"]["bucket"]
    s3_config.write_text(text.replace(bucket, "bucket-of-nobody"))
    result = offramp("doctor", "root", "--config", "offramp.toml")
    assert result.returncode == 1
    assert "NoSuchBucket" in result.stdout
    assert "  -> create the bucket" in result.stdout


def test_json(offramp: Offramp, here: Path) -> None:
    """As JSON, each check has a level, what was seen and a remedy; the exit code is the same."""
    result = offramp("doctor", "missing", "--json")
    assert result.returncode == 1
    checks = json.loads(result.stdout)["checks"]
    (root,) = [check for check in checks if check["what"].startswith("ROOT")]
    assert root["level"] == "fail"
    assert root["what"].endswith("missing: no such directory")
    assert root["remedy"]


def test_store_that_cannot_be_built(here: Path) -> None:
    """Settings that make no store are a failed line, not a traceback."""
    (here / "x.toml").write_text(
        '[store]\ntype = "s3"\nbucket = "b"\nendpoint = "http://a..b"\nregion = "r"\n'
    )
    result = CliRunner().invoke(group, ["doctor", "--config", "x.toml"])
    assert result.exit_code == 1
    assert "fail  store s3 b: " in result.output


# --- stores ------------------------------------------------------------------------------


class Careless(MemoryStore):
    """A store that writes documents whatever its caller expects, as some look-alikes do.

    Args:
        heeds_absence: it does look at ``If-None-Match``, and ignores only ``If-Match``.
        heeds_version: the other way round.
    """

    def __init__(self, *, heeds_absence: bool = False, heeds_version: bool = False) -> None:
        super().__init__()
        self._heeds_absence = heeds_absence
        self._heeds_version = heeds_version

    async def write_document(self, name: str, body: bytes, expect: str | None) -> str:
        """Replace what is there, whichever it is."""
        heeds = self._heeds_absence if expect is None else self._heeds_version
        if not heeds:
            found = await self.read_document(name)
            expect = None if found is None else found.version
        return await super().write_document(name, body, expect)


@pytest.mark.parametrize(
    ("careless", "seen_before", "why"),
    [
        (Careless(), False, "20 of 20 writers of one version won"),
        (Careless(), True, "20 of 20 writers of one version won"),
        (Careless(heeds_absence=True), True, "20 of 20 writers of one version won"),
        (Careless(heeds_version=True), False, "20 of 20 writers of one version won"),
        (Careless(heeds_version=True), True, "was created although it was there"),
    ],
)
async def test_conditions_ignored_in_silence(
    careless: Careless, seen_before: bool, why: str
) -> None:
    """A store that ignores If-None-Match or If-Match in silence is found out."""
    if seen_before:
        await careless.write_document(RACE_DOCUMENT, b"x", None)
    *_, race = await verdicts(careless)
    assert race.level is Level.FAIL
    assert why in race.what
    assert "If-None-Match" in race.remedy


class Late(MemoryStore):
    """A store that lets exactly one racer win, and whoever comes after it."""

    def __init__(self) -> None:
        super().__init__()
        self._writes = 0

    async def write_document(self, name: str, body: bytes, expect: str | None) -> str:
        """Forget the condition after the race."""
        self._writes += 1
        found = await self.read_document(name)
        if expect is not None and found is not None and self._writes > 20:
            expect = found.version
        return await super().write_document(name, body, expect)


async def test_late_writer() -> None:
    """A writer whose version is long gone must lose as well."""
    store = Late()
    await MemoryStore.write_document(store, RACE_DOCUMENT, b"x", None)
    *_, race = await verdicts(store)
    assert race.level is Level.FAIL
    assert "although it had changed" in race.what


@pytest.mark.parametrize("method", ["put", "stat", "open", "delete", "write_document"])
async def test_store_that_fails(method: str) -> None:
    """Whatever fails, it is one failed line with the store's own words, and nothing is left."""
    inner = MemoryStore()
    found = await verdicts(FaultyStore(inner, {method: Fail()}))  # type: ignore[dict-item]
    assert found[-1].level is Level.FAIL
    assert f"{method} fails as the test wants it" in found[-1].what
    if method != "delete":
        assert not [stored async for stored in inner.list()]


async def test_store_that_spoils() -> None:
    """Other bytes than were written are found out."""
    kept, *_ = await verdicts(FaultyStore(MemoryStore(), {"open": Flip(5)}))
    assert kept.level is Level.FAIL
    assert "other bytes came back" in kept.what


async def test_store_that_loses() -> None:
    """So is an entity that does not come back."""
    found = await verdicts(FaultyStore(MemoryStore(), {"open": Lose()}))
    assert found[-1].level is Level.FAIL


class Keeping(MemoryStore):
    """A store that deletes nothing."""

    async def delete(self, digest: str) -> None:
        """Do nothing."""


async def test_store_that_keeps() -> None:
    """A store that deletes nothing grows for ever, which is worth a warning."""
    assert [v.level for v in await verdicts(Keeping())] == [Level.OK, Level.WARN, Level.OK]


# --- targets -----------------------------------------------------------------------------


class _Host(BaseHTTPRequestHandler):
    """A static server that is faulty as the test says."""

    root: Path
    exposes = "entities/"
    elsewhere = 404
    ranges = True
    redirect = False
    ahead = 0.0

    def do_GET(self) -> None:
        path = unquote(self.path.lstrip("/"))
        if not path.startswith(self.exposes) or not (self.root / path).is_file():
            self.send_response(404 if path.startswith("entities/") else self.elsewhere)
            self.send_header("Content-Length", "8")
            self.end_headers()
            self.wfile.write(b"no such\n")
            return
        body = (self.root / path).read_bytes()
        wanted = self.headers.get("Range")
        if self.redirect:
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            body = b""
        elif wanted and self.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            body = body[start:]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        import time  # noqa: PLC0415 - next to its only use

        return formatdate((timestamp or time.time()) + self.ahead, usegmt=True)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - theirs
        pass


@pytest.fixture
def host(here: Path) -> Iterator[tuple[type[_Host], Path]]:
    """A static server in front of the directory store, and a settings file that names it."""

    class Host(_Host):
        root = here / "offramp-data" / "store"

    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    config = here / "offramp.toml"
    config.write_text(
        '[[targets]]\ntype = "http"\nname = "cdn"\n'
        f'base_url = "http://127.0.0.1:{server.server_port}"\n'
    )
    yield Host, config
    server.shutdown()
    thread.join()
    server.server_close()


def doctor(config: Path) -> str:
    """What the doctor says of the targets."""
    output = CliRunner().invoke(group, ["doctor", "--config", str(config)]).output
    return "".join(line + "\n" for line in output.splitlines() if "target" in line)


def test_static_host(host: tuple[type[_Host], Path]) -> None:
    """A static server that does all it must is ok."""
    assert levels(doctor(host[1])) == ["ok", "ok", "ok", "ok"]


def test_host_that_exposes_documents(host: tuple[type[_Host], Path]) -> None:
    """One that gives the whole store away fails, and leaves no probe behind."""
    host[0].exposes = ""
    output = doctor(host[1])
    assert "fail  target cdn: whoever reaches it can read documents" in output
    assert not [path for path in host[0].root.glob("documents/doctor/*") if path.name != "race"]


def test_host_that_exposes_catalogs(host: tuple[type[_Host], Path]) -> None:
    """One that gives catalogs only fails as well; their names hold percent signs."""
    catalogs = host[0].root / "documents/catalogs"
    catalogs.mkdir(parents=True)
    (catalogs / "group%2Fa.git.json").write_text("{}")
    host[0].exposes = "documents/catalogs/"
    assert "fail  target cdn: whoever reaches it can read documents" in doctor(host[1])


def test_host_with_a_page_for_everything(host: tuple[type[_Host], Path]) -> None:
    """A page with status 200 in the place of a document gives nothing away."""
    host[0].elsewhere = 200
    assert levels(doctor(host[1])) == ["ok", "ok", "ok", "ok"]


def test_host_without_range(host: tuple[type[_Host], Path]) -> None:
    """One that ignores Range would end clones that resume."""
    host[0].ranges = False
    assert "fail  target cdn: status 200 where 206 was expected" in doctor(host[1])


def test_host_that_redirects(host: tuple[type[_Host], Path]) -> None:
    """One that redirects would end every clone."""
    host[0].redirect = True
    output = doctor(host[1])
    assert "fail  target cdn: status 302" in output
    assert "  -> " in output


def test_host_with_another_clock(host: tuple[type[_Host], Path]) -> None:
    """A clock that is far off is told, with by how much."""
    host[0].ahead = 3600.0
    assert "fail  target cdn: its clock is 3" in doctor(host[1])
    assert "ahead of ours" in doctor(host[1])


def test_host_that_is_gone(here: Path) -> None:
    """A host that does not answer fails, and nothing else can be told of it."""
    config = here / "x.toml"
    config.write_text('[[targets]]\ntype = "http"\nbase_url = "http://127.0.0.1:9"\n')
    output = doctor(config)
    assert levels(output) == ["fail", "warn"]
    assert "nobody answers, so nothing else was tried" in output


@pytest.mark.parametrize(
    ("seconds", "level"),
    [
        (0.0, Level.OK),
        (SKEW_WARN, Level.OK),
        (SKEW_WARN + 1, Level.WARN),
        (-SKEW_WARN - 1, Level.WARN),
        (SKEW_FAIL + 1, Level.FAIL),
        (-SKEW_FAIL - 1, Level.FAIL),
    ],
)
def test_skew(seconds: float, level: Level) -> None:
    """A minute is worth a warning; what breaks presigned URLs is a failure."""
    assert skew("s3", seconds).level is level
    if level is not Level.OK:
        assert ("behind" in skew("s3", seconds).what) == (seconds < 0)


# --- this machine ------------------------------------------------------------------------


def fake_git(here: Path, script: str) -> Git:
    """A program in the place of git."""
    program = here / "fake-git"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return Git(executable=str(program))


@pytest.mark.parametrize(
    ("said", "level", "words"),
    [
        ("git version 2.24.1", Level.FAIL, "too old"),
        ("git version 2.25.0", Level.WARN, "no packfile-uris"),
        ("git version 2.39.5 (Apple Git-154)", Level.OK, "bundle-uri needs 2.40"),
        ("git version 2.56.0.rc0", Level.OK, "and bundle-uri"),
        ("hello", Level.WARN, "not clear"),
    ],
)
def test_git_versions(here: Path, said: str, level: Level, words: str) -> None:
    """Each version of git is told what it lacks."""
    git = fake_git(here, f"echo '{said}'")
    first = next(iter(check_machine(Settings(data=here / "data"), git)))
    assert first.level is level
    assert words in first.what


def test_no_git(here: Path) -> None:
    """Without git nothing works, and the rest is looked at all the same."""
    git = Git(executable=str(here / "no-git"))
    found = list(check_machine(Settings(root=here, data=here / "data"), git))
    assert found[0].level is Level.FAIL
    assert "install git" in found[0].remedy
    assert len(found) > 2


def test_empty_root(here: Path) -> None:
    """A ROOT without repositories is probably the wrong one."""
    assert machine(here)["ROOT"].level is Level.WARN


def test_root_of_another(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ROOT that we may not read fails."""
    monkeypatch.setattr("os.access", lambda *_: False)
    assert machine(here)["ROOT"].level is Level.FAIL


def test_refused_repository(root: Path, here: Path) -> None:
    """A repository that stock git refuses is told of in git's words."""
    (root / "group" / "a.git" / "config").write_text("[core\n")
    refused = machine(here, root=root)["repository"]
    assert refused.level is Level.FAIL
    assert "group/a.git: git refuses it" in refused.what


def test_data_not_writable(here: Path) -> None:
    """A data directory that cannot be written fails."""
    (here / "data").touch()
    verdict = machine(here)["data"]
    assert verdict.level is Level.FAIL
    assert "--data" in verdict.remedy


def test_broken_key(here: Path) -> None:
    """A key file that cannot be used fails, without its content."""
    (here / "data").mkdir()
    (here / "data" / "secret.key").write_text("hunter2")
    (verdict,) = (v for v in machine(here).values() if "secret.key" in v.what)
    assert verdict.level is Level.FAIL
    assert "hunter2" not in verdict.what


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can give files away")
def test_key_of_another_user(here: Path) -> None:
    """A key that the owner of the data directory may not be able to read is a warning."""
    machine(here)
    os.chown(here / "data" / "secret.key", 12345, -1)
    (verdict,) = (v for v in machine(here).values() if "secret.key" in v.what)
    assert verdict.level is Level.WARN
    assert "belongs to another user" in verdict.what
    assert verdict.remedy.startswith("chown --reference=")


def test_key_that_others_can_read(here: Path) -> None:
    """A key that others can read is a warning."""
    machine(here)
    (here / "data" / "secret.key").chmod(0o644)
    (verdict,) = (v for v in machine(here).values() if "secret.key" in v.what)
    assert verdict.level is Level.WARN
    assert "chmod 600" in verdict.remedy


@pytest.mark.parametrize(
    ("listen", "url", "level"),
    [
        ("127.0.0.1:1", None, Level.OK),
        ("0.0.0.0:1", None, Level.INFO),
        ("0.0.0.0:1", "https://git.example.org", Level.OK),
        ("0.0.0.0:1", "http://git.example.org", Level.WARN),
        ("0.0.0.0:1", "https://localhost", Level.WARN),
        ("127.0.0.1:1", "http://127.0.0.1:1", Level.OK),
    ],
)
def test_public_url(here: Path, listen: str, url: str | None, level: Level) -> None:
    """A public URL that clients cannot use, or should not, is told."""
    assert machine(here, listen=listen, public_url=url)["public_url"].level is level


def set_git(name: str, value: str) -> None:
    """Set something in the user's git settings."""
    subprocess.run(("git", "config", "--global", "--add", name, value), check=True)


def test_unscoped_authorization(here: Path) -> None:
    """An Authorization for all hosts is found, told where, and not shown."""
    assert machine(here)["http.extraHeader"].level is Level.OK
    set_git("http.extraHeader", "X-Other: fine\nor so")
    assert machine(here)["http.extraHeader"].level is Level.OK
    set_git("http.extraHeader", "AUTHORIZATION: basic hunter2")
    verdict = machine(here)["http.extraHeader"]
    assert verdict.level is Level.WARN
    assert ".gitconfig" in verdict.what
    assert "http.https://git.example.org/.extraHeader" in verdict.remedy
    assert "hunter2" not in verdict.what + verdict.remedy


def test_scoped_authorization(here: Path) -> None:
    """An Authorization for one host is right."""
    set_git("http.https://git.example.org/.extraHeader", "Authorization: basic hunter2")
    assert machine(here)["http.extraHeader"].level is Level.OK


def test_uri_protocols(here: Path) -> None:
    """Whether this user's git takes locations is told either way."""
    verdict = machine(here)["fetch.uriProtocols"]
    assert verdict.level is Level.INFO
    assert "git config --global fetch.uriProtocols https,http" in verdict.remedy
    set_git("fetch.uriProtocols", "https")
    assert machine(here)["fetch.uriProtocols"].what == "fetch.uriProtocols: https"
