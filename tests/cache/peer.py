# Law of this file: a process that shares a data directory with a test. It boards one key so many
# times, says on its standard output what comes, and its run does what standard input says.

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cache.cache import Cache
from cache.flights import Flight, Outcome, Sink


def say(*words: object) -> None:
    """One line to whoever started us, whole even if two threads speak at once."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def run(sink: Sink) -> Outcome:
    """Do what each line says: ``head HEX``, ``write BYTES``, ``end``, ``fail``."""
    say("running")
    for line in sys.stdin:
        match line.split():
            case ["head", text]:
                sink.head(bytes.fromhex(text))
            case ["write", count]:
                sink.write(os.urandom(int(count)))
            case ["end"]:
                return Outcome("application/octet-stream", "", has_entity=True)
            case _:
                break
        say("done")
    raise RuntimeError("told to fail")


async def follow(flight: Flight) -> str:
    """Read it all along; what was read and what was recorded."""
    try:
        hasher = hashlib.sha256(await flight.head())
        offset = 0
        with flight.reader() as reader:
            while (size := await reader.extent(offset)) > offset:
                hasher.update(os.pread(reader.fd, size - offset, offset))
                offset = size
        record = await flight.finished()
    except Exception as error:  # noqa: BLE001 - reported
        return f"failed {type(error).__name__}"
    return f"read {hasher.hexdigest()} {record.parts[0].entity.digest}"


async def main(data: str, key: str, boards: int) -> None:
    """Board, follow, report."""
    with ThreadPoolExecutor(1) as executor:
        cache = await Cache.open(Path(data), 1 << 30, executor)
        flights = await asyncio.gather(
            *(cache.flights.board(key, "repo", run) for _ in range(boards))
        )
        say("boarded", sum(flight.leader for flight in flights))
        for report in sorted(set(await asyncio.gather(*map(follow, flights)))):
            say(report)
        await cache.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
