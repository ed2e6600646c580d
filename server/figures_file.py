# Law of this file: a figure is written to its file, and not mapped into memory: a disk that is
# full, or refuses, is an error then, and not the end of the process. What has no place waits.

from __future__ import annotations

import json
import logging
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

_log = logging.getLogger("offramp.figures")

# prometheus_client's format: how many bytes are used, 4 bytes of nothing; then for each figure the
# length of its key, the key with spaces up to a multiple of 8, the value and a time.
_USED: Final = struct.Struct("i4x")
_VALUE: Final = struct.Struct("dd")


class FiguresFile:
    """In place of prometheus_client's ``MmapedDict``: the same file, and the same methods.

    To write 16 bytes into the page cache takes about a microsecond. Whoever calls it holds a lock.
    """

    def __init__(self, filename: str) -> None:
        self._path = Path(filename)
        self._descriptor: int | None = None
        self._used = _USED.size
        self._positions: dict[str, int] = {}
        # Figures that have no place in the file yet.
        self._waiting: dict[str, tuple[float, float]] = {}
        self._told = False
        # Of a worker that was started again there is one, and it goes on where that stopped.
        with suppress(FileNotFoundError):
            self._resume()

    def read_value(self, key: str) -> tuple[float, float]:
        """A figure and its time; one that is new is 0, and is there from now on."""
        position = self._positions.get(key)
        if position is None or self._descriptor is None:
            found = self._waiting.setdefault(key, (0.0, 0.0))
            self._place()
            return found
        try:
            read = os.pread(self._descriptor, _VALUE.size, position)
            value, timestamp = _VALUE.unpack(read)
        except (OSError, struct.error) as error:
            self._complain(error)
            return 0.0, 0.0
        return value, timestamp

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Set a figure."""
        position = self._positions.get(key)
        if position is None or self._descriptor is None:
            self._waiting[key] = (value, timestamp)
            self._place()
            return
        try:
            _write(self._descriptor, _VALUE.pack(value, timestamp), position)
        except OSError as error:
            self._complain(error)  # the next time it is written whole again

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _resume(self) -> None:
        """Go on with a file that there is, unless it is damaged.

        Raises:
            FileNotFoundError: there is none.
        """
        try:
            there = MmapedDict.read_all_values_from_file(str(self._path))  # type: ignore[no-untyped-call]
            for key, _, _, position in there:
                self._positions[key] = position
                self._used = position + _VALUE.size
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise
        except (OSError, RuntimeError, ValueError, struct.error) as error:
            _log.warning("%s is begun anew: %s", self._path, error)
            self._positions.clear()
            self._used = _USED.size

    def _place(self) -> None:
        """Give a place to what waits for one, if that can be."""
        try:
            if self._descriptor is None:
                self._descriptor = self._made()
            while self._waiting:
                key, found = next(iter(self._waiting.items()))
                self._append(self._descriptor, key, found)
                del self._waiting[key]
        except OSError as error:
            self._complain(error)

    def _made(self) -> int:
        """Make the file; whoever reads it meanwhile finds none, or a whole one."""
        new = self._path.with_suffix(".new")
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        descriptor = os.open(new, flags, 0o600)
        try:
            _write(descriptor, _USED.pack(_USED.size), 0)
            new.replace(self._path)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def _append(self, descriptor: int, key: str, found: tuple[float, float]) -> None:
        encoded = key.encode()
        padded = encoded + b" " * (8 - (len(encoded) + 4) % 8)
        entry = struct.pack("i", len(encoded)) + padded + _VALUE.pack(*found)
        _write(descriptor, entry, self._used)
        used = self._used + len(entry)
        # Only now may others read it.
        _write(descriptor, _USED.pack(used), 0)
        self._positions[key] = used - _VALUE.size
        self._used = used

    def _complain(self, error: OSError | struct.error) -> None:
        if not self._told:
            self._told = True
            _log.warning(
                "%s: %s; until that ends, figures of this worker are missing in the sum of all",
                self._path,
                error,
            )


def _write(descriptor: int, data: bytes, position: int) -> None:
    if os.pwrite(descriptor, data, position) != len(data):
        raise OSError("no space is left for all of it")


# In a key of a bucket, its bound; no quote in a label is without a backslash there.
_BOUND: Final = re.compile(r'"le": "[^"]*", ')


def read_counts(
    directory: Path, names: Iterable[str]
) -> Iterator[tuple[str, Mapping[str, str], float]]:
    """Samples of counters and ``_count`` of histograms: name, labels, sum of all workers.

    Of what is not asked for no key is parsed, and of what is, each once: that is most of the cost.
    """
    wanted = {_beginning(name): name for name in names}
    sums: dict[tuple[str, str], float] = {}
    for path in (*directory.glob("counter_*.db"), *directory.glob("histogram_*.db")):
        for key, value in _read(path):
            # `["offramp_bytes", "offramp_bytes_total", {labels}, "help"]`
            second = key.find('", ', key.find('", ') + 3)
            name = wanted.get(key[: second + 1])
            if name is not None:
                series = (name, key if name.endswith("_total") else _BOUND.sub("", key, count=1))
                sums[series] = sums.get(series, 0.0) + value
    for (name, key), total in sums.items():
        yield name, json.loads(key)[2], total


def values_of(path: Path, label: str) -> set[str]:
    """The values of a label in a file; none if there is no such file."""
    found = {json.loads(key)[2].get(label) for key, _ in _read(path)}
    return {value for value in found if value}


def _beginning(name: str) -> str:
    """How keys of a sample begin; observations are counted by bucket."""
    family, _, kind = name.rpartition("_")
    return f'["{family}", "{name if kind == "total" else family + "_bucket"}"'


def _read(path: Path) -> list[tuple[str, float]]:
    try:
        found = MmapedDict.read_all_values_from_file(str(path))  # type: ignore[no-untyped-call]
        return [(key, value) for key, value, _, _ in found]
    except FileNotFoundError:
        return []
    except (OSError, RuntimeError, ValueError, struct.error) as error:
        _log.warning("%s cannot be read: %s", path, error)
        return []


def keep_in_files(name: str) -> None:
    """Have this process keep its figures in files of :func:`server.metrics_directory.prepare`.

    ``name`` is in the names of the files. Of one that ended there are some, and whoever has its
    name goes on with them: however often workers are started again, there are no more files.
    """
    # MmapedDict is looked up there, by its name, when the first figure is made.
    values.MmapedDict = FiguresFile  # type: ignore[attr-defined, assignment]
    values.ValueClass = values.MultiProcessValue(lambda: name)  # type: ignore[no-untyped-call]
