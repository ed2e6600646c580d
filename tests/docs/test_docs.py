# Law of this file: what the documentation says can be done is done here, and what it names exists.
#
# In README.md and docs/, fenced blocks of `toml` are loaded. In README.md, tutorial.md and
# mercurial.md, those of `sh run` are run, in order, in one directory, while that of `sh serve` goes
# on beside them.

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import pytest

from cli.main import offramp
from cli.setting_list import sections
from redirects.decision import Inline, Reason, told
from redirects.health import State
from redirects.sessions import Stay, told_session
from server.metrics import Metrics
from server.outcome import Outcome
from server.settings import load
from tests.hg import versions
from tests.nginx import needed

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"
INDEX: Final = ROOT / "docs/index.md"
MERCURIAL: Final = ROOT / "docs/mercurial.md"
TUTORIAL: Final = ROOT / "docs/tutorial.md"
PAGES: Final = (README, *sorted((ROOT / "docs").glob("*.md")))
OPERATIONS: Final = (ROOT / "docs/operations.md").read_text()

# What the pages' own repositories and address are replaced with.
EXAMPLE_URL: Final = "https://git.example.org/project.git"
EXAMPLE_HG_URL: Final = "https://hg.example.org/project"
EXAMPLE_ADDRESS: Final = "127.0.0.1:8417"

_FENCED: Final = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED: Final = re.compile(r"(?:^ {4}.*\n)+", re.MULTILINE)
_SPAN: Final = re.compile(r"`([^`\n]+)`")
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: Path
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}: {self.text.strip().splitlines()[0]}"


def blocks(*kinds: str) -> list[Block]:
    """The fenced blocks of these kinds, of all pages."""
    return [
        Block(page, found[1], found[2])
        for page in PAGES
        for found in _FENCED.finditer(page.read_text())
        if found[1] in kinds
    ]


def code(page: Path) -> Iterator[str]:
    """Lines of code blocks, and spans of code in the text."""
    text = page.read_text()
    for found in _FENCED.finditer(text):
        yield from found[2].splitlines()
    text = _FENCED.sub("", text)
    for found in _INDENTED.finditer(text):
        yield from found[0].splitlines()
    yield from _SPAN.findall(_INDENTED.sub("\n", text))


def page_name(page: Path) -> str:
    """A page's name."""
    return page.name


# --- commands ------------------------------------------------------------------------------


def commands(page: Path) -> Iterator[str]:
    """What follows the word ``offramp`` on each line of code that calls it."""
    for line in code(page):
        # Behind a pipe, or what comments and redirects, another program's words begin.
        for part in re.split(r"[|&;<>#…]", line):
            found = re.search(r"(?:^|[\s/])offramp\s+([^\s=].*)", part)  # not the setting
            if found:
                yield found[1]


def test_the_pages_call_offramp() -> None:
    """The search for commands finds them."""
    found = set(commands(README))
    assert {"index repos", "serve repos", "bundles", "doctor --config offramp.toml"} <= found


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_and_options_exist(page: Path) -> None:
    """Every subcommand and option that is written down is one."""
    wrong = [text for text in commands(page) if not is_command(text)]
    assert wrong == []


def is_command(text: str) -> bool:
    """Tell whether ``offramp`` followed by ``text`` could be run."""
    command: click.Command = offramp
    context = click.Context(command)
    for word in shlex.split(text):
        if isinstance(command, click.Group) and not word.startswith("-"):
            found = command.get_command(context, word)
            if found is None:
                return False
            command = found
        elif word.startswith("-"):
            names = {
                name
                for parameter in command.get_params(context)
                for name in (*parameter.opts, *parameter.secondary_opts)
            }
            if word.partition("=")[0] not in names | {"--help"}:
                return False
    return command is not offramp or "--" in text


# --- settings ------------------------------------------------------------------------------


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_settings_files_load(block: Block, tmp_path: Path) -> None:
    """Every settings file that is shown can be used as it is."""
    file = tmp_path / "offramp.toml"
    file.write_text(block.text)
    load(file)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_settings_exist(page: Path) -> None:
    """Every setting, and every variable, that is named is one."""
    known = {
        path.replace("[]", "")
        for section in sections()
        for path in (section.path, *(setting.path for setting in section.settings))
    }
    tables = {path.partition(".")[0] for path in known if "." in path}
    variables = {"OFFRAMP_" + path.replace(".", "__").upper() for path in known} | {
        "OFFRAMP_CONFIG",
        "OFFRAMP_",
    }
    text = page.read_text()
    wrong = []
    for span in _SPAN.findall(_FENCED.sub("", text)):
        found = re.fullmatch(r"([a-z_]+)\.([a-z_]+)(?: = .*)?", span)
        if found and found[1] in tables and f"{found[1]}.{found[2]}" not in known:
            wrong.append(span)
    wrong += [name for name in re.findall(r"\bOFFRAMP_[A-Z_]*", text) if name not in variables]
    assert wrong == []


# --- names ---------------------------------------------------------------------------------


def figures() -> Metrics:
    """Every figure that is kept, with some label where it has any."""
    rendered = Metrics()
    rendered.response("r", "d", "c", Outcome.HIT)
    rendered.content("r", "d", "inline", 1)
    rendered.decided(told(Inline(Reason.DISABLED)))
    rendered.executed("r", "d", "c")
    rendered.execution("r", "d", "c", 1.0, 1.0)
    rendered.asked("u", "refs", "yes", 1.0)
    rendered.target("t", State.UP)
    rendered.asked_again("t")
    rendered.session("git", told_session(Stay(Reason.NO_MIRROR)))
    rendered.session_mirror("m", State.UP)
    rendered.refused("rate")
    rendered.condition.waited(Outcome.MISS, 1.0)
    rendered.condition.store_failed("main")("put")
    rendered.condition.bundle("r", "full", 1.0)
    rendered.condition.indexed(1.0, 1.0, {})
    rendered.condition.disk("data", 1, 1)
    return rendered


def metric_names() -> set[str]:
    """Names under which the figures are scraped."""
    body, _ = figures().render()
    samples = re.findall(r"^(offramp_\w+)", body.decode(), re.MULTILINE)
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in samples}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_metrics_exist(page: Path) -> None:
    """Every metric that is named is kept."""
    named = set(re.findall(r"\bofframp_[a-z_]+", page.read_text()))
    assert named <= metric_names()


def test_every_metric_is_documented() -> None:
    """Every metric, and every outcome, is explained in operations.md."""
    missing = [name for name in metric_names() if f"| `{name}` |" not in OPERATIONS]
    missing += [outcome for outcome in Outcome if f"| `{outcome}` |" not in OPERATIONS]
    assert missing == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=page_name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link to a file of ours leads to it, and every anchor to a heading."""
    broken = []
    for link in _LINK.findall(page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """What can follow ``#``: headings in lower case, with dashes, and without punctuation."""
    headings = re.findall(r"^#+ (.*)$", _FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_found() -> None:
    """Whoever reads the README finds docs/index.md, and whoever reads that, every other page."""
    assert "docs/index.md" in _LINK.findall(README.read_text())
    linked = {link.partition("#")[0] for link in _LINK.findall(INDEX.read_text())}
    unlinked = [page.name for page in PAGES if page not in {README, INDEX}]
    assert [name for name in unlinked if name not in linked] == []


# --- what is run ---------------------------------------------------------------------------


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Somebody's repository, large enough to be redirected."""
    path = tmp_path / "project"
    git = ("git", "-C", str(path))
    subprocess.run(("git", "init", "-q", str(path)), check=True)
    (path / "noise").write_bytes(os.urandom(200_000))
    subprocess.run((*git, "add", "noise"), check=True)
    subprocess.run((*git, "commit", "-qm", "first"), check=True)
    return path


def test_readme_does_as_it_says(project: Path, tmp_path: Path) -> None:
    """The lines of the README, one after another, lead to a redirected clone."""
    done = do(README, {EXAMPLE_URL: str(project)}, tmp_path)
    assert "fetch redirect" in done.log
    assert "GET /-/blobs/" in done.output  # git's own word
    assert re.search(r'offramp_bytes_total\{.*path="redirected"', done.output)
    assert (done.here / "again/noise").read_bytes() == (project / "noise").read_bytes()


def test_tutorial_does_as_it_says(tmp_path: Path) -> None:
    """The lines of tutorial.md lead to a redirected clone, and to figures that show it."""
    done = do(TUTORIAL, {}, tmp_path)
    assert "client_accepts_none" in done.log
    assert "fetch redirect self" in done.log
    one, two = (done.here / clone / "noise" for clone in ("as-always", "redirected"))
    assert one.read_bytes() == two.read_bytes()
    status = json.loads(done.output[done.output.index('{\n  "at"') :].partition("\n}\n")[0] + "}")
    now, saved = status["shares"][0], status["saved"][0]
    assert 0.4 < now["share"] < 0.6
    assert (saved["answered"], saved["runs"]) == (2, 0)
    runs = re.search(r'offramp_executions_total\{.*command="fetch".*\} (\d)', done.output)
    assert runs is not None
    assert runs[1] == "1"  # for two jobs
    assert re.search(r"target +self: chosen", done.output)


@pytest.mark.parametrize("version", [versions.V2, versions.V1[-1]])
def test_mercurial_does_as_it_says(tmp_path: Path, version: str) -> None:
    """The lines of mercurial.md, with stock hg, lead to clones from a bundle, and by v2."""
    hg = versions.hg(version)
    (tmp_path / "hg-project").mkdir()
    versions.output(hg, tmp_path, "init", "hg-project")
    noise = os.urandom(100_000)
    (tmp_path / "hg-project/noise").write_bytes(noise)
    versions.output(hg, tmp_path / "hg-project", "commit", "--addremove", "--message", "first")
    path = f"{versions.directory(version)}:{os.environ['PATH']}"
    replaced = {EXAMPLE_HG_URL: str(tmp_path / "hg-project")}
    done = do(MERCURIAL, replaced, tmp_path, PATH=path, HGRCPATH="")
    assert re.search(r"hg index +made", done.output)
    assert re.search(r"applying clone bundle from http://.*/-/blobs/", done.output)
    assert "BUNDLESPEC=zstd-v2" in done.output
    assert "capabilities hit" in done.log
    assert "passthrough" not in done.log  # no hg serve was needed
    assert re.search(r'offramp_bytes_total\{dialect="hg-v1",path="inline"', done.output)
    for clone in ("project", "by-v2"):
        assert (done.here / clone / "noise").read_bytes() == noise
    if version == versions.V2:
        assert "(remote redirect target self is compatible)" in done.output
        assert "(following redirect to http://" in done.output
        assert re.search(r'offramp_bytes_total\{dialect="hg-v2",path="redirected"', done.output)
    node = versions.output(hg, done.here / "project", "log", "-T", "{node}").decode()
    assert node in done.output.splitlines()[-1]


@dataclass(frozen=True)
class Done:
    """What came of the commands of a page.

    Attributes:
        here: where they were run.
        output: of those that ended.
        log: of the server that went on beside them.
    """

    here: Path
    output: str
    log: str


def do(page: Path, replaced: dict[str, str], tmp_path: Path, **environ: str) -> Done:
    """Run the commands of a page in a new directory.

    Args:
        page: it has one block `sh serve`.
        replaced: words of the page, by what is put in their place; the address is, too.
        tmp_path: a directory of the test.
        environ: variables that commands see.
    """
    here = tmp_path / "here"
    here.mkdir()
    address = f"127.0.0.1:{free_port()}"
    environ = {**installed(tmp_path / "bin", environ), "OFFRAMP_LISTEN": address}
    output = ""
    server: subprocess.Popen[str] | None = None
    log = tmp_path / "log"
    try:
        for block in [block for block in blocks("sh run", "sh serve") if block.page == page]:
            text = block.text
            for word, real in {**replaced, EXAMPLE_ADDRESS: address}.items():
                text = text.replace(word, real)
            if block.kind == "sh serve":
                server = serving(text, here, environ, log)
            else:
                shell = ("bash", "-euo", "pipefail", "-c", text)
                output += subprocess.run(
                    shell, cwd=here, env=environ, capture_output=True, text=True, check=True
                ).stdout
    finally:
        if server is not None:
            server.terminate()
            server.communicate()
    return Done(here, output, log.read_text())


def installed(programs: Path, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment in which ``offramp`` is a program, made in ``programs``.

    ``environ``: what else is in it.
    """
    environ = {**os.environ, **(environ or {})}
    programs.mkdir()
    entry = programs / "offramp"
    entry.write_text(f"#!{sys.executable}\nfrom cli.main import main\nmain()\n")
    entry.chmod(0o755)
    path = f"{programs}:{environ['PATH']}"
    return {**environ, "PATH": path, "PYTHONPATH": str(ROOT)}


def serving(text: str, here: Path, environ: dict[str, str], log: Path) -> subprocess.Popen[str]:
    """Start the server; it is ready when it has printed a line that clones."""
    with log.open("w") as stderr:
        server = subprocess.Popen(
            shlex.split(text),
            cwd=here,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert server.stdout is not None
    for line in server.stdout:
        if " clone " in line:
            return server
    server.wait()
    raise AssertionError(log.read_text())


@pytest.mark.nginx
@pytest.mark.parametrize("block", blocks("nginx"), ids=str)
def test_nginx_takes_the_configuration(block: Block, tmp_path: Path) -> None:
    """A stock nginx finds nothing wrong with what is written for it."""
    text = re.sub(r"listen \d+( ssl)?;", f"listen 127.0.0.1:{free_port()};", block.text)
    text = text.replace("/var/cache/nginx/", f"{tmp_path}/")
    # A test has no certificate.
    text = re.sub(r"ssl_certificate(_key)? .*;", "", text)
    file = tmp_path / "nginx.conf"
    file.write_text(
        f"pid {tmp_path}/pid;\nerror_log {tmp_path}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{text}}}\n"
    )
    finished = subprocess.run(
        (needed("nginx", "nginx-light"), "-t", "-p", str(tmp_path), "-c", str(file)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert "[warn]" not in finished.stderr
