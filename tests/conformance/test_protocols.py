# Law of this file: everything else that a stock client says is answered as stock git answers it,
# or refused in words that git shows to its user.

from __future__ import annotations

import gzip
import os
import re
import zlib
from pathlib import Path

import aiohttp
import pytest

from indexer.report import Silent
from server.indexing import index_all
from tests.conformance.clones import (
    V2_HEADERS,
    Client,
    accepting,
    declining,
    packet,
    packets,
    state,
    stock,
    v2_request,
)
from tests.conformance.repositories import KINDS, Repository, empty, run_git
from tests.conftest import Serve

INDEXED = ["refs/heads/", "v*", "main", "refs/tags/v1.0", "no-such-ref"]
PUSHED = "refs/heads/pushed"


async def post(url: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    """POST to a URL; status and body of the answer."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=body, headers={**V2_HEADERS, **headers}) as answer,
    ):
        return answer.status, await answer.read()


# --- v0 and v1 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("options", [(), ("--depth=1",), ("--filter=blob:none",)], ids=str)
async def test_old_protocols_are_cached(
    serve: Serve, repository: Repository, tmp_path: Path, version: int, options: tuple[str, ...]
) -> None:
    """A second clone by v0 or v1 runs nothing, and both are those of stock git."""
    served = await serve(repository.root)
    client = Client(tmp_path, (f"protocol.version={version}", "fetch.uriProtocols=http"))
    await stock(tmp_path)("clone", "--bare", *options, repository.stock_url, "stock")
    expected = await state(client, tmp_path / "stock")
    # A shallow clone asks twice: for the boundary, then for the pack.
    runs = 2 if "--depth=1" in options else 1
    for name in ("cold", "warm"):
        await client("clone", "--bare", *options, repository.url(served.url), name)
        assert await state(client, tmp_path / name) == expected
        assert served.executions() == runs
    repository.commit("refs/heads/main", 20)
    for name, side in (("cold", client), ("stock", stock(tmp_path))):
        await side("-C", name, "fetch", "origin", "+refs/heads/*:refs/heads/*")
    assert await state(client, tmp_path / "cold") == await state(client, tmp_path / "stock")


# --- refs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
async def test_ls_remote_is_that_of_stock_git(
    serve: Serve, root: Path, tmp_path: Path, kind: str, version: int
) -> None:
    """Every ref, symbolic ones and what tags point to, whole and by patterns."""
    repository = KINDS[kind](root)
    served = await serve(root)
    client = Client(tmp_path, (f"protocol.version={version}",))
    for patterns in ((), INDEXED, ("--heads",), ("--tags", "--refs")):
        options = [word for word in patterns if word.startswith("-")]
        rest = [word for word in patterns if not word.startswith("-")]
        theirs, ours = [
            await client("ls-remote", "--symref", *options, url, *rest, check=False)
            for url in (repository.stock_url, repository.url(served.url))
        ]
        assert sorted(ours.stdout.splitlines()) == sorted(theirs.stdout.splitlines())
        assert ours.status == theirs.status


async def test_a_change_of_any_ref_is_seen_at_once(
    serve: Serve, repository: Repository, tmp_path: Path
) -> None:
    """Whatever way a ref changes on disk, the next client is told."""
    served = await serve(repository.root)
    client = declining(tmp_path)

    async def same() -> None:
        theirs, ours = [
            (await client("ls-remote", "--symref", url)).stdout
            for url in (repository.stock_url, repository.url(served.url))
        ]
        assert ours == theirs

    await same()
    repository.git("update-ref", "refs/heads/topic", "main")
    await same()
    repository.git("branch", "deep/er/new", "main~1")
    await same()
    repository.git("pack-refs", "--all", "--prune")
    await same()
    repository.git("symbolic-ref", "HEAD", "refs/heads/topic")
    await same()
    repository.git("update-ref", "-d", "refs/heads/deep/er/new")
    await same()
    repository.git("tag", "-d", "v1.0")
    await same()


async def test_server_options_are_accepted(
    serve: Serve, repository: Repository, tmp_path: Path
) -> None:
    """`-o region=eu` is the client's way to say where it is; it changes no answer."""
    served = await serve(repository.root)
    client = accepting(tmp_path)
    url = repository.url(served.url)
    listed = await client("ls-remote", "-o", "region=eu", url)
    assert listed.stdout == (await client("ls-remote", repository.stock_url)).stdout
    for number, option in enumerate(("region=eu", "region=us")):
        await client("init", "--bare", f"clone-{number}")
        await client("-C", f"clone-{number}", "fetch", "-o", option, url, "+refs/*:refs/*")
    assert served.executions() == 1


# --- other commands ------------------------------------------------------------------------------


@pytest.mark.parametrize("advertised", ["true", "false"])
async def test_object_info_is_that_of_stock_git(
    serve: Serve, repository: Repository, monkeypatch: pytest.MonkeyPatch, advertised: str
) -> None:
    """Where stock git advertises the command, stock git answers it; else it is unknown."""
    body = v2_request("object-info", "size", f"oid {repository.oid('main:big.txt')}")
    repository.git("config", "transfer.advertiseObjectInfo", advertised)
    monkeypatch.setenv("GIT_PROTOCOL", "version=2")
    theirs = repository.git("upload-pack", "--advertise-refs", ".")
    served = await serve(repository.root)
    status, answer = await post(f"{repository.url(served.url)}/git-upload-pack", body)
    assert status == 200
    if "object-info" in theirs:  # older git does not know the setting
        size = repository.git("cat-file", "-s", "main:big.txt")
        assert packets(answer) == [b"size", f"{repository.oid('main:big.txt')} {size}".encode()]
    else:
        assert answer[4:].startswith(b"ERR ")


@pytest.mark.parametrize("filter_spec", [None, "blob:none"])
async def test_a_bundle_list_serves_stock_clones(
    serve: Serve, repository: Repository, tmp_path: Path, filter_spec: str | None
) -> None:
    """`clone --bundle-uri` of the list's file takes the bundle, and needs no pack beside it."""
    served = await serve(repository.root)
    await index_all(served.settings, Silent(), gc=True)
    await served.runtime.catalogs.refresh_all()
    listing = f"{served.url}/-/bundles/{repository.name}"
    options = [f"--filter={filter_spec}"] if filter_spec else []
    if filter_spec:
        listing += f"?filter={filter_spec}"
    await stock(tmp_path)("clone", "--bare", *options, repository.stock_url, "stock")
    client = Client(tmp_path, environ={"GIT_TRACE": "1"})
    said = await client(
        "clone", "--bare", *options, f"--bundle-uri={listing}", repository.url(served.url), "clone"
    )
    assert "warning" not in said.stderr
    assert re.search(r"run_command: git-remote-https '?http://[^ ]*/-/blobs/", said.stderr)
    ours, theirs = [await state(client, tmp_path / name) for name in ("clone", "stock")]
    assert ours.objects == theirs.objects
    kept = {ref for ref in ours.refs if not ref.startswith("refs/bundles/")}
    assert kept == set(theirs.refs)


async def test_bundle_uri_over_the_protocol(serve: Serve, repository: Repository) -> None:
    """The command names the full bundle by a location that answers; before indexing, none."""
    served = await serve(repository.root)
    service = f"{repository.url(served.url)}/git-upload-pack"
    head = [b"bundle.version=1", b"bundle.mode=all"]
    _, answer = await post(service, v2_request("bundle-uri"))
    assert packets(answer) == head
    await index_all(served.settings, Silent(), gc=True)
    await served.runtime.catalogs.refresh_all()
    status, answer = await post(service, v2_request("bundle-uri"))
    assert status == 200
    *said, uri, token = packets(answer)
    assert said == [*head, b"bundle.heuristic=creationToken"]
    assert re.fullmatch(rb"bundle\.full-[0-9a-f]+\.creationtoken=\d+", token)
    key, _, url = uri.decode().partition("=")
    assert key.endswith(".uri")
    async with aiohttp.ClientSession() as session, session.get(url) as got:
        assert (await got.content.read(20)).startswith(b"# v2 git bundle")


async def test_refs_are_wanted_by_name(
    serve: Serve, repository: Repository, tmp_path: Path
) -> None:
    """With uploadpack.allowRefInWant a client wants refs by name, whole and shallow."""
    repository.git("config", "uploadpack.allowRefInWant", "true")
    served = await serve(repository.root)
    for number, options in enumerate(([], ["--depth=1"])):
        # In protocol v0, because git 2.39's own server misplaces `wanted-refs` in a shallow answer.
        plain = Client(tmp_path, ("protocol.version=0",), stock(tmp_path).environ)
        states = []
        for side, url in (
            (plain, repository.stock_url),
            (accepting(tmp_path), repository.url(served.url)),
            (declining(tmp_path), repository.url(served.url)),
        ):
            clone = tmp_path / f"{number}-{len(states)}"
            await side("init", "--bare", clone)
            said = await side.traced()(
                "-C", clone, "fetch", *options, url, "refs/heads/main:refs/heads/main"
            )
            assert ("want-ref refs/heads/main" in said.stderr) == (side is not plain)
            states.append(await state(side, clone))
        assert states[0] == states[1] == states[2]
    assert served.executions() == 2


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 2])
async def test_another_users_repository_is_refused_as_git_refuses_it(
    serve: Serve,
    repository: Repository,
    tmp_path: Path,
    version: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """safe.directory means what it means to stock git; git shows an error, the log says why."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a repository away")
    for path in (repository.path, *repository.path.rglob("*")):
        os.chown(path, 12345, 12345)
    served = await serve(repository.root)
    client = Client(tmp_path, (f"protocol.version={version}",))
    said = await client("clone", repository.url(served.url), "clone", check=False)
    assert said.status != 0
    assert "git refuses this repository" in said.stderr
    assert str(repository.root) not in said.stderr
    assert "dubious ownership" in caplog.text
    run_git(tmp_path, "config", "--file", Path.home() / ".gitconfig", "safe.directory", "*")
    served = await serve(repository.root)
    await client("clone", repository.url(served.url), "clone")


async def test_a_repository_can_refuse_filters(
    serve: Serve, repository: Repository, tmp_path: Path
) -> None:
    """uploadpack.allowFilter=false: the client is warned and gets everything, as from stock git."""
    repository.git("config", "uploadpack.allowFilter", "false")
    served = await serve(repository.root)
    url = repository.url(served.url)
    client = accepting(tmp_path)
    said = await client("clone", "--bare", "--filter=blob:none", url, "clone")
    assert "filtering not recognized by server" in said.stderr
    await client("clone", "--bare", "--filter=blob:none", repository.stock_url, "stock")
    assert await state(client, tmp_path / "clone") == await state(client, tmp_path / "stock")
    body = v2_request("fetch", "filter blob:none", f"want {repository.oid('main')}", "done")
    _, refused = await post(f"{url}/git-upload-pack", body)
    assert b"ERR " in refused


@pytest.mark.parametrize("version", [0, 1, 2])
async def test_fetching_can_be_switched_off(
    serve: Serve, repository: Repository, tmp_path: Path, version: int
) -> None:
    """http.uploadpack=false is a refusal that git shows."""
    repository.git("config", "http.uploadpack", "false")
    served = await serve(repository.root)
    client = Client(tmp_path, (f"protocol.version={version}",))
    said = await client("clone", repository.url(served.url), "clone", check=False)
    assert said.status != 0
    assert "switched off (http.uploadpack)" in said.stderr
    assert "403" in said.stderr


@pytest.mark.parametrize("version", [0, 2])
async def test_what_is_not_there_is_refused_in_gits_words(
    serve: Serve, repository: Repository, tmp_path: Path, version: int
) -> None:
    """An object that does not exist is `not our ref`; a repository that does not, `not found`."""
    served = await serve(repository.root)
    client = Client(tmp_path, (f"protocol.version={version}", "fetch.uriProtocols=http"))
    await client("init", "clone")
    for url in (repository.url(served.url), repository.stock_url):
        said = await client("-C", "clone", "fetch", url, "1" * 40, check=False)
        assert said.status != 0
        assert "not our ref" in said.stderr or "unadvertised object" in said.stderr
    said = await client("clone", f"{served.url}/nowhere", "nowhere", check=False)
    assert said.status != 0
    assert "not found" in said.stderr


# --- pushing -------------------------------------------------------------------------------------


async def _work(client: Client, repository: Repository, url: str) -> Path:
    work = client.directory / "work"
    await client("clone", url, work)
    (work / "pushed").write_text("pushed\n")
    await client("-C", work, "add", "pushed")
    await client("-C", work, "commit", "-m", "pushed")
    return work


async def test_pushing_is_refused_unless_it_is_enabled(
    serve: Serve, repository: Repository, tmp_path: Path
) -> None:
    """Git prints whose decision it is and where to push instead; nothing has changed."""
    served = await serve(repository.root, git={"push": ["other/*"]})
    client = declining(tmp_path)
    before = repository.git("for-each-ref")
    work = await _work(client, repository, repository.url(served.url))
    said = await client("-C", work, "push", "origin", "main", check=False)
    assert said.status != 0
    assert "remote: Pushing to 'project.git' through this server is not enabled" in said.stderr
    assert repository.git("for-each-ref") == before


@pytest.mark.parametrize("version", [0, 1, 2])
async def test_a_push_is_seen_at_once(
    serve: Serve, repository: Repository, tmp_path: Path, version: int
) -> None:
    """The next ls-remote and the next clone show it; a push that git rejects, git explains."""
    served = await serve(repository.root, git={"push": ["*"]})
    url = repository.url(served.url)
    client = Client(tmp_path, (f"protocol.version={version}", "fetch.uriProtocols=http"))
    work = await _work(client, repository, url)
    for number in range(3):
        await client("-C", work, "commit", "--allow-empty", "-m", f"push {number}")
        await client("-C", work, "push", "origin", "main")
        tip = (await client("-C", work, "rev-parse", "HEAD")).stdout.strip()
        assert repository.oid("main") == tip
        assert tip in (await client("ls-remote", url, "refs/heads/main")).stdout
        await client("clone", url, f"clone-{number}")
        got = await client("-C", f"clone-{number}", "rev-parse", "HEAD")
        assert got.stdout.strip() == tip
    await client("-C", work, "push", "origin", ":topic", "v1.0:refs/tags/again")
    assert "topic" not in (await client("ls-remote", url)).stdout
    await client("-C", work, "reset", "--hard", "HEAD~1")
    await client("-C", work, "commit", "--allow-empty", "-m", "diverged")
    said = await client("-C", work, "push", "origin", "main", check=False)
    assert said.status != 0
    assert "rejected" in said.stderr


async def test_a_large_push_arrives_in_chunks(serve: Serve, root: Path, tmp_path: Path) -> None:
    """A pack larger than http.postBuffer is sent chunked, into an empty repository."""
    repository = empty(root)
    served = await serve(root, git={"push": ["*"]}, limits={"request_body": "64KiB"})
    url = repository.url(served.url)
    client = Client(tmp_path, ("http.postBuffer=65536",), {"GIT_TRACE_CURL": "1"})
    work = tmp_path / "work"
    await client("clone", url, work)
    (work / "large").write_bytes(os.urandom(2 << 20))
    await client("-C", work, "add", "large")
    await client("-C", work, "commit", "-m", "large")
    said = await client("-C", work, "push", "origin", "main")
    assert "Transfer-Encoding: chunked" in said.stderr
    await client("clone", url, "clone")
    assert (tmp_path / "clone" / "large").read_bytes() == (work / "large").read_bytes()
    repository.git("fsck", "--strict")


async def test_a_push_that_is_larger_than_allowed_is_refused(
    serve: Serve, root: Path, tmp_path: Path
) -> None:
    """limits.push_body holds, and the repository is as it was."""
    repository = empty(root)
    served = await serve(root, git={"push": ["*"]}, limits={"push_body": "256KiB"})
    client = Client(tmp_path, ("http.postBuffer=65536",))
    work = tmp_path / "work"
    await client("clone", repository.url(served.url), work)
    (work / "large").write_bytes(os.urandom(1 << 20))
    await client("-C", work, "add", "large")
    await client("-C", work, "commit", "-m", "large")
    assert (await client("-C", work, "push", "origin", "main", check=False)).status != 0
    assert not repository.git("for-each-ref")


async def test_a_compressed_push_is_understood(serve: Serve, repository: Repository) -> None:
    """A body with Content-Encoding gzip is what it is when unpacked."""
    served = await serve(repository.root, git={"push": ["*"]})
    pack = b"PACK\0\0\0\2\0\0\0\0"
    pack += bytes.fromhex("029d08823bd8a8eab510ad6ac75c823cfd3ed31e")
    command = f"{'0' * 40} {repository.oid('main')} {PUSHED}\0report-status object-format=sha1"
    status, answer = await post(
        f"{repository.url(served.url)}/git-receive-pack",
        gzip.compress(packet(command) + b"0000" + pack),
        **{"Content-Type": "application/x-git-receive-pack-request", "Content-Encoding": "gzip"},
    )
    assert status == 200
    assert b"unpack ok" in answer
    assert repository.oid(PUSHED) == repository.oid("main")


async def test_a_compressed_fetch_is_understood(
    serve: Serve, repository: Repository, tmp_path: Path
) -> None:
    """Clients compress a request with many haves; what does not unpack is refused."""
    served = await serve(repository.root)
    service = f"{repository.url(served.url)}/git-upload-pack"
    body = v2_request("fetch", "ofs-delta", f"want {repository.oid('main')}", "done")
    await post(service, body)
    plain = await post(service, body)
    assert await post(service, gzip.compress(body), **{"Content-Encoding": "gzip"}) == plain
    assert await post(service, zlib.compress(body), **{"Content-Encoding": "deflate"}) == plain
    status, _ = await post(service, b"\x1f\x8b" + body, **{"Content-Encoding": "gzip"})
    assert status == 400
