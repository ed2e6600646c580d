# Law of this file: what a server of version 1 says that it can do, and what either side says of
# bundle2, is read into words and written back to the same bytes.
#
# The answer to `capabilities` is words with spaces between: `name` or `name=value`. The value of
# `bundle2`, there and among the bundlecaps of a getbundle, is a percent-quoted text of lines `name`
# or `name=value,value`, whose names and values are quoted once more.

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import quote_from_bytes, unquote_to_bytes

from wire.hg.v1.media import BadAnswer


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a server can do, as it says to clients.

    Attributes:
        words: in its order.
    """

    words: tuple[str, ...]

    @classmethod
    def parse(cls, answer: bytes) -> Capabilities:
        """Read the answer to ``capabilities``.

        Raises:
            BadAnswer: it is no ASCII, or says nothing.
        """
        try:
            words = tuple(answer.decode("ascii").split())
        except UnicodeDecodeError:
            raise BadAnswer("capabilities with bytes beyond ASCII") from None
        if not words:
            raise BadAnswer("capabilities without a word")
        return cls(words)

    def encode(self) -> bytes:
        """The answer to ``capabilities``."""
        return " ".join(self.words).encode("ascii")

    def __contains__(self, name: object) -> bool:
        return any(_name(word) == name for word in self.words)

    def value(self, name: str) -> str | None:
        """What is said of a name; None if nothing is, or the name is not there."""
        for word in self.words:
            found, equals, value = word.partition("=")
            if found == name and equals:
                return value
        return None

    def without(self, names: Collection[str]) -> Capabilities:
        """The same, but these."""
        return Capabilities(tuple(word for word in self.words if _name(word) not in names))

    def with_words(self, *words: str) -> Capabilities:
        """The same with these, which take the place of others of their names; sorted, as hgweb's.

        Raises:
            ValueError: one is not a word of printable ASCII.
        """
        for word in words:
            if not _name(word) or not all("!" <= letter <= "~" for letter in word):
                raise ValueError(f"{word!r} is no word: printable ASCII without blanks is expected")
        kept = self.without({_name(word) for word in words}).words
        return Capabilities(tuple(sorted({*kept, *words})))


def _name(word: str) -> str:
    return word.partition("=")[0]


def decode_bundle2(value: bytes) -> dict[str, tuple[str, ...]]:
    """What a side can do with bundle2: names, each with its values, in their order.

    Anything can be read. Of a name that comes twice, the last counts, as for Mercurial.

    Args:
        value: as it follows ``bundle2=``, quoted.
    """
    found: dict[str, tuple[str, ...]] = {}
    for line in unquote_to_bytes(value).splitlines():
        if line:
            name, equals, values = line.partition(b"=")
            found[_text(name)] = tuple(map(_text, values.split(b","))) if equals else ()
    return found


def encode_bundle2(capabilities: Mapping[str, Collection[str]]) -> bytes:
    """What can follow ``bundle2=``: sorted by name, values in the given order."""
    lines = (
        f"{_quoted(name)}={','.join(map(_quoted, values))}" if values else _quoted(name)
        for name, values in sorted(capabilities.items())
    )
    return _quoted("\n".join(lines)).encode("ascii")


def _text(quoted: bytes) -> str:
    # Bytes that are no UTF-8 come through, as the file system's do.
    return unquote_to_bytes(quoted).decode("utf-8", "surrogateescape")


def _quoted(text: str) -> str:
    return quote_from_bytes(text.encode("utf-8", "surrogateescape"))
