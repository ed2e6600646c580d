# Law of this file: keys that would keep a server from starting, or sign what is refused, are found
# without asking anybody, and no secret is in what is said.

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner

from cli.main import offramp as group

GOLDEN: Final = Path(__file__).parents[1] / "redirects" / "golden"
SECRET: Final = "hunter2-hunter2-hunter2-hunter2-hunter2"

SETTINGS: Final = """\
[[targets]]
type = "cloudfront"
name = "one"
base_url = "https://d1.cloudfront.net"
keys = [{ id = "KECDSA", file = "ecdsa.pem" }, { id = "KRSA", file = "rsa.pem" }]
[[targets]]
type = "cloudfront"
name = "two"
base_url = "https://d2.cloudfront.net"
keys = [{ id = "KECDSA", file = "ecdsa.pem" }]
[[targets]]
type = "hmac"
name = "edge"
base_url = "https://edge.example.org"
keys = [{ id = "new", file = "new.secret" }, { id = "old", file = "old.secret" }]
"""


@pytest.fixture
def keys(here: Path) -> Path:
    """All files are there, each as it should be."""
    for kind in ("ecdsa", "rsa"):
        shutil.copy(GOLDEN / f"cloudfront_{kind}.pem", here / f"{kind}.pem")
    (here / "new.secret").write_text(f"{SECRET}\n")
    (here / "old.secret").write_text(f"{SECRET.upper()}\n")
    for path in here.iterdir():
        path.chmod(0o600)
    (here / "x.toml").write_text(SETTINGS)
    return here


def check(*args: str) -> tuple[int, list[str]]:
    """Exit code, and the lines of standard error."""
    done = CliRunner().invoke(group, ["config", "check", "--config", "x.toml", *args])
    assert "hunter2" not in done.output.lower()
    assert "PRIVATE" not in done.stderr or "begins with" in done.stderr
    return done.exit_code, done.stderr.splitlines()


def test_keys_that_are_right(keys: Path) -> None:
    """Nothing is said of them, and no data directory made."""
    assert check() == (0, [])
    assert not (keys / "offramp-data").exists()


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("new.secret", None, "target edge: new.secret cannot be read: No such file or directory"),
        ("new.secret", "hunter2", "target edge: new.secret: key new: a secret has at least 32"),
        ("new.secret", f"{SECRET} {SECRET}", "target edge: new.secret: key new: a secret has"),
        ("rsa.pem", "hunter2", "target one: rsa.pem: key KRSA: no private key in PEM"),
    ],
)
def test_files_that_hold_no_key(keys: Path, file: str, content: str | None, why: str) -> None:
    """One line for each, with the file, and the exit code of settings that are wrong."""
    if content is None:
        (keys / file).unlink()
    else:
        (keys / file).write_text(content)
    status, lines = check()
    assert status == 2
    assert [line.startswith(f"offramp: {why}") for line in lines] == [True]
    assert check("--no-files") == (0, [])


def test_a_file_that_others_may_read(keys: Path) -> None:
    """With what to type."""
    (keys / "old.secret").chmod(0o644)
    status, lines = check()
    assert status == 2
    assert "others may read it (mode 0644); chmod 600 old.secret" in lines[0]


def test_an_id_of_two_key_pairs(keys: Path) -> None:
    """Two files were swapped for one of the targets: CloudFront would refuse what it signs."""
    text = SETTINGS.replace('"ecdsa.pem" }, {', '"x" }, {').replace('"rsa.pem"', '"ecdsa.pem"')
    (keys / "x.toml").write_text(text.replace('"x"', '"rsa.pem"'))
    status, lines = check()
    assert status == 2
    assert any(
        "key KECDSA (target one) and key KECDSA (target two) have one id and are two key pairs"
        in line
        for line in lines
    )


@pytest.mark.parametrize(
    ("before", "after", "noun"),
    [('"rsa.pem"', '"ecdsa.pem"', "key pair"), ('"old.secret"', '"new.secret"', "secret")],
)
def test_one_key_by_two_ids(keys: Path, before: str, after: str, noun: str) -> None:
    """To change to it would change nothing: that is a warning."""
    (keys / "x.toml").write_text(SETTINGS.replace(before, after))
    status, lines = check()
    assert status == 0
    assert lines
    assert all(
        line.startswith("offramp: warning: key ") and f"are the same {noun} by two ids" in line
        for line in lines
    )


def test_what_is_not_of_targets(keys: Path) -> None:
    """A damaged secret.key, and an upstream's credential that is not there."""
    data = keys / "data"
    data.mkdir()
    (data / "secret.key").write_text("hunter2")
    (keys / "x.toml").write_text(
        'data = "data"\n[[upstreams]]\nrepository = "a"\nurl = "https://forge.example.org/a.git"\n'
        'credential = { file = "token" }\n'
    )
    status, (own, upstream) = check()
    assert status == 2
    assert "data/secret.key, line 1: write a key id" in own
    assert "upstream a: credential token: no such file" in upstream


def test_a_secret_key_that_is_not_ours_to_read(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after root has written it anew: it is said whose it must be."""
    data = keys / "data"
    data.mkdir()
    (data / "secret.key").write_text(f"a {'ab' * 32}\n")
    (keys / "x.toml").write_text('root = "."\ndata = "data"\n')
    assert check()[0] == 0
    read = Path.read_text

    def refused(path: Path, *args: str, **more: str) -> str:
        if path.name == "secret.key":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return read(path, *args, **more)

    monkeypatch.setattr(Path, "read_text", refused)  # root may read everything
    status, lines = check()
    assert status == 2
    assert any(
        "data/secret.key cannot be read: Permission denied; give it to" in line for line in lines
    )
    assert "chown --reference=data data/secret.key" in lines[0]


def test_a_socket_of_operators_without_a_directory(keys: Path) -> None:
    """It is a warning, for a service may have its directory while it runs alone."""
    (keys / "x.toml").write_text('root = "."\nadmin.listen = "unix:/nowhere/offramp/s"\n')
    status, (line,) = check()
    assert status == 0
    assert "warning: admin.listen unix:/nowhere/offramp/s: there is no directory" in line
    assert check("--no-files") == (0, [])


# --- signatures that open everything ------------------------------------------------------

PREFIX: Final = """\
root = "."
[[targets]]
type = "cloudfront"
base_url = "https://d1.cloudfront.net"
scope = "prefix"
keys = [{ id = "KRSA", file = "rsa.pem" }]
[access]
"""
TOKEN: Final = '{{ token = "hunter2-hunter2-hunter2-{}", repositories = ["{}"] }}'
PROXIES: Final = 'proxies = ["10.0.0.1"]\n'
PROXY: Final = f'auth = "proxy"\n{PROXIES}'
USERS: Final = """\
users = [{ user = "ann", repositories = ["a"] }, { user = "bob", repositories = ["b"] }]
"""
FORGE: Final = '[[upstreams]]\nprefix = "f"\nurl = "https://forge.example.org"\n'


@pytest.mark.parametrize(
    ("access", "why"),
    [
        (f'auth = "token"\ntokens = [{TOKEN.format(1, "*")}]', None),
        (f'auth = "token"\ntokens = [{TOKEN.format(1, "a/*")}, {TOKEN.format(2, "a/*")}]', None),
        (
            f'auth = "token"\ntokens = [{TOKEN.format(1, "a/*")}, {TOKEN.format(2, "b/*")}]',
            "access.tokens open different repositories",
        ),
        (PROXY, None),
        (
            f"{PROXY}{USERS}",
            "access.users read different repositories",
        ),
        (
            PROXY + FORGE,
            'an upstream says of each caller what it may read (auth = "upstream")',
        ),
        (
            f'auth = "token"\ntokens = [{TOKEN.format(1, "*")}]\n{PROXIES}{FORGE}auth = "proxy"',
            "different rules say who may read (proxy, token)",
        ),
    ],
)
def test_one_signature_among_several_audiences(keys: Path, access: str, why: str | None) -> None:
    """Who may read one repository gets what opens the others' content; that is told."""
    (keys / "x.toml").write_text(PREFIX + access)
    status, lines = check()
    assert status == 0
    if why is None:
        assert lines == []
    else:
        (line,) = lines
        assert line.startswith(f'offramp: warning: target cloudfront: scope = "prefix", and {why}')
        assert 'write scope = "entity"' in line
