# Law of this file: the server's hg fails in the one way that a test wants. Only the `hg serve`
# behind the server does; whatever else it runs is the real one.

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tests.hg.versions import hg

Fault = Literal["exits", "html", "fails", "hangs", "dies", "ends-early", "is-cut", "aborts"]
"""What the next `hg serve` does, or, of the last seven, does when it is asked for a bundle.

``ends-early``: HTTP shows that something is missing; ``is-cut``: only the bundle shows it;
``aborts``: the bundle says that the server failed.
"""

_PROGRAM: Final = '''\
#!{python}
"""Is hg, but for an `hg serve` of which a file wants something else."""
import os, signal, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

arguments = sys.argv[1:]
wanted = {wanted!r}
if "--webdir-conf" not in arguments or not os.path.exists(wanted):
    os.execv({real[0]!r}, [*{real!r}, *arguments])
with open(wanted) as file:
    fault = file.read()
os.unlink(wanted)
if fault == "exits":
    sys.exit("the disk is on fire")

BEGIN = b"\\4noneHG20" + bytes(4)
HEADER = b"\\x0bchangegroup" + bytes(4) + b"\\1\\0\\x07\\x02version02"
PART = len(HEADER).to_bytes(4, "big") + HEADER + (200).to_bytes(4, "big") + bytes(100)
ERROR = b"\\x0berror:abort" + bytes(4) + b"\\1\\0\\x07\\x0fmessageout of oxygen!!"
ABORT = len(ERROR).to_bytes(4, "big") + ERROR + bytes(4)

class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if "cmd=getbundle" not in self.path:
            return self.say(404, "text/html", b"not here")
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if fault == "html":
            self.say(200, "text/html", b"<html>a page for people</html>")
        elif fault == "fails":
            self.say(500, "text/plain", b"Internal Server Error")
        elif fault == "hangs":
            time.sleep(1000)
        elif fault == "is-cut":
            self.say(200, "application/mercurial-0.2", BEGIN + PART)
        elif fault == "aborts":
            self.say(200, "application/mercurial-0.2", BEGIN + ABORT + bytes(4))
        else:
            self.say(200, "application/mercurial-0.2", BEGIN + PART, whole=False)
            if fault == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            self.close_connection = True

    do_POST = do_GET

    def say(self, status, kind, body, whole=True):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) + (0 if whole else 1000)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *words):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
print("listening at nowhere (bound to 127.0.0.1:%d)" % server.server_port, flush=True)
server.serve_forever()
'''


@dataclass(frozen=True, slots=True)
class Faulty:
    """An hg for the server.

    Attributes:
        program: its path.
        wanted: says what the next `hg serve` is like; it is read once.
    """

    program: Path
    wanted: Path

    @classmethod
    def make(cls, directory: Path, version: str) -> Faulty:
        """Write the program."""
        program, wanted = directory / "hg", directory / "wanted"
        text = _PROGRAM.format(python=sys.executable, wanted=str(wanted), real=hg(version))
        program.write_text(text)
        program.chmod(0o755)
        return cls(program, wanted)

    def fault(self, fault: Fault) -> None:
        """Let the next `hg serve` fail so; the one after it is as it should be."""
        self.wanted.write_text(fault)

    @property
    def is_over(self) -> bool:
        """The fault was met."""
        return not self.wanted.exists()
