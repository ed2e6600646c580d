# Law of this file: what only S3 can do wrong: refusals, lost answers, half uploads, secrets in
# messages. moto refuses nothing, so answers are put in its place before a request is sent.

from __future__ import annotations

import asyncio
import io
import socket
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.credentials import Credentials, RefreshableCredentials
from botocore.exceptions import ConnectionClosedError, HTTPClientError, SSLError
from yarl import URL

from redirects.sigv4 import Credentials as RedirectCredentials
from redirects.sigv4 import presign
from stores import s3
from stores.base import Conflict, Corrupt, Document, Store, StoreUnavailable
from stores.entity import Entity
from stores.s3 import S3Store
from stores.s3_client import Signing, reported
from stores.s3_upload import Upload, part_size_for

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MakeFile = Callable[[bytes], tuple[Entity, Path]]
MakeS3 = Callable[..., S3Store]

UNKNOWN = "ab" * 32
LARGE = bytes(11 << 20)
CALLS: dict[str, Callable[[Store], Awaitable[object]]] = {
    "HeadObject": lambda store: store.stat(UNKNOWN),
    "GetObject": lambda store: anext(store.open(UNKNOWN)),
    "DeleteObject": lambda store: store.delete(UNKNOWN),
    "ListObjectsV2": lambda store: anext(store.list()),
    "PutObject": lambda store: store.write_document("a", b"1", None),
}


class _Raw(io.BytesIO):
    """A body as urllib3 has it."""

    def stream(self, **_: object) -> list[bytes]:
        return [self.read()]


def answer(
    store: S3Store, operation: str, status: int, code: str, when: Callable[[], bool] = lambda: True
) -> None:
    """Have S3 refuse an operation, whenever ``when`` says so."""
    body = (
        f"<Error><Code>{code}</Code><Message>hush</Message>"
        "<AWSAccessKeyId>AKIATEST</AWSAccessKeyId></Error>"
    ).encode()

    def refuse(request: AWSPreparedRequest, **_: object) -> AWSResponse | None:
        if not when():
            return None
        sent = b"" if request.method == "HEAD" else body
        return AWSResponse(request.url, status, {"content-type": "application/xml"}, _Raw(sent))

    store._client.meta.events.register(f"before-send.s3.{operation}", refuse)


def first_only() -> Callable[[], bool]:
    """True once."""
    lock = threading.Lock()
    return lambda: lock.acquire(blocking=False)


def lose_answer(store: S3Store, monkeypatch: pytest.MonkeyPatch, method: str, query: str) -> None:
    """Let the first such request be done, and its answer be lost on the way."""
    session = store._client._endpoint.http_session
    send, due = session.send, first_only()

    def lossy(request: AWSPreparedRequest) -> AWSResponse:
        done = send(request)
        if request.method == method and query in request.url and due():
            raise ConnectionClosedError(endpoint_url=request.url)
        return done

    monkeypatch.setattr(session, "send", lossy)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)


async def read(store: S3Store, digest: str, start: int = 0, end: int | None = None) -> bytes:
    """The bytes that ``open`` yields."""
    return b"".join([chunk async for chunk in store.open(digest, start, end)])


class TestRefusals:
    @pytest.mark.parametrize("operation", CALLS)
    @pytest.mark.parametrize(
        ("status", "code"),
        [(500, "InternalError"), (503, "SlowDown"), (403, "AccessDenied"), (501, "NotImplemented")],
    )
    async def test_a_refusal_is_unavailable(
        self, make_s3: MakeS3, operation: str, status: int, code: str
    ) -> None:
        """The message names store, operation and status, and nothing that S3 echoes."""
        store = make_s3("here")
        answer(store, operation, status, code)
        with pytest.raises(StoreUnavailable) as raised:
            await CALLS[operation](store)
        said = str(raised.value)
        assert said.startswith(f"{store.name}: {operation} ")
        assert f"HTTP {status}" in said
        assert operation == "HeadObject" or code in said
        assert "AKIATEST" not in said
        assert "hush" not in said
        assert raised.value.__suppress_context__

    async def test_a_forbidden_look_says_what_to_grant(self, make_s3: MakeS3) -> None:
        """Without s3:ListBucket S3 hides what is not there behind a 403."""
        store = make_s3()
        answer(store, "HeadObject", 403, "AccessDenied")
        with pytest.raises(StoreUnavailable, match="s3:ListBucket"):
            await store.stat(UNKNOWN)

    async def test_an_error_is_tried_again(self, make_s3: MakeS3, make_file: MakeFile) -> None:
        """As often as max_attempts says."""
        store = make_s3(max_attempts=2)
        answer(store, "PutObject", 503, "SlowDown", when=first_only())
        entity, path = make_file(b"content")
        await store.put(entity, path)
        assert await read(store, entity.digest) == b"content"

    @pytest.mark.parametrize("operation", [name for name in CALLS if name != "HeadObject"])
    async def test_a_missing_bucket_is_unavailable(
        self, moto_endpoint: str, make_s3: MakeS3, operation: str
    ) -> None:
        """It is not taken for a store that holds nothing."""
        store = make_s3()
        answer(store, operation, 404, "NoSuchBucket")
        with pytest.raises(StoreUnavailable, match="NoSuchBucket"):
            await CALLS[operation](store)

    @pytest.mark.parametrize("operation", CALLS)
    async def test_an_endpoint_that_is_not_there_is_unavailable(
        self, make_s3: MakeS3, operation: str
    ) -> None:
        """At once, without a query in the message."""
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            store = make_s3(endpoint=f"http://127.0.0.1:{held.getsockname()[1]}")
            with pytest.raises(StoreUnavailable, match="failed: no connection; look") as raised:
                await CALLS[operation](store)
        assert "?" not in str(raised.value)

    def test_no_secret_of_a_url_is_repeated(self) -> None:
        """Neither a signature nor a user and password."""
        url = "https://user:hush@host/key?X-Amz-Signature=hush&X-Amz-Credential=hush"
        with (
            pytest.raises(StoreUnavailable, match="certificate cannot be verified"),
            reported("s3 bucket", "GetObject"),
        ):
            raise SSLError(endpoint_url=url, error=f"bad certificate (url: {url})")
        # Of what there are no words of ours for, botocore's are told.
        with (
            pytest.raises(StoreUnavailable, match="bad answer") as raised,
            reported("s3 bucket", "GetObject"),
        ):
            raise HTTPClientError(error=f"bad answer (url: {url})")
        assert "hush" not in str(raised.value)
        assert "https://host/key" in str(raised.value)

    async def test_no_credentials_is_unavailable(self, make_s3: MakeS3) -> None:
        """The message says what to configure."""
        store = make_s3(access_key_id=None, secret_access_key=None)
        with pytest.raises(StoreUnavailable, match="access_key_id"):
            await store.signing()
        with pytest.raises(StoreUnavailable, match="NoCredentials"):
            await store.stat(UNKNOWN)

    async def test_a_store_that_ignores_ranges_is_unavailable(
        self, make_s3: MakeS3, make_file: MakeFile
    ) -> None:
        """The wrong bytes are never taken for the right ones."""
        store = make_s3()
        entity, path = make_file(b"content")
        await store.put(entity, path)
        answer(store, "GetObject", 200, "")
        with pytest.raises(StoreUnavailable, match="range 1 to 3"):
            await read(store, entity.digest, 1, 3)

    async def test_a_body_that_breaks_off_is_unavailable(self, make_s3: MakeS3) -> None:
        """Half an entity does not look like a whole one."""

        async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf!")
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(half, "127.0.0.1", 0)
        async with server:
            host, port = server.sockets[0].getsockname()
            store = make_s3(endpoint=f"http://{host}:{port}")
            with pytest.raises(StoreUnavailable, match="GetObject failed"):
                await read(store, UNKNOWN)
            with pytest.raises(StoreUnavailable, match="GetObject failed"):
                await store.read_document("a")

    @pytest.mark.parametrize("part_size", [0, (5 << 20) - 1, (5 << 30) + 1])
    def test_a_part_size_that_s3_refuses_is_refused(self, part_size: int) -> None:
        """When the store is made, not when the first large entity comes."""
        with pytest.raises(ValueError, match=str(part_size)):
            S3Store("bucket", part_size=part_size)


@pytest.fixture
def kept_type(admin: S3Client, bucket: str) -> Callable[[Entity], str]:
    """The Content-Type that the bucket has for an entity."""
    return lambda entity: admin.head_object(Bucket=bucket, Key=entity.key)["ContentType"]


class TestUploads:
    @pytest.mark.parametrize("content", [b"small", LARGE])
    async def test_an_object_says_what_it_is(
        self, make_s3: MakeS3, make_file: MakeFile, admin: S3Client, bucket: str, content: bytes
    ) -> None:
        """Type, digest and how long caches may keep it, also after its age was renewed."""
        store = make_s3("some/where", renew_after=0.0)
        plain, path = make_file(content)
        entity = Entity(plain.digest, plain.size, "application/x-git-bundle")
        for _ in range(2):
            await store.put(entity, path)
            found = admin.head_object(Bucket=bucket, Key=f"some/where/{entity.key}")
            assert found["ContentType"] == "application/x-git-bundle"
            assert found["CacheControl"] == "public, max-age=31536000, immutable"
            assert found["Metadata"] == {"sha256": entity.digest}

    @pytest.mark.parametrize("copies", [True, False])
    async def test_a_demanded_type_is_mended(
        self,
        make_s3: MakeS3,
        make_file: MakeFile,
        kept_type: Callable[[Entity], str],
        monkeypatch: pytest.MonkeyPatch,
        *,
        copies: bool,
    ) -> None:
        """Content that came under another type is told by the one that clients demand, at once."""
        store = make_s3(renew_after=3600.0)
        plain, path = make_file(b"content")
        await store.put(plain, path)
        if not copies:
            monkeypatch.setattr(s3, "_COPY_LIMIT", plain.size - 1)
        entity = replace(plain, media_type="application/mercurial-0.2")
        await store.put(entity, path)
        assert kept_type(entity) == "application/mercurial-0.2"
        for operation in ("PutObject", "CopyObject"):
            answer(store, operation, 500, "InternalError")
        await store.put(entity, path)

    @pytest.mark.parametrize("copies", [True, False])
    @pytest.mark.parametrize(
        "media_type", ["application/octet-stream", "application/mercurial-0.1"]
    )
    async def test_a_demanded_type_stays(
        self,
        make_s3: MakeS3,
        make_file: MakeFile,
        kept_type: Callable[[Entity], str],
        monkeypatch: pytest.MonkeyPatch,
        media_type: str,
        *,
        copies: bool,
    ) -> None:
        """Clients were told of it: nobody who puts the same content takes its type away."""
        store = make_s3(renew_after=0.0)
        plain, path = make_file(b"content")
        entity = replace(plain, media_type="application/mercurial-0.2")
        await store.put(entity, path)
        if not copies:
            monkeypatch.setattr(s3, "_COPY_LIMIT", plain.size - 1)
        await store.put(replace(plain, media_type=media_type), path)
        assert kept_type(entity) == "application/mercurial-0.2"

    @pytest.mark.parametrize("content", [b"small", LARGE])
    async def test_a_presigned_url_tells_the_type(
        self, make_s3: MakeS3, make_file: MakeFile, content: bytes
    ) -> None:
        """To the letter, whether it was sent in one request or in parts."""
        store = make_s3("some/where")
        plain, path = make_file(content)
        entity = replace(plain, media_type="application/mercurial-0.2")
        await store.put(entity, path)
        credentials = RedirectCredentials("AKIATEST", "hush")
        now = int(datetime.now(UTC).timestamp())
        url = presign(store.object_url(entity.key), credentials, "eu-west-1", now, 60)
        async with aiohttp.ClientSession() as session, session.get(URL(url, encoded=True)) as got:
            assert got.headers["Content-Type"] == "application/mercurial-0.2"
            assert await got.read() == content

    async def test_a_young_entity_is_not_renewed(
        self, make_s3: MakeS3, make_file: MakeFile
    ) -> None:
        """Nor sent: a look is all it costs."""
        store = make_s3(renew_after=3600.0)
        entity, path = make_file(b"content")
        await store.put(entity, path)
        for operation in ("PutObject", "CopyObject"):
            answer(store, operation, 500, "InternalError")
        await store.put(entity, path)

    async def test_what_is_too_large_to_copy_is_sent_again(
        self, make_s3: MakeS3, make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """CopyObject ends at 5 GiB."""
        store = make_s3(renew_after=0.0)
        entity, path = make_file(b"content")
        await store.put(entity, path)
        monkeypatch.setattr(s3, "_COPY_LIMIT", entity.size - 1)
        answer(store, "CopyObject", 400, "InvalidRequest")
        await store.put(entity, path)
        assert await read(store, entity.digest) == b"content"

    async def test_what_was_deleted_before_its_renewal_is_sent_again(
        self, make_s3: MakeS3, make_file: MakeFile
    ) -> None:
        """A collector of garbage may come between look and copy."""
        store = make_s3(renew_after=0.0)
        entity, path = make_file(b"content")
        await store.put(entity, path)
        answer(store, "CopyObject", 404, "NoSuchKey")
        await store.put(entity, path)

    @pytest.mark.parametrize(
        "operation", ["UploadPart", "CompleteMultipartUpload", "CreateMultipartUpload"]
    )
    async def test_a_failed_upload_leaves_nothing(
        self, make_s3: MakeS3, make_file: MakeFile, admin: S3Client, bucket: str, operation: str
    ) -> None:
        """No entity and no parts; and the next put succeeds."""
        store = make_s3(concurrency=2)
        answer(store, operation, 500, "InternalError", when=first_only())
        entity, path = make_file(LARGE)
        with pytest.raises(StoreUnavailable, match=f"{operation}.*InternalError"):
            await store.put(entity, path)
        assert "Uploads" not in admin.list_multipart_uploads(Bucket=bucket)
        assert await store.stat(entity.digest) is None
        await store.put(entity, path)
        assert await read(store, entity.digest) == LARGE

    async def test_a_failed_abort_does_not_hide_the_failure(
        self, make_s3: MakeS3, make_file: MakeFile
    ) -> None:
        """The first error is the one that is told."""
        store = make_s3()
        answer(store, "UploadPart", 403, "AccessDenied")
        answer(store, "AbortMultipartUpload", 500, "InternalError")
        entity, path = make_file(LARGE)
        with pytest.raises(StoreUnavailable, match=r"UploadPart.*AccessDenied"):
            await store.put(entity, path)

    async def test_a_cancelled_put_aborts_its_upload(
        self, make_s3: MakeS3, make_file: MakeFile, admin: S3Client, bucket: str
    ) -> None:
        """The parts that are under way end, no other begins, and none is left."""
        store = make_s3(concurrency=1)
        sending, go = threading.Event(), threading.Event()
        sent = []

        def wait(request: AWSPreparedRequest, **_: object) -> None:
            sent.append(request.url)
            sending.set()
            go.wait()

        store._client.meta.events.register("before-send.s3.UploadPart", wait)
        entity, path = make_file(LARGE)
        putting = asyncio.create_task(store.put(entity, path))
        await asyncio.to_thread(sending.wait)
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        go.set()
        await store.close()
        assert len(sent) == 1
        assert "Uploads" not in admin.list_multipart_uploads(Bucket=bucket)
        assert "Contents" not in admin.list_objects_v2(Bucket=bucket)

    @pytest.mark.parametrize("content", [b"small", LARGE])
    @pytest.mark.parametrize(("status", "code"), [(412, "PreconditionFailed"), (409, "Conflict")])
    async def test_somebody_else_may_write_it_first(
        self, make_s3: MakeS3, make_file: MakeFile, content: bytes, status: int, code: str
    ) -> None:
        """The write is refused, the entity is there: fine."""
        store, other = make_s3(), make_s3()
        entity, path = make_file(content)

        def meanwhile() -> bool:
            asyncio.run(other.put(entity, path))
            return True

        for operation in ("PutObject", "CompleteMultipartUpload"):
            answer(store, operation, status, code, when=meanwhile)
        await store.put(entity, path)
        assert await read(store, entity.digest) == content

    async def test_a_write_that_never_settles_is_given_up(
        self, make_s3: MakeS3, make_file: MakeFile
    ) -> None:
        """Refused as present, yet not there, again and again: an error, not a loop."""
        store = make_s3()
        answer(store, "PutObject", 412, "PreconditionFailed")
        entity, path = make_file(b"content")
        with pytest.raises(StoreUnavailable, match="each of 4 tries"):
            await store.put(entity, path)

    @pytest.mark.parametrize(
        ("content", "method", "query"), [(b"small", "PUT", "/"), (LARGE, "POST", "uploadId=")]
    )
    async def test_a_lost_answer_loses_no_entity(
        self,
        make_s3: MakeS3,
        make_file: MakeFile,
        monkeypatch: pytest.MonkeyPatch,
        *,
        content: bytes,
        method: str,
        query: str,
    ) -> None:
        """The retry is refused, because the first try was done."""
        store = make_s3(max_attempts=2)
        lose_answer(store, monkeypatch, method, query)
        entity, path = make_file(content)
        await store.put(entity, path)
        assert await read(store, entity.digest) == content

    @pytest.mark.parametrize("content", [b"small", LARGE])
    async def test_a_file_that_changes_while_it_is_sent_is_corrupt(
        self,
        make_s3: MakeS3,
        make_file: MakeFile,
        monkeypatch: pytest.MonkeyPatch,
        *,
        content: bytes,
    ) -> None:
        """What is sent is what was verified."""
        store = make_s3()
        entity, path = make_file(content)
        run = Upload.run

        def change_first(upload: Upload) -> bool:
            path.write_bytes(content[:-1] + b"!")
            return run(upload)

        monkeypatch.setattr(Upload, "run", change_first)
        with pytest.raises(Corrupt, match="changed"):
            await store.put(entity, path)
        assert await store.stat(entity.digest) is None

    def test_parts_are_as_many_as_s3_allows(self) -> None:
        """10,000; the wanted size grows where it must."""
        assert part_size_for(100 << 20, 16 << 20) == 16 << 20
        assert part_size_for(10_000 * (16 << 20), 16 << 20) == 16 << 20
        assert part_size_for(10_000 * (16 << 20) + 1, 16 << 20) == (16 << 20) + 1


class TestListing:
    async def test_foreign_objects_are_not_entities(
        self, make_s3: MakeS3, make_file: MakeFile, admin: S3Client, bucket: str
    ) -> None:
        """Only what lies where an entity or a document of this prefix would."""
        store = make_s3("here")
        entity, path = make_file(b"content")
        await store.put(entity, path)
        await store.write_document("a", b"", None)
        for key in [
            f"here/entities/{UNKNOWN}",
            f"here/entities/00/{UNKNOWN}",
            f"here/entities/ab/{UNKNOWN}.tmp",
            f"here/entities/x/entities/ab/{UNKNOWN}",
            "here/entities/",
            "here/documents/",
            "here/documents/folder/",
            f"entities/ab/{UNKNOWN}",
            f"hereafter/entities/ab/{UNKNOWN}",
        ]:
            admin.put_object(Bucket=bucket, Key=key, Body=b"")
        assert [found.digest async for found in store.list()] == [entity.digest]
        assert [name async for name in store.list_documents("")] == ["a"]

    async def test_every_page_is_listed(
        self, make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """S3 lists a thousand keys at a time."""
        store = make_s3()
        names = {f"catalogs/{number}" for number in range(25)}
        for name in names:
            await store.write_document(name, b"", None)
        store._client.meta.events.register(
            "provide-client-params.s3.ListObjectsV2",
            lambda params, **_: {**params, "MaxKeys": 10},
        )
        assert {name async for name in store.list_documents("")} == names

    async def test_a_prefix_is_put_before_every_key_with_one_slash(self, make_s3: MakeS3) -> None:
        """However it is written; two prefixes do not see each other."""
        await make_s3("one").write_document("a", b"1", None)
        await make_s3("/one/two/").write_document("b", b"2", None)
        for prefix, names in [("one/", ["a"]), ("one/two", ["b"]), ("", [])]:
            store = make_s3(prefix)
            assert [name async for name in store.list_documents("")] == names
        assert make_s3("/one/two/").name.endswith("/one/two")


class TestDocuments:
    async def test_a_lost_answer_is_no_conflict(
        self, make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A write that was done is not reported as lost because its own retry failed."""
        store = make_s3(max_attempts=2)
        lose_answer(store, monkeypatch, "PUT", "documents")
        version = await store.write_document("a", b"1", None)
        assert await store.read_document("a") == Document(b"1", version)

    @pytest.mark.parametrize("status", [409, 412])
    async def test_somebody_else_is_a_conflict(
        self, make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch, status: int
    ) -> None:
        """Also when a retry was made, and the same body was written."""
        store, other = make_s3(max_attempts=2), make_s3()
        version = await other.write_document("a", b"1", None)
        answer(store, "PutObject", 503, "SlowDown", when=first_only())
        answer(store, "PutObject", status, HTTPStatus(status).phrase)
        monkeypatch.setattr(
            "botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0
        )
        with pytest.raises(Conflict):
            await store.write_document("a", b"1", None)
        assert await store.read_document("a") == Document(b"1", version)

    async def test_a_document_is_not_kept_by_caches(
        self, make_s3: MakeS3, admin: S3Client, bucket: str
    ) -> None:
        """It changes under its name."""
        await make_s3().write_document("a", b"1", None)
        assert admin.head_object(Bucket=bucket, Key="documents/a")["CacheControl"] == "no-cache"


class TestUrls:
    @pytest.mark.parametrize(
        ("options", "url"),
        [
            ({}, "https://bucket.s3.eu-west-1.amazonaws.com/"),
            ({"region": "us-east-1"}, "https://bucket.s3.amazonaws.com/"),
            ({"region": "cn-north-1"}, "https://bucket.s3.cn-north-1.amazonaws.com.cn/"),
            ({"path_style": True}, "https://s3.eu-west-1.amazonaws.com/bucket/"),
            ({"bucket": "my.bucket"}, "https://s3.eu-west-1.amazonaws.com/my.bucket/"),
            ({"endpoint": "http://127.0.0.1:9000"}, "http://127.0.0.1:9000/bucket/"),
            ({"endpoint": "https://s3.example.org"}, "https://bucket.s3.example.org/"),
            (
                {"endpoint": "https://s3.example.org/base", "path_style": True},
                "https://s3.example.org/base/bucket/",
            ),
            ({"prefix": "a/b"}, "https://bucket.s3.eu-west-1.amazonaws.com/a/b/"),
        ],
    )
    async def test_a_url_is_where_the_object_is(self, options: dict[str, object], url: str) -> None:
        """As the client itself would write it, without a query."""
        store = S3Store(**{"bucket": "bucket", "region": "eu-west-1", **options})
        assert store.object_url(f"entities/ab/{UNKNOWN}") == f"{url}entities/ab/{UNKNOWN}"
        assert store.object_url("documents/a b%2F") == f"{url}documents/a%20b%252F"
        await store.close()

    async def test_clients_may_reach_it_elsewhere(self, make_s3: MakeS3, bucket: str) -> None:
        """Another endpoint for the same key."""
        store = make_s3("here")
        url = store.object_url("entities/x", endpoint="https://cdn.example.org")
        assert url == f"https://cdn.example.org/{bucket}/here/entities/x"

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"path_style": False},
            {"path_style": False, "endpoint": None},
            {"path_style": False, "endpoint": None, "region": "cn-north-1"},
            {"path_style": False, "endpoint": "https://s3.example.org"},
            {"endpoint": None},
        ],
    )
    async def test_the_url_is_that_of_the_requests(
        self, make_s3: MakeS3, options: dict[str, object]
    ) -> None:
        """What the store writes to is what clients read from."""
        store = make_s3("pre fix", **options)
        seen = []

        def see(request: AWSPreparedRequest, **_: object) -> AWSResponse:
            seen.append(request.url)
            return AWSResponse(request.url, 404, {}, _Raw())

        store._client.meta.events.register("before-send.s3.HeadObject", see)
        assert await store.stat(UNKNOWN) is None
        assert seen == [store.object_url(f"entities/ab/{UNKNOWN}")]

    async def test_signing_has_what_a_signature_needs(self, make_s3: MakeS3) -> None:
        """And does not show it."""
        signing = await make_s3(session_token="quiet").signing()
        assert signing == Signing("AKIATEST", "hush", "quiet", "eu-west-1", None)
        assert "hush" not in repr(signing)
        assert "quiet" not in repr(signing)

    async def test_nothing_shows_the_secret(self, make_s3: MakeS3) -> None:
        """No representation of a store or of its parts."""
        store = make_s3(session_token="quiet")
        for shown in (repr(store), repr(store._connection), store.name):
            assert "hush" not in shown
            assert "quiet" not in shown

    async def test_the_region_has_a_default(self, make_s3: MakeS3) -> None:
        """The one that S3 itself assumes."""
        assert (await make_s3(region=None).signing()).region == "us-east-1"

    async def test_temporary_credentials_say_when_they_end(
        self, make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A URL lives no longer than what signed it."""
        ends = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
        lent: Credentials = RefreshableCredentials.create_from_metadata(
            {
                "access_key": "ASIALENT",
                "secret_key": "hush",
                "token": "quiet",
                "expiry_time": ends.isoformat(),
            },
            refresh_using=dict,
            method="test",
        )
        store = make_s3()
        monkeypatch.setattr(store._session, "get_credentials", lambda: lent)
        signing = await store.signing()
        assert (signing.access_key, signing.expires) == ("ASIALENT", ends.timestamp())
