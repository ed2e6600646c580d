# Law of this file: small repositories, and hg's server over them, for tests that ask it.

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from repos.hg.backend_conf import ADDRESS, Premises
from repos.hg.backend_process import HgServe
from tests.hg.versions import environment, executable, hg, output
from tests.repos.hg_bundles import History
from wire.hg.bundle2 import BundleReader, Part

NEWEST = "7.2.4"
VERSIONS = ("5.9.3", NEWEST)

BUNDLECAPS = b"HG20,bundle2=HG20%0Achangegroup%3D01%2C02"
"""Hg leaves the changegroup out of an answer to who says of HG20 alone."""


@dataclass(frozen=True, slots=True)
class Seed:
    """A repository to be copied.

    Attributes:
        path: of it.
        tip: its newest changeset and only head, in hex.
        before: the one before, in hex.
    """

    path: Path
    tip: bytes
    before: bytes

    def sow(self, path: Path, hgrc: str = "") -> Path:
        """A copy at ``path``, with a configuration; its ``.hg``."""
        shutil.copytree(self.path, path)
        if hgrc:
            (path / ".hg" / "hgrc").write_text(hgrc)
        return path / ".hg"


def make_seed(place: Path) -> Seed:
    """A repository of three changesets, which both versions read and write."""
    bundle = place / "bundle"
    bundle.write_bytes(b"".join(History(3, files=4).pieces()))
    program, path = hg("5.9.3"), place / "seed"
    output(program, place, "init", "seed")
    output(program, path, "unbundle", "--quiet", bundle)
    _, before, tip = output(program, path, "log", "--rev", ":", "--template", "{node}\n").split()
    return Seed(path, tip, before)


def parts(bundle: bytes) -> list[bytes]:
    """The types of a bundle's parts; it must be whole."""
    reader = BundleReader()
    found = [event.type.lower() for event in reader.feed(bundle) if isinstance(event, Part)]
    reader.end()
    return found


@contextmanager
def served(place: Path, *hg_dirs: Path, version: str = NEWEST) -> Iterator[list[str]]:
    """The URLs of repositories that an hg serves, without a backend that watches it."""
    premises = Premises(place, push=False)
    program = HgServe([str(executable(version)), *premises.arguments()], environment(place))
    try:
        port = program.port.result()
        base = f"http://{ADDRESS}:{port}/{premises.secret}"
        yield [f"{base}/{premises.place(hg_dir)}" for hg_dir in hg_dirs]
    finally:
        program.kill()
        program.ended.result()
        premises.remove()
