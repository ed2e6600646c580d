# Law of this file: what a client must be told, what an operator must be told, and what only means
# that the question must be asked again are different types.

from __future__ import annotations


class CommandError(Exception):
    """The client asked for what there is not; tell it so.

    Attributes:
        message: a format string (``%s``) for ``words``.
        words: what it is about.
    """

    def __init__(self, message: bytes, words: tuple[bytes, ...] = ()) -> None:
        self.message = message
        self.words = words
        super().__init__((message % words).decode("utf-8", "replace"))


class UnknownNode(CommandError):  # noqa: N818 - what it is
    """There is no such changeset, manifest or file revision, or it is not served.

    Attributes:
        node: which.
    """

    def __init__(self, node: bytes, what: bytes = b"unknown node: %s") -> None:
        self.node = node
        super().__init__(what, (node.hex().encode(),))


class Unservable(Exception):  # noqa: N818 - what the repository is
    """This repository cannot be served by the protocol; the message says why."""


class Restricted(Unservable):
    """hg's configuration says who may read it, and nobody here knows users."""


class Moved(Exception):  # noqa: N818 - what happened
    """The repository is not any more what the snapshot says: take a new one, and ask again."""
