# Law of this file: many repositories served by one stock `hg serve`, and its answers as they are:
# no client, no compression, so that they can be compared byte for byte.

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Final
from urllib.parse import urlencode, urlsplit

from tests.hg.stock import started
from tests.hg.versions import hg

_NONE: Final = b"\x04none"


@dataclass(frozen=True, slots=True)
class Webdir:
    """A running server.

    Attributes:
        address: its host and port.
    """

    address: str

    def __call__(self, repository: str, command: str, **arguments: str | bytes) -> bytes:
        """The body of an answer, without what says how it is compressed: it is not."""
        connection = HTTPConnection(self.address)
        try:
            query = urlencode({"cmd": command, **arguments})
            accepted = {"X-HgProto-1": "0.1 0.2 comp=none"}
            connection.request("GET", f"/{repository}?{query}", headers=accepted)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        kind = answer.headers["Content-Type"]
        assert (answer.status, kind.partition("-0.")[0]) == (200, "application/mercurial"), body
        return body.removeprefix(_NONE) if kind.endswith("2") else body


@contextmanager
def webdir(version: str, repositories: Mapping[str, Path], home: Path) -> Iterator[Webdir]:
    """Serve repositories by name.

    Args:
        version: of hg.
        repositories: where each lies.
        home: an existing directory, for its configuration.
    """
    paths = "".join(f"{name} = {path}\n" for name, path in repositories.items())
    (home / "webdir").write_text(f"[paths]\n{paths}")
    options = ["--webdir-conf", str(home / "webdir")]
    options += ["--config", "server.compressionengines=none"]
    with started(hg(version), home, *options) as url:
        yield Webdir(f"127.0.0.1:{urlsplit(url).port}")
