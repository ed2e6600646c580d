# Law of this file: what the other side did wrong and what we did wrong are different types; only
# the first is answered on the wire.

from __future__ import annotations

from typing import Final

# Bytes; longer than any name that means something.
_SHOWN: Final = 100


class ProtocolViolation(Exception):  # noqa: N818 - what the peer did
    """The peer's bytes break the protocol; the connection is of no more use.

    Attributes:
        request_id: the request it happened in, which an error frame can be addressed to; 0 if in
            none.
    """

    def __init__(self, message: str, request_id: int = 0) -> None:
        self.request_id = request_id
        super().__init__(message)


class LimitExceeded(ProtocolViolation):
    """The peer's bytes are well formed, and more than we are ready to hold."""


class Misuse(Exception):  # noqa: N818 - what we did
    """Our own side asked a state machine for what its state does not allow; a bug of ours."""


def shown(name: bytes) -> str:
    """A peer's name as a message can say it: of what is long, the beginning.

    Messages go back to the peer in frames, which are short.
    """
    return repr(name if len(name) <= _SHOWN else name[:_SHOWN] + b"...")
