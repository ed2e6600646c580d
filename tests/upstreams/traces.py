# Law of this file: where a secret could be left behind is looked through whole: what a server has
# in memory, what it wrote, and what its programs were called with.

from __future__ import annotations

import asyncio
import base64
import gc
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import BuiltinFunctionType, FrameType, FunctionType, ModuleType
from typing import Final

_SCRIPT: Final = """#!/bin/sh
# Runs {real}, and writes down with what it was called.
printf '%s\\n' "$@" >>{here}/calls
exec {real} "$@"
"""


def spellings(secret: str, *users: str) -> tuple[bytes, ...]:
    """How a password may be written: as it is, and in the header of its users."""
    encoded = [base64.b64encode(f"{user}:{secret}".encode()) for user in users]
    return (secret.encode(), *encoded)


def in_memory(root: object, secrets: Iterable[bytes]) -> list[str]:
    """What is reachable from ``root`` and holds one of the secrets; empty: nothing.

    What every object knows is not looked at: modules, classes, and the event loop, which knows the
    tests too.
    """
    gc.collect()
    wanted = tuple(secrets)
    modules = {id(vars(module)) for module in tuple(sys.modules.values()) if module is not None}
    seen: set[int] = set()
    found = []
    # Each with what led to it, for who looks why.
    left: list[tuple[object, str]] = [(root, "")]
    while left:
        at, way = left.pop()
        if id(at) in seen or id(at) in modules:
            continue
        seen.add(id(at))
        if isinstance(at, ModuleType | type | BuiltinFunctionType | asyncio.AbstractEventLoop):
            continue
        if isinstance(at, str | bytes | bytearray):
            text = at.encode("utf-8", "surrogatepass") if isinstance(at, str) else bytes(at)
            if any(secret in text for secret in wanted):
                found.append(way)
            continue
        here = f"{way}/{type(at).__name__}"
        left += [(each, here) for each in _referents(at)]
    return found


def _referents(at: object) -> Iterator[object]:
    if isinstance(at, FunctionType):
        yield from (at.__closure__, at.__defaults__, at.__kwdefaults__)
    elif isinstance(at, FrameType):
        yield from at.f_locals.values()
    else:
        yield from gc.get_referents(at)


def in_files(directory: Path, secrets: Iterable[bytes]) -> list[Path]:
    """The files below a directory that hold one of the secrets, or are named so."""
    wanted = tuple(secrets)
    return [
        path
        for path in directory.rglob("*")
        if any(
            secret in os.fsencode(path) or (path.is_file() and secret in path.read_bytes())
            for secret in wanted
        )
    ]


@dataclass(frozen=True)
class Calls:
    """A ``git`` that writes down its arguments.

    Attributes:
        directory: its own.
    """

    directory: Path

    @classmethod
    def make(cls, directory: Path) -> Calls:
        """Write the program."""
        directory.mkdir()
        program = directory / "git"
        program.write_text(_SCRIPT.format(real=shutil.which("git"), here=directory))
        program.chmod(0o755)
        return cls(directory)

    @contextmanager
    def on_path(self) -> Iterator[None]:
        """Servers that are started in this block run it; clients run outside."""
        before = os.environ["PATH"]
        os.environ["PATH"] = f"{self.directory}{os.pathsep}{before}"
        try:
            yield
        finally:
            os.environ["PATH"] = before

    def words(self) -> bytes:
        """All arguments of all calls."""
        return (self.directory / "calls").read_bytes()
