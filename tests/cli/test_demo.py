# Law of this file: the demo shows what it says, fails when it must, and leaves nothing behind.

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import dropwhile
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import demo
from cli.demo_clones import HEADS, Check, Clone, checks
from cli.demo_page import Page
from cli.demo_programs import Programs, Serving, cpu_seconds, environment
from cli.demo_repository import Example, history
from cli.demo_wire import Wire, wire
from cli.errors import Failed, UserError

Offramp = Callable[..., subprocess.CompletedProcess[str]]

CODE = "from cli.main import main; main()"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.setattr(tempfile, "tempdir", str(directory))  # what this process has looked up
    return directory


def processes_of(directory: Path) -> list[str]:
    """Command lines of the processes that were told of ``directory``."""

    def lines() -> Iterator[str]:
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and process.name != str(os.getpid()):
                try:
                    yield (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                except OSError:
                    continue

    return [line for line in lines() if str(directory) in line]


# --- the whole of it -----------------------------------------------------------------------


def test_demo_keeps_its_promises(offramp: Offramp, temporary: Path) -> None:
    """Every check holds, and neither files nor processes are left."""
    finished = offramp("demo", "--json")
    assert finished.returncode == 0, finished.stderr + finished.stdout
    said = json.loads(finished.stdout)
    assert said["ok"]
    assert all(check["ok"] for check in said["checks"])
    assert list(temporary.iterdir()) == []
    assert processes_of(temporary) == []

    clones = {(c["shape"], c["redirected"], c["warm"]): c for c in said["clones"]}
    assert len(clones) == 8
    for shape in ("full", "--depth=1"):
        for warm in (False, True):
            inline, redirected = clones[shape, False, warm], clones[shape, True, warm]
            assert redirected["content"] == inline["content"]
            assert redirected["sent"] < HEADS < inline["sent"]
            assert inline["stored"] < HEADS < redirected["stored"]
    shown = said["page"]
    assert shown["share"] > 0.99
    assert (shown["answers"], shown["runs"]) == (4, 1)
    # Each would have cost what the one that was needed did.
    assert shown["saved_cpu"] == pytest.approx(3 * shown["cpu"])
    assert shown["targets"] == {"cdn": "up"}


def test_kept_directory_works_on(offramp: Offramp, temporary: Path) -> None:
    """What `--keep` leaves can be served and looked at by the printed lines; so can the page."""
    finished = offramp("demo", "--keep")
    assert finished.returncode == 0, finished.stderr + finished.stdout
    (kept,) = (path for path in temporary.iterdir() if path.is_dir())
    assert str(kept) in finished.stdout
    (saved,) = temporary.glob("offramp-demo-*.html")
    assert finished.stdout.splitlines()[-1] == saved.as_uri()
    shows_all(saved)
    assert processes_of(temporary) == []
    bundles = json.loads(offramp("bundles", "--json", "--config", f"{kept}/offramp.toml").stdout)
    assert [bundle["targets"] for bundle in bundles["bundles"]] == [["cdn"], ["cdn"]]


def shows_all(saved: Path) -> None:
    """Assert that a saved page shows what clones were sent elsewhere, and asks no server."""
    text = saved.read_text()
    assert "clients were sent to targets for 99.9\N{NARROW NO-BREAK SPACE}% of" in text
    assert 'href="#main"' in text
    assert 'href="/' not in text
    assert 'src="/' not in text


def test_what_stays_can_be_looked_at(temporary: Path, tmp_path: Path) -> None:
    """With `--stay` the page and the repository are served until Ctrl-C, which ends it well."""
    saved = tmp_path / "new folder/page.html"
    # As below: tests that run in the background must not pass on that Ctrl-C is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        (sys.executable, "-c", CODE, "demo", "--stay", "--page", str(saved)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    assert process.stderr is not None
    said = dropwhile(lambda line: "until Ctrl-C" not in line, process.stderr)
    _, url, _, clones = (next(said).strip() for _ in range(4))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url) as answer:
        assert b"clients were sent to targets for" in answer.read()
    subprocess.run([*clones.split(), tmp_path / "clone"], check=True, env=environment(tmp_path))
    process.send_signal(signal.SIGINT)
    shown, rest = process.communicate()
    assert (process.returncode, rest) == (0, "")
    assert shown.splitlines()[-1] == saved.as_uri()
    shows_all(saved)
    assert list(temporary.iterdir()) == []
    assert processes_of(temporary) == []


async def test_a_server_that_ends_is_not_stayed_for(tmp_path: Path) -> None:
    """A server that ends by itself ends the demo, with what it said."""
    (tmp_path / "offramp.log").write_text("the disk is gone\n")
    ended = asyncio.create_task(asyncio.sleep(0, b""))
    with pytest.raises(Failed, match="ended by itself: the disk is gone"):
        await demo._Demo(tmp_path, quiet=True)._stay(page(), Serving(1, 1, ended))


def test_a_page_that_cannot_be_saved_is_told(tmp_path: Path) -> None:
    """A place where nothing can be written is one line, and which option to use."""
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file: (File exists|Not a directory); name another file"):
        page().save(tmp_path / "file" / "page.html")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_leaves_nothing(temporary: Path, number: int) -> None:
    """Ctrl-C and SIGTERM end its servers too, and remove its directory."""
    # A shell has its background jobs ignore Ctrl-C: tests that run in one must not pass that on.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        (sys.executable, "-c", CODE, "demo"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    assert process.stderr is not None
    for line in process.stderr:
        if "inline" in line:  # the CDN runs, the server is being started
            break
    process.send_signal(number)
    _, rest = process.communicate()
    assert process.returncode == 1
    assert rest.endswith("Aborted!\n")
    assert "Traceback" not in rest
    assert list(temporary.iterdir()) == []
    assert processes_of(temporary) == []


def test_failed_check_is_exit_code_1(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    """A demo that shows something wrong has failed, and says what."""

    async def run(self: demo._Demo) -> demo._Shown:
        example = demo_example(self.directory)
        return demo._Shown(example, [], (clone(),), (Check("all is well", ok=False),), 1, page())

    monkeypatch.setattr(demo._Demo, "run", run)
    result = CliRunner().invoke(demo.command, [])
    assert result.exit_code == 1
    assert "FAIL  all is well" in result.output
    (saved,) = temporary.iterdir()
    assert saved.read_text() == "<p>Nothing</p>"


def page() -> Page:
    """What some status page shows."""
    return Page("http://127.0.0.1:1/-/", None, 0, 0, 0, 0, 0.0, 0.0, 0, {}, b"<p>Nothing</p>")


def demo_example(directory: Path) -> Example:
    """Some repository."""
    return Example(directory, 10, 1000)


def test_without_git_it_says_so(offramp: Offramp, tmp_path: Path) -> None:
    """No git is one line and exit code 2."""
    finished = offramp("demo", PATH=str(tmp_path))
    assert finished.returncode == 2
    assert finished.stderr.startswith("offramp: git is not installed; the demo needs git 2.28")


def test_old_git_is_refused(offramp: Offramp, tmp_path: Path) -> None:
    """A git that follows no packfile-uris is one line and exit code 2."""
    git = tmp_path / "git"
    git.write_text("#!/bin/sh\necho git version 2.20.1\n")
    git.chmod(0o755)
    finished = offramp("demo", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert finished.returncode == 2
    assert "git version 2.20.1 is too old" in finished.stderr


# --- what is judged ------------------------------------------------------------------------


def clone(*, redirected: bool = False, depth: int | None = None) -> Clone:
    """A clone as it must be."""
    return Clone(
        depth=depth,
        redirected=redirected,
        warm=False,
        sent=2000 if redirected else 1_000_000,
        stored=1_000_000 if redirected else 0,
        cpu=0.1,
        seconds=1.0,
        fsck="",
        content="abc",
        objects=10,
    )


GOOD = (clone(), clone(redirected=True))


def failed(*clones: Clone) -> list[str]:
    """What is wrong with them."""
    return [check.what for check in checks(clones, 10) if not check.ok]


def test_good_clones_pass() -> None:
    """Nothing is wrong with clones as they must be."""
    assert failed(*GOOD) == []


@pytest.mark.parametrize(
    ("which", "fault", "said"),
    [
        (0, {"fsck": "missing blob"}, "git fsck finds nothing wrong with any clone"),
        (1, {"content": "xyz"}, "redirected and inline clones have the same objects and refs"),
        (1, {"objects": 9}, "full clones have all 10 objects"),
        (0, {"stored": 1_000_000}, "an inline clone takes less than 16 KiB from the store"),
        (1, {"sent": HEADS}, "for a redirected clone Offramp sends less than 16 KiB"),
        (1, {"stored": 1000}, "the content of a redirected clone comes from the store"),
    ],
)
def test_each_fault_is_found(which: int, fault: dict[str, object], said: str) -> None:
    """Each thing that must be so is looked at."""
    clones = list(GOOD)
    clones[which] = replace(clones[which], **fault)  # type: ignore[arg-type]
    assert failed(*clones) == [said]


# --- its parts -----------------------------------------------------------------------------


def test_example_is_always_the_same() -> None:
    """The example repository is made of the same bytes each time."""
    first, second = (hashlib.sha256(b"".join(history())).hexdigest() for _ in range(2))
    assert first == second


async def test_wire_counts_what_the_server_sends() -> None:
    """Bytes of answers are counted, those of requests are not, and all come through."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b"question"
        writer.write(b"answer" * 1000)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with wire() as relay:
        relay.upstream = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(b"question")
        writer.write_eof()
        assert await reader.read() == b"answer" * 1000
        assert relay.sent == 6000
        writer.close()
        await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def test_wire_to_nowhere_hangs_up() -> None:
    """A server that is gone looks like one that hangs up."""
    async with wire() as relay:
        assert isinstance(relay, Wire)
        relay.upstream = 1
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no proc(5) here")
def test_processor_time_counts_children() -> None:
    """What a child that has ended took is counted."""
    before = cpu_seconds(os.getpid())
    assert before is not None
    subprocess.run([sys.executable, "-c", "sum(range(10_000_000))"], check=True)
    after = cpu_seconds(os.getpid())
    assert after is not None
    assert after > before + 0.02


def test_processor_time_of_nobody_is_unknown() -> None:
    """A process that is gone has no time; that is no error."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert cpu_seconds(process.pid) is None


def test_programs_see_no_foreign_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings for Offramp, git and proxies of whoever runs the demo are not passed on."""
    for name in ("OFFRAMP_LISTEN", "GIT_DIR", "http_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "x")
    seen = environment(tmp_path)
    assert not {"OFFRAMP_LISTEN", "GIT_DIR", "http_proxy", "HTTPS_PROXY"} & set(seen)
    assert seen["HOME"] == str(tmp_path)
    assert seen["PATH"] == os.environ["PATH"]


async def test_failed_program_is_told_in_its_own_words(tmp_path: Path) -> None:
    """A git that fails ends the demo with what it said."""
    with pytest.raises(Failed, match="exit code 128: fatal: not a git repository"):
        await Programs(tmp_path).git("-C", tmp_path, "rev-parse", "HEAD")


async def test_server_that_does_not_start_is_told(tmp_path: Path) -> None:
    """What the server said before it ended is in the message."""
    with pytest.raises(Failed, match=r"did not start: .*no such file"):
        async with Programs(tmp_path).serving(tmp_path / "none.toml", tmp_path / "log"):
            pass
