# Law of this file: content from a target is written here, hashed on its way, and read only after it
# was found to be what the location says. Little is held in memory, much in a temporary file.

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from tempfile import SpooledTemporaryFile
from typing import Final

from client.answers import Batch
from client.errors import TargetFailed, told
from client.limits import Limits
from wire.hg import cbor
from wire.hg.messages import Location

# Of what is read back at a time.
_CHUNK: Final = 256 << 10

_ALGORITHMS: Final = {"sha1": hashlib.sha1, "sha256": hashlib.sha256}


class Spool:
    """The content of one location, as far as it has come.

    Attributes:
        size: bytes that have come.
    """

    def __init__(self, location: Location, limits: Limits) -> None:
        self.size = 0
        self._limits = limits
        self._location = location
        self._expected = {name: digest for name, digest in location.hashes if name in _ALGORITHMS}
        self._file = SpooledTemporaryFile(max_size=limits.spool)  # noqa: SIM115 - see close()
        self._hashers = {name: _ALGORITHMS[name]() for name in self._expected}

    def close(self) -> None:
        """Give memory and disk back."""
        self._file.close()

    @property
    def checkable(self) -> bool:
        """Whether there is a hash to check it by."""
        return bool(self._expected)

    @property
    def complete(self) -> bool:
        """Whether all of it has come, as far as the location says how much that is."""
        return self._location.size is not None and self.size == self._location.size

    def write(self, data: bytes) -> None:
        """Take in what comes next.

        Raises:
            TargetFailed: it is more than the location says, or than the limit.
        """
        limit = self._limits.entity if self._location.size is None else self._location.size
        self.size += len(data)
        if self.size > limit:
            raise TargetFailed(f"it gives more than {limit} bytes")
        for hasher in self._hashers.values():
            hasher.update(data)
        self._file.write(data)

    def restart(self) -> None:
        """Forget what has come."""
        self._file.seek(0)
        self._file.truncate()
        self.size = 0
        self._hashers = {name: _ALGORITHMS[name]() for name in self._expected}

    def mismatch(self) -> str | None:
        """What is wrong with the whole; None if it is what the location says."""
        if self._location.size is not None and self.size != self._location.size:
            return f"it gives {self.size} bytes and not {self._location.size}"
        for name, digest in self._expected.items():
            if self._hashers[name].digest() != digest:
                return f"what it gives has another {name} than the server says"
        return None

    async def batches(self, where: str) -> AsyncGenerator[Batch, None]:
        """The objects that it holds.

        Raises:
            BrokenAnswer: it is what the server meant, and yet no sequence of objects.
        """
        decoder = cbor.Decoder(self._limits.objects)
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK):
            with told(where):
                items = decoder.feed(chunk)
            yield Batch(items, len(chunk))
            # Nothing here waits for a network, so others get their turn by our leave.
            await asyncio.sleep(0)
        with told(where):
            decoder.end()
