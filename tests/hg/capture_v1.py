# Law of this file: the golden files of protocol version 1 are what stock clients ask of a stock
# server of their own version, unchanged. They are made by `python -m tests.hg.capture_v1`; the same
# Mercurials give the same files.

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.hg import repositories
from tests.hg.recording import Exchange, recorded
from tests.hg.stock import serving
from tests.hg.versions import VERSIONS, hg, output

GOLDEN: Final = Path(__file__).parent / "golden_v1"

POSTED: Final = "clone with POSTed arguments"

_CLONE: Final = ("clone", "--quiet", "--noupdate", "URL")
_OPERATIONS: Final[dict[str, tuple[str, ...]]] = {
    "clone": (*_CLONE, "whole"),
    "clone --stream": ("clone", "--quiet", "--noupdate", "--stream", "URL", "streamed"),
    "clone --rev 1": (*_CLONE, "begun", "--rev", "1"),
    "clone of a branch": (*_CLONE, "branch", "--branch", "stable"),
    "incoming": ("--cwd", "begun", "incoming", "--quiet"),
    "pull": ("--cwd", "begun", "pull", "--quiet"),
    "pull of nothing": ("--cwd", "begun", "pull", "--quiet"),
    "id": ("id", "URL"),
    "id of a bookmark": ("id", "URL", "--rev", "first"),
}


@dataclass(frozen=True, slots=True)
class Question:
    """A request of a stock client.

    Attributes:
        operation: of the client, which it was part of.
        target: path and query.
        headers: names in lower case, without those of the connection.
        body: of a POST; empty for a GET.
        answer: the capabilities of a handshake; of other commands nothing is kept.
        media_type: of the answer.
    """

    operation: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: str
    answer: str
    media_type: str

    @property
    def query(self) -> str:
        """What follows the question mark."""
        return self.target.partition("?")[2]

    @property
    def command(self) -> str:
        """Its name."""
        return self.query.partition("cmd=")[2].partition("&")[0]


def main() -> None:
    """Make every golden file anew."""
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for version in VERSIONS:
            place = Path(scratch, version)
            place.mkdir()
            found = [vars_of(each) for each in _questions(hg(version), place)]
            text = json.dumps(found, indent=1, sort_keys=True)
            (GOLDEN / f"{version}.json").write_text(text + "\n")


def _questions(program: Sequence[str], place: Path) -> list[Question]:
    source = repositories.branches(program, place / "source")
    found: list[Question] = []
    with serving(program, source) as origin:
        for name, words in _OPERATIONS.items():
            found += _asked(program, place, origin, name, words)
    with serving(program, source, "experimental.httppostargs=true") as origin:
        found += _asked(program, place, origin, POSTED, (*_CLONE, "posted"))
    return found


def _asked(
    program: Sequence[str], place: Path, origin: str, name: str, words: Sequence[str]
) -> list[Question]:
    with recorded(origin) as recording:
        arguments = [recording.url if word == "URL" else word for word in words]
        if "--cwd" in words:
            arguments.append(recording.url)
        output(program, place, *arguments)
    return [_question(name, each) for each in recording.exchanges]


def _question(operation: str, exchange: Exchange) -> Question:
    known = "cmd=capabilities" in exchange.target
    return Question(
        operation,
        exchange.target,
        tuple(sorted(exchange.headers.items())),
        exchange.request.decode(),
        exchange.response.decode() if known else "",
        exchange.answer_headers.get("content-type", ""),
    )


def vars_of(question: Question) -> dict[str, object]:
    """A question as its file says it."""
    return {
        "operation": question.operation,
        "target": question.target,
        "headers": dict(question.headers),
        "body": question.body,
        "answer": question.answer,
        "media_type": question.media_type,
    }


def read(version: str) -> list[Question]:
    """The questions of a stock client, in order."""
    return [
        Question(
            entry["operation"],
            entry["target"],
            tuple(entry["headers"].items()),
            entry["body"],
            entry["answer"],
            entry["media_type"],
        )
        for entry in json.loads((GOLDEN / f"{version}.json").read_text())
    ]


if __name__ == "__main__":
    main()
