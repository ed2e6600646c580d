# Law of this file: settings become the objects that they describe, here and nowhere else.

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Final

from redirects.control import Control
from redirects.selection import Selection, Standing
from redirects.sessions import SessionMirror
from redirects.signing import SigningKeys
from redirects.sigv4 import Credentials
from redirects.targets import HttpTarget, S3Target, SelfTarget, SignedHttpTarget, Target
from redirects.window import Window
from server.placing import Stores, placements_of
from server.settings import RedirectSettings, Settings
from server.settings_stores import MAIN, ReplicaSettings
from server.settings_targets import S3StoreSettings, S3TargetSettings, StoreSettings
from server.signers import signer_of
from stores.base import Store, StoreError, StoreUnavailable
from stores.directory import DirectoryStore
from stores.patient import PatientStore
from stores.replica import Replica, generation_of, innermost

if TYPE_CHECKING:
    from stores.s3 import S3Store

_log = logging.getLogger("offramp.wiring")

# How often temporary credentials are looked at again; botocore renews them at least 10 minutes
# before they end, and only when somebody looks.
RENEW_SECONDS: Final = 60.0

SECRET_FILE: Final = "secret.key"  # noqa: S105 - a file name
_SECRET_BYTES: Final = 32


class Unusable(Exception):  # noqa: N818 - what the settings are
    """The settings, or a file that they name, cannot be used; the message says what to change."""


def build_store(settings: Settings, *, patience: float | None = None) -> Store:
    """The main store that the settings describe; nothing is asked of it yet.

    ``patience``: seconds that it has for each answer, see :class:`stores.patient.PatientStore`;
    None where whoever asks sees to that. S3 has times of its own.

    Raises:
        Unusable: it cannot be built from these settings.
    """
    store = settings.store
    if store.type == "s3":
        return _s3_store(store)
    return _directory(store.path or settings.data / "store", patience)


def build_stores(
    settings: Settings, main: Store, *, writes: bool = True, patience: float | None = None
) -> Stores:
    """The main store, and beside it those of ``stores`` in the settings.

    ``writes``: False where nothing may be written by looking; see :class:`stores.replica.Replica`.
    ``patience``: see :func:`build_store`.

    Raises:
        Unusable: one cannot be built from these settings.
    """
    replicas = {
        store.name: Replica(
            store.name,
            _s3_store(store) if store.type == "s3" else _directory(store.path, patience),
            main,
            notes=settings.data / "stores",
            writes=writes,
        )
        for store in settings.stores
    }
    reads = {target.name: target.store for target in settings.effective_targets()}
    return Stores(main, replicas, reads, placements_of(settings.placements))


def _directory(root: Path, patience: float | None) -> Store:
    store = DirectoryStore(root)
    return store if patience is None else PatientStore(store, patience)


def _s3_store(store: S3StoreSettings) -> S3Store:
    # boto3 takes a fifth of a second to import, which users of other stores need not wait.
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    from stores.s3 import S3Store  # noqa: PLC0415

    secret, token = store.secret_access_key, store.session_token
    try:
        return S3Store(
            store.bucket,
            prefix=store.prefix,
            region=store.region,
            endpoint=store.endpoint,
            path_style=store.path_style,
            access_key_id=store.access_key_id,
            secret_access_key=None if secret is None else secret.get_secret_value(),
            session_token=None if token is None else token.get_secret_value(),
            part_size=store.part_size,
            concurrency=store.concurrency,
            max_attempts=store.max_attempts,
            timeout=store.timeout,
        )
    except (ValueError, BotoCoreError) as error:
        raise Unusable(f"store s3 {store.bucket}: {error}") from None


async def build_targets(
    settings: Settings, stores: Stores, keys: SigningKeys
) -> tuple[Target, ...]:
    """The targets that the settings describe, in order of preference.

    Asks the network only where credentials for signing come from there (those of a role), and the
    main store which generation other stores are of.

    Raises:
        Unusable: one of them cannot be built from these settings.
        stores.base.StoreUnavailable: the main store does not answer, or there are no credentials to
            sign with for it. A target of another one is not named until there are some.
    """
    window = Window(settings.redirect.window, settings.redirect.lifetime)
    targets: list[Target] = []
    for target in settings.effective_targets():
        store = stores.named()[target.store]
        identity = _identity(settings.store_of(target), store)
        behind = "" if target.store == MAIN else f"{identity} {await generation_of(store)}"
        try:
            match target.type:
                case "self":
                    targets.append(SelfTarget(target.name, identity, keys, window))
                case "http":
                    targets.append(HttpTarget(target.name, target.base_url, window, behind))
                case "s3":
                    targets.append(await _s3_target(target, store, window, behind))
                case "cloudfront" | "secure_link" | "hmac":
                    targets.append(
                        SignedHttpTarget(
                            target.name, target.base_url, window, signer_of(target), behind
                        )
                    )
        except ValueError as error:
            raise Unusable(f"target {target.name}: {error}") from None
    return tuple(targets)


def _identity(settings: StoreSettings | ReplicaSettings, store: Store) -> str:
    """What tells a store from all others: buckets of one name are at many look-alikes."""
    endpoint = settings.endpoint if settings.type == "s3" else None
    return store.name if endpoint is None else f"{store.name} at {endpoint}"


def build_selection(settings: Settings, targets: tuple[Target, ...]) -> Selection[Target]:
    """The targets with what the settings say of whom each is for."""
    standings = {
        target.name: Standing(
            target.regions, place if target.priority is None else target.priority, target.weight
        )
        for place, target in enumerate(settings.effective_targets(), 1)
    }
    return Selection(targets, standings, settings.redirect.other_regions)


def build_session_selection(settings: Settings) -> Selection[SessionMirror]:
    """The mirrors of whole sessions, with what the settings say of whom each is for."""
    standings = {
        mirror.name: Standing(
            mirror.regions, place if mirror.priority is None else mirror.priority, mirror.weight
        )
        for place, mirror in enumerate(settings.session_mirrors, 1)
    }
    mirrors = tuple(mirror.mirror for mirror in settings.session_mirrors)
    return Selection(mirrors, standings, settings.redirect.other_regions)


def build_control(settings: RedirectSettings) -> Control:
    """What the settings say of who is redirected at all."""
    return Control(
        settings.off_repositories,
        tuple(map(ip_network, settings.off_networks)),
        settings.percentage,
        settings.shadow,
    )


async def _s3_target(
    target: S3TargetSettings, store: Store, window: Window, behind: str
) -> S3Target:
    from stores.s3 import S3Store  # noqa: PLC0415 - see _s3_store

    store = innermost(store)
    if not isinstance(store, S3Store):
        raise Unusable(f"target {target.name}: it needs a store of type s3")
    base_url = store.object_url("", target.endpoint)
    if target.public:
        return S3Target(target.name, base_url, "", window, None, behind)
    credentials: Credentials | None = None
    try:
        credentials = await _credentials(store)
    except StoreUnavailable as error:
        if target.store == MAIN:
            raise
        _log.warning("target %s is not named yet: %s", target.name, error)
    signs = Renewing(store, credentials)
    return S3Target(target.name, base_url, store.region, window, signs, behind)


async def _credentials(store: S3Store) -> Credentials:
    signing = await store.signing()
    return Credentials(signing.access_key, signing.secret_key, signing.token, signing.expires)


class Renewing:
    """Credentials from memory; those that end, or are not there, are looked for in the background.

    Called on the event loop for each location, so it neither waits nor blocks.
    """

    def __init__(
        self,
        store: S3Store,
        credentials: Credentials | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._held = credentials
        self._clock = clock
        self._looked = clock()
        self._task: asyncio.Task[None] | None = None

    def __call__(self) -> Credentials | None:
        """The credentials to sign with now; None while there are none."""
        lasting = self._held is not None and self._held.expires is None
        if not lasting and self._clock() - self._looked >= RENEW_SECONDS:
            self._looked = self._clock()
            self._task = asyncio.get_running_loop().create_task(self._renew())
        return self._held

    async def _renew(self) -> None:
        try:
            self._held = await _credentials(self._store)
        except StoreError as error:
            # The old ones work until they end; the target says when that is too soon.
            _log.warning("credentials cannot be renewed: %s", error)


# --- the secret that signs blob URLs ----------------------------------------------------
#
#   <data>/secret.key   lines of `<key id> <secret in hex>`; the first signs, all are believed


def signing_keys(data: Path) -> SigningKeys:
    """The keys in ``secret.key`` of the data directory; made by whoever comes first.

    Raises:
        OSError: the file can be neither read nor made.
        Unusable: it is not of the form above; no secret is in the message.
    """
    path = data / SECRET_FILE
    try:
        text = path.read_text("ascii", errors="replace")
    except FileNotFoundError:
        text = _make_secret(path)
    return parse_keys(text, path)


def parse_keys(text: str, path: Path) -> SigningKeys:
    """Read the lines of a key file; ``path`` is for messages.

    Raises:
        Unusable: it is not of the form above.
    """
    found: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            key, secret = line.split()
            known = key in found
            found[key] = bytes.fromhex(secret)
        except ValueError:
            raise Unusable(
                f"{path}, line {number}: write a key id, a space and at least"
                f" {2 * _SECRET_BYTES} hex digits"
            ) from None
        if known:
            raise Unusable(f"{path}, line {number}: the key id of an earlier line again")
    if not found:
        raise Unusable(f"{path}: holds no key; remove the file to have one made")
    try:
        return SigningKeys(next(iter(found)), found)
    except ValueError as error:
        raise Unusable(f"{path}: {error}") from None


def _make_secret(path: Path) -> str:
    """Make a key file that appears complete, unless another process was first; return its text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent):
        if path.exists():
            return path.read_text("ascii", errors="replace")
        text = f"{secrets.token_hex(4)} {secrets.token_hex(_SECRET_BYTES)}\n"
        staged = path.with_suffix(".new")
        staged.unlink(missing_ok=True)  # left by a crash; its mode may not be ours
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:  # noqa: PTH123 - by descriptor
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        staged.rename(path)
    return text


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold ``directory`` against other processes that make a key in it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
