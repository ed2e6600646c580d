# Law of this file: what the benchmark measures with is right; how fast anything is, is not asked.

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.cpu import ControlGroup, Meter, Tree, offspring
from benchmarks.load import Request, _posts
from benchmarks.repository import copy, generate
from benchmarks.servers import missing_programs
from benchmarks.table import Figure, Goal, Report, short
from tests.conftest import Git

# Uses this much CPU by its own clock, in a child that the program does not wait for.
_BURN = """
import os, signal, sys, time
if sys.argv[1] == "ignored":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
reader, writer = os.pipe()
if os.fork() == 0:
    while time.process_time() < 0.3:
        pass
    os.close(writer)
    os._exit(0)
os.close(writer)
os.read(reader, 1)
if sys.argv[1] == "waited":
    os.wait()
print("burnt", flush=True)
sys.stdin.read()
"""


def _group(directory: Path) -> Meter:
    group = ControlGroup.make(directory.name)
    if group is None:
        pytest.skip("this process may make no control group")
    return group


def _tree(directory: Path) -> Meter:
    return Tree(directory / "times")


@pytest.mark.parametrize(
    ("make", "children"), [(_group, "waited"), (_group, "ignored"), (_tree, "waited")]
)
def test_children_that_ended_are_counted(
    tmp_path: Path, make: Callable[[Path], Meter], children: str
) -> None:
    """A server's figure holds the time of its ended children, in a group also of unwaited ones."""
    meter = make(tmp_path)
    with subprocess.Popen(
        meter.command((sys.executable, "-c", _BURN, children)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        meter.started(process.pid)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"burnt\n"
        assert meter.seconds() >= 0.28  # ticks of 10 ms, rounded down
        process.stdin.close()
    meter.close()


def test_a_process_that_was_started_is_noticed() -> None:
    """Also one that has ended, and was waited for, since one looked."""
    before = offspring(os.getpid())
    assert offspring(os.getpid()) == before
    subprocess.run(("true",), check=True)
    ended = offspring(os.getpid())
    assert ended != before
    with subprocess.Popen(("cat",), stdin=subprocess.PIPE):
        assert offspring(os.getpid())[0] > ended[0]


def test_the_ledger_is_counted(tmp_path: Path) -> None:
    """What CGI programs wrote down of themselves is part of a tree's figure."""
    ledger = tmp_path / "times"
    ledger.write_text("0m0.010s 0m0.000s\n0m1.250s 1m0.040s\n")
    assert Tree(ledger).seconds() == pytest.approx(61.3)


async def test_generated_repositories_are_whole_and_equal(git: Git, tmp_path: Path) -> None:
    """Equal sizes give equal histories, packed with a bitmap, in which git finds no fault."""
    shape = generate(tmp_path / "one", commits=60)
    again = generate(tmp_path / "two", commits=60)
    # git's threads do not find the same deltas each time.
    assert replace(again, pack_size=shape.pack_size) == shape
    assert shape.commits >= 60
    assert shape.objects > 3 * shape.commits
    assert list((tmp_path / "one/objects/pack").glob("*.bitmap"))
    await git("-C", tmp_path / "one", "fsck", "--strict")
    heads = [
        (await git("-C", tmp_path / name, "rev-parse", "main")).stdout for name in ("one", "two")
    ]
    assert heads[0] == heads[1]


def test_a_copy_has_what_its_source_has(tmp_path: Path) -> None:
    """A repository that is given is copied whole, and packed anew."""
    shape = generate(tmp_path / "source", commits=30)
    assert copy(tmp_path / "source", tmp_path / "copy").objects == shape.objects


def test_requests_are_read_off_a_connection() -> None:
    """Of several requests on one connection each POST is found, with its body as it was sent."""
    sent = (
        b"GET /r/info/refs HTTP/1.1\r\nHost: a\r\n\r\n"
        b"POST /r/git-upload-pack HTTP/1.1\r\nHost: a\r\nGit-Protocol: version=2\r\n"
        b"Content-Length: 9\r\n\r\nPOST \r\n\r\n"
    )
    (post,) = _posts(sent)
    assert post == Request("/r/git-upload-pack", {"Git-Protocol": "version=2"}, b"POST \r\n\r\n")
    assert post.raw("http://b:1", close=True).startswith(
        b"POST /r/git-upload-pack HTTP/1.1\r\nHost: b:1\r\n"
    )


def test_goals_say_whether_they_were_reached(tmp_path: Path) -> None:
    """Some goals are an upper bound, some a lower one; the JSON file says it too."""
    goals = [Goal("a", 0.4, 0.5), Goal("b", 0.4, 0.5, at_least=True)]
    assert [goal.reached for goal in goals] == [True, False]
    Report({}, [Figure("c", "ms", 4.0, 1.0)], goals).save(tmp_path / "new" / "results.json")
    saved = json.loads((tmp_path / "new" / "results.json").read_text())
    assert saved["figures"][0]["ratio"] == 0.25
    assert [goal["reached"] for goal in saved["goals"]] == [True, False]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (12345.6, "12,346"), (3.14159, "3.14"), (0.01849, "0.0185")]
)
def test_figures_are_short(value: float, text: str) -> None:
    """Three digits that count."""
    assert short(value) == text


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who lacks a program is told in one line what to install."""
    monkeypatch.setenv("PATH", "/nowhere")
    complaint = missing_programs()
    assert complaint is not None
    assert complaint.endswith("apt-get install nginx-light fcgiwrap")
    assert "\n" not in complaint
