# Law of this file: every fuzz target works on every machine, with or without a fuzzer.

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS
from wire.hg import delta as delta_module

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name: str):
    """Each target takes its seeds, their beginnings, and seeds with a byte changed."""
    target = TARGETS[name]
    seeds = target.seeds()
    assert seeds
    target.entry(b"")
    for seed in seeds:
        target.entry(seed)
        target.entry(seed[: len(seed) // 2])
        middle = len(seed) * 2 // 3
        target.entry(seed[:middle] + bytes((seed[middle] ^ 0x41,)) + seed[middle + 1 :])


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=50)
@given(data=st.data())
def test_arbitrary_bytes(name: str, data: st.DataObject):
    """Each target takes arbitrary bytes, by themselves and within its seeds."""
    target = TARGETS[name]
    arbitrary = data.draw(st.binary(max_size=60))
    target.entry(arbitrary)
    seed = data.draw(st.sampled_from(target.seeds()))
    place = data.draw(st.integers(0, len(seed)))
    target.entry(seed[:place] + arbitrary + seed[place:])


@pytest.mark.parametrize("name", ["bundle2", "changegroup"])
def test_bytes_after_the_end(name: str):
    """What follows the end is refused however it is cut off from it: once it was passed over."""
    target = TARGETS[name]
    whole = max(target.seeds(), key=len)[1:]
    for size in range(61):
        for more in (1, 3, 12):
            target.entry(bytes((size,)) + whole + bytes(more))


def test_findings_are_found(monkeypatch: pytest.MonkeyPatch):
    """A parser that makes something else of its bytes is found out."""
    monkeypatch.setattr(delta_module, "apply", lambda base, patch: base)
    with pytest.raises(AssertionError, match="another text"):
        TARGETS["delta"].entry(b"\x01ab")


def test_without_a_fuzzer():
    """Whoever has no fuzzer is told which extra it comes with."""
    code = (
        "import sys; sys.modules['atheris'] = None\n"
        "from tests.fuzz.__main__ import main; sys.exit(main([]))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 2
    assert "extra 'fuzz'" in finished.stderr
