# Law of this file: git sees a clean environment, and no run of it outlives its limit, its block, or
# a complaint without end.

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from repos.git.program import STDERR_KEPT, Git, GitFailed, environment
from repos.program import cpu_spent


def program(tmp_path: Path, script: str) -> str:
    """A program that stands in for git."""
    path = tmp_path / "program"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_the_environment_is_clean() -> None:
    """Nothing that points git elsewhere gets through, nor any secret of ours."""
    given = {
        "PATH": "/bin",
        "HOME": "/home/x",
        "XDG_CONFIG_HOME": "/x",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    names = (
        "GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY GIT_NAMESPACE GIT_PROTOCOL"
        " GIT_ALTERNATE_OBJECT_DIRECTORIES GIT_TRACE GIT_CEILING_DIRECTORIES GIT_SSH_COMMAND"
        " GIT_ASKPASS GIT_CONFIG_PARAMETERS GIT_REPLACE_REF_BASE LD_PRELOAD LANG LC_MESSAGES"
        " AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN OFFRAMP_STORE__SECRET_ACCESS_KEY http_proxy"
    )
    bad = dict.fromkeys(names.split(), "bad")
    seen = environment({**given, **bad})
    assert given.items() <= seen.items()
    assert not set(seen) & set(bad)
    assert seen["LC_ALL"] == "C"
    assert seen["GIT_TERMINAL_PROMPT"] == "0"
    assert environment({}, {"GIT_PROTOCOL": "version=2"})["GIT_PROTOCOL"] == "version=2"


def test_a_program_sees_that_environment_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a real program sees is what was promised."""
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    git = Git(executable=program(tmp_path, "exec env"))
    seen = git.run("anything", env={"GIT_PROTOCOL": "version=2"}).decode()
    assert "hunter2" not in seen
    assert "GIT_DIR=" not in seen
    assert "GIT_PROTOCOL=version=2\n" in seen


def test_files_of_ours_are_not_open_in_it(tmp_path: Path) -> None:
    """A program has its three pipes and nothing of ours, and a session of its own."""
    git = Git(executable=program(tmp_path, "ls -l /proc/self/fd; cut -d' ' -f5,6 /proc/$$/stat"))
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        said = git.run("anything").decode()
    assert str(tmp_path / "open") not in said
    group, session = said.splitlines()[-1].split()
    assert group == session != str(os.getsid(0))


def test_config_and_arguments_are_passed_as_they_are() -> None:
    """Settings go as ``-c``; a word with spaces, quotes and dollars is one word."""
    git = Git()
    value = "a 'b' \"c\" $d; `e` \n f"
    assert git.run("config", "x.y", config=[("x.y", value)]).decode() == f"{value}\n"


def test_a_failure_says_what_git_said(tmp_path: Path) -> None:
    """The subcommand, the exit code and the last of standard error are in the exception."""
    with pytest.raises(GitFailed) as failed:
        Git().run("rev-parse", "--verify", "nowhere", cwd=tmp_path)
    assert (failed.value.command, failed.value.status) == ("rev-parse", 128)
    assert "not a git repository" in failed.value.stderr
    with pytest.raises(GitFailed, match="signal 9"):
        Git(executable=program(tmp_path, "kill -9 $$")).run("upload-pack")
    with pytest.raises(GitFailed) as failed:
        Git(executable=str(tmp_path / "no-git")).run("--bare", "upload-pack")
    assert (failed.value.command, failed.value.status) == ("upload-pack", 127)


def test_standard_error_is_bounded(tmp_path: Path) -> None:
    """Of a program that complains without end its last words are kept, and it is not blocked."""
    script = "i=0; while [ $i -lt 300 ]; do printf '%01024d' $i >&2; i=$((i+1)); done; echo END >&2"
    with pytest.raises(GitFailed) as failed:
        Git(executable=program(tmp_path, f"{script}; exit 1")).run("x")
    assert len(failed.value.stderr) <= STDERR_KEPT
    assert failed.value.stderr.endswith("END")


def test_a_program_that_does_not_read_its_input(tmp_path: Path) -> None:
    """A broken pipe is not our failure: how it ended says what it was."""
    much = b"x" * (1 << 20)
    assert (
        Git(executable=program(tmp_path, "exec 0<&-; echo done")).run("x", stdin=much) == b"done\n"
    )
    with pytest.raises(GitFailed, match="exited with 3"):
        Git(executable=program(tmp_path, "exit 3")).run("x", stdin=much)


def test_input_and_output_larger_than_pipes(tmp_path: Path) -> None:
    """A program may answer while it is still being told."""
    much = os.urandom(1 << 20)
    assert Git(executable=program(tmp_path, "exec cat")).run("x", stdin=much) == much


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_time_limit_ends_the_whole_group(tmp_path: Path) -> None:
    """A program that takes too long is killed, with what it has started."""
    script = f"sleep 1000 & echo $! > {tmp_path}/child; wait"
    git = Git(time_limit=0.3, executable=program(tmp_path, script))
    with pytest.raises(GitFailed, match="signal 9"):
        git.run("x")
    child = int((tmp_path / "child").read_text())
    assert not alive(child) or subprocess.run(["kill", str(child)], check=False).returncode


def _fail_after(_: object) -> None:
    raise KeyError


def test_leaving_the_block_ends_the_program(tmp_path: Path) -> None:
    """An exception in the block kills the program and is the one that is seen."""
    git = Git(executable=program(tmp_path, f"echo $$ > {tmp_path}/pid; echo go; sleep 1000"))
    with pytest.raises(KeyError), git.start("x") as running:
        _fail_after(running.stdout.readline())
    assert not alive(int((tmp_path / "pid").read_text()))


def test_many_runs_leave_nothing_open() -> None:
    """Neither pipes nor processes pile up."""
    code = (
        "import os\n"
        "from repos.git.program import Git, GitFailed\n"
        "def count():\n"
        "    children = open(f'/proc/self/task/{os.getpid()}/children')\n"
        "    with children: return len(os.listdir('/proc/self/fd')), children.read()\n"
        "Git().run('version'); before = count()\n"
        "for number in range(20):\n"
        "    Git().run('version')\n"
        "    try: Git().run('no-such-command')\n"
        "    except GitFailed: pass\n"
        "assert count() == before, (before, count())\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


SPIN = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"


def test_what_a_program_cost_is_known_to_who_waited(tmp_path: Path) -> None:
    """Processor time of a program, and of what it waited for itself, counts in that thread."""
    # The second line of times(1) is what children have taken, in seconds: `0m0.12s 0m0.01s`.
    git = Git(executable=program(tmp_path, f"({SPIN}); ({SPIN}); times | tail -n 1"))
    before, own = cpu_spent(), time.thread_time()
    said = git.run("anything").decode().split()
    spent = cpu_spent() - before - (time.thread_time() - own)
    told = sum(float(each.removesuffix("s").partition("m")[2]) for each in said)
    assert spent > 0
    assert spent >= told - 0.02  # which shells count by ticks


def test_what_a_program_cost_is_not_told_to_other_threads(tmp_path: Path) -> None:
    """A thread that waited for nothing has caused its own processor time only."""
    git = Git(executable=program(tmp_path, SPIN))
    with ThreadPoolExecutor(1) as other:
        before = cpu_spent() - time.thread_time()
        other.submit(git.run, "anything").result()
        assert cpu_spent() - time.thread_time() == pytest.approx(before, abs=1e-3)
        assert other.submit(lambda: cpu_spent() - time.thread_time()).result() > 0
