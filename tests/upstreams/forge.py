# Law of this file: a forge as its users meet it: stock nginx in front of stock git's http-backend,
# on a free port of loopback, where rights change between two requests and every request is logged.

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final, Literal

from tests.conformance.repositories import Repository, make
from tests.nginx import needed, start_nginx

Right = Literal["pull", "push"]
Maker = Callable[[Path, str], Repository]

# As hosted forges are set up: any object by its name, and partial clones.
_USUAL: Final = {
    "http.receivepack": "true",
    "uploadpack.allowAnySHA1InWant": "true",
    "uploadpack.allowFilter": "true",
    # A collection would go on in the background, after the test.
    "receive.autogc": "false",
}

# How many CGI programs can run at once; requests beyond that wait.
_PROGRAMS_AT_ONCE: Final = 8

# Rights are files, read at each request: `pull` and `push` are htpasswd files, and each file below
# `tokens` is named like the token that it admits. Where no `pull` is, everybody may read.
_HTTP: Final = """\
  log_format requests escape=json '{{"method":"$request_method","path":"$uri",'
    '"query":"$query_string","status":"$status","bytes_sent":"$body_bytes_sent",'
    '"user":"$remote_user","git_protocol":"$http_git_protocol"}}';
  access_log {here}/requests.log requests;
  default_type application/octet-stream;
  client_max_body_size 0;
  map $http_authorization $token {{
    default "";
    "~^Bearer (?<given>[A-Za-z0-9_-]+)$" $given;
  }}
  map "$arg_service $uri" $right {{
    default pull;
    "~^git-receive-pack " push;
    "~/git-receive-pack$" push;
  }}
  server {{
    listen {address};
    location = /-/mark {{ access_log off; return 204; }}
    location / {{ return 404; }}
    location ~ ^/(?<repo>.+?)(\\.git)?/(?<tail>info/.+|git-[a-z]+-pack|HEAD|objects/.+)$ {{
      set $realm off;
      if (-f {here}/rights/$repo/pull) {{ set $realm forge; }}
      if ($right = push) {{ set $realm forge; }}
      if (-f {here}/rights/$repo/tokens/$token) {{ set $realm off; }}
      auth_basic $realm;
      auth_basic_user_file {here}/rights/$repo/$right;
      fastcgi_pass unix:{here}/cgi.sock;
      fastcgi_buffering off;
      fastcgi_read_timeout 3600s;
      fastcgi_param SCRIPT_FILENAME {program};
      fastcgi_param HOME {here}/home;
      fastcgi_param GIT_CONFIG_NOSYSTEM "1";
      fastcgi_param GIT_PROJECT_ROOT {here}/root;
      fastcgi_param GIT_HTTP_EXPORT_ALL "1";
      fastcgi_param GIT_PROTOCOL $http_git_protocol;
      fastcgi_param PATH_INFO /$repo.git/$tail;
      fastcgi_param QUERY_STRING $query_string;
      fastcgi_param REQUEST_METHOD $request_method;
      fastcgi_param CONTENT_TYPE $content_type;
      fastcgi_param CONTENT_LENGTH $content_length;
      fastcgi_param REMOTE_USER $remote_user;
      fastcgi_param REMOTE_ADDR $remote_addr;
      fastcgi_param SERVER_PROTOCOL $server_protocol;
    }}
  }}
"""


class CannotStart(Exception):  # noqa: N818 - what happened
    """The forge did not come up; the message has what its programs said."""


@dataclass(frozen=True)
class LoggedRequest:
    """A request that the forge has answered.

    Attributes:
        method: of HTTP.
        path: decoded, without the query.
        query: as it came, without the question mark.
        status: of the answer.
        bytes_sent: of the answer's body, with the framing of its chunks.
        user: whom the caller claimed to be by Basic, let in or not.
        git_protocol: the header ``Git-Protocol``.
    """

    method: str
    path: str
    query: str
    status: int
    bytes_sent: int
    user: str
    git_protocol: str


@dataclass(frozen=True)
class Forge:
    """A running forge.

    Repositories have names like ``acme/widget.git``; clients may leave the ``.git`` away.

    Attributes:
        url: its base URL, without a trailing slash.
        here: where it keeps everything; nothing lies elsewhere.
        processes: what was started.
    """

    url: str
    here: Path
    processes: tuple[subprocess.Popen[bytes], ...]

    @classmethod
    def start(cls, here: Path) -> Forge:
        """Start a forge that keeps its files in ``here``; it answers when this returns.

        Raises:
            CannotStart: when one of its programs ended at once.
        """
        for name in ("root", "rights", "home"):
            (here / name).mkdir(parents=True)
        found = subprocess.check_output(("git", "--exec-path"), text=True).strip()
        backend = f"{found}/git-http-backend"
        with (
            closing(socket.create_server(("127.0.0.1", 0))) as listener,
            closing(socket.socket(socket.AF_UNIX)) as gate,
        ):
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            gate.bind(str(here / "cgi.sock"))
            gate.listen()
            http = _HTTP.format(here=here, address=address, program=backend)
            cgi = (
                needed("fcgiwrap", "fcgiwrap"),
                "-f",
                "-c",
                str(_PROGRAMS_AT_ONCE),
                "-p",
                backend,
            )
            processes = (
                _started(cgi, here, gate),
                start_nginx(here, http, listener),
            )
        forge = cls(f"http://{address}", here, processes)
        try:
            forge._mark()
        except (OSError, HTTPException) as error:
            forge.close()
            raise CannotStart(f"the forge did not start: {error!r} {forge.complaints()}") from error
        return forge

    @property
    def root(self) -> Path:
        """The directory with the repositories."""
        return self.here / "root"

    def make(
        self,
        name: str,
        *,
        users: Mapping[str, str] | None = None,
        config: Mapping[str, str] | None = None,
        maker: Maker = make,
    ) -> Repository:
        """Make a repository, and let in who may read and write.

        Args:
            name: ends with ``.git``.
            users: passwords of those who may read and write; None: everybody may read.
            config: of the repository, on top of what forges usually set; names of two parts.
            maker: of its content.
        """
        repository = maker(self.root, name)
        # Written as git would, which would be started once for each of them.
        with (repository.git_dir / "config").open("a") as file:
            for variable, value in {**_USUAL, **(config or {})}.items():
                section, _, key = variable.partition(".")
                file.write(f"[{section}]\n\t{key} = {value}\n")
        (self._rights(name) / "tokens").mkdir(parents=True)
        self._write(name, "push", {})
        if users is not None:
            self.close_to_the_public(name)
        for user, password in (users or {}).items():
            self.allow(name, user, password)
        return repository

    # --- rights ----------------------------------------------------------------------------------

    def close_to_the_public(self, name: str) -> None:
        """From the next request on, only who is allowed to may read."""
        if not (self._rights(name) / "pull").exists():
            self._write(name, "pull", self._read(name, "push"))

    def open_to_the_public(self, name: str) -> None:
        """From the next request on, everybody may read."""
        (self._rights(name) / "pull").unlink(missing_ok=True)

    def allow(self, name: str, user: str, password: str, *, push: bool = True) -> None:
        """Let a user read, and write unless told otherwise; or change the password."""
        public = not (self._rights(name) / "pull").exists()
        rights: tuple[Right, ...] = () if public else ("pull",)
        for right in (*rights, "push") if push else rights:
            self._write(name, right, {**self._read(name, right), user: _hashed(password)})

    def revoke(self, name: str, user: str) -> None:
        """From the next request on, the user is nobody here."""
        for right in ("pull", "push"):
            if (self._rights(name) / right).exists():
                left = self._read(name, right)
                left.pop(user, None)
                self._write(name, right, left)

    def allow_token(self, name: str, token: str) -> None:
        """Let in who says ``Authorization: Bearer TOKEN``; of letters, digits, ``_`` and ``-``."""
        (self._rights(name) / "tokens" / token).touch()

    def revoke_token(self, name: str, token: str) -> None:
        """From the next request on, the token is nobody's."""
        (self._rights(name) / "tokens" / token).unlink()

    def _rights(self, name: str) -> Path:
        return self.here / "rights" / name.removesuffix(".git")

    def _read(self, name: str, right: Right) -> dict[str, str]:
        lines = (self._rights(name) / right).read_text().splitlines()
        return dict(line.split(":", 1) for line in lines)

    def _write(self, name: str, right: Right, hashes: Mapping[str, str]) -> None:
        path = self._rights(name) / right
        beside = path.with_suffix(".new")
        beside.write_text("".join(f"{user}:{hashed}\n" for user, hashed in hashes.items()))
        beside.replace(path)

    # --- what happened ---------------------------------------------------------------------------

    def requests(self) -> list[LoggedRequest]:
        """What was asked and has been answered, in the order in which the answers ended."""
        # One thread serves and logs: what was answered before the mark is logged when that is.
        self._mark()
        lines = (self.here / "requests.log").read_text(errors="replace").splitlines()
        return [_logged(json.loads(line)) for line in lines]

    def complaints(self) -> str:
        """What its programs had to say, for a person who looks why a test failed."""
        logs = (self.here / "log", self.here / "error.log")
        return " ".join(path.read_text(errors="replace") for path in logs if path.exists())

    def _mark(self) -> None:
        with closing(HTTPConnection(self.url.removeprefix("http://"))) as connection:
            connection.request("GET", "/-/mark")
            connection.getresponse().read()

    def close(self) -> None:
        """End it as a crash does, with everything that it runs; harmless a second time."""
        for process in reversed(self.processes):
            if process.returncode is None:
                # A group of its own, with its workers, their programs, and git.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextmanager
def running_forge(here: Path) -> Iterator[Forge]:
    """A forge without repositories, until the block ends."""
    forge = Forge.start(here)
    try:
        yield forge
    finally:
        forge.close()


def _hashed(password: str) -> str:
    """As htpasswd writes it; a password in plain text ends at its first colon there."""
    digest = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    return "{SHA}" + base64.b64encode(digest).decode()


def _started(arguments: Sequence[str], here: Path, gate: socket.socket) -> subprocess.Popen[bytes]:
    with (here / "log").open("ab") as log:
        return subprocess.Popen(
            arguments,
            stdin=gate.fileno(),
            stdout=log,
            stderr=log,
            cwd=here,
            # Nothing of whoever runs the tests: the forge's git is a machine of its own.
            env={"PATH": os.environ["PATH"]},
            start_new_session=True,
        )


def _logged(said: dict[str, str]) -> LoggedRequest:
    return LoggedRequest(
        method=said["method"],
        path=said["path"],
        query=said["query"],
        status=int(said["status"]),
        bytes_sent=int(said["bytes_sent"]),
        user=said["user"],
        git_protocol=said["git_protocol"],
    )
