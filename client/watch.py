# Law of this file: whoever wants to see what happens brings a function for it; nothing is kept.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from wire.hg.cbor import Value
from wire.hg.frames import Frame
from wire.hg.messages import Location, Progress, Text


@dataclass(frozen=True, slots=True)
class Call:
    """One command to be sent.

    Attributes:
        name: the command's.
        args: those that differ from the defaults.
        data: command data; None if there are none.
    """

    name: bytes
    args: Mapping[bytes, Value] = field(default_factory=dict)
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Watch:
    """Functions to be called when something happens; None for what nobody looks at.

    Attributes:
        frame: one goes out (True) or has come in (False). Watching costs a second decoder.
        text: the server says something to a person.
        progress: the server says how far a command is.
        redirected: an answer lies elsewhere, at the target of this name if we can tell.
        resumed: a download goes on at this offset.
        failed: a target did not give its content; the name as for ``redirected``, and why.
    """

    frame: Callable[[Frame, bool], None] | None = None
    text: Callable[[Call, Text], None] | None = None
    progress: Callable[[Call, Progress], None] | None = None
    redirected: Callable[[Call, Location, str | None], None] | None = None
    resumed: Callable[[Location, int], None] | None = None
    failed: Callable[[Call, str | None, str], None] | None = None


NOTHING: Final = Watch()
