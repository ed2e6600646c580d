# Law of this file: every answer is compared with what git itself says of the same repository.

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from pathlib import Path

import pytest

from repos.git.packs import (
    PackFile,
    Step,
    all_reachable,
    count_new_objects,
    incomplete_history,
    object_format_of,
    pack_objects,
)
from repos.git.program import Git, GitFailed
from wire.git.pack import BadPack


def git(directory: Path, *args: str, stdin: bytes = b"") -> str:
    """Stock git's answer, in a work tree or a git directory."""
    done = subprocess.run(
        ["git", "-C", str(directory), *args], input=stdin, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


def commit(directory: Path, name: str, content: str = "") -> str:
    """Add a file by a commit, and return the commit's id."""
    (directory / name).write_text(content or name * 50)
    git(directory, "add", ".")
    git(directory, "commit", "--quiet", "--message", name)
    return git(directory, "rev-parse", "HEAD")


@pytest.fixture(params=["sha1", "sha256"])
def tree(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A work tree with five commits, an annotated tag and a branch, in either object format."""
    directory = tmp_path / "tree"
    git(tmp_path, "init", "--quiet", f"--object-format={request.param}", str(directory))
    for number in range(5):
        commit(directory, f"file-{number}")
    git(directory, "tag", "--annotate", "--message", "one", "v1", "HEAD~2")
    git(directory, "branch", "side", "HEAD~1")
    return directory


def tips_of(directory: Path) -> list[str]:
    """Every object id that a ref points to."""
    return git(directory, "for-each-ref", "--format=%(objectname)").split()


def snapshot(directory: Path) -> dict[str, tuple[int, int]]:
    """Every file of a repository with its size and time of change."""
    files = (Path(base, name) for base, _, names in os.walk(directory) for name in names)
    return {str(f): (f.stat().st_size, f.stat().st_mtime_ns) for f in files}


def unpacked(tmp_path: Path, pack: Path, object_format: str, *, strict: bool) -> Path:
    """A new repository that holds just this pack."""
    bare = tmp_path / f"unpacked-{pack.name}"
    git(tmp_path, "init", "--quiet", "--bare", f"--object-format={object_format}", str(bare))
    flags = ["--strict"] if strict else []
    git(bare, "index-pack", "--stdin", "--fix-thin", *flags, stdin=pack.read_bytes())
    return bare


def types_in(bare: Path) -> list[str]:
    """The type of every object of a repository."""
    lines = git(bare, "cat-file", "--batch-all-objects", "--batch-check=%(objecttype)")
    return lines.split()


class TestPackObjects:
    def test_a_full_pack_stands_alone(self, tree: Path, tmp_path: Path) -> None:
        """A pack of all tips holds every object that they reach, and nothing is missing."""
        sink = tmp_path / "full"
        packed = pack_objects(Git(), tree / ".git", tips_of(tree), None, sink)
        reached = git(tree, "rev-list", "--objects", "--all").splitlines()
        bare = unpacked(tmp_path, sink, object_format_of(packed.checksum), strict=True)
        assert packed.objects == len(reached) == len(types_in(bare))
        for tip in tips_of(tree):
            git(bare, "rev-list", "--objects", tip)

    def test_what_is_returned_describes_the_file(self, tree: Path, tmp_path: Path) -> None:
        """Digest, size and checksum are those of the file, and index-pack agrees."""
        sink = tmp_path / "full"
        packed = pack_objects(Git(), tree / ".git", tips_of(tree), None, sink)
        content = sink.read_bytes()
        assert packed == PackFile(
            hashlib.sha256(content).hexdigest(),
            len(content),
            content[-len(packed.checksum) // 2 :].hex(),
            int.from_bytes(content[8:12], "big"),
        )
        bare = tmp_path / "other"
        form = object_format_of(packed.checksum)
        git(tmp_path, "init", "--quiet", "--bare", f"--object-format={form}", str(bare))
        assert git(bare, "index-pack", "--stdin", stdin=content).split()[-1] == packed.checksum

    def test_a_blobless_pack_holds_no_blobs(self, tree: Path, tmp_path: Path) -> None:
        """With `blob:none` commits, trees and tags are all there, and no blob is."""
        sink = tmp_path / "blobless"
        packed = pack_objects(Git(), tree / ".git", tips_of(tree), "blob:none", sink)
        bare = unpacked(tmp_path, sink, object_format_of(packed.checksum), strict=False)
        assert sorted(types_in(bare)) == ["commit"] * 5 + ["tag"] + ["tree"] * 5

    def test_nothing_unreachable_from_the_tips_is_in_it(self, tree: Path, tmp_path: Path) -> None:
        """Not even with bitmaps, where whole stretches of the pack are sent as they lie there."""
        secret = commit(tree, "secret")
        git(tree, "update-ref", "refs/hidden/one", secret)
        git(tree, "reset", "--quiet", "--hard", "HEAD~1")
        bare = tmp_path / "served.git"
        git(tmp_path, "clone", "--quiet", "--mirror", str(tree), str(bare))
        git(bare, "repack", "-a", "-d", "-b", "--quiet")
        assert list(bare.glob("objects/pack/*.bitmap"))
        tips = git(bare, "for-each-ref", "--format=%(objectname)", "refs/heads").split()
        sink = tmp_path / "pack"
        packed = pack_objects(Git(), bare, tips, None, sink)
        other = unpacked(tmp_path, sink, object_format_of(packed.checksum), strict=True)
        with pytest.raises(subprocess.CalledProcessError):
            git(other, "cat-file", "-e", secret)

    def test_borrowed_objects_are_packed(self, tree: Path, tmp_path: Path) -> None:
        """A repository with alternates gives a pack that needs none."""
        shared = tmp_path / "shared.git"
        git(tmp_path, "clone", "--quiet", "--bare", "--shared", str(tree), str(shared))
        assert not list(shared.glob("objects/pack/*.pack"))
        sink = tmp_path / "pack"
        packed = pack_objects(Git(), shared, tips_of(shared), None, sink)
        unpacked(tmp_path, sink, object_format_of(packed.checksum), strict=True)
        assert packed.objects == 16

    def test_the_repository_is_not_written_to(self, tree: Path, tmp_path: Path) -> None:
        """Questions and packs leave every file of the repository as it was."""
        before = snapshot(tree)
        tips = tips_of(tree)
        pack_objects(Git(), tree / ".git", tips, None, tmp_path / "pack")
        count_new_objects(Git(), tree / ".git", tips, (), filter_spec=None, limit=100)
        all_reachable(Git(), tree / ".git", [git(tree, "rev-parse", "HEAD~2")], tips)
        assert snapshot(tree) == before

    def test_a_missing_object_leaves_no_file(self, tree: Path, tmp_path: Path) -> None:
        """When git fails there is an error in its words, without its progress, and no file."""
        blob = git(tree, "rev-parse", "HEAD:file-3")
        (tree / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
        with pytest.raises(GitFailed, match=blob) as failed:
            pack_objects(Git(), tree / ".git", tips_of(tree), None, tmp_path / "pack")
        assert "Counting objects" not in str(failed.value)
        assert not (tmp_path / "pack").exists()

    @pytest.mark.parametrize("body", ["PACK....", "nonsense", ""])
    def test_what_is_no_whole_pack_leaves_no_file(self, tmp_path: Path, body: str) -> None:
        """A program that exits with zero but wrote something else is not believed."""
        program = tmp_path / "git"
        program.write_text(f"#!/bin/sh\ncat > /dev/null\nprintf %s '{body}'\n")
        program.chmod(0o755)
        with pytest.raises(BadPack):
            pack_objects(Git(executable=str(program)), tmp_path, ["a" * 40], None, tmp_path / "p")
        assert not (tmp_path / "p").exists()

    def test_a_pack_of_nothing_is_refused(self, tmp_path: Path) -> None:
        """An empty repository is its caller's business, and no file is made."""
        with pytest.raises(ValueError):
            pack_objects(Git(), tmp_path, [], None, tmp_path / "p")
        assert not (tmp_path / "p").exists()

    def test_progress_ends_with_every_object(self, tree: Path, tmp_path: Path) -> None:
        """The last that is told is that all objects are written."""
        steps: list[Step] = []
        packed = pack_objects(
            Git(), tree / ".git", tips_of(tree), None, tmp_path / "pack", told=steps.append
        )
        assert steps[-1] == Step("writing", packed.objects, packed.objects)

    def test_git_s_own_figures_are_told(self, tmp_path: Path) -> None:
        """Each phase is told with its figures while the program is still silent on its output."""
        seen = threading.Event()
        fifo = tmp_path / "go-on"
        os.mkfifo(fifo)
        program = tmp_path / "git"
        program.write_text(
            "#!/bin/sh\ncat > /dev/null\n"
            "printf 'Enumerating objects: 12, done.\\nCounting objects:  25%% (3/12)\\r' >&2\n"
            f"read line < {fifo}\nexit 3\n"
        )
        program.chmod(0o755)
        steps: list[Step] = []

        def told(step: Step) -> None:
            steps.append(step)
            if step.phase == "counting" and not seen.is_set():
                seen.set()
                fifo.write_text("go\n")

        with pytest.raises(GitFailed, match="no message"):
            pack_objects(
                Git(executable=str(program)), tmp_path, ["a" * 40], None, tmp_path / "p", told=told
            )
        assert Step("counting", 3, 12) in steps

    def test_what_the_listener_raises_ends_a_silent_program(self, tmp_path: Path) -> None:
        """A run can be ended even while git writes nothing; no file and no process is left."""
        program = tmp_path / "git"
        program.write_text(
            f"#!/bin/sh\necho $$ > {tmp_path}/pid\ncat > /dev/null\nexec sleep 600\n"
        )
        program.chmod(0o755)

        def told(_: Step) -> None:
            if (tmp_path / "pid").exists():
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            pack_objects(
                Git(executable=str(program)), tmp_path, ["a" * 40], None, tmp_path / "p", told=told
            )
        assert not (tmp_path / "p").exists()
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)


class TestCountNewObjects:
    @pytest.fixture(params=["plain", "bitmaps"])
    def served(self, tree: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
        """The same repository without and with bitmaps."""
        bare = tmp_path / "served.git"
        git(tmp_path, "clone", "--quiet", "--mirror", str(tree), str(bare))
        if request.param == "bitmaps":
            git(bare, "repack", "-a", "-d", "-b", "--quiet")
        return bare

    def test_everything_is_new_to_nothing(self, served: Path) -> None:
        """Without a base it counts all: 5 commits, 5 trees, 5 blobs and a tag."""
        tips = tips_of(served)
        assert count_new_objects(Git(), served, tips, (), filter_spec=None, limit=99) == 16

    def test_a_filter_counts_what_a_filtered_pack_would_hold(self, served: Path) -> None:
        """With `blob:none` blobs do not count."""
        tips = tips_of(served)
        assert count_new_objects(Git(), served, tips, (), filter_spec="blob:none", limit=99) == 11

    def test_what_the_base_reaches_does_not_count(self, served: Path) -> None:
        """Two commits on top of the base are six objects, the tag beside them is one."""
        base = [git(served, "rev-parse", "main~2")]
        tips = tips_of(served)
        assert count_new_objects(Git(), served, tips, base, filter_spec=None, limit=99) == 7

    def test_the_same_tips_need_no_program(self, tmp_path: Path) -> None:
        """Nothing is new when nothing has changed, and nobody is asked."""
        nobody = Git(executable=str(tmp_path / "no-such-program"))
        tips = ["a" * 40, "b" * 40]
        assert count_new_objects(nobody, tmp_path, tips, tips, filter_spec=None, limit=0) == 0

    def test_counting_stops_above_the_limit(self, served: Path) -> None:
        """The answer is one more than the limit, however many there are."""
        tips = tips_of(served)
        assert count_new_objects(Git(), served, tips, (), filter_spec=None, limit=3) == 4

    def test_a_missing_object_is_an_error(self, served: Path) -> None:
        """No count is made up for a repository that lacks what it was asked about."""
        unknown = "f" * len(tips_of(served)[0])
        with pytest.raises(GitFailed):
            count_new_objects(Git(), served, [unknown], (), filter_spec=None, limit=9)


class TestAllReachable:
    def test_history_is_reachable_from_its_tip(self, tree: Path) -> None:
        """Every ancestor is, and the tip itself."""
        history = git(tree, "rev-list", "main").split()
        assert all_reachable(Git(), tree / ".git", history, history[:1])

    def test_a_descendant_is_not(self, tree: Path) -> None:
        """What came later is not reachable, be all the others or not."""
        history = git(tree, "rev-list", "main").split()
        assert not all_reachable(Git(), tree / ".git", history, history[1:2])

    def test_a_tag_is_reachable_only_from_itself(self, tree: Path) -> None:
        """A commit does not reach the annotated tags that name it or its ancestors."""
        tag, main = git(tree, "rev-parse", "v1", "main").split()
        assert all_reachable(Git(), tree / ".git", [tag], [main, tag])
        assert not all_reachable(Git(), tree / ".git", [tag], [main])

    def test_a_tag_reaches_its_history(self, tree: Path) -> None:
        """What the tagged commit reaches is reachable from the tag."""
        tag, old, new = git(tree, "rev-parse", "v1", "v1~1", "main").split()
        assert all_reachable(Git(), tree / ".git", [old], [tag])
        assert not all_reachable(Git(), tree / ".git", [new], [tag])

    def test_trees_and_blobs_count_only_as_roots(self, tree: Path) -> None:
        """A blob that a ref points to is reachable while the ref is there, and is no error."""
        blob, main, old = git(tree, "rev-parse", "main:file-0", "main", "main~1").split()
        assert all_reachable(Git(), tree / ".git", [blob, old], [main, blob])
        assert not all_reachable(Git(), tree / ".git", [blob], [main])

    def test_unknown_objects_are_not_reachable(self, tree: Path) -> None:
        """An object that is not there is neither reachable nor reaches anything; no error."""
        main, old = git(tree, "rev-parse", "main", "main~1").split()
        unknown = "f" * len(main)
        assert not all_reachable(Git(), tree / ".git", [unknown], [main])
        assert not all_reachable(Git(), tree / ".git", [old], [unknown])
        assert not all_reachable(Git(), tree / ".git", [old], [])

    def test_the_same_tips_need_no_program(self, tmp_path: Path) -> None:
        """Nobody is asked what can be seen."""
        nobody = Git(executable=str(tmp_path / "no-such-program"))
        assert all_reachable(nobody, tmp_path, ["a" * 40], ["b" * 40, "a" * 40])
        assert all_reachable(nobody, tmp_path, [], [])

    def test_more_tips_than_a_pipe_holds(self, tree: Path) -> None:
        """Thousands of object ids on both sides do not block."""
        tree_git = tree / ".git"
        lines = [f"create refs/heads/b{n} {git(tree, 'rev-parse', 'main')}" for n in range(3)]
        git(tree, "update-ref", "--stdin", stdin="\n".join(lines).encode() + b"\n")
        tips = tips_of(tree)
        unknown = [f"{n:0{len(tips[0])}x}" for n in range(1, 6000)]
        assert not all_reachable(Git(), tree_git, tips, unknown)


class TestRepositories:
    def test_object_formats_are_told_by_length(self) -> None:
        """40 digits are SHA-1, 64 are SHA-256, and an abbreviation is refused."""
        assert object_format_of("0" * 40) == "sha1"
        assert object_format_of("0" * 64) == "sha256"
        with pytest.raises(ValueError):
            object_format_of("0" * 7)

    def test_a_whole_repository_has_no_obstacle(self, tree: Path) -> None:
        """Packs can be made of it."""
        assert incomplete_history(tree / ".git") is None

    def test_cut_histories_are_told(self, tree: Path, tmp_path: Path) -> None:
        """Shallow, grafted and partial repositories could only give packs that lack something."""
        url = tree.as_uri()
        git(tree, "config", "uploadpack.allowFilter", "true")
        git(tmp_path, "clone", "--quiet", "--bare", "--depth=1", url, "shallow.git")
        git(tmp_path, "clone", "--quiet", "--bare", "--filter=blob:none", url, "partial.git")
        (tree / ".git" / "info" / "grafts").write_text(git(tree, "rev-parse", "main") + "\n")
        assert "shallow" in str(incomplete_history(tmp_path / "shallow.git"))
        assert "partial" in str(incomplete_history(tmp_path / "partial.git"))
        assert "grafted" in str(incomplete_history(tree / ".git"))
