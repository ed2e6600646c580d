# Law of this file: what the demo says of the status page was read from it.

from __future__ import annotations

import asyncio
import json
import os
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from cli.errors import Failed, UserError

# The page waits itself for the store, for two seconds.
_SECONDS: Final = 30.0

# Of the page's links, those that ask the server, which is gone when a file is looked at.
_ASKS: Final = re.compile(rb' href="/[^"]*"')


@dataclass(frozen=True, slots=True)
class Page:
    """What the status page showed after the last clone.

    Attributes:
        url: where it was, while its server ran.
        share: of the bytes of content in the last hour, those that came from elsewhere; 0 to 1.
        redirected, inline: these bytes, and those that Offramp sent.
        answers, runs: answers that runs of git would have computed, and how many runs there were.
        cpu, saved_cpu: seconds of a processor that these took, and that were saved.
        bundles: how many are published.
        targets: the state of each, by name.
        html: the page itself.
    """

    url: str
    share: float | None
    redirected: int
    inline: int
    answers: int
    runs: int
    cpu: float
    saved_cpu: float
    bundles: int
    targets: Mapping[str, str]
    html: bytes

    @property
    def values(self) -> dict[str, object]:
        """For a document; of the page itself, how many bytes it has."""
        return {**asdict(self), "html": len(self.html)}

    def save(self, file: Path | None) -> Path:
        """Write the page, which loads nothing else, without the links that ask its server.

        Args:
            file: where; None: a new temporary file.

        Returns:
            The absolute path of the file.

        Raises:
            UserError: it cannot be written there.
        """
        try:
            if file is None:
                descriptor, name = tempfile.mkstemp(prefix="offramp-demo-", suffix=".html")
                os.close(descriptor)
                file = Path(name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(_ASKS.sub(b"", self.html))
        except OSError as error:
            raise UserError(
                f"the page cannot be saved as {error.filename or file}: {error.strerror}; name"
                " another file with --page"
            ) from None
        return file.absolute()


async def look(port: int) -> Page:
    """Read the page of the server on this port of 127.0.0.1, and its figures.

    Raises:
        Failed: it does not answer as it should.
    """
    base = f"http://127.0.0.1:{port}/-/"
    try:
        html = await asyncio.to_thread(_read, base)
        status = json.loads(await asyncio.to_thread(_read, f"{base}api/status"))
        shelf = json.loads(await asyncio.to_thread(_read, f"{base}api/repositories"))
        share = next(each for each in status["shares"] if each["span"] == "hour")
        saved = next(each for each in status["saved"] if each["span"] == "hour")
        return Page(
            url=base,
            share=share["share"],
            redirected=share["redirected"],
            inline=share["inline"],
            answers=saved["answered"],
            runs=saved["runs"],
            cpu=saved["cpu"],
            saved_cpu=saved["saved_cpu"],
            bundles=sum(len(each["bundles"]) for each in shelf["repositories"]),
            targets={each["name"]: each["state"] for each in status["targets"]},
            html=html,
        )
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise Failed(f"the status page at {base}: {error!r}") from error


def _read(url: str) -> bytes:
    # Whatever proxy the environment names, this is on our own machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=_SECONDS) as answer:
        body: bytes = answer.read()
    return body
