# Law of this file: a mirror is exactly its upstream, or what it was before, whatever fails or is
# killed; and what it fetches with is seen by nobody.

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from repos.git.mirror import Mirror, MirrorBusy, Source, mirror_path
from repos.git.program import Git, GitFailed
from tests.repos.mirrors import NAME, Origin, Watched, create, fsck, run_git, update

SECRET = "Bearer hunter2hunter2"
MAIN = b"refs/heads/main"


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    """Two branches, an annotated tag and a ref of another kind."""
    origin = Origin.make(tmp_path / "origin.git")
    first = origin.commit("refs/heads/main", "first")
    origin.commit("refs/heads/main", "second", first)
    origin.run("branch", "topic", first)
    origin.run("tag", "-a", "-m", "one", "v1", first)
    origin.commit("refs/pull/1/head", "pull", first)
    return origin


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    """A git that writes down its arguments."""
    return Watched.make(tmp_path / "watched")


@pytest.fixture
def mirror(tmp_path: Path, watched: Watched) -> Mirror:
    """A mirror that is not there yet."""
    return Mirror(mirror_path(tmp_path / "mirrors", NAME), watched.git)


@pytest.fixture
def mirrored(origin: Origin, mirror: Mirror) -> Mirror:
    """A mirror of the origin as it was made."""
    create(mirror, origin)
    return mirror


def packs(mirror: Mirror) -> list[str]:
    """The names of the files in ``objects/pack``."""
    return sorted(os.listdir(mirror.path / "objects" / "pack"))  # noqa: PTH208


def test_the_first_mirroring(origin: Origin, mirror: Mirror) -> None:
    """It has the upstream's refs and HEAD, all that they reach, and nobody else may read it."""
    assert not mirror.exists
    create(mirror, origin)
    assert mirror.exists
    assert mirror.refs() == origin.refs()
    assert (mirror.path / "HEAD").read_bytes() == b"ref: refs/heads/main\n"
    assert fsck(mirror) == ""
    assert mirror.path.stat().st_mode & 0o777 == 0o700
    assert run_git(mirror.path, "config", "offramp.name") == NAME
    beside = {path.suffix for path in mirror.path.parent.iterdir()}
    assert beside == {".git", ".lock", ".used"}


def test_a_second_first_mirroring_does_nothing(
    origin: Origin, mirrored: Mirror, watched: Watched
) -> None:
    """Who comes second finds it there."""
    runs = len(watched.argv())
    create(mirrored, origin)
    assert len(watched.argv()) == runs


def test_no_first_mirroring_without_all_objects(origin: Origin, mirror: Mirror) -> None:
    """A fetch that fails leaves no mirror, and the next one can be made."""
    with pytest.raises(GitFailed, match="not our ref"):
        mirror.create(origin.source, {MAIN: "a" * 40}, MAIN, "sha1", NAME)
    assert not mirror.exists
    assert [path.suffix for path in mirror.path.parent.iterdir()] == [".lock"]
    create(mirror, origin)
    assert mirror.refs() == origin.refs()


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_object_formats(object_format: str, tmp_path: Path, mirror: Mirror) -> None:
    """An empty repository is mirrored, and filled later; whatever its objects are named by."""
    origin = Origin.make(tmp_path / "o.git", object_format)
    create(mirror, origin)
    assert mirror.refs() == {}
    assert run_git(mirror.path, "rev-parse", "--show-object-format") == object_format
    oid = origin.commit("refs/heads/main", "first")
    update(mirror, origin)
    assert mirror.refs() == {MAIN: oid}
    mirror.maintain(full=True)
    assert fsck(mirror) == ""


def force_push(origin: Origin) -> None:
    """A history is replaced by another one."""
    origin.commit("refs/heads/main", "forced")


def push(origin: Origin) -> None:
    """A commit comes onto a branch."""
    origin.commit("refs/heads/main", "third", origin.run("rev-parse", "main"))


def delete(origin: Origin) -> None:
    """A branch and a tag go."""
    origin.run("branch", "-D", "topic")
    origin.run("tag", "-d", "v1")


def file_to_directory(origin: Origin) -> None:
    """A branch goes, one below its name comes."""
    origin.run("branch", "-m", "topic", "other")
    origin.run("branch", "topic/one", "other")


def move_head(origin: Origin) -> None:
    """Nothing but where a branch points to, which is there already."""
    origin.run("update-ref", "refs/heads/topic", "main")


def odd_names(origin: Origin) -> None:
    """Names that git allows, and that a shell, a refspec or a listing might not."""
    for name in (
        "a'b",
        'a"b',
        "$(x)",
        "-f",
        "+x",
        "\N{SNOWMAN}",
        "a;b",
        "x" * 200,
        "a|b",
        "@",
        "%s",
    ):
        origin.run("update-ref", f"refs/heads/{name}", "main")
    packed = origin.path / "packed-refs"
    origin.run("pack-refs", "--all")
    oid = origin.run("rev-parse", "main").encode()
    packed.write_bytes(packed.read_bytes() + oid + b" refs/tags/w\xff\n")


@pytest.mark.parametrize(
    "change", [push, force_push, delete, file_to_directory, move_head, odd_names]
)
def test_a_change(
    change: Callable[[Origin], None], origin: Origin, mirrored: Mirror, watched: Watched
) -> None:
    """After an update the refs are exactly the upstream's; with all that they reach."""
    change(origin)
    assert mirrored.refs() != origin.refs()
    update(mirrored, origin)
    assert mirrored.refs() == origin.refs()
    assert fsck(mirrored) == ""
    before = watched.fetches()
    update(mirrored, origin)
    assert watched.fetches() == before, "nothing differs any more"


def test_a_directory_becomes_a_file_again(origin: Origin, mirrored: Mirror) -> None:
    """Whichever of two names that cannot be at once comes, packed or loose, the other one goes."""
    file_to_directory(origin)
    update(mirrored, origin)
    mirrored.maintain(full=False)
    origin.run("branch", "-D", "topic/one")
    origin.run("branch", "topic", "main")
    update(mirrored, origin)
    assert mirrored.refs() == origin.refs()


def test_what_is_no_ref_to_mirror(origin: Origin, mirror: Mirror) -> None:
    """HEAD, and what would be taken for ours, are no refs of a mirror; HEAD's object is kept."""
    detached = origin.commit("refs/hidden", "detached")
    refs = {**origin.refs(), b"HEAD": detached, b"refs/offramp/x": detached}
    del refs[b"refs/hidden"]
    mirror.create(origin.source, refs, None, "sha1", NAME)
    assert set(mirror.refs()) == set(origin.refs()) - {b"refs/hidden"}
    assert run_git(mirror.path, "cat-file", "-t", detached) == "commit"
    run_git(mirror.path, "gc", "--quiet", "--prune=now")
    assert run_git(mirror.path, "cat-file", "-t", detached) == "commit"


@pytest.mark.parametrize(
    "name",
    [
        b"refs/heads/a b",
        b"refs/heads/a\ndelete refs/heads/main",
        b"refs/heads/a\0",
        b"refs/heads/*",
        b"refs/heads/a:refs/heads/b",
        b"refs/../config",
        b"refs/heads/a.lock",
        b"refs/heads/a.lock/b",
        b"refs/heads//a",
        b"refs/heads/.a",
        b"refs/heads/a/",
        b"refs/heads/a.",
        b"refs/heads/@{1}",
        b"refs/",
    ],
)
def test_names_that_git_forbids(name: bytes, origin: Origin, mirrored: Mirror) -> None:
    """What an upstream could not have honestly changes nothing here."""
    before = mirrored.refs()
    oid = before[MAIN]
    with pytest.raises(GitFailed, match="which git forbids"):
        mirrored.update(origin.source, {name: oid}, None, ())
    with pytest.raises(GitFailed, match="names the object"):
        mirrored.update(origin.source, {MAIN: f"{oid}:refs/heads/x"}, None, ())
    with pytest.raises(GitFailed, match="names the object"):
        mirrored.update(origin.source, before, None, ["--all"])
    assert mirrored.refs() == before


def test_objects_that_no_ref_names(origin: Origin, mirrored: Mirror, watched: Watched) -> None:
    """What is wanted by its id comes, is kept, and is shown to nobody."""
    gone = origin.commit("refs/heads/gone", "gone")
    origin.run("update-ref", "-d", "refs/heads/gone")
    update(mirrored, origin, gone)
    assert run_git(mirrored.path, "cat-file", "-t", gone) == "commit"
    assert mirrored.refs() == origin.refs()
    assert gone not in run_git(mirrored.path, "ls-remote", ".")
    run_git(mirrored.path, "gc", "--quiet", "--prune=now")
    assert run_git(mirrored.path, "cat-file", "-t", gone) == "commit"
    fetches = watched.fetches()
    update(mirrored, origin, gone)
    assert watched.fetches() == fetches
    assert fsck(mirrored) == ""


def test_an_update_that_fails(origin: Origin, mirrored: Mirror) -> None:
    """The old state stays, deleted branches too, if one object of the new one cannot be had."""
    before = mirrored.refs()
    push(origin)
    origin.run("branch", "-D", "topic")
    with pytest.raises(GitFailed, match="not our ref"):
        update(mirrored, origin, "a" * 40)
    assert mirrored.refs() == before
    with pytest.raises(GitFailed, match="does not appear to be a git repository"):
        mirrored.update(Source("/nowhere"), origin.refs(), MAIN, ())
    assert mirrored.refs() == before
    assert fsck(mirrored) == ""
    update(mirrored, origin)
    assert mirrored.refs() == origin.refs()


def test_no_update_without_a_mirror(origin: Origin, mirror: Mirror) -> None:
    """Who updates what has been removed is told so."""
    mirror.path.parent.mkdir()
    with pytest.raises(GitFailed, match="not a git repository"):
        update(mirror, origin)
    assert not mirror.exists


@contextmanager
def in_thread(call: Callable[[], None]) -> Iterator[list[BaseException]]:
    """Run beside the block, to its end; what it raises is in the list then."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - a test looks at it
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield raised
    thread.join()


def test_killed_in_the_middle_of_an_update(
    origin: Origin, mirrored: Mirror, watched: Watched
) -> None:
    """A fetch that is killed leaves a file that nobody sees; the next one removes it."""
    before = mirrored.refs()
    push(origin)
    with (
        watched.stopping(),
        in_thread(lambda: update(mirrored, origin)) as raised,
    ):
        os.killpg(watched.held(), signal.SIGKILL)
    assert "signal 9" in str(raised[0])
    assert any(name.startswith("tmp_pack_") for name in packs(mirrored))
    assert mirrored.refs() == before
    assert fsck(mirrored) == ""
    update(mirrored, origin)
    assert mirrored.refs() == origin.refs()
    assert not any(name.startswith("tmp_") for name in packs(mirrored))
    assert fsck(mirrored) == ""


def test_killed_in_the_middle_of_the_first_mirroring(
    origin: Origin, mirror: Mirror, watched: Watched
) -> None:
    """There is no mirror then, nor a half one."""
    with watched.stopping(), in_thread(lambda: create(mirror, origin)) as raised:
        group = watched.held()
        assert not mirror.exists
        os.killpg(group, signal.SIGKILL)
    assert "signal 9" in str(raised[0])
    assert not mirror.exists
    create(mirror, origin)
    assert fsck(mirror) == ""


def test_a_fetch_that_takes_too_long(origin: Origin, mirrored: Mirror, watched: Watched) -> None:
    """The time limit ends a fetch with all that it has started."""
    push(origin)
    limited = Mirror(mirrored.path, Git(1.0, watched.git.environ, watched.git.executable))
    with watched.stopping(), pytest.raises(GitFailed, match="signal 9"):
        update(limited, origin)
    update(mirrored, origin)
    assert mirrored.refs() == origin.refs()


def test_locks_and_marks_that_killed_programs_left(origin: Origin, mirrored: Mirror) -> None:
    """None of them stops an update or keeps a pack apart; what an administrator keeps is kept."""
    base = mirrored.path
    (stem,) = {Path(name).stem for name in packs(mirrored) if name.endswith(".pack")}
    (base / "objects" / "pack" / f"{stem}.keep").write_text("fetch-pack 1 on here\n")
    (base / "objects" / "pack" / "pack-x.keep").write_text("by hand\n")
    (base / "objects" / "pack" / ".tmp-1-pack-x.pack").touch()
    for name in ("packed-refs.lock", "packed-refs.new", "HEAD.lock", "refs/heads/main.lock"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).touch()
    (base / "gc.pid").write_text(f"{os.getpid()} {os.uname().nodename}\n")
    push(origin)
    delete(origin)
    update(mirrored, origin)
    assert mirrored.refs() == origin.refs()
    assert f"{stem}.keep" not in packs(mirrored)
    assert "pack-x.keep" in packs(mirrored)
    assert ".tmp-1-pack-x.pack" not in packs(mirrored)
    mirrored.maintain(full=True)
    assert fsck(mirrored) == ""


def test_two_processes_fetch_once(origin: Origin, mirrored: Mirror, watched: Watched) -> None:
    """Of two processes that update at the same time the second finds it done."""
    push(origin)
    code = (
        "import sys; from pathlib import Path; from repos.git.mirror import Mirror\n"
        "from repos.git.program import Git\n"
        "from tests.repos.mirrors import Origin, update\n"
        "origin, path, git, execs = sys.argv[1:]\n"
        "import os; os.environ['GIT_EXEC_PATH'] = execs\n"
        "mirror = Mirror(Path(path), Git(executable=git))\n"
        "print('ready', flush=True); update(mirror, Origin(Path(origin)))\n"
    )
    words = (str(origin.path), str(mirrored.path), watched.git.executable, str(watched.directory))
    before = watched.fetches(), watched.packs()
    with mirrored.lock(0):
        both = [
            subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE)
            for _ in range(2)
        ]
        for process in both:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
    for process in both:
        process.communicate()
        assert process.returncode == 0
    assert mirrored.refs() == origin.refs()
    assert (watched.fetches(), watched.packs()) == (before[0] + 1, before[1] + 1)


def test_the_lock(mirrored: Mirror) -> None:
    """One holds it; others are told so, at once or in time; it is free after any end of a block."""
    with mirrored.lock(None):
        for timeout in (0, 0.06):
            with pytest.raises(MirrorBusy), mirrored.lock(timeout):
                pass
        with pytest.raises(MirrorBusy):
            mirrored.maintain(full=False)
        with pytest.raises(MirrorBusy):
            mirrored.remove()
    with pytest.raises(KeyError), mirrored.lock(0):
        raise KeyError
    with mirrored.lock(0):
        pass


def test_the_secret_is_in_no_argument(origin: Origin, mirrored: Mirror, watched: Watched) -> None:
    """Git and its children are told the credential by their environment alone; it is on no disk."""
    push(origin)
    url = "http://127.0.0.1:1/a=b/acme/widget.git"
    source = Source(url, SECRET, ca_file=Path("/certificates"), stall_seconds=0.5)
    assert "hunter2" not in repr(source)
    with pytest.raises(GitFailed) as failed:
        mirrored.update(source, origin.refs(), MAIN, ())
    assert "127.0.0.1" in str(failed.value), "git has asked there"
    assert "hunter2" not in str(failed.value)
    asked = [words for words in watched.argv() if url in words]
    assert any("remote-http" in words for words in asked)
    assert f"--config-env=http.{url}.extraHeader=OFFRAMP_UPSTREAM_HEADER" in asked[0]
    assert "http.lowSpeedTime=1 " in asked[0]
    assert "hunter2" not in "".join(watched.argv())
    for path in mirrored.path.parent.rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes()


def test_git_is_given_the_header_for_that_address_alone(
    origin: Origin, mirrored: Mirror, tmp_path: Path
) -> None:
    """What git would send there is ours; the server's own settings reach neither."""
    push(origin)
    (Path.home() / ".gitconfig").write_text(
        '[http]\n\textraHeader = X: mine\n[url "/elsewhere/"]\n\tinsteadOf = http://\n'
    )
    url = "http://127.0.0.1:1/a=b/widget.git"
    seen = tmp_path / "seen"
    program = tmp_path / "program"
    program.write_text(
        f"#!{sys.executable}\nimport subprocess, sys\n_, *words = sys.argv\n"
        "if 'fetch' not in words: sys.exit(subprocess.call(['git', *words]))\n"
        "ask = ['git', *words[:words.index('fetch')], 'config']\n"
        f"with open({str(seen)!r}, 'w') as file:\n"
        f"    for url in ({url!r}, 'http://elsewhere/'):\n"
        "        subprocess.check_call([*ask, '--get-urlmatch', 'http', url], stdout=file)\n"
        "        print(file=file, flush=True)\n"
        "    subprocess.check_call([*ask, '--list'], stdout=file)\n"
        "sys.exit(1)\n"
    )
    program.chmod(0o755)
    with pytest.raises(GitFailed):
        Mirror(mirrored.path, Git(executable=str(program))).update(
            Source(url, SECRET), origin.refs(), None, ()
        )
    here, elsewhere, listed = seen.read_text().split("\n\n", 2)
    assert f"http.extraheader Authorization: {SECRET}" in here
    assert "extraheader" not in elsewhere
    assert "http.followredirects false" in elsewhere
    assert "insteadof" not in listed
    assert "mine" not in listed


@pytest.mark.parametrize("said", [SECRET, "hunter2hunter2"])
def test_a_server_that_repeats_the_secret(
    said: str, origin: Origin, mirrored: Mirror, tmp_path: Path
) -> None:
    """What a server was shown is not in the message, though it be in the server's."""
    program = tmp_path / "program"
    program.write_text(
        '#!/bin/sh\ncase "$*" in *" fetch "*) ;; *) exec git "$@" ;; esac\n'
        f'echo "remote: no access with {said}" >&2; exit 1\n'
    )
    program.chmod(0o755)
    push(origin)
    with pytest.raises(GitFailed, match="no access with") as failed:
        Mirror(mirrored.path, Git(executable=str(program))).update(
            Source("http://127.0.0.1:1/x", SECRET), origin.refs(), None, ()
        )
    assert "hunter2" not in str(failed.value)
    assert failed.value.__cause__ is None


def test_a_header_is_one_line() -> None:
    """A credential that would become a second header is refused, and not repeated."""
    with pytest.raises(ValueError, match="control characters") as refused:
        Source("http://127.0.0.1/", f"{SECRET}\r\nX: y")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("url", ["--upload-pack=touch /tmp/x", "ext::sh -c id", "ssh://h/x"])
def test_addresses_that_are_none(url: str, origin: Origin, mirrored: Mirror) -> None:
    """Nothing but http, https and paths is fetched from; an address is never an option."""
    push(origin)
    with pytest.raises(GitFailed, match=r"not allowed|blocked"):
        mirrored.update(Source(url), origin.refs(), None, ())
