# Law of this file: an S3 bucket, or what speaks its protocol, as a store. boto3 blocks, so it runs
# in threads; conditional writes are what keeps concurrent writers apart.
#
#   <prefix>/entities/ab/<sha256>   immutable, with the digest in its metadata
#   <prefix>/documents/<name>       version = ETag

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import uuid4

from botocore.exceptions import ClientError

from stores.base import Conflict, Document, Missing, Stored, StoreUnavailable
from stores.checks import (
    check_document_name,
    check_range,
    checked_key,
    is_document_name,
    part_digests,
)
from stores.entity import Entity, entity_key, is_digest
from stores.s3_client import Connection, Signing, is_absent, quoted, reported, status
from stores.s3_upload import CACHE_CONTROL, MAX_PART, MIN_PART, Upload, part_size_for
from stores.streaming import Source, stream

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3.type_defs import (
        GetObjectRequestTypeDef,
        HeadObjectOutputTypeDef,
        PutObjectRequestTypeDef,
    )

_T = TypeVar("_T")

# Requests side by side, besides the parts of uploads.
_THREADS: Final = 32
# CopyObject takes no larger objects.
_COPY_LIMIT: Final = 5 << 30
# How often a put looks again when others write and delete the same key meanwhile.
_ROUNDS: Final = 4


class S3Store:
    """Entities and documents in a bucket, which must exist.

    Needs s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket. Without key and secret it
    takes the credentials of the AWS chain, for which construction may ask the network.

    Args:
        bucket: its name.
        prefix: put before every key, with one slash between.
        region, endpoint, path_style, access_key_id, secret_access_key, session_token,
            max_attempts, timeout: see :class:`stores.s3_client.Connection`.
        part_size: bytes of one part of a multipart upload, and largest size that is sent in one
            request: 5 MiB to 5 GiB. An upload holds ``concurrency`` parts in memory.
        concurrency: parts of one upload that are sent side by side.
        renew_after: seconds; putting an entity that is younger leaves its age as it is, because
            each renewal costs a request. It must be much shorter than entities are kept.

    Raises:
        ValueError: ``part_size`` is out of bounds, or botocore cannot use ``endpoint``.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        region: str | None = None,
        endpoint: str | None = None,
        path_style: bool = False,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        session_token: str | None = None,
        part_size: int = 16 << 20,
        concurrency: int = 4,
        max_attempts: int = 4,
        timeout: float = 20.0,
        renew_after: float = 3600.0,
    ) -> None:
        if not MIN_PART <= part_size <= MAX_PART:
            raise ValueError(f"part_size {part_size} is not between {MIN_PART} and {MAX_PART}")
        self._connection = Connection(
            bucket,
            region,
            endpoint,
            path_style,
            access_key_id,
            secret_access_key,
            session_token,
            max_attempts,
            timeout,
            connections=_THREADS + concurrency,
        )
        self._session = self._connection.session()
        self._client = self._connection.client(self._session)
        self._bucket = bucket
        self._root = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._part_size = part_size
        self._concurrency = concurrency
        self._renew_after = renew_after
        self._base_urls: dict[str | None, str] = {}
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="s3-store")

    @property
    def name(self) -> str:
        """``s3 <bucket>/<prefix>``."""
        return f"s3 {self._bucket}/{self._root}".removesuffix("/")

    async def put(self, entity: Entity, path: Path) -> None:
        """See :meth:`stores.base.Store.put`; a put that is cancelled aborts its upload."""
        stop = threading.Event()
        try:
            await self._run(self._put, entity, path, stop)
        finally:
            stop.set()

    async def stat(self, digest: str) -> Stored | None:
        """See :meth:`stores.base.Store.stat`."""
        found = await self._run(self._head, self._root + checked_key(digest))
        if found is None:
            return None
        return Stored(digest, found["ContentLength"], found["LastModified"].timestamp())

    async def open(
        self, digest: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """See :meth:`stores.base.Store.open`."""
        check_range(start, end)
        checked_key(digest)
        async for chunk in stream(self._executor, partial(self._open, digest, start, end)):
            yield chunk

    async def delete(self, digest: str) -> None:
        """See :meth:`stores.base.Store.delete`."""
        await self._run(self._delete, self._root + checked_key(digest))

    async def list(self) -> AsyncIterator[Stored]:
        """See :meth:`stores.base.Store.list`."""
        async for page in self._pages("entities/"):
            for key, size, modified in page:
                digest = key.rpartition("/")[2]
                if is_digest(digest) and key == entity_key(digest):
                    yield Stored(digest, size, modified)

    async def read_document(self, name: str) -> Document | None:
        """See :meth:`stores.base.Store.read_document`."""
        return await self._run(self._read_document, check_document_name(name))

    async def write_document(self, name: str, body: bytes, expect: str | None) -> str:
        """See :meth:`stores.base.Store.write_document`."""
        return await self._run(self._write_document, check_document_name(name), body, expect)

    async def delete_document(self, name: str) -> None:
        """See :meth:`stores.base.Store.delete_document`."""
        await self._run(self._delete, self._document_key(check_document_name(name)))

    async def list_documents(self, prefix: str) -> AsyncIterator[str]:
        """See :meth:`stores.base.Store.list_documents`."""
        async for page in self._pages(f"documents/{prefix}"):
            for key, _, _ in page:
                name = key.removeprefix("documents/")
                if is_document_name(name):
                    yield name

    def local_path(self, digest: str) -> Path | None:
        """None: there are no files."""
        checked_key(digest)
        return None

    async def close(self) -> None:
        """End threads and connections, when running requests have ended."""
        await asyncio.to_thread(self._executor.shutdown)
        self._client.close()

    async def signing(self) -> Signing:
        """What to sign URLs with now; temporary credentials are renewed here when they must be.

        Raises:
            StoreUnavailable: there are no credentials, or they cannot be renewed.
        """
        return await self._run(self._signing)

    @property
    def region(self) -> str:
        """Of the bucket, for signatures."""
        return self._client.meta.region_name

    def object_url(self, key: str, endpoint: str | None = None) -> str:
        """The unsigned URL of ``key``, a path below this store's root such as ``Entity.key``.

        Args:
            key: without the store's prefix.
            endpoint: base URL that clients reach, if it is not the store's.
        """
        if endpoint not in self._base_urls:
            self._base_urls[endpoint] = self._connection.base_url(self.region, endpoint)
        return self._base_urls[endpoint] + quoted(self._root + key)

    # --- on threads ---------------------------------------------------------------------

    async def _run(self, function: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)

    def _put(self, entity: Entity, path: Path, stop: threading.Event) -> None:
        part_size = part_size_for(entity.size, self._part_size)
        parts = part_digests(entity, path, part_size)
        key = self._root + entity.key
        for _ in range(_ROUNDS):
            found = self._head(key)
            if found and found["ContentLength"] == entity.size:
                entity = _as_told(entity, found)
                if self._renewed(entity, found):
                    return
            upload = Upload(
                self._client,
                self.name,
                self._bucket,
                key,
                entity,
                path,
                part_size,
                parts,
                self._concurrency,
                replace=found is not None,
                stop=stop,
            )
            if upload.run():
                return
        raise StoreUnavailable(
            f"{self.name}: others wrote or deleted {entity.digest} during each of {_ROUNDS} tries"
        )

    def _delete(self, key: str) -> None:
        with reported(self.name, "DeleteObject"):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def _head(self, key: str) -> HeadObjectOutputTypeDef | None:
        with reported(self.name, "HeadObject"):
            try:
                return self._client.head_object(Bucket=self._bucket, Key=key)
            except ClientError as error:
                if is_absent(error):
                    return None
                raise

    def _renewed(self, entity: Entity, found: HeadObjectOutputTypeDef) -> bool:
        """Let the age of a present entity start anew, with the type that clients must be told.

        False if it must be sent again for that.
        """
        headers = found["ResponseMetadata"]["HTTPHeaders"]
        # Both times by the store's clock.
        now = parsedate_to_datetime(headers["date"]).timestamp() if "date" in headers else None
        age = (time.time() if now is None else now) - found["LastModified"].timestamp()
        if age < self._renew_after and entity.demanded_type in {None, found.get("ContentType")}:
            return True
        if entity.size > _COPY_LIMIT:
            return False
        key = self._root + entity.key
        with reported(self.name, "CopyObject"):
            try:
                self._client.copy_object(
                    Bucket=self._bucket,
                    Key=key,
                    CopySource={"Bucket": self._bucket, "Key": key},
                    CopySourceIfMatch=found["ETag"],
                    MetadataDirective="REPLACE",
                    ContentType=entity.media_type,
                    CacheControl=CACHE_CONTROL,
                    Metadata={"sha256": entity.digest},
                )
            except ClientError as error:
                # Deleted or written since we looked.
                if is_absent(error) or status(error) in {409, 412}:
                    return False
                raise
        return True

    def _open(self, digest: str, start: int, end: int | None) -> Source:
        key = self._root + entity_key(digest)
        missing = Missing(f"{self.name}: no entity {digest}")
        if end is not None and end <= start:
            if self._head(key) is None:
                raise missing
            return io.BytesIO()
        request: GetObjectRequestTypeDef = {"Bucket": self._bucket, "Key": key}
        if start or end is not None:
            request["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        with reported(self.name, "GetObject"):
            try:
                answer = self._client.get_object(**request)
            except ClientError as error:
                if is_absent(error):
                    raise missing from None
                if status(error) == 416:
                    return io.BytesIO()
                raise
        if "Range" in request and answer["ResponseMetadata"]["HTTPStatusCode"] != 206:
            answer["Body"].close()
            raise StoreUnavailable(
                f"{self.name}: GetObject ignored the range {start} to {end}; use a store that"
                " knows Range requests"
            )
        return _Body(self.name, answer["Body"])

    async def _pages(self, prefix: str) -> AsyncIterator[tuple[tuple[str, int, float], ...]]:
        """Key below the root, size and time of change of what begins with ``prefix``."""
        pages = iter(
            self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._root + prefix
            )
        )

        def step() -> tuple[tuple[str, int, float], ...] | None:
            with reported(self.name, "ListObjectsV2"):
                page = next(pages, None)
            if page is None:
                return None
            return tuple(
                (
                    found["Key"].removeprefix(self._root),
                    found["Size"],
                    found["LastModified"].timestamp(),
                )
                for found in page.get("Contents", ())
            )

        while (page := await self._run(step)) is not None:
            yield page

    def _read_document(self, name: str) -> Document | None:
        with reported(self.name, "GetObject"):
            try:
                found = self._client.get_object(Bucket=self._bucket, Key=self._document_key(name))
            except ClientError as error:
                if is_absent(error):
                    return None
                raise
            with closing(found["Body"]) as body:
                return Document(body.read(), found["ETag"])

    def _write_document(self, name: str, body: bytes, expect: str | None) -> str:
        writer = uuid4().hex
        request: PutObjectRequestTypeDef = {
            "Bucket": self._bucket,
            "Key": self._document_key(name),
            "Body": body,
            "CacheControl": "no-cache",
            "Metadata": {"writer": writer},
        }
        if expect is None:
            request["IfNoneMatch"] = "*"
        else:
            request["IfMatch"] = expect
        with reported(self.name, "PutObject"):
            try:
                return self._client.put_object(**request)["ETag"]
            except ClientError as error:
                if not is_absent(error) and status(error) not in {409, 412}:
                    raise
                retried = error.response["ResponseMetadata"]["RetryAttempts"] > 0
        # A first try whose answer was lost makes its own retry fail.
        found = self._head(self._document_key(name)) if retried else None
        if found is not None and found["Metadata"].get("writer") == writer:
            return found["ETag"]
        raise Conflict(f"{self.name}: document {name} is not at version {expect}")

    def _document_key(self, name: str) -> str:
        return f"{self._root}documents/{name}"

    def _signing(self) -> Signing:
        with reported(self.name, "reading credentials"):
            credentials = self._session.get_credentials()
            frozen = credentials and credentials.get_frozen_credentials()
        if not frozen or not frozen.access_key or not frozen.secret_key:
            raise StoreUnavailable(
                f"{self.name}: no credentials; configure access_key_id and secret_access_key,"
                " or the AWS credential chain"
            )
        # botocore tells nobody when temporary credentials end, but keeps it here.
        expires = getattr(credentials, "_expiry_time", None)
        return Signing(
            frozen.access_key,
            frozen.secret_key,
            frozen.token,
            self.region,
            expires and expires.timestamp(),
        )


def _as_told(entity: Entity, found: HeadObjectOutputTypeDef) -> Entity:
    """The entity with the type of the object that is there already, if clients demand that.

    Others may have named it to clients, who take it under no other.
    """
    present = replace(entity, media_type=found.get("ContentType", entity.media_type))
    return entity if present.demanded_type is None else present


class _Body:
    """The body of an answer; what breaks while it is read is reported like all else."""

    def __init__(self, name: str, body: StreamingBody) -> None:
        self._name = name
        self._body = body

    def read(self, amount: int, /) -> bytes:
        with reported(self._name, "GetObject"):
            return self._body.read(amount)

    def close(self) -> None:
        self._body.close()
