# Law of this file: what is logged can be read by people and by machines, and gives nothing away.

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from server.logs import (
    Access,
    AccessLog,
    access_line,
    configure,
    new_request_id,
    redact,
    request_id,
    safe_path,
)
from server.outcome import Outcome
from server.settings import LogSettings

ACCESS = Access(
    request_id="abc",
    remote="192.0.2.7",
    method="POST",
    target="/group/a.git/git-upload-pack",
    status=200,
    sent=1234,
    seconds=0.25,
    repository="group/a.git",
    command="fetch",
    outcome="hit",
    redirected=5678,
    decision="self,not_in_time",
)
# 2026-08-01 00:00:00.125 UTC
NOW = 1785542400.125


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leave the logging of the whole process as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def logged(form: str = "json", level: str = "debug") -> io.StringIO:
    """Send all logs to a text that is returned."""
    stream = io.StringIO()
    configure(LogSettings.model_validate({"format": form, "level": level}), stream)
    return stream


def test_console_line() -> None:
    """A request is one line of words for people."""
    assert access_line(ACCESS, NOW, as_json=False) == (
        "2026-08-01T00:00:00.125Z 192.0.2.7 POST /group/a.git/git-upload-pack 200 1234B 0.250s"
        " group/a.git fetch hit self,not_in_time abc\n"
    )


def test_json_line() -> None:
    """A request is one JSON object with the keys of all other lines."""
    line = access_line(replace(ACCESS, outcome=Outcome.REDIRECT), NOW, as_json=True)
    assert json.loads(line) == {
        "timestamp": "2026-08-01T00:00:00.125Z",
        "level": "info",
        "event": "request",
        "request_id": "abc",
        "remote": "192.0.2.7",
        "method": "POST",
        "path": "/group/a.git/git-upload-pack",
        "status": 200,
        "bytes": 1234,
        "seconds": 0.25,
        "repository": "group/a.git",
        "command": "fetch",
        "outcome": "redirect",
        "decision": "self,not_in_time",
        "redirected": 5678,
    }


def test_nothing_known() -> None:
    """What is not known of a request is a dash, so that words keep their places."""
    line = access_line(
        replace(ACCESS, repository="", command="", outcome="", decision=""), NOW, as_json=False
    )
    assert line.endswith("0.250s - - - - abc\n")


@given(st.text(), st.text(), st.text(), st.booleans())
def test_no_forged_lines(target: str, method: str, repository: str, as_json: bool) -> None:
    """Whatever a client writes, its request is one line of ASCII and of as many fields."""
    access = replace(ACCESS, target=target, method=method, repository=repository)
    line = access_line(access, NOW, as_json=as_json)
    assert line.isascii()
    assert line.splitlines() == [line[:-1]]
    if as_json:
        assert json.loads(line)["method"] == method


@given(st.text(alphabet=st.characters(exclude_characters="?")), st.text())
def test_no_query(path: str, query: str) -> None:
    """Nothing of a query is logged but which git service it asks for."""
    shown, _, rest = safe_path(f"{path}?{query}").partition("?")
    assert rest in {"", "service=git-upload-pack", "service=git-receive-pack"}
    assert shown in path or shown.startswith("/")


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/a/info/refs?service=git-upload-pack", "/a/info/refs?service=git-upload-pack"),
        ("/a/info/refs?x=1&service=git-receive-pack&y", "/a/info/refs?service=git-receive-pack"),
        ("/a?service=secret", "/a"),
        ("/a?myservice=git-upload-pack", "/a"),
        ("/-/blobs/ab?expires=1&key=k&signature=ff", "/-/blobs/ab"),
        ("http://me:hunter2@host/a?b=c", "/a"),
        ("http://host?next=http://me:hunter2@x/y", "/"),
        ("me:hunter2@host:443", "/"),
        ("/https://me:hunter2@host/a?b=c", "/https://[redacted]@host/a"),
        ("/https:/me:hunt@er2@host/a", "/https:/[redacted]@host/a"),
        ("/group/a@b.git/info/refs", "/group/a@b.git/info/refs"),
        ("*", "/"),
    ],
)
def test_safe_path(target: str, shown: str) -> None:
    """Of a target its path is shown; queries, users and hosts are not."""
    assert safe_path(target) == shown


SECRETS = (
    "GET /a?X-Amz-Signature=hunter2 HTTP/1.1",
    "https://bucket.s3.amazonaws.com/k?X-Amz-Credential=hunter2&X-Amz-Signature=hunter2",
    "https://me:hunter2@host/a",
    "Authorization: Bearer hunter2",
    "{'Authorization': 'Basic hunter2', 'Host': 'x'}",
    "(b'authorization', b'Basic hunter2')",
    "refused Basic hunter2",
    "the header was 'bearer  hunter2', which",
    "sent token hunter2hunter2hunter2",
    "Negotiate hunter2hunter2hunter2==",
    "PRIVATE-TOKEN: hunter2",
    "Set-Cookie: session=hunter2",
    "{'Cookie': 'a=hunter2; b=hunter2'}",
    "remote: ghp_hunter2hunter2hunter2 has expired",
    "glpat-hunter2hunter2-hunter2",
    "https://me:hunter2@hunter2@host/a",
    'proxy-authorization="hunter2"',
    "/-/blobs/ab?expires=1&key=k&signature=hunter2",
    "X-Amz-Security-Token=hunter2&a=b",
    "Signature=hunter2, SignedHeaders=host",
    "Policy=hunter2&Key-Pair-Id=hunter2&Hash-Algorithm=SHA256",
    "md5=hunter2&expires=1&key=k",
)


@pytest.mark.parametrize("text", SECRETS)
def test_redacted(text: str) -> None:
    """No credential, signature or query is left of a text, and its rest is."""
    assert "hunter2" not in redact(text)
    assert "[redacted]" in redact(text)
    for harmless in ("fetch of group/a: is this fine? yes", 'Basic realm="Offramp"', "token 1"):
        assert redact(harmless) == harmless


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize("text", SECRETS)
def test_secrets_never_logged(form: str, text: str) -> None:
    """Whoever logs it, and wherever in it: a secret does not come out."""
    stream = logged(form)
    log = structlog.get_logger()
    log.info(text)
    log.info("event", value=text, several=[text], headers={"k": text}, thing=ValueError(text))
    log.info("event", headers={"Authorization": "hunter2"}, authorization="hunter2")
    logging.getLogger("aiohttp.server").warning("bad request: %s", text)
    for logger in (log, logging.getLogger("x")):
        try:
            raise ValueError(text)
        except ValueError:
            logger.exception("failed")
    assert stream.getvalue().count("ValueError") >= 2
    assert "hunter2" not in stream.getvalue()


def test_json_lines() -> None:
    """Lines of ours, those of libraries and those of requests have one format."""
    stream = logged()
    structlog.get_logger().info("one", n=1, nothing=None)
    logging.getLogger("aiohttp.server").error("two %s", 2)
    AccessLog(LogSettings(format="json"), stream).write(ACCESS, NOW)
    one, two, three = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (one["event"], one["level"], one["n"], one["nothing"]) == ("one", "info", 1, None)
    assert (two["event"], two["level"]) == ("two 2", "error")
    assert {"event", "level", "timestamp"} <= one.keys() & two.keys() & three.keys()


def test_traceback_is_one_json_line() -> None:
    """An exception stays with its event."""
    stream = logged()
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("x").exception("failed")
    assert json.loads(stream.getvalue())["exception"].endswith("ValueError: no")


def test_level() -> None:
    """What is below the level is not logged, by structlog and by others."""
    stream = logged(level="warning")
    structlog.get_logger().info("quiet")
    logging.getLogger("x").info("quiet")
    structlog.get_logger().warning("loud")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["loud"]


def test_talkative_libraries() -> None:
    """Libraries that print whole requests when they debug are not allowed to."""
    stream = logged(level="debug")
    logging.getLogger("botocore.auth").debug("StringToSign")
    logging.getLogger("urllib3.connectionpool").debug("GET")
    logging.getLogger("offramp.x").debug("ours")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["ours"]


def test_configured_again() -> None:
    """The last configuration counts, and nothing is logged twice."""
    first, second = logged(), logged()
    logging.getLogger("x").warning("once")
    assert not first.getvalue()
    assert second.getvalue().count("once") == 1


def test_access_log_off() -> None:
    """Requests are logged only if the settings say so."""
    stream = io.StringIO()
    AccessLog(LogSettings(access=False), stream).write(ACCESS, NOW)
    assert not stream.getvalue()


def test_full_disk() -> None:
    """A request does not fail because its line cannot be written."""

    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

    AccessLog(LogSettings(), Full()).write(ACCESS, NOW)


def test_request_ids() -> None:
    """A client's id is kept if it can do no harm, and replaced if not."""
    assert request_id("trace-1.a_B") == "trace-1.a_B"
    assert request_id("a" * 64) == "a" * 64
    for bad in (None, "", "a" * 65, "a b", "a\n", "é", "a\x00", '"'):
        assert request_id(bad) != bad
        assert len(request_id(bad)) == 16


def test_new_ids_differ() -> None:
    """Requests can be told apart."""
    assert len({new_request_id() for _ in range(1000)}) == 1000
