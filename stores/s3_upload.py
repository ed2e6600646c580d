# Law of this file: one entity is sent whole or not at all. Every request carries the SHA-256 that
# was verified, so that S3 itself refuses anything else; a failed upload leaves no parts behind.

from __future__ import annotations

import base64
import hashlib
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError

from stores.base import Corrupt, StoreUnavailable
from stores.entity import Entity
from stores.s3_client import reported, status

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        CompletedPartTypeDef,
        CompleteMultipartUploadRequestTypeDef,
        PutObjectRequestTypeDef,
    )

# S3's own bounds, https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
MIN_PART: Final = 5 << 20
MAX_PART: Final = 5 << 30
MAX_PARTS: Final = 10_000

# Content never changes under its name.
CACHE_CONTROL: Final = "public, max-age=31536000, immutable"


def part_size_for(size: int, wanted: int) -> int:
    """The size of parts in which ``size`` bytes are sent: ``wanted``, or what 10,000 parts need."""
    return max(wanted, -(-size // MAX_PARTS))


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload of one entity; blocks, and holds ``concurrency`` parts in memory.

    Attributes:
        client: safe for threads.
        name: the store's, for errors.
        bucket, key: where to.
        entity, path: what, and the file that was verified to hold it.
        part_size: bytes; what is not longer goes in one request.
        parts: the SHA-256 of each part.
        concurrency: parts that are sent side by side.
        replace: overwrite what is there. Else the write is conditional on nothing being there.
        stop: set by whoever no longer wants it.
    """

    client: S3Client
    name: str
    bucket: str
    key: str
    entity: Entity
    path: Path
    part_size: int
    parts: tuple[bytes, ...]
    concurrency: int
    replace: bool
    stop: threading.Event

    def run(self) -> bool:
        """Send it; False if somebody else wrote or deleted the key meanwhile: look again.

        Raises:
            StoreUnavailable: S3 refused or did not answer, the file went away, or ``stop``.
            Corrupt: the file was changed since it was verified.
        """
        return self._single() if len(self.parts) == 1 else self._multipart()

    def _single(self) -> bool:
        request: PutObjectRequestTypeDef = {
            "Bucket": self.bucket,
            "Key": self.key,
            "Body": self._read(0),
            "ChecksumSHA256": _base64(self.parts[0]),
            "ContentType": self.entity.media_type,
            "CacheControl": CACHE_CONTROL,
            "Metadata": {"sha256": self.entity.digest},
        }
        if not self.replace:
            request["IfNoneMatch"] = "*"
        with reported(self.name, "PutObject"):
            try:
                self.client.put_object(**request)
            except ClientError as error:
                if status(error) in {409, 412}:
                    return False
                raise
        return True

    def _multipart(self) -> bool:
        with reported(self.name, "CreateMultipartUpload"):
            upload = self.client.create_multipart_upload(
                Bucket=self.bucket,
                Key=self.key,
                ChecksumAlgorithm="SHA256",
                ContentType=self.entity.media_type,
                CacheControl=CACHE_CONTROL,
                Metadata={"sha256": self.entity.digest},
            )["UploadId"]
        complete = False
        try:
            complete = self._complete(upload, self._send_all(upload))
        finally:
            # After a completion whose answer was lost this finds nothing to abort.
            if not complete:
                with suppress(ClientError, BotoCoreError):
                    self.client.abort_multipart_upload(
                        Bucket=self.bucket, Key=self.key, UploadId=upload
                    )
        return complete

    def _send_all(self, upload: str) -> list[CompletedPartTypeDef]:
        """Send every part; when one fails, the others end before this does."""
        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="s3-part") as pool:
            sending = [pool.submit(self._send, upload, at) for at in range(len(self.parts))]
            done, unfinished = wait(sending, return_when=FIRST_EXCEPTION)
            for part in unfinished:
                part.cancel()
            for part in done:
                part.result()
        return [part.result() for part in sending]

    def _send(self, upload: str, at: int) -> CompletedPartTypeDef:
        checksum = _base64(self.parts[at])
        body = self._read(at)
        if self.stop.is_set():
            raise StoreUnavailable(f"{self.name}: the upload of {self.entity.digest} was stopped")
        with reported(self.name, "UploadPart"):
            answer = self.client.upload_part(
                Bucket=self.bucket,
                Key=self.key,
                UploadId=upload,
                PartNumber=at + 1,
                Body=body,
                ChecksumSHA256=checksum,
            )
        return {"PartNumber": at + 1, "ETag": answer["ETag"], "ChecksumSHA256": checksum}

    def _complete(self, upload: str, parts: list[CompletedPartTypeDef]) -> bool:
        request: CompleteMultipartUploadRequestTypeDef = {
            "Bucket": self.bucket,
            "Key": self.key,
            "UploadId": upload,
            "MultipartUpload": {"Parts": parts},
        }
        if not self.replace:
            request["IfNoneMatch"] = "*"
        with reported(self.name, "CompleteMultipartUpload"):
            try:
                self.client.complete_multipart_upload(**request)
            except ClientError as error:
                # NoSuchUpload: our first try was done, its answer was lost, and this is a retry.
                gone = error.response["Error"]["Code"] == "NoSuchUpload"
                if gone or status(error) in {409, 412}:
                    return False
                raise
        return True

    def _read(self, at: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(at * self.part_size)
                body = file.read(self.part_size)
        except OSError as error:
            raise StoreUnavailable(f"cannot read {self.path}: {error.strerror or error}") from error
        # Not every look-alike checks what it is sent.
        if hashlib.sha256(body).digest() != self.parts[at]:
            raise Corrupt(f"{self.path}: changed since it was verified to be {self.entity.digest}")
        return body


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
