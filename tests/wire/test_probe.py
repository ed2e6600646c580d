# Law of this file: a probe is one small fetch, and the first packets of the answer decide: whatever
# comes behind them, and in whatever pieces they come.

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repos.git.program import Git, GitFailed
from wire.git.pktline import DELIM, FLUSH, ProtocolError, text
from wire.git.probe import LONGEST_PROBE, Allowed, Refused, probe_verdict
from wire.git.v2 import Fetch, Session, encode_probe, parse_request

A = "a" * 40
SHALLOW = text(b"shallow-info") + text(b"shallow " + A.encode()) + DELIM
YES = SHALLOW + text(b"packfile")
NO = text(b"ERR upload-pack: not our ref " + A.encode())


def test_golden():
    """The probe, as bytes: one object, one commit deep, and no negotiation."""
    assert encode_probe((A,), "sha1", filtered=True) == (
        b"0012command=fetch\n"
        b"0017object-format=sha1\n"
        b"0001"
        b"0009done\n"
        b"0010no-progress\n"
        b"000eofs-delta\n"
        b"0032want aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n"
        b"000ddeepen 1\n"
        b"0012filter tree:0\n"
        b"0000"
    )


def test_without_a_filter():
    """A server that knows no filters is not asked for one."""
    oid = "d" * 64
    assert parse_request(encode_probe((oid,), "sha256", filtered=False)) == Fetch(
        Session(object_format="sha256"),
        wants=(oid,),
        deepen=1,
        done=True,
        ofs_delta=True,
        no_progress=True,
    )


@pytest.mark.parametrize("filtered", [True, False])
def test_real_git(filtered, tmp_path):
    """Stock git allows an object that it has, of any type, and refuses another in its words."""
    subprocess.run(["git", "init", "-q", tmp_path / "r"], check=True)
    Path(tmp_path, "r", "file").write_text("content\n")
    git = Git(environ={"PATH": "/usr/bin:/bin", "HOME": str(Path.home())})
    at = ("-C", str(tmp_path / "r"))

    def run(*args: str) -> str:
        return subprocess.run(
            ["git", *at, *args], check=True, capture_output=True, text=True
        ).stdout.strip()

    run("add", ".")
    run("commit", "-q", "-m", "one")

    def ask(oid: str) -> bytes:
        with git.start(
            "upload-pack",
            "--stateless-rpc",
            str(tmp_path / "r"),
            config=(("uploadpack.allowFilter", "true"),),
            env={"GIT_PROTOCOL": "version=2"},
        ) as running:
            running.feed(encode_probe((oid,), "sha1", filtered=filtered))
            answers.append(running.stdout.read())
        return answers[-1]

    answers: list[bytes] = []
    for name in ("HEAD", "HEAD^{tree}", "HEAD:file"):
        assert probe_verdict(ask(run("rev-parse", name))) == Allowed()
    with pytest.raises(GitFailed):
        ask(A)
    assert probe_verdict(answers[-1]) == Refused(f"upload-pack: not our ref {A}")


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (YES, Allowed()),
        (text(b"packfile"), Allowed()),
        (b"000cpackfile", Allowed()),
        (text(b"acknowledgments") + text(b"ready") + DELIM + YES, Allowed()),
        (NO, Refused(f"upload-pack: not our ref {A}")),
        (SHALLOW + NO, Refused(f"upload-pack: not our ref {A}")),
        (text(b"ERR  two\n lines\x1b[0m"), Refused("two lines\N{REPLACEMENT CHARACTER}[0m")),
        (text(b"ERR "), Refused("unknown error")),
    ],
)
def test_byte_by_byte(answer, verdict):
    """No verdict before the packet that decides is whole; the same one ever after."""
    for end in range(len(answer)):
        assert probe_verdict(answer[:end]) is None
    assert probe_verdict(answer) == verdict
    assert probe_verdict(answer + b"no packet at all") == verdict
    assert probe_verdict(answer + FLUSH + NO + YES) == verdict


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"<!DOCTYPE html>", "bad line length"),
        (FLUSH, "unexpected FLUSH packet: the answer has no pack"),
        (DELIM, "unexpected DELIM packet"),
        (b"0002", "unexpected RESPONSE_END packet"),
        (SHALLOW[:-4] + FLUSH, "unexpected FLUSH packet"),
        (text(b"version 2"), "expected a section of a fetch, got 'version 2"),
        (SHALLOW + text(b"shallow"), "expected a section"),
        (text(b"shallow-info") + text(b"unshallow") * LONGEST_PROBE, "no pack begins within"),
    ],
)
def test_neither_yes_nor_no(answer, message):
    """What is no answer to a fetch is told from a refusal."""
    with pytest.raises(ProtocolError, match=message):
        probe_verdict(answer)


@given(st.binary(max_size=60), st.binary(max_size=20))
def test_garbage(prefix, more):
    """Garbage is refused with the parser's own error, and a verdict is never taken back."""
    try:
        verdict = probe_verdict(SHALLOW[:17] + prefix)
    except ProtocolError:
        with pytest.raises(ProtocolError):
            probe_verdict(SHALLOW[:17] + prefix + more)
        return
    if verdict is not None:
        assert probe_verdict(SHALLOW[:17] + prefix + more) == verdict
