# Law of this file: what stands before a store in tests demands signatures as its documentation
# says, and knows nothing of how we make them.

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from tests.nginx import running_nginx

DOCS: Final = Path(__file__).parents[1] / "docs" / "stores-and-targets.md"

Check = Callable[[str, Mapping[str, str]], bool]
"""Whether a URL (absolute, without its query) with these parameters may be answered."""

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

# --- a CDN -------------------------------------------------------------------------------


@dataclass
class Edge:
    """A CDN of this process, in front of a directory store.

    Attributes:
        check: what it demands; a test may change it.
        url: its base URL.
        asked: paths that were answered with content, to whoever is not Offramp itself.
    """

    check: Check
    url: str = ""
    asked: list[str] = field(default_factory=list)


@contextmanager
def edge(store: Path, check: Check) -> Iterator[Edge]:
    """Serve the files below ``store``, to those who pass ``check``, whole and by Range."""
    made = Edge(check)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            file = store / path.lstrip("/")
            if not made.check(f"{made.url}{path}", dict(parse_qsl(query))):
                self.answer(403, b"not for you\n")
            elif not file.is_file():
                self.answer(404, b"no such\n")
            else:
                if self.headers["User-Agent"] != "offramp":
                    made.asked.append(path)
                self.content(file.read_bytes())

        def content(self, body: bytes) -> None:
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if wanted is None:
                self.answer(200, body)
                return
            start, end = int(wanted[1]), int(wanted[2] or len(body) - 1)
            self.answer(206, body[start : end + 1], f"bytes {start}-{end}/{len(body)}")

        def answer(self, status: int, body: bytes, part: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if part:
                self.send_header("Content-Range", part)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - theirs
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def cloudfront(keys: Mapping[str, PrivateKey], now: Callable[[], float]) -> Check:
    """What CloudFront demands, with the public halves of ``keys`` in its key group.

    "How CloudFront checks for the expiration date and time in a signed URL", and the pages on
    canned and custom policies, of the CloudFront Developer Guide.
    """

    def check(url: str, query: Mapping[str, str]) -> bool:
        with suppress(KeyError, ValueError, InvalidSignature):
            public = keys[query["Key-Pair-Id"]].public_key()
            signature = _unescaped(query["Signature"])
            if "Policy" in query:
                document = _unescaped(query["Policy"])
            else:
                document = (
                    b'{"Statement":[{"Resource":"%b","Condition":{"DateLessThan":'
                    b'{"AWS:EpochTime":%d}}}]}' % (url.encode(), int(query["Expires"]))
                )
            # S303 - it is CloudFront's default
            sha1 = hashes.SHA1()  # noqa: S303
            algorithm = hashes.SHA256() if query.get("Hash-Algorithm") == "SHA256" else sha1
            if isinstance(public, rsa.RSAPublicKey):
                public.verify(signature, document, padding.PKCS1v15(), algorithm)
            else:
                public.verify(signature, document, ec.ECDSA(algorithm))
            (statement,) = json.loads(document)["Statement"]
            ends = statement["Condition"]["DateLessThan"]["AWS:EpochTime"]
            return fnmatchcase(url, statement["Resource"]) and now() < ends
        return False

    return check


def _unescaped(value: str) -> bytes:
    return base64.b64decode(value.translate(str.maketrans("-_~", "+=/")), validate=True)


def shared_hmac(secrets: Mapping[str, str], now: Callable[[], float]) -> Check:
    """What docs/stores-and-targets.md tells an edge to demand, who shares these secrets."""

    def check(url: str, query: Mapping[str, str]) -> bool:
        with suppress(KeyError, ValueError):
            key, expires, signature = query["key"], query["expires"], query["signature"]
            digest = urlsplit(url).path.rpartition("/")[2]
            message = f"offramp blob 1\n{key}\n{expires}\n{digest}".encode()
            expected = hmac.new(secrets[key].encode(), message, hashlib.sha256).hexdigest()
            return hmac.compare_digest(expected, signature) and now() < int(expires)
        return False

    return check


# --- nginx -------------------------------------------------------------------------------


def documented(kind: str, word: str) -> str:
    """The fenced block of ``kind`` in docs/stores-and-targets.md that holds ``word``."""
    fenced = re.compile(rf"^```{kind}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    blocks: list[str] = fenced.findall(DOCS.read_text())
    (found,) = (block for block in blocks if word in block)
    return found


@contextmanager
def nginx(
    here: Path, store: Path, secrets: Mapping[str, str], *, without: str = ""
) -> Iterator[str]:
    """The base URL of a stock nginx with the documented settings, before a directory store.

    Args:
        here: a directory of its own.
        store: root of the store.
        secrets: by their key's id; they take the place of those of the documentation.
        without: lines that hold this are left out of the settings.
    """
    text = documented("nginx", "secure_link_md5")
    known = "".join(f'"{key}" "{secret}";\n' for key, secret in secrets.items())
    text, replaced = re.subn(r'^ *"20\d\d-\d" ".*";\n', "", text, flags=re.MULTILINE)
    assert replaced == 2
    text = text.replace('default "";', f'default "";\n{known}')
    text = text.replace("/srv/offramp-store", str(store)).replace("access_log off;", "")
    text = "".join(
        line for line in text.splitlines(keepends=True) if not without or without not in line
    )
    # It is given a socket that listens already: nobody can come too early.
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        text = text.replace("listen 8080;", f"listen {address};")
        assert address in text
        with running_nginx(here, text, listener):
            yield f"http://{address}"


def served(here: Path) -> list[str]:
    """The paths that this nginx gave content of, to whoever is not Offramp itself."""
    lines = (here / "access.log").read_text().splitlines()
    found = [line.split('"') for line in lines]
    return [
        words[1].split()[1].partition("?")[0]
        for words in found
        if words[2].split()[0] in {"200", "206"} and words[5] != "offramp"
    ]
