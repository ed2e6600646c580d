# Law of this file: whoever takes content back is told what is gone, what is not, and for how long
# URLs that were given out may still be tried.

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from cli.ending import unfinished
from cli.errors import Failed, UserError, told_plainly
from cli.options import Given, settings_from, settings_options

if TYPE_CHECKING:
    from indexer.purge import PurgeReport
    from redirects.targets import Target
    from server.settings import Settings

_HEADER: Final = ("content", "size", "here", "store", "why")
_RIGHT: Final = frozenset({1})


@dataclass(frozen=True)
class _Outlet:
    """A target, and what becomes of the URLs that it was given out by.

    Attributes:
        target: its name.
        until: seconds since the epoch until which clients may try URLs given out before now.
        copies: URLs under which a cache in front may keep what was removed.
    """

    target: str
    until: float
    copies: tuple[str, ...]


@click.command()
@click.argument("repo")
@click.option("--object", "object_id", metavar="ID", help="Only what holds this object: a full id.")
@click.option("--dry-run", is_flag=True, help="Change nothing; show what would be removed.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@settings_options(root=True, listen=False)
def command(
    given: Given, repo: str, object_id: str | None, *, dry_run: bool, as_json: bool
) -> None:
    """Take what was computed of REPO, served from below ROOT or mirrored, out of circulation.

    Its bundles and answers, or those that hold one object, are removed from this machine's cache,
    every store and the catalog; its mirror too, if it holds the object. Servers on other machines
    follow when they read the catalog. The repository itself is not changed: remove the object
    there first.

    Of a Mercurial repository all is removed, its index on this machine too; --object is for git.

    Asks nothing. Exits with 1 if nothing is known of REPO, or if a store did not answer, from which
    it may not be gone; none is waited for longer than a minute.
    """
    from stores.base import StoreUnavailable

    settings = settings_from(given)
    name = repo.strip("/")
    if not name:
        raise UserError(f"{repo!r} names no repository; write the path at which it is served")
    object_id = None if object_id is None else _full(object_id)
    with told_plainly():
        try:
            report, outlets = asyncio.run(_purged(settings, name, object_id, dry_run=dry_run))
        except StoreUnavailable as error:
            raise Failed(f"{error}; run the same command again when it answers") from error
    if not report.known:
        from server.served_names import did_you_mean

        raise Failed(
            f"{name}: there is no such repository, and nothing is published or recorded of it"
            f"{did_you_mean(settings, name)}"
        )
    if as_json:
        click.echo(json.dumps(_values(report, outlets, dry_run=dry_run), indent=2))
    else:
        for line in _lines(report, outlets, settings, dry_run=dry_run):
            click.echo(line)
    for warning in (*_warnings(report), *_overlooked(settings, report.repository, report)):
        click.echo(f"offramp: {warning}", err=True)
    for said in report.unreached:
        UserError(f"{said}; what is there is not gone: run the same command again").show()
    hanging = unfinished()
    for said in hanging:
        UserError(said).show()
    if report.unreached or hanging:
        raise click.exceptions.Exit(Failed.exit_code)


def _overlooked(settings: Settings, name: str, report: PurgeReport) -> Iterator[str]:
    """An index of Mercurial's is found by where its repository lies, or lay."""
    from cli.tables import printable
    from server.repositories import HG_INDEXES

    root = settings.local_root
    there = root is not None and (root / name).exists()
    if not report.index and not there and any((settings.data / HG_INDEXES).glob("*/current")):
        yield printable(
            f"nothing lies at {name} below ROOT ({root}), and no index of a Mercurial repository"
            " there was found; if it was served from elsewhere, purge it again with that ROOT"
        )


def _full(object_id: str) -> str:
    lower = object_id.lower()
    if len(lower) not in {40, 64} or not set(lower) <= set("0123456789abcdef"):
        raise UserError(
            f"--object {object_id!r} is no full object id; write all 40 (sha256: 64) hex digits,"
            " as `git rev-parse` does"
        )
    return lower


async def _purged(
    settings: Settings, name: str, object_id: str | None, *, dry_run: bool
) -> tuple[PurgeReport, tuple[_Outlet, ...]]:
    from concurrent.futures import ThreadPoolExecutor

    from cache.cache import Cache
    from cli.purge_subjects import subjects
    from indexer.catalog import CatalogError
    from indexer.purge import PurgeReport, purge
    from repos.git.mirror import MirrorBusy
    from repos.git.program import Git
    from repos.hg.upkeep import IndexBusy
    from server.wiring import build_store, build_stores, build_targets, signing_keys
    from stores.patient import SECONDS

    git = Git(settings.limits.program_time)
    report = PurgeReport(name, object_id, known=False)
    async with AsyncExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(1, "purge"))
        store = build_store(settings, patience=SECONDS)
        stores = build_stores(settings, store, writes=not dry_run, patience=SECONDS)
        stack.push_async_callback(stores.close)
        settings.data.mkdir(parents=True, exist_ok=True)
        targets = await build_targets(settings, stores, signing_keys(settings.data))
        cache = await Cache.open(settings.data, settings.cache.max_size, threads)
        stack.push_async_callback(cache.close)
        for subject in subjects(settings, git, name, object_id):
            try:
                report = await purge(
                    subject,
                    store,
                    cache,
                    git,
                    settings.data / "work",
                    now=time.time(),
                    replicas=stores.replicas,
                    placed=stores.of,
                    dry_run=dry_run,
                )
            except (CatalogError, MirrorBusy, IndexBusy) as error:
                raise Failed(f"{error}; then run the same command again") from error
            if report.known:
                break
    return report, _outlets(targets, report, time.time())


def _outlets(targets: Sequence[Target], report: PurgeReport, now: float) -> tuple[_Outlet, ...]:
    from redirects.targets import HttpTarget, SignedHttpTarget
    from stores.entity import entity_key

    stored = [found.digest for found in report.removed if found.stored]
    return tuple(
        _Outlet(
            target.name,
            now + target.max_lifetime,
            tuple(f"{target.base_url}/{entity_key(digest)}" for digest in stored)
            if isinstance(target, HttpTarget | SignedHttpTarget)
            else (),
        )
        for target in targets
    )


def _lines(
    report: PurgeReport, outlets: Sequence[_Outlet], settings: Settings, *, dry_run: bool
) -> Iterator[str]:
    from cli.tables import printable, size, table

    what = "everything" if report.object_id is None else f"object {report.object_id}"
    did = "would purge" if dry_run else "purged"
    yield printable(f"{did} {what} of {report.repository}; its epoch is {report.epoch}")
    if report.index:
        yield f"index: {'would be removed' if dry_run else 'removed'}; the next request makes it"
    if report.mirror:
        yield f"mirror: {'would be removed' if dry_run else 'removed'}; the next request renews it"
    yield f"bundles: {', '.join(report.bundles) or 'none'}"
    yield f"records of this machine: {report.records}"
    total = sum(found.size for found in report.removed)
    yield f"content: {len(report.removed)} entities, {size(total)}"
    if report.removed:
        rows = [
            (
                found.digest,
                size(found.size),
                "yes" if found.local else "-",
                "yes" if found.stored else "-",
                f"counts as holding it: {found.unread}" if found.unread else "",
            )
            for found in report.removed
        ]
        yield table(_HEADER, rows, _RIGHT).rstrip("\n")
    for kept in report.kept:
        yield printable(f"kept: {kept.digest}, also of {', '.join(kept.repositories)}")
    if any(found.stored for found in report.removed):
        yield "URLs that were given out before now:"
        for outlet in outlets:
            until = datetime.fromtimestamp(outlet.until, UTC).strftime("%Y-%m-%d %H:%M UTC")
            if outlet.copies:
                yield (
                    f"  {outlet.target}: a cache in front may hold copies; remove them there"
                    f" (clients may try until {until}):"
                )
                yield from (f"    {url}" for url in outlet.copies)
            else:
                yield (
                    f"  {outlet.target}: clients may try until {until}, and get 404: the content"
                    " is gone"
                )
    yield (
        f"Servers on other machines follow within {settings.git.catalog_refresh:.0f} s;"
        " what they are just sending goes on."
    )


def _warnings(report: PurgeReport) -> Iterator[str]:
    from cli.tables import printable

    if report.kept:
        yield "what is kept is other repositories' too; purge them as well"
    if report.remains:
        if report.object_id is None:
            yield printable(
                f"{report.repository} is still served from this machine: it will be read again"
            )
        else:
            yield printable(
                f"{report.repository} still has {report.object_id}: it will be packed again;"
                " remove it there (rewrite the history, `git reflog expire --expire=now --all`,"
                " `git gc --prune=now`) and purge again"
            )


def _values(report: PurgeReport, outlets: Sequence[_Outlet], *, dry_run: bool) -> dict[str, object]:
    stored = any(found.stored for found in report.removed)
    return {
        "dry_run": dry_run,
        **{name: value for name, value in asdict(report).items() if name != "known"},
        "size": sum(found.size for found in report.removed),
        "urls": [asdict(outlet) for outlet in outlets] if stored else [],
    }
