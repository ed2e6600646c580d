# Law of this file: each section of the benchmark of Mercurial runs through, on next to nothing, and
# its table has all of its rows; how fast anything is, is not asked.

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import compare, hg_servers, servers
from benchmarks.hg_asking import Multirequest
from benchmarks.hg_clones import HgClones
from benchmarks.hg_frames import HgFraming, HgSmall, told_apart
from benchmarks.hg_repository import Hg, HgFailed, copy, generate, generate_large
from benchmarks.hg_streams import ANSWERS, HgStreams
from benchmarks.hg_v1 import (
    BUNDLE,
    BUNDLE_ON,
    RECORD,
    REDIRECTED,
    STOCK,
    STOCK_BUNDLE,
    STOCK_STREAM,
    STREAM,
    HgV1,
)
from benchmarks.load import LoadFailed
from benchmarks.servers import missing_programs
from benchmarks.table import Report
from tests.hg import versions
from wire.hg.encodings import Encoding
from wire.hg.messages import STATUS_OK, Failed, encode_status

_CHANGESETS = 30


def _say(text: str) -> None:
    del text


@pytest.fixture(scope="module")
def hg(tmp_path_factory: pytest.TempPathFactory) -> Hg:
    """The Mercurial that speaks the protocol; what reads for Offramp must be there as well."""
    versions.hg(hg_servers.READS)
    versions.hg(hg_servers.SPEAKS, zstd=True)
    return hg_servers.mercurial(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def history(hg: Hg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated history, alone in its directory."""
    path = tmp_path_factory.mktemp("root") / "history"
    assert generate(hg, path, _CHANGESETS).changesets == _CHANGESETS
    return path


@pytest.fixture
def nginx() -> None:
    """The store's files are read from an nginx."""
    missing = missing_programs()
    if missing is not None:
        pytest.skip(missing)


def _rows(report: Report) -> list[tuple[str, str]]:
    return [(figure.name, figure.against) for figure in report.figures]


def test_a_generated_history_is_whole_and_has_merges(hg: Hg, history: Path) -> None:
    """No fault is in it, and no changeset that removes a file: 5.9.3 could not serve it."""
    hg("verify", "--quiet", where=history)
    assert hg("log", "--rev", "merge()", "--template", "x", where=history)
    assert not hg("log", "--rev", "all()", "--template", "{file_dels}", where=history)
    assert hg("heads", "--template", "x", where=history) == "x"


@pytest.mark.usefixtures("nginx")
def test_clones_are_compared(history: Path, tmp_path: Path) -> None:
    """Each way to clone has a row beside each of Mercurial's; bytes go elsewhere if redirected."""
    report = Report()
    HgClones(history, tmp_path / "work", 1, 1, report, _say).run()
    rows = _rows(report)
    for protocol in ("hg serve, v2", "hg serve, v1"):
        ours = [name.removeprefix("hg clone, ") for name, against in rows if against == protocol]
        assert ours == [
            "warm, redirected: server CPU",
            "warm, inline: server CPU",
            "cold, the first ever: server CPU",
            "warm, redirected: bytes sent by the server",
            "warm, inline: bytes sent by the server",
            "warm, redirected: wall time",
        ]
    assert rows[-1] == ("hg clone, redirected: CPU of the store's host", "Offramp's own")
    sent = {figure.name: figure.ours for figure in report.figures}
    redirected = sent["hg clone, warm, redirected: bytes sent by the server"]
    assert redirected < sent["hg clone, warm, inline: bytes sent by the server"] / 5
    assert len(report.goals) == 1


@pytest.mark.usefixtures("nginx")
def test_protocol_v1_is_compared(history: Path, tmp_path: Path) -> None:
    """Each way to clone comes from where its row says, and polls start no process."""
    today = hg_servers.mercurial(tmp_path / "home", hg_servers.READS)
    repository = tmp_path / "root" / "history"
    copy(today, history, repository)
    report = Report()
    HgV1(repository, tmp_path / "work", 1, 1, 1, report, _say).run()
    sent = {
        (figure.name.removeprefix("v1 clone, ").partition(":")[0], figure.against): figure
        for figure in report.figures
        if figure.name.startswith("v1 clone") and "bytes" in figure.name
    }
    assert list(sent) == [
        (BUNDLE, STOCK),
        (BUNDLE_ON, STOCK),
        (STREAM, STOCK_STREAM),
        (RECORD, STOCK),
        (REDIRECTED, STOCK),
        (BUNDLE, STOCK_BUNDLE),
    ]
    elsewhere = [sent[what, STOCK] for what in (BUNDLE, BUNDLE_ON, REDIRECTED)]
    assert all(figure.ours < figure.other / 5 for figure in elsewhere)
    assert sent[STREAM, STOCK_STREAM].ours < sent[STREAM, STOCK_STREAM].other / 5
    assert sent[RECORD, STOCK].ours > sent[RECORD, STOCK].other / 2
    assert sent[BUNDLE, STOCK_BUNDLE].other < sent[BUNDLE, STOCK].other / 5
    polls = [figure for figure in report.figures if figure.name.startswith("v1 poll, hg ")]
    assert len(polls) == 6
    assert all(figure.ours > 0 and figure.other > 0 for figure in polls)
    processes = report.goals[-1]
    assert processes.name == "v1 polls during which Offramp started or ended a process"
    assert processes.reached
    assert len(report.goals) == 10


@pytest.mark.usefixtures("nginx")
def test_streams_are_compared(hg: Hg, tmp_path: Path) -> None:
    """Several streams have a row beside one, and what was compressed is sent again for less."""
    large = tmp_path / "root" / "large"
    assert generate_large(hg, large, ANSWERS, 100 << 10).files == ANSWERS
    report = Report()
    HgStreams(large, tmp_path / "work", 1, 1, report, _say, (1, 2)).run()
    assert [name.rpartition(": ")[2] for name, _ in _rows(report)][:2] == ["2 streams"] * 2
    assert [against for _, against in _rows(report)] == [
        *["one stream"] * 2,
        *["one"] * 2,
        "compressing anew",
    ]
    assert len(report.goals) == 1


@pytest.mark.usefixtures("nginx")
def test_small_answers_are_compared(history: Path, tmp_path: Path) -> None:
    """Answers of a real server that share a stream are fewer bytes than with a context each."""
    report = Report()
    HgSmall(history, tmp_path / "data", tmp_path / "work", _CHANGESETS, report, _say).run()
    assert len(report.figures) == 4
    assert all(figure.ours < figure.other for figure in report.figures)
    assert len(report.goals) == 1


def test_framing_is_compared() -> None:
    """Writing and reading, of one large answer and of many small ones, have a row each."""
    report = Report()
    HgFraming(1 << 20, 20, 1, report, _say).run()
    assert len({name for name, _ in _rows(report)}) == 4
    assert all(figure.ours > 0 and figure.other > 0 for figure in report.figures)


def test_answers_told_apart_are_whole() -> None:
    """What shared streams are compared with tells the same answers."""
    answers = [STATUS_OK + bytes([number]) for number in range(5)]
    asked = Multirequest("r", [(b"heads", {})] * 5, Encoding.ZSTD)
    assert asked.read(b"".join(told_apart(answers, Encoding.ZSTD))) == answers


def test_an_answer_that_is_an_error_counts_for_nothing() -> None:
    """A server that could not answer does not look quick."""
    asked = Multirequest("r", [(b"heads", {})], Encoding.ZLIB)
    refused = told_apart([encode_status(Failed(b"no"))], Encoding.ZLIB)
    with pytest.raises(LoadFailed, match="heads was not answered"):
        asked.read(b"".join(refused))


def test_what_hg_says_is_told(hg: Hg, tmp_path: Path) -> None:
    """A failure of hg is told with its command and its words."""
    with pytest.raises(HgFailed, match=r"hg log: abort: no repository found"):
        hg("log", where=tmp_path)


def test_a_missing_mercurial_names_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who lacks a Mercurial is told in one line what to run."""
    monkeypatch.setattr(versions, "ROOT", tmp_path)
    monkeypatch.setattr(servers, "missing_programs", lambda: None)
    with pytest.raises(SystemExit) as ended:
        compare.main(["--hg-only", "--quick"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.strip().endswith("run `python -m tests.hg.install`")
