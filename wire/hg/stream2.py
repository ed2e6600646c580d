# Law of this file: the payload of a `stream2` part is taken apart into the files of a store, in any
# chunking; names are held whole, content passes as it comes.
#
# The format: for each file one byte that says where it belongs (`s` the store, `c` the cache), the
# sizes of its name and of its content as unsigned LEB128 numbers, the name, the content. Nothing
# ends it: how many files and bytes there are, the part's parameters say.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

STORE: Final = b"s"

# The longest name that a store encodes is shorter by far.
MAX_NAME: Final = 64 << 10
# Of a number; 70 bits are more than any file has bytes.
_MAX_DIGITS: Final = 10


class StreamError(ValueError):
    """These bytes are no files of a store."""


@dataclass(frozen=True, slots=True)
class FileBegin:
    """What follows is of this file.

    Attributes:
        place: ``s`` for the store, ``c`` for the cache.
        name: as it lies there.
        size: of its content, in bytes.
    """

    place: bytes
    name: bytes
    size: int


@dataclass(frozen=True, slots=True)
class FileData:
    """A piece of the file that began last."""

    data: bytes


Event = FileBegin | FileData


@dataclass(slots=True)
class StreamReader:
    """Takes the payload apart as its bytes come.

    Attributes:
        files: how many have begun.
        content: bytes of content that have passed.
    """

    files: int = 0
    content: int = 0
    _held: bytearray = field(default_factory=bytearray)
    _left: int = 0

    def feed(self, data: bytes) -> Iterator[Event]:
        """What ``data`` completes; take every event before the next call.

        Raises:
            StreamError: these are no files.
        """
        position = 0
        if self._held and not self._left:
            data = bytes(self._held) + data
            self._held.clear()
        while position < len(data):
            if self._left:
                piece = data[position : position + self._left]
                position += len(piece)
                self._left -= len(piece)
                self.content += len(piece)
                yield FileData(piece)
                continue
            begun = _begin(data, position)
            if begun is None:
                self._held += data[position:]
                break
            position, event = begun
            self.files += 1
            self._left = event.size
            yield event

    def end(self, files: int, content: int) -> None:
        """Say that no more bytes come, and what the part promised.

        Raises:
            StreamError: it is something else that came.
        """
        if self._held or self._left:
            raise StreamError("the files of the store are cut off")
        if (files, content) != (self.files, self.content):
            raise StreamError(
                f"{self.files} files of {self.content} bytes came; {files} of {content} were"
                " announced"
            )


def _begin(data: bytes, position: int) -> tuple[int, FileBegin] | None:
    """The header of a file, and where it ends; None if more bytes are needed."""
    place = data[position : position + 1]
    if not place.isalpha():
        raise StreamError(f"{place!r} begins no file of a store; a letter does")
    name_size = _number(data, position + 1)
    if name_size is None:
        return None
    size = _number(data, name_size[0])
    if not 0 < name_size[1] <= MAX_NAME:
        raise StreamError(f"a file's name of {name_size[1]} bytes; at most {MAX_NAME} are read")
    if size is None:
        return None
    end = size[0] + name_size[1]
    if end > len(data):
        return None
    return end, FileBegin(place, data[size[0] : end], size[1])


def _number(data: bytes, position: int) -> tuple[int, int] | None:
    """Where the number at ``position`` ends, and the number; None if more bytes are needed."""
    value = 0
    for place, byte in enumerate(data[position : position + _MAX_DIGITS]):
        value |= (byte & 0x7F) << 7 * place
        if not byte & 0x80:
            return position + place + 1, value
    if len(data) - position >= _MAX_DIGITS:
        raise StreamError(f"a number of more than {_MAX_DIGITS} bytes")
    return None
