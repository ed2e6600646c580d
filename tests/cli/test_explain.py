# Law of this file: what is explained is what a server with the same settings does, and the page
# about it shows what is really printed.

from __future__ import annotations

import json
import re
import shlex
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner, Result

from cli.main import offramp as group
from redirects.targets import HttpTarget
from redirects.window import Window

WINDOW: Final = Window(900, 21600)

PAGE: Final = (Path(__file__).parents[2] / "docs/regions.md").read_text()

# The settings of the page, its commands, and what it says that these print.
SETTINGS: Final = re.findall(
    r"^```toml\n# where-clients-are-sent\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
)
SHOWN: Final = re.findall(
    r"^    \$ offramp (explain .*)\n((?:^    (?!\$).*\n)+)", PAGE, re.MULTILINE
)


def offramp(*args: str) -> Result:
    """Run the command line."""
    return CliRunner().invoke(group, args)


class _Handler(SimpleHTTPRequestHandler):
    """A static server that heeds the one kind of Range that a read-back asks for."""

    def do_GET(self) -> None:
        path = Path(self.directory, self.path.partition("?")[0].lstrip("/"))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:])

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's word
        """Say nothing."""


@contextmanager
def file_server(store: Path) -> Iterator[str]:
    """The URL of a static server in front of a directory store."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(store)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def cdns(here: Path, root: Path) -> Iterator[list[str]]:
    """The page's settings in offramp.toml, with file servers for its CDNs; `project` is indexed."""
    (root / "group/a.git").rename(root / "project")
    store = here / "offramp-data/store"
    with ExitStack() as stack:
        text = SETTINGS[0]
        urls = []
        for name in ("eu-1", "eu-2", "us"):
            urls.append(stack.enter_context(file_server(store)))
            text = text.replace(f"https://cdn-{name}.example.org", urls[-1])
        text = f'root = "root"\n{text}\n[redirect]\nmin_size = 0\n'
        (here / "offramp.toml").write_text(text)
        indexed = offramp("index", "--config", "offramp.toml")
        assert indexed.exit_code == 0, indexed.stderr
        yield urls


def told(output: str) -> list[str]:
    """The lines that do not depend on the content."""
    return [line for line in output.splitlines() if line.split()[0] in {"client", "region"}]


def targets(output: str) -> list[str]:
    """What is said of targets."""
    return sorted(line for line in output.splitlines() if line.startswith("target"))


def test_the_page_shows_what_is_printed(cdns: list[str]) -> None:
    """Each command of docs/regions.md prints the lines that stand below it."""
    assert len(SHOWN) == 2
    for command, text in SHOWN:
        shown = "".join(line[4:] for line in text.splitlines(keepends=True))
        done = offramp(*shlex.split(command))
        assert done.exit_code == 0, done.stderr
        assert told(done.stdout) == told(shown)
        if targets(shown):
            assert targets(done.stdout) == targets(shown)


def explained(*args: str) -> dict[str, Any]:
    """As JSON, for who takes both schemes."""
    common = ("--config", "offramp.toml", "--repo", "project", "--accepts", "http,https", "--json")
    done = offramp("explain", *common, *args)
    assert done.exit_code == 0, done.stderr
    assert not done.stderr
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def verdicts(values: dict[str, Any]) -> dict[str, str]:
    """Words by target."""
    return {target["name"]: target["verdict"] for target in values["targets"]}


def test_the_url_is_that_of_the_target(cdns: list[str]) -> None:
    """Of the region by address; equals are told apart by weight; the content is the bundle's."""
    values = explained("--from", "192.0.2.200")
    named = values["redirect"]["target"]
    other = {"eu-1": "eu-2", "eu-2": "eu-1"}[named]
    digest = values["content"]["digest"]
    base_url = cdns[int(named[-1]) - 1]
    assert values["redirect"]["url"] == f"{base_url}/entities/{digest[:2]}/{digest}"
    assert (values["client"]["region"], values["client"]["prefix"]) == ("eu-west-1", "192.0.2.0/24")
    found = verdicts(values)
    assert found.pop(named) == "chosen"
    assert found == {other: "by_weight", "us": "nearer_target", "self": "nearer_target"}


def test_other_content(cdns: list[str], here: Path) -> None:
    """What the catalog names, and what only the store has, which nothing is known of."""
    listed = json.loads(offramp("bundles", "--config", "offramp.toml", "--json").stdout)
    file = listed["bundles"][0]["bundle_file"]
    values = explained("--from", "192.0.2.7", "--entity", file)
    assert values["content"]["title"].startswith("bundle file")
    assert values["redirect"]["target"] == "us"
    unknown = "ab" * 32
    place = here / "offramp-data/store/entities/ab" / unknown
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(b"computed once")
    values = explained("--from", "192.0.2.7", "--entity", unknown)
    assert set(verdicts(values).values()) == {"not_published"}
    assert (values["redirect"], values["inline"]) == (None, "no_target")


def test_a_target_that_is_down_is_told(cdns: list[str], here: Path) -> None:
    """It was read back through it, and a probe does not come now; the next one is named."""
    config = here / "offramp.toml"
    catalog = next((here / "offramp-data/store/documents/catalogs").rglob("project*"))
    gone = "http://127.0.0.1:1"
    config.write_text(config.read_text().replace(cdns[2], gone))
    # Known by its URL: the catalog is made to say that this one gave the bundle back.
    old, new = (HttpTarget("us", url, WINDOW).fingerprint for url in (cdns[2], gone))
    catalog.write_text(catalog.read_text().replace(old, new))
    values = explained("--from", "192.0.2.7")
    assert verdicts(values)["us"] == "down"
    (us,) = [target for target in values["targets"] if target["name"] == "us"]
    assert us["seen"] == "no connection: connection refused"
    assert us["since"] is None
    assert values["redirect"]["target"] == "self"
    assert values["redirect"]["expires"] is not None


def test_what_goes_inline_whatever_the_target(cdns: list[str]) -> None:
    """A client that accepts nothing, and one that accepts none of the schemes that there are."""
    shared = (
        "explain",
        "--config",
        "offramp.toml",
        "--repo",
        "project",
        "--from",
        "2001:db8:20::1",
    )
    nothing = offramp(*shared, "--accepts", "")
    assert "answer    inline: client_accepts_none: " in nothing.stdout
    assert "region    office: 2001:db8:20::/48 is in office (regions.networks)" in nothing.stdout
    tls = offramp(*shared)
    assert tls.stdout.count("protocol_not_accepted") == 4
    assert "inline: no_target" in tls.stdout
    assert "url" not in tls.stdout


@pytest.mark.parametrize(
    ("args", "why", "status"),
    [
        (("--from", "here"), "no IP address", 2),
        (("--from", "192.0.2.7", "--accepts", "ftp"), "neither http nor https", 2),
        (("--from", "192.0.2.7", "--region", "?"), "no name of a region", 2),
        (("--from", "192.0.2.7", "--entity", "abc"), "no SHA-256", 2),
        (("--from", "192.0.2.7", "--entity", "ab" * 32), "nor is it in the store", 1),
        (("--from", "192.0.2.7"), "there is no such repository below ROOT (/", 1),
    ],
)
def test_what_cannot_be_explained(args: tuple[str, ...], why: str, status: int) -> None:
    """One line says what is wrong, and what to do."""
    done = offramp("explain", "--repo", "p", *args)
    assert (done.exit_code, done.stdout) == (status, "")
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_name_may_be_that_of_a_url(cdns: list[str], root: Path) -> None:
    """What a server answers to is taken; what it does not is told, with what is near."""
    (root / "project").rename(root / "project.git")
    common = ("--config", "offramp.toml", "--from", "192.0.2.7", "--accepts", "http")
    published = offramp("index", "--config", "offramp.toml")
    assert published.exit_code == 0, published.stderr
    for name in ("project.git", "project", "/project/", "project/.git"):
        assert offramp("explain", "--repo", name, *common).exit_code == 0
    for name in ("projct", "team/project.git"):
        done = offramp("explain", "--repo", name, *common)
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.endswith("; did you mean project.git?\n")
    # Of a machine that has the store, and no repository.
    (root / "project.git").rename(root.parent / "elsewhere")
    assert offramp("explain", "--repo", "project", *common).exit_code == 0


def entries(directory: Path) -> dict[Path, int]:
    """All that lies there, and when it was changed."""
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*")}


def test_nothing_is_written(cdns: list[str], here: Path) -> None:
    """Data directory and store are as before, and a list of networks is fetched and not kept."""
    listed = here / "offramp-data/store/list.json"
    listed.write_text('{"prefixes": [{"ipv4Prefix": "203.0.113.0/24", "scope": "us-east1"}]}')
    config = here / "offramp.toml"
    config.write_text(
        config.read_text() + f'[[regions.lists]]\nformat = "google"\nurl = "{cdns[0]}/list.json"\n'
    )
    before = entries(here)
    values = explained("--from", "203.0.113.7")
    assert values["client"]["region"] == "us-east1"
    assert entries(here) == before


def test_no_data_directory_is_made(cdns: list[str], here: Path) -> None:
    """Without a secret yet, that is told, and the decision is made all the same."""
    config = here / "offramp.toml"
    text = 'data = "none"\n' + config.read_text()
    config.write_text(text + '[store]\ntype = "directory"\npath = "offramp-data/store"\n')
    shared = ("--config", "offramp.toml", "--repo", "project", "--from", "192.0.2.7")
    done = offramp("explain", *shared, "--accepts", "http")
    assert done.exit_code == 0, done.stderr
    assert "none/secret.key is not there" in done.stderr
    assert "chosen" in done.stdout
    assert not (here / "none").exists()


@pytest.mark.parametrize(
    ("server", "why", "status"),
    [
        ("ftp://user:hunter2@h", "no base URL", 2),
        ("http://127.0.0.1:1", "cannot be asked", 1),
        ("{cdn}", "answers 404", 1),
        ("{cdn}/odd", "no Offramp, or one of another age", 1),
    ],
)
def test_a_server_that_tells_nothing(
    cdns: list[str], here: Path, server: str, why: str, status: int
) -> None:
    """What answers there is no server of ours: one line says so, without a password."""
    odd = here / "offramp-data/store/odd/-/api"
    odd.mkdir(parents=True)
    (odd / "explain").write_text('{"client": {}}')
    url = server.format(cdn=cdns[0])
    done = offramp("explain", "--repo", "p", "--from", "192.0.2.7", "--server", url)
    assert (done.exit_code, done.stdout) == (status, "")
    assert why in done.stderr
    assert "hunter2" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("shadow = true", "shadow"),
        ("percentage = 0", "not_in_percentage"),
        ('off_repositories = ["proj*"]', "off_for_repository"),
        ('off_networks = ["192.0.2.7"]', "off_for_network"),
        ("enabled = false", "disabled"),
    ],
)
def test_who_is_not_redirected_is_told_why(
    cdns: list[str], here: Path, lines: str, reason: str
) -> None:
    """By which setting, and which target it would have been."""
    config = here / "offramp.toml"
    config.write_text(config.read_text() + lines + "\n")
    values = explained("--from", "192.0.2.7")
    assert (values["redirect"], values["inline"]) == (None, reason)
    assert verdicts(values)["us"] == "would_be_chosen"
    assert "chosen" not in verdicts(values).values()
