# Law of this file: what others may use of the client stands here.

from __future__ import annotations

from client.errors import (
    BadAddress,
    BadCall,
    BrokenAnswer,
    CallError,
    ClientError,
    NotSpoken,
    Refused,
    TooLarge,
    Unreachable,
)
from client.limits import Limits
from client.many import Answer
from client.repository import Repository, connect
from client.targets import every_target, no_target
from client.watch import Call, Watch

__all__ = [
    "Answer",
    "BadAddress",
    "BadCall",
    "BrokenAnswer",
    "Call",
    "CallError",
    "ClientError",
    "Limits",
    "NotSpoken",
    "Refused",
    "Repository",
    "TooLarge",
    "Unreachable",
    "Watch",
    "connect",
    "every_target",
    "no_target",
]
