# Law of this file: an epoch only rises, is seen by every process at once, and belongs to one
# repository.

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cache.epochs import Epochs, epoch_of, in_epoch, key_in_epoch
from cache.errors import CacheUnavailable
from cache.keys import record_key

KEY = record_key("git-v2", "/srv/a.git", b"want")


@pytest.fixture
def epochs(tmp_path: Path) -> Epochs:
    """Of an empty data directory."""
    return Epochs(tmp_path)


def test_without_a_file_it_is_0(epochs: Epochs) -> None:
    """Also where the data directory holds nothing at all."""
    assert epochs.of("a.git") == 0


def test_what_is_raised_is_seen(epochs: Epochs) -> None:
    """By who asked before, and only of that repository."""
    assert epochs.of("a.git") == 0
    epochs.raise_to("a.git", 3)
    assert (epochs.of("a.git"), epochs.of("b.git")) == (3, 0)
    epochs.raise_to("a.git", 4)
    assert epochs.of("a.git") == 4


def test_it_never_falls(epochs: Epochs) -> None:
    """Who raises it to less changes nothing."""
    epochs.raise_to("a.git", 5)
    epochs.raise_to("a.git", 4)
    epochs.raise_to("a.git", 5)
    assert epochs.of("a.git") == 5


def test_many_raise_at_once(epochs: Epochs, tmp_path: Path) -> None:
    """The highest counts, in whatever order they come."""
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: Epochs(tmp_path).raise_to("a.git", n), range(40)))
    assert epochs.of("a.git") == 39
    assert [path.name for path in (tmp_path / "epochs").iterdir() if "new" in path.name] == []


def test_another_process_sees_it(epochs: Epochs, tmp_path: Path) -> None:
    """And we see what it raised."""
    epochs.raise_to("a.git", 1)
    program = (
        "import sys; from pathlib import Path; from cache.epochs import Epochs;"
        "epochs = Epochs(Path(sys.argv[1])); epochs.raise_to('a.git', epochs.of('a.git') + 1)"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=root, check=True)
    assert epochs.of("a.git") == 2


@pytest.mark.parametrize("body", [b"", b"x", b"-1", b"1" * 5000, b"\xff"])
def test_a_damaged_file_is_none(epochs: Epochs, tmp_path: Path, body: bytes) -> None:
    """Until it is raised again."""
    epochs.raise_to("a.git", 2)
    next((tmp_path / "epochs").iterdir()).write_bytes(body)
    assert epochs.of("a.git") == 0
    epochs.raise_to("a.git", 3)
    assert epochs.of("a.git") == 3


def test_a_name_need_be_no_file_name(epochs: Epochs) -> None:
    """Nor UTF-8."""
    for number, name in enumerate(("../../x", "a/b", "x" * 5000, "\udcff.git"), 1):
        epochs.raise_to(name, number)
        assert epochs.of(name) == number


def test_a_disk_that_refuses_is_told(tmp_path: Path) -> None:
    """And the epoch is what it was."""
    (tmp_path / "epochs").write_text("in the way")
    with pytest.raises(CacheUnavailable, match="epochs"):
        Epochs(tmp_path).raise_to("a.git", 1)
    assert Epochs(tmp_path).of("a.git") == 0


def test_epoch_0_is_as_if_there_were_none() -> None:
    """What was recorded before any purge stays valid."""
    assert in_epoch("/srv/a.git", 0) == "/srv/a.git"
    assert key_in_epoch(KEY, 0) == KEY


def test_no_two_epochs_share_a_key() -> None:
    """Nor a name."""
    assert len({key_in_epoch(KEY, epoch) for epoch in range(20)}) == 20
    assert len({in_epoch("/srv/a.git", epoch) for epoch in range(20)}) == 20


@pytest.mark.parametrize("identity", ["/srv/a.git", "/srv/a#1", "/srv/epoch-1", "/srv/\udcff"])
@pytest.mark.parametrize("epoch", [0, 1, 12])
def test_names_can_be_read_back(identity: str, epoch: int) -> None:
    """Whatever the repository's directory is called, it is not taken for another one's epoch."""
    assert epoch_of(in_epoch(identity, epoch)) == (identity, epoch)
