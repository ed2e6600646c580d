# Law of this file: a path leads to a repository below ROOT or to nothing, a blob URL to those who
# hold a signature, and what a client makes up is not repeated: not in a location, a header, a
# label or the log.

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path

import pytest

from redirects.signing import SigningKeys
from tests.conftest import Git, Serve, Served
from tests.server.asking import (
    HEADERS,
    ask,
    command,
    converse,
    head,
    listen_to_access,
    make_repository,
    post,
    run_git,
    want,
)
from wire.git import pktline

INFO_REFS = "/info/refs?service=git-upload-pack"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A ROOT with a repository, between things that are nobody's business."""
    root = tmp_path / "root"
    (root / "group").mkdir(parents=True)
    make_repository(root / "group" / "p.git", {"file": b"content\n"})
    (tmp_path / "outside").mkdir()
    secret = tmp_path / "outside" / "secret.git"
    make_repository(secret, {"file": b"secret\n"})
    (root / "linked.git").symlink_to(secret)
    (root / "elsewhere").symlink_to(tmp_path / "outside")
    (root / "up").symlink_to("..")
    (root / "loop").symlink_to("loop")
    (root / "gitfile").mkdir()
    (root / "gitfile" / ".git").write_text(f"gitdir: {secret}\n")
    (root / "relative").mkdir()
    (root / "relative" / ".git").write_text("gitdir: ../../outside/secret.git\n")
    (root / "worktree").mkdir()
    (root / "worktree" / ".git").symlink_to(secret)
    return root


PATHS = [
    "/../outside/secret.git",
    "/group/../../outside/secret.git",
    "/group/../p.git",
    "/./group/p.git",
    "/%2e%2e/outside/secret.git",
    "/%2E%2E%2Foutside%2Fsecret.git",
    "/..%2foutside%2fsecret.git",
    "/%252e%252e/outside/secret.git",
    "/group/..%5c..%5coutside%5csecret.git",
    "\\..\\outside\\secret.git",
    "/..\\outside\\secret.git",
    "/group/p.git%00",
    "/group%00/p.git",
    "/%00",
    "/group/p.git%0a",
    "/group//p.git",
    "/group/p.git/.git/.git",
    "/group/p.git/objects",
    "/.git",
    "/-/p.git",
    "/" + "a" * 5000,
    "/" + "a/" * 2000 + "p.git",
    "/%ff%fe/p.git",
    "/\udcff\udcfe/p.git",
    "/group/p%ffgit",
    "/linked.git",
    "/linked",
    "/elsewhere/secret.git",
    "/elsewhere/secret",
    "/up/outside/secret.git",
    "/loop",
    "/loop/p.git",
    "/gitfile",
    "/gitfile/.git",
    "/relative",
    "/worktree",
    "/worktree/.git",
    "/nowhere.git",
    "/group",
    "/%",
    "/%zz",
    "/group/p.git;x",
    "/group/p.git%20",
    "/~root/p.git",
    "//outside/secret.git",
    "http://other.example/../outside/secret.git",
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: repr(path[:40]))
async def test_a_path_that_leads_nowhere(
    serve: Serve, root: Path, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    """No path leads out of ROOT, and none is an error of ours or of the other methods."""
    served = await serve(root)
    for reply in (
        await ask(served, "GET", path + INFO_REFS, headers={"Git-Protocol": "version=2"}),
        await ask(served, "GET", path + INFO_REFS),
        await ask(served, "POST", f"{path}/git-upload-pack", command(b"ls-refs"), HEADERS),
    ):
        assert reply.status in {400, 404}
        assert reply.status == 400 or b"secret" not in reply.body
    for record in caplog.records:
        assert record.name == "aiohttp.server" or not record.exc_info


@pytest.mark.parametrize(
    "path", ["/group/p.git", "/group/p", "/group/p.git/.git", "/group%2Fp.git", "//group/p.git"]
)
async def test_a_path_that_leads_to_a_repository(serve: Serve, root: Path, path: str) -> None:
    """The names that git's http-backend knows a repository by are known here."""
    served = await serve(root)
    assert (await ask(served, "GET", path + INFO_REFS)).status == 200


async def test_a_repository_with_a_strange_name(serve: Serve, root: Path, git: Git) -> None:
    """A name with spaces, percent signs and umlauts is served, and its bundle list too."""
    name = "a b%2Fü 100%25.git"
    make_repository(root / name, {"file": b"content\n"})
    served = await serve(root)
    quoted = "a%20b%252F%C3%BC%20100%2525.git"
    await git("ls-remote", f"{served.url}/{quoted}")
    assert (await ask(served, "GET", f"/-/bundles/{quoted}")).status == 200


async def test_a_repository_whose_name_is_no_utf8(serve: Serve, root: Path) -> None:
    """A name that is no UTF-8 breaks neither its neighbours nor the figures."""
    make_repository(root / "b\udcff.git", {"file": b"content\n"})
    served = await serve(root)
    for path in ("/b%ff.git", "/b\udcff.git"):
        await ask(served, "GET", path + INFO_REFS, headers={"Git-Protocol": "version=2"})
    assert (await ask(served, "GET", "/-/metrics")).status == 200
    assert (await ask(served, "GET", "/group/p.git" + INFO_REFS)).status == 200


# --- blobs -------------------------------------------------------------------------------


async def published(served: Served, name: str = "group/p.git") -> tuple[str, str]:
    """The digest and the signed path of an entity that was redirected to."""
    oid = run_git("rev-parse", "HEAD", cwd=served.settings.root / name)
    accepts = (b"packfile-uris http,https", b"ofs-delta", b"done")
    asked = command(b"fetch", b"want " + oid.encode(), *accepts)
    found = re.search(rb" http://[^/]+(/-/blobs/([0-9a-f]{64})\?\S+)", await body(served, asked))
    assert found is not None
    return found[2].decode(), found[1].decode()


async def body(served: Served, asked: bytes, **headers: str) -> bytes:
    """The body of the answer to a fetch."""
    return (await post(served, "group/p.git", asked, headers)).body


async def test_blobs_are_for_those_who_hold_a_signature(serve: Serve, root: Path) -> None:
    """Who holds no signature learns nothing, not even whether a digest exists."""
    served = await serve(root)
    digest, signed = await published(served)
    assert (await ask(served, "GET", signed)).status == 200
    nowhere = hashlib.sha256(b"nowhere").hexdigest()
    keys = served.runtime.keys
    now = int(time.time())
    others = SigningKeys(keys.current, {keys.current: b"x" * 32})
    path, query = signed.split("?")
    for forged in (
        "",
        "?",
        "?expires=1&key=&signature=",
        f"?{query}0",
        f"?{query[:-1]}",
        f"?{query.replace('expires=', 'expires=9')}",
        f"?{query.replace('key=', 'key=x')}",
        f"?{query.upper()}",
        f"?{others.sign(digest, now + 60)}",
        f"?{keys.sign(nowhere, now + 60)}",
    ):
        there = await ask(served, "GET", path + forged)
        gone = await ask(served, "GET", f"/-/blobs/{nowhere}{forged}")
        assert there.status == 403
        if forged != f"?{keys.sign(nowhere, now + 60)}":
            assert (gone.status, gone.body) == (there.status, there.body)
    for text in (digest.upper(), digest[:-1], f"{digest}0", "..%2f..%2fsecret.key", "%00"):
        assert (await ask(served, "GET", f"/-/blobs/{text}?{query}")).status in {403, 404}


async def test_a_signature_ends(serve: Serve, root: Path) -> None:
    """An expired signature is refused; a good one of what is gone is 404."""
    served = await serve(root)
    digest, _ = await published(served)
    keys = served.runtime.keys
    now = int(time.time())
    expired = await ask(served, "GET", f"/-/blobs/{digest}?{keys.sign(digest, now - 1)}")
    assert expired.status == 403
    assert b"expired" in expired.body
    nowhere = hashlib.sha256(b"nowhere").hexdigest()
    signed = f"/-/blobs/{nowhere}?{keys.sign(nowhere, now + 60)}"
    assert (await ask(served, "GET", signed)).status == 404


# --- what clients make up ----------------------------------------------------------------

HOSTS = [
    "evil.example/path",
    "evil.example?x",
    "evil.example#x",
    "user@evil.example",
    "evil example",
    "evil.example:port",
    "evil.example:99999999",
    "evil.example:99999",
    "[::1",
    "évil",
    "\udcff",
    "http://evil.example",
    "a,b",
    "",
]


@pytest.mark.parametrize("host", HOSTS)
async def test_a_host_that_is_none_is_not_repeated(serve: Serve, root: Path, host: str) -> None:
    """A Host header that is no host and port is not made into a location."""
    served = await serve(root)
    oid = run_git("rev-parse", "HEAD", cwd=root / "group" / "p.git")
    asked = command(b"fetch", b"want " + oid.encode(), b"packfile-uris http,https", b"done")
    reply = await post(served, "group/p.git", asked, {"Host": host})
    if reply.status == 200:
        for location in re.findall(rb"https?://\S+", reply.body):
            assert location.startswith(served.url.encode() + b"/-/blobs/")
    else:
        assert reply.status == 400
        assert b"http://" not in reply.body


async def test_the_host_that_the_client_used_is_in_its_own_locations(
    serve: Serve, root: Path
) -> None:
    """A valid Host is where this client reaches us, and no other client is told of it."""
    served = await serve(root)
    oid = run_git("rev-parse", "HEAD", cwd=root / "group" / "p.git")
    asked = command(b"fetch", b"want " + oid.encode(), b"packfile-uris http,https", b"done")
    for host in ("git.example.org", "git.example.org:8080", "[::1]:80", "evil.example"):
        reply = await body(served, asked, Host=host)
        assert re.findall(rb"http://([^/]+)/", reply) == [host.encode()]


async def test_public_url_wins(serve: Serve, root: Path) -> None:
    """With public_url, no Host and no forwarding header is ever in a location."""
    served = await serve(root, public_url="https://git.example.org/base/")
    oid = run_git("rev-parse", "HEAD", cwd=root / "group" / "p.git")
    asked = command(b"fetch", b"want " + oid.encode(), b"packfile-uris https", b"done")
    forwarding = {
        "Host": "evil.example",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "http",
        "Forwarded": "host=evil.example",
    }
    reply = await body(served, asked, **forwarding)
    assert b" https://git.example.org/base/-/blobs/" in reply
    assert b"evil" not in reply


@pytest.mark.parametrize(
    "name",
    [
        "x%0d%0aSet-Cookie:%20a=b",
        "x%0aLocation:%20http://evil.example",
        "x%00",
        "%3Cscript%3Ealert(1)%3C/script%3E",
        "group/p.git%0d%0aX-Evil:%201",
        "..%2f..%2foutside%2fsecret.git",
        "%252e%252e%2foutside%2fsecret.git",
    ],
)
async def test_nothing_is_injected_through_a_name(serve: Serve, root: Path, name: str) -> None:
    """A made-up name in /-/bundles/ is 404 and turns up in neither head nor body."""
    served = await serve(root)
    reply = await ask(served, "GET", f"/-/bundles/{name}")
    assert reply.status in {400, 404}
    assert not {"set-cookie", "location", "x-evil"} & set(reply.headers)
    assert b"script" not in reply.body
    assert b"evil" not in reply.body.lower()


async def test_no_secret_is_in_the_log(serve: Serve, root: Path) -> None:
    """Neither Authorization nor a signature nor any query is in the access log."""
    served = await serve(root, log={"access": True})
    log = listen_to_access(served)
    _, signed = await published(served)
    secret = {"Authorization": "Basic aHVudGVyMg==", "Cookie": "hunter2"}
    await ask(served, "GET", signed, headers=secret)
    await ask(served, "GET", f"{signed}0", headers=secret)
    await ask(served, "GET", "/group/p.git/info/refs?token=hunter2", headers=secret)
    await ask(served, "GET", "/nowhere?password=hunter2", headers=secret)
    await ask(served, "GET", "http://user:hunter2@localhost/group/p.git/info/refs")
    await post(served, "group/p.git", b"zzzz", secret)
    text = "\n".join(await log.until(7))
    assert "/-/blobs/" in text
    for word in ("hunter2", "aHVudGVyMg", "signature", "expires", "token", "Basic"):
        assert word not in text


async def test_the_log_has_a_line_for_each_request_and_no_more(serve: Serve, root: Path) -> None:
    """A path cannot forge a line of the log or a field in one."""
    served = await serve(root, log={"access": True})
    log = listen_to_access(served)
    for path in ("/a%0a127.0.0.1 GET", "/a%0ab", "/\udcff\udcfe", '/"a" 200', "/a\tb"):
        await converse(served, head("GET", path.replace(" ", "%20")))
    await ask(served, "GET", "/-/livez")
    lines = await log.until(1)
    while "/-/livez" not in lines[-1]:
        lines = await log.until(len(lines) + 1)
    assert 2 <= len(lines) <= 6
    assert all(re.match(r"\S+Z 127\.0\.0\.1 GET ", line) for line in lines)


async def test_made_up_names_make_no_labels(serve: Serve, root: Path) -> None:
    """Only repositories that exist, and commands of our own tables, are labels of the figures."""
    served = await serve(root)
    for number in range(20):
        await ask(served, "GET", f"/made-up-{number}.git{INFO_REFS}")
        await ask(served, "GET", f"/-/bundles/made-up-{number}.git")
        await post(served, "group/p.git", command(b"made-up-%d" % number))
        await post(served, f"made-up-{number}.git", want("ab" * 20))
    figures = (await ask(served, "GET", "/-/metrics")).body
    assert b"made-up" not in figures


async def test_the_request_id(serve: Serve, root: Path) -> None:
    """Every answer carries its request's id: the client's, if it is sane, else one of ours."""
    served = await serve(root, log={"access": True}, limits={"request_body": 10_000})
    log = listen_to_access(served)
    oid = run_git("rev-parse", "HEAD", cwd=root / "group" / "p.git")
    given = {"X-Request-Id": "trace-1.a_B"}
    upload_pack = "/group/p.git/git-upload-pack"
    replies = {
        "plain": await ask(served, "GET", "/-/livez", headers=given),
        "404": await ask(served, "GET", "/nowhere", headers=given),
        "error": await post(served, "group/p.git", b"zzzz", given),
        "405": await ask(served, "GET", upload_pack, headers=given),
        "413": await post(served, "group/p.git", b"0" * 10_001, given),
        "streamed": await post(served, "group/p.git", want(oid), given),
        "stored": await post(served, "group/p.git", want(oid), given),
        "blob": await ask(served, "GET", "/-/blobs/x", headers=given),
    }
    said = {name: reply.headers.get("x-request-id") for name, reply in replies.items()}
    assert said == dict.fromkeys(replies, "trace-1.a_B")
    assert all(line.endswith(" trace-1.a_B") for line in await log.until(len(replies)))


@pytest.mark.parametrize("offered", ["", "a b", "x" * 65, "évil", "a\tb", '"', "../x"])
async def test_a_request_id_that_is_not_sane(serve: Serve, root: Path, offered: str) -> None:
    """A request id that could spoil a log is replaced."""
    served = await serve(root)
    reply = await ask(served, "GET", "/-/livez", headers={"X-Request-Id": offered})
    assert re.fullmatch(r"[0-9a-f]{16}", reply.headers["x-request-id"])


def test_the_requests_here_are_well_formed() -> None:
    """What this file sends as a fetch is one: its refusals are for the reasons that it says."""
    assert pktline.parse(want("ab" * 20))[-1] is pktline.Special.FLUSH
