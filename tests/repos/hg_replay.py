# Law of this file: what a client makes of the answers, and nothing else: it has only what it was
# sent, takes a delta only against that, and believes no text that does not hash to its node.

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

from repos.hg import commands
from repos.hg.pathfilter import EVERYTHING, PathFilter
from repos.hg.program import Hg
from repos.hg.repository import HgRepository, HgSnapshot
from repos.hg.revisions import DagRange, Explicit
from tests.hg.versions import V2, environment, executable, hg
from wire.hg import delta as deltas
from wire.hg.cbor import Value, decode
from wire.hg.texts import NULL, entries, manifest_node, node_of, parse_changeset

ALL = frozenset((b"bookmarks", b"parents", b"phase", b"revision"))
DATA = frozenset((b"parents", b"revision"))


def stock(home: Path, version: str = V2) -> Hg:
    """A stock hg, or a skipped test where it is not installed."""
    hg(version)
    return Hg(environ=environment(home), executable=str(executable(version)))


def served(path: Path, data: Path, executor: Executor, version: str = V2) -> HgRepository:
    """A repository that is there, with an index of its own."""
    return HgRepository(path.name, path / ".hg", stock(data, version), executor, data / "hg")


def gathered(write: Callable[[Callable[[bytes], object]], None]) -> bytes:
    """All that a command writes."""
    pieces: list[bytes] = []
    write(pieces.append)
    return b"".join(pieces)


def items(write: Callable[[Callable[[bytes], object]], None]) -> list[dict[bytes, Value] | bytes]:
    """The items of an answer: maps and byte strings."""
    found: list[dict[bytes, Value] | bytes] = []
    for item in decode(gathered(write)):
        assert isinstance(item, dict | bytes)
        found.append(item)  # type: ignore[arg-type]
    return found


@dataclass(slots=True)
class Replay:
    """What a client has."""

    changesets: dict[bytes, bytes] = field(default_factory=dict)
    phases: dict[bytes, Value] = field(default_factory=dict)
    bookmarks: dict[bytes, bytes] = field(default_factory=dict)
    manifests: dict[bytes, bytes] = field(default_factory=dict)
    files: dict[bytes, dict[bytes, bytes]] = field(default_factory=dict)
    links: dict[tuple[bytes, bytes], bytes] = field(default_factory=dict)
    deltas: int = 0

    def pull(self, snapshot: HgSnapshot, heads: tuple[bytes, ...] | None = None) -> None:
        """Ask as a stock client does, for what it has not."""
        roots = tuple(self.changesets)
        index = snapshot.index
        revs = index.resolve([DagRange(roots, snapshot.heads if heads is None else heads)])
        before = set(self.changesets)
        self.take_changesets(
            items(lambda write: commands.write_changesetdata(snapshot, revs, ALL, write))
        )
        new = [node for node in self.changesets if node not in before]
        assert len(new) == len(revs)
        wanted = list(dict.fromkeys(manifest_node(self.changesets[node]) for node in new))
        wanted = [node for node in wanted if node not in self.manifests and node != NULL]
        self.take_manifests(
            items(
                lambda write: commands.write_manifestdata(snapshot, wanted, b"", DATA, True, write)
            )
        )
        self.take_files(
            items(
                lambda write: commands.write_filesdata(
                    snapshot, revs, DATA, True, EVERYTHING, write
                )
            )
        )

    def take_changesets(self, answer: list[dict[bytes, Value] | bytes]) -> None:
        """Take the items of ``changesetdata``."""
        rest = iter(answer)
        total = _map(next(rest))[b"totalitems"]
        for item in rest:
            head = _map(item)
            node = _bytes(head[b"node"])
            for name in _list(head.get(b"bookmarks", [])):
                self.bookmarks[_bytes(name)] = node
            if b"fieldsfollowing" not in head:
                continue
            text = _bytes(next(rest))
            assert head[b"fieldsfollowing"] == [[b"revision", len(text)]]
            p1, p2 = map(_bytes, _list(head[b"parents"]))
            assert {p1, p2} <= {NULL, *self.changesets}, "parents come first"
            assert node_of(text, p1, p2) == node
            self.changesets[node] = text
            self.phases[node] = head[b"phase"]
            assert isinstance(total, int)
            total -= 1
        assert total == 0

    def take_manifests(self, answer: list[dict[bytes, Value] | bytes]) -> None:
        """Take the items of ``manifestdata``."""
        rest = iter(answer)
        total = _map(next(rest))[b"totalitems"]
        found = list(self._revisions(rest, self.manifests, total))
        assert not list(rest)
        assert len(found) == total

    def take_files(self, answer: list[dict[bytes, Value] | bytes]) -> None:
        """Take the items of ``filesdata``."""
        rest = iter(answer)
        head = _map(next(rest))
        paths = []
        total = 0
        for item in rest:
            path = _bytes(_map(item)[b"path"])
            paths.append(path)
            log = self.files.setdefault(path, {})
            for node, linknode in self._revisions(rest, log, _map(item)[b"totalitems"]):
                self.links[path, node] = linknode
                assert linknode in self.changesets
                total += 1
        assert paths == sorted(set(paths))
        assert (head[b"totalpaths"], head[b"totalitems"]) == (len(paths), total)

    def _revisions(
        self, rest: Iterator[dict[bytes, Value] | bytes], log: dict[bytes, bytes], count: Value
    ) -> Iterator[tuple[bytes, bytes]]:
        assert isinstance(count, int)
        for _ in range(count):
            head = _map(next(rest))
            data = _bytes(next(rest))
            node = _bytes(head[b"node"])
            base = head.get(b"deltabasenode")
            if base is None:
                assert head[b"fieldsfollowing"] == [[b"revision", len(data)]]
                text = data
            else:
                assert head[b"fieldsfollowing"] == [[b"delta", len(data)]]
                text = deltas.apply(log[_bytes(base)], data)
                self.deltas += 1
            p1, p2 = map(_bytes, _list(head[b"parents"]))
            assert {p1, p2} <= {NULL, *log}, "parents come first, or were there"
            assert node_of(text, p1, p2) == node
            log[node] = text
            yield node, _bytes(head.get(b"linknode", b""))

    def check_complete(self) -> None:
        """Everything that a changeset refers to is there, and each link leads to who names it."""
        for text in self.changesets.values():
            node = manifest_node(text)
            for entry in entries(self.manifests[node] if node != NULL else b""):
                assert entry.node in self.files[entry.path], (entry.path, entry.node.hex())
        for (path, node), linknode in self.links.items():
            text = self.changesets[linknode]
            assert path in parse_changeset(text).files
            named = {e.path: e.node for e in entries(self.manifests[manifest_node(text)])}
            assert named[path] == node


def shallow(snapshot: HgSnapshot, node: bytes, match: PathFilter = EVERYTHING) -> Replay:
    """What a client has that asks for one changeset's files, without history."""
    replay = Replay()
    revs = snapshot.index.resolve([Explicit((node,))])
    for each in snapshot.index.changesets(revs):
        replay.changesets[each.node] = each.text
    answer = items(
        lambda write: commands.write_filesdata(
            snapshot, revs, frozenset((b"revision",)), False, match, write
        )
    )
    rest = iter(answer)
    head = _map(next(rest))
    for item in rest:
        log = replay.files.setdefault(_bytes(_map(item)[b"path"]), {})
        for _ in range(int(str(_map(item)[b"totalitems"]))):
            one = _map(next(rest))
            assert b"deltabasenode" not in one
            assert one[b"linknode"] == node
            log[_bytes(one[b"node"])] = _bytes(next(rest))
    assert head[b"totalpaths"] == len(replay.files)
    return replay


def _map(item: object) -> dict[bytes, Value]:
    assert isinstance(item, dict), item
    return item


def _bytes(item: object) -> bytes:
    assert isinstance(item, bytes), item
    return item


def _list(item: object) -> list[Value]:
    assert isinstance(item, list), item
    return item
