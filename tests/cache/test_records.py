# Law of this file: a record comes back as it was saved, or not at all.

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import CacheUnavailable
from cache.keys import record_key
from cache.layout import Layout
from cache.records import BadRecord, Part, Record, Records, decode_record, encode_record
from cache.usage import Usage
from stores.entity import Entity

DIGEST = "ab" * 32
KEY = "cd" * 32
RECORD = Record(KEY, "tëst", b"head\n\0", (Part(Entity(DIGEST, 7, "a/b"), "f00d"),), 12.5)

_RECORDS = st.builds(
    Record,
    st.just(KEY),
    st.text(st.characters(exclude_categories=()), max_size=10),
    st.binary(max_size=100),
    st.lists(
        st.builds(
            Part,
            st.builds(Entity, st.just(DIGEST), st.integers(0, 2**62), st.text(max_size=5)),
            st.text(max_size=5),
        ),
        max_size=3,
    ).map(tuple),
    st.floats(0, 1e12),
)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A data directory."""
    return Layout.make(tmp_path)


@pytest.fixture
def records(layout: Layout) -> Records:
    """The records of this process."""
    return Records(layout, Usage(layout))


@pytest.fixture
def other(layout: Layout) -> Records:
    """The same records, as another process has them."""
    return Records(layout, Usage(layout))


def test_the_format_of_a_record() -> None:
    """Files of an older release are read, or this test tells that the format has changed."""
    rest = (
        b'{"key":"' + KEY.encode() + b'","repository":"t\\u00ebst","created":12.5,'
        b'"parts":[{"digest":"' + DIGEST.encode() + b'","size":7,"media_type":"a/b",'
        b'"checksum":"f00d"}]}\nhead\n\0'
    )
    digest = hashlib.sha256(rest).hexdigest().encode()
    assert encode_record(RECORD) == b"offramp-record-1 " + digest + b"\n" + rest


@given(_RECORDS)
def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    """Nothing of a record is lost."""
    assert decode_record(encode_record(record)) == record


@given(_RECORDS, st.data())
def test_a_damaged_record_is_refused(record: Record, data: st.DataObject) -> None:
    """Whatever byte is changed, or wherever it is cut, it is no record any more."""
    body = bytearray(encode_record(record))
    at = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(BadRecord):
        decode_record(bytes(body[:at]))
    body[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadRecord):
        decode_record(bytes(body))


@given(st.binary() | st.recursive(st.none() | st.text(), st.lists).map(lambda v: repr(v).encode()))
def test_garbage_is_refused_even_with_a_right_checksum(rest: bytes) -> None:
    """No file makes reading fail in another way."""
    with pytest.raises(BadRecord):
        decode_record(rest)
    digest = hashlib.sha256(rest).hexdigest().encode()
    with pytest.raises(BadRecord):
        decode_record(b"offramp-record-1 " + digest + b"\n" + rest)


@pytest.mark.parametrize(
    "fields",
    [
        b"{}",
        b"[" * 100_000,
        b'{"key":"k","repository":"r","created":1,"parts":[1]}',
        b'{"key":"k","repository":"r","created":1' + b"0" * 400 + b',"parts":[]}',
        b'{"key":"k","repository":"r","created":1,"parts":[{"digest":"x","size":1}]}',
    ],
)
def test_fields_of_another_shape_are_refused(fields: bytes) -> None:
    """What parses as JSON is not therefore a record."""
    digest = hashlib.sha256(fields).hexdigest().encode()
    with pytest.raises(BadRecord):
        decode_record(b"offramp-record-1 " + digest + b"\n" + fields)


def test_a_saved_record_is_there_in_every_process(records: Records, other: Records) -> None:
    """What one process saves, another loads, and again from memory."""
    assert other.load(KEY) is None
    records.save(RECORD)
    assert records.load(KEY) == RECORD
    assert other.load(KEY) == RECORD
    assert other.load(KEY) is other.load(KEY)


def test_a_record_that_another_process_replaced_is_read_again(
    records: Records, other: Records
) -> None:
    """What is in memory is used only while the file is the same."""
    records.save(RECORD)
    assert records.load(KEY) == RECORD
    for turn in range(50):
        newer = Record(KEY, "r", b"%02d" % turn, (), 1.0)
        other.delete(KEY)
        assert records.load(KEY) is None
        other.save(newer)
        assert records.load(KEY) == newer


@pytest.mark.parametrize("damage", [b"", b"x", encode_record(RECORD)[:-1]])
def test_law_9_a_damaged_file_is_no_record_and_is_removed(
    records: Records, other: Records, layout: Layout, damage: bytes
) -> None:
    """What a power failure left does not stop the record from being made anew."""
    records.save(RECORD)
    path = layout.place("records", KEY)
    path.write_bytes(damage)
    assert records.load(KEY) is None
    assert other.load(KEY) is None
    assert not path.exists()
    records.save(RECORD)
    assert other.load(KEY) == RECORD


def test_a_record_under_another_name_is_no_record(records: Records, layout: Layout) -> None:
    """A file that was copied by hand does not answer another question."""
    path = layout.place("records", "ef" * 32)
    path.parent.mkdir()
    path.write_bytes(encode_record(RECORD))
    assert records.load("ef" * 32) is None
    assert not path.exists()


def test_memory_is_bounded_by_count_and_by_bytes(layout: Layout) -> None:
    """The longest unused records leave memory first; the disk still has them."""
    usage = Usage(layout)
    for bounded in (Records(layout, usage, max_records=2), Records(layout, usage, max_bytes=9000)):
        keys = [record_key("d", "r", b"%d" % number) for number in range(5)]
        for key in keys:
            bounded.save(Record(key, "r", b"x" * 3000, (), 1.0))
        assert list(bounded._remembered) == keys[3:]
        assert bounded._bytes == 2 * 4024
        assert all(bounded.load(key) is not None for key in keys)
    tiny = Records(layout, usage, max_bytes=10)
    tiny.save(RECORD)
    assert tiny._bytes == 0
    assert tiny.load(KEY) == RECORD


def test_what_cannot_be_saved_leaves_the_old_record(
    records: Records, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk loses nothing that was there, and leaves no temporary file."""
    records.save(RECORD)

    def full(file: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cache.layout.write_all", full)
    with pytest.raises(CacheUnavailable, match="No space left"):
        records.save(Record(KEY, "r", b"newer", (), 1.0))
    assert records.load(KEY) == RECORD
    assert list((layout.data / "incoming").iterdir()) == []


def test_a_name_that_is_no_key_is_refused(records: Records) -> None:
    """No key leads out of the data directory."""
    for key in ("../" * 20 + "etc/passwd", "AB" * 32, ""):
        with pytest.raises(ValueError, match="names nothing"):
            records.load(key)
