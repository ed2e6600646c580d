# Law of this file: the pictures of the status page in the documentation are of the real page, of a
# real server with an example to look at. `python -m tests.status.screenshots` makes them anew.

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.status.chromium import PROGRAM, browser
from tests.status.scene import repository, troubles, week

DOCS: Final = Path(__file__).parents[2] / "docs"

# Name, width and height in CSS pixels, dark, of a telephone.
PICTURES: Final = (
    ("status-page", 1040, 1180, False, False),
    ("status-page-dark", 1040, 1180, True, False),
    ("status-page-phone", 360, 1180, False, True),
    ("status-page-phone-dark", 360, 1180, True, True),
)
_SIZES: Final = {"web/shop.git": 2 << 20, "infra/deploy.git": 300_000, "docs.git": 90_000}
_OFFRAMP: Final = (sys.executable, "-c", "from cli.main import main; main()")


@contextmanager
def serving(place: Path) -> Iterator[str]:
    """``offramp serve`` with an example below ``place``: the address of its page."""
    root, data = place / "repos", place / "data"
    options = (str(root), "--data", str(data))
    for seed, (name, size) in enumerate(_SIZES.items()):
        repository(root / name, size, seed)
    subprocess.run((*_OFFRAMP, "index", *options), check=True, stdout=subprocess.DEVNULL)
    repository(root / "new.git", 1000)
    week(data)
    troubles(data)
    server = subprocess.Popen(
        (*_OFFRAMP, "serve", *options, "--listen", "127.0.0.1:0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stdout is not None
        found = re.search(r"http://\S+/$", server.stdout.readline().strip())
        assert found is not None
        yield f"{found[0]}-/"
    finally:
        server.terminate()
        server.communicate()


def main() -> None:
    """Make the pictures."""
    if PROGRAM is None:
        sys.exit("chromium is not installed; on Debian: apt-get install chromium")
    os.environ["GIT_CONFIG_NOSYSTEM"] = "1"
    with (
        tempfile.TemporaryDirectory() as directory,
        serving(Path(directory)) as url,
        browser() as page,
    ):
        for name, width, height, dark, mobile in PICTURES:
            page.look(width, height, dark=dark, mobile=mobile)
            page.open(url)
            (DOCS / f"{name}.webp").write_bytes(page.small_screenshot())


if __name__ == "__main__":
    main()
