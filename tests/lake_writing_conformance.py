"""What every lake that can be written to must do, whichever it is: promises L5 to L9.

A test module makes a fixture ``subject`` of `tests.lake_conformance.Subject` and imports the tests
from here with ``*``.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest
import trio
from awscrt import checksums

from tests.lake_conformance import AWKWARD, ORDINARY, Subject, listing
from tierfs.errors import IntegrityError, InvalidRequest, NotFound, PreconditionFailed
from tierfs.lake.protocol import ChecksumKind, Lake, Version
from tierfs.lake.writing import (
    ABSENT,
    ALWAYS,
    AS_USUAL,
    Condition,
    FileRange,
    Part,
    Storage,
    Upload,
    WritableLake,
    Written,
)

METADATA = {"tierfs-id": "m-17", "mode": "0644"}
#: The smallest part that S3 takes where it is not the last.
PART_BYTES = 5 << 20
OTHER = Version(b'"00000000000000000000000000000000"')


def crc(body: bytes) -> int:
    """The checksum that goes with *body*."""
    return int(checksums.crc64nvme(body))


@contextmanager
def file_of(body: bytes, offset: int = 0, length: int | None = None) -> Iterator[FileRange]:
    """A file with *body*, and that range of it."""
    with tempfile.TemporaryFile() as file:
        file.write(body)
        file.flush()
        yield FileRange(file.fileno(), offset, len(body) - offset if length is None else length)


async def put(
    lake: WritableLake,
    key: bytes,
    body: bytes,
    condition: Condition = ALWAYS,
    metadata: dict[str, str] | None = None,
) -> Written:
    """Store *body* as it is."""
    return await lake.put(key, body, crc(body), metadata=metadata or {}, condition=condition)


async def body_of(lake: Lake, key: bytes) -> bytes:
    """What is at *key* now."""
    found = await lake.head(key)
    return bytes((await lake.get_whole(key, found.version, found.size))[0])


async def store_part(lake: WritableLake, upload: Upload, number: int, body: bytes) -> Part:
    """Store *body* as a part."""
    with file_of(body) as content:
        return await lake.put_part(upload, number, content, crc(body))


async def complete(
    lake: WritableLake, upload: Upload, parts: Sequence[Part], body: bytes, condition: Condition
) -> Written:
    """Complete an upload whose object is to be *body*."""
    return await lake.complete_upload(upload, parts, crc(body), len(body), condition=condition)


# Storage

_KEPT = Storage(
    "STANDARD_IA",
    (("a b", "c=d"), ("team", "ml/1")),
    "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
)


async def test_an_object_is_kept_as_it_was_asked_for(subject: Subject) -> None:
    """Put, uploaded in parts, and copied."""
    body = b"content"
    async with subject.open() as lake:
        if not subject.flat:
            with pytest.raises(InvalidRequest):
                await lake.put(b"put", body, crc(body), storage=_KEPT)
            with pytest.raises(InvalidRequest):
                await lake.begin_upload(b"parts", storage=_KEPT)
            written = await put(lake, b"put", body)
            with pytest.raises(InvalidRequest):
                await lake.copy(b"put", written.version, b"copy", storage=_KEPT)
            return
        written = await lake.put(b"put", body, crc(body), storage=_KEPT)
        upload = await lake.begin_upload(b"parts", storage=_KEPT)
        part = await store_part(lake, upload, 1, body)
        await complete(lake, upload, [part], body, ALWAYS)
        plain = await put(lake, b"plain", body)
        await lake.copy(b"plain", plain.version, b"copy", storage=_KEPT, metadata={"a": "b"})
        await lake.copy(b"put", written.version, b"plain copy")
        other = Storage("GLACIER_IR", (("team", "other"),))
        await lake.copy(b"put", written.version, b"other copy", storage=other)
        if subject.storage_of is None:
            return
        for key in (b"put", b"parts", b"copy"):
            assert subject.storage_of(key) == _KEPT, key
        assert subject.storage_of(b"plain") == AS_USUAL
        # Tags go with the object, the rest is the bucket's matter again.
        assert subject.storage_of(b"plain copy") == Storage(tags=_KEPT.tags)
        assert subject.storage_of(b"other copy") == other


# Objects


async def test_what_is_put_is_there(subject: Subject) -> None:
    body = random.Random(1).randbytes(300_000)
    async with subject.open() as lake:
        written = await put(lake, b"d/e/f", body, metadata=METADATA)
        found = await lake.head(b"d/e/f", checksum=True)
        assert (found.size, found.version) == (len(body), written.version)
        assert found.metadata in (METADATA, None)
        assert found.mtime_ns // 10**9 == written.mtime_ns // 10**9 or written.mtime_ns == 0
        if written.checksum is not None:
            assert written.checksum.kind is ChecksumKind.CRC64NVME
            assert written.checksum.value == crc(body)
        assert await body_of(lake, b"d/e/f") == body
        assert await listing(lake, recursive=True) == ([b"d/e/f"], [])


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, (3 << 20) + 17])
async def test_a_range_of_a_file_is_put(subject: Subject, size: int) -> None:
    """Sizes about where bodies cease to be signed, and where they are read in pieces."""
    body = random.Random(2).randbytes(size)
    async with subject.open() as lake:
        with file_of(b"before" + body + b"behind", 6, size) as content:
            await lake.put(b"f", content, crc(body))
        assert await body_of(lake, b"f") == body


async def test_a_put_replaces_content_and_metadata(subject: Subject) -> None:
    async with subject.open() as lake:
        first = await put(lake, b"f", b"first", metadata={"a": "1", "b": "2"})
        second = await put(lake, b"f", b"second", metadata={"a": "3"})
        assert first.version != second.version
        assert await body_of(lake, b"f") == b"second"
        assert (await lake.head(b"f")).metadata in ({"a": "3"}, None)
        await put(lake, b"f", b"third")
        assert (await lake.head(b"f")).metadata in ({}, None)
        with pytest.raises(PreconditionFailed):
            await lake.get(b"f", first.version, 0, 5)


async def test_every_key_is_written_exactly(subject: Subject) -> None:
    keys = ORDINARY + (AWKWARD if subject.flat else (b"x/",))
    async with subject.open() as lake:
        for key in keys:
            body = b"" if key.endswith(b"/") else b"body of " + key
            written = await put(lake, key, body, metadata={"key": key.hex()[:100]})
            found = await lake.head(key)
            assert (found.size, found.version) == (len(body), written.version)
            assert found.metadata in ({"key": key.hex()[:100]}, None)
        assert await listing(lake, recursive=True) == (sorted(keys), [])
        for key in keys:
            await lake.delete(key)
        # (A directory outlives what was in it, where there are directories.)
        assert set(keys).isdisjoint((await listing(lake, recursive=True))[0])


async def test_keys_that_a_file_system_cannot_hold(subject: Subject) -> None:
    if subject.flat:
        return
    subject.put(b"d/f", b"x")
    async with subject.open() as lake:
        for key in (*AWKWARD, b"", b"d", b"d/f/g", b"k" * 300, b"d/\0", b"../outside"):
            if key == b"x/":
                continue
            with pytest.raises(InvalidRequest):
                await put(lake, key, b"body")
            with pytest.raises(InvalidRequest):
                await put(lake, key, b"body", ABSENT)
            await lake.delete(key)
        assert await listing(lake, recursive=True) == ([b"d/f"], [])


async def test_a_key_must_not_be_empty(subject: Subject) -> None:
    async with subject.open() as lake:
        with pytest.raises(InvalidRequest):
            await put(lake, b"", b"body")
        await lake.delete(b"")


@pytest.mark.parametrize(
    "metadata",
    [
        {"Upper": "x"},
        {"a b": "x"},
        {"": "x"},
        {"a": " x"},
        {"a": "x "},
        {"a": "\u00e9"},
        {"a": "x\r\nx-amz-acl: public-read"},
        {"a": "x" * 2048},
    ],
)
async def test_metadata_that_no_header_can_carry(
    subject: Subject, metadata: dict[str, str]
) -> None:
    async with subject.open() as lake:
        with pytest.raises(InvalidRequest):
            await put(lake, b"f", b"x", metadata=metadata)
        with pytest.raises(InvalidRequest):
            await lake.begin_upload(b"f", metadata=metadata)


# Conditions


async def test_a_key_that_must_be_absent(subject: Subject) -> None:
    async with subject.open() as lake:
        await put(lake, b"d/f", b"first", ABSENT)
        with pytest.raises(PreconditionFailed):
            await put(lake, b"d/f", b"second", ABSENT)
        assert await body_of(lake, b"d/f") == b"first"
        await lake.delete(b"d/f")
        await put(lake, b"d/f", b"third", ABSENT)
        assert await body_of(lake, b"d/f") == b"third"


async def test_a_key_that_must_have_a_version(subject: Subject) -> None:
    async with subject.open() as lake:
        first = await put(lake, b"f", b"first")
        second = await put(lake, b"f", b"second", Condition(version=first.version))
        with pytest.raises(PreconditionFailed):
            await put(lake, b"f", b"third", Condition(version=first.version))
        assert await body_of(lake, b"f") == b"second"
        with pytest.raises(PreconditionFailed):
            await put(lake, b"missing", b"third", Condition(version=second.version))
        with pytest.raises(NotFound):
            await lake.head(b"missing")


async def test_a_condition_must_be_possible(subject: Subject) -> None:
    with pytest.raises(InvalidRequest):
        Condition(absent=True, version=OTHER)
    async with subject.open() as lake:
        await put(lake, b"f", b"x")
        with pytest.raises(InvalidRequest):
            await lake.delete(b"f", condition=ABSENT)


async def test_of_many_that_want_a_key_absent_one_wins(subject: Subject) -> None:
    async with subject.open() as lake:
        won: list[bytes] = []

        async def contend(body: bytes) -> None:
            try:
                await put(lake, b"f", body, ABSENT)
            except PreconditionFailed:
                return
            won.append(body)

        async with trio.open_nursery() as nursery:
            for n in range(12):
                nursery.start_soon(contend, b"%d" % n * 1000)
        assert [await body_of(lake, b"f")] == won


# Integrity


async def test_another_checksum_is_refused(subject: Subject) -> None:
    async with subject.open() as lake:
        if not subject.strict:
            return
        with pytest.raises(IntegrityError):
            await lake.put(b"f", b"body", crc(b"another body"))
        with file_of(b"y" * (2 << 20)) as content, pytest.raises(IntegrityError):
            await lake.put(b"f", content, crc(b"x" * (2 << 20)))
        with pytest.raises(NotFound):
            await lake.head(b"f")
        upload = await lake.begin_upload(b"f")
        with file_of(b"body") as content, pytest.raises(IntegrityError):
            await lake.put_part(upload, 1, content, crc(b"another body"))
        assert await lake.list_parts(upload) == []


@pytest.mark.parametrize("size", [100, 3 << 20])
async def test_a_file_that_ends_early_is_not_stored(subject: Subject, size: int) -> None:
    body = b"x" * size
    async with subject.open() as lake:
        with file_of(body, 0, size + 1) as content:
            with pytest.raises(IntegrityError):
                await lake.put(b"f", content, crc(body + b"x"))
            upload = await lake.begin_upload(b"f")
            with pytest.raises(IntegrityError):
                await lake.put_part(upload, 1, content, crc(body + b"x"))
        assert await lake.list_parts(upload) == []
        with pytest.raises(NotFound):
            await lake.head(b"f")
        await put(lake, b"f", b"the lake is still usable")


async def test_the_file_may_be_closed_after_a_cancelled_call(subject: Subject) -> None:
    """L9: what gets the descriptor's number next is not what is stored. (That it is not even read,
    ``tests/unit/test_lake_content.py`` shows.)"""
    right, wrong = b"right" * (1 << 19), b"wrong" * (1 << 19)
    async with subject.open() as lake:
        for n in range(6):
            with trio.move_on_after(0.002 * n), file_of(right) as content:
                await lake.put(b"f", content, crc(right))
            with file_of(wrong):
                await trio.sleep(0.01)
        await put(lake, b"g", b"usable")
        try:
            assert await body_of(lake, b"f") == right
        except (NotFound, PreconditionFailed):
            return  # Not stored, or again just now.


# Uploads in parts


async def test_an_upload_in_parts(subject: Subject) -> None:
    bodies = [random.Random(n).randbytes(PART_BYTES) for n in (1, 2)] + [b"the rest"]
    whole = b"".join(bodies)
    async with subject.open() as lake:
        upload = await lake.begin_upload(b"d/f", metadata=METADATA)
        assert upload.key == b"d/f"
        parts = {}
        for number in (3, 1, 2):
            body = bodies[number - 1]
            parts[number] = part = await store_part(lake, upload, number, body)
            assert (part.number, part.size, part.crc64nvme) == (number, len(body), crc(body))
        with pytest.raises(NotFound):
            await lake.head(b"d/f")
        assert await listing(lake) == ([], []), "nothing shows before it is complete"
        chosen = [parts[number] for number in (1, 2, 3)]
        listed = await lake.list_parts(upload)
        told = [
            replace(part, crc64nvme=part.crc64nvme or crc(b))
            for part, b in zip(listed, bodies, strict=True)
        ]
        assert told == chosen
        written = await complete(lake, upload, listed, whole, ABSENT)
        found = await lake.head(b"d/f")
        assert (found.size, found.version) == (len(whole), written.version)
        assert found.metadata in (METADATA, None)
        assert written.checksum is None or written.checksum.value == crc(whole)
        assert await body_of(lake, b"d/f") == whole
        with pytest.raises(NotFound):
            await lake.list_parts(upload)
        if subject.strict:
            with pytest.raises(NotFound):
                await store_part(lake, upload, 1, b"x")
        assert await lake.list_uploads(b"") == []


async def test_a_part_can_be_replaced_and_left_out(subject: Subject) -> None:
    async with subject.open() as lake:
        upload = await lake.begin_upload(b"f")
        await store_part(lake, upload, 2, b"old")
        await store_part(lake, upload, 5, b"not used")
        part = await store_part(lake, upload, 2, b"new")
        listed = await lake.list_parts(upload)
        assert [(p.number, p.etag) for p in listed][:1] == [(2, part.etag)]
        assert len(listed) == 2
        await complete(lake, upload, [part], b"new", ALWAYS)
        assert await body_of(lake, b"f") == b"new"


async def test_wrong_lists_of_parts(subject: Subject) -> None:
    async with subject.open() as lake:
        upload = await lake.begin_upload(b"f")
        one = await store_part(lake, upload, 1, b"1" * PART_BYTES)
        two = await store_part(lake, upload, 2, b"2")
        for parts, size in (
            ([], 0),
            ([two, one], PART_BYTES + 1),
            ([one, one], 2 * PART_BYTES),
            ([one, two], PART_BYTES),
            ([one, replace(two, etag=one.etag)], PART_BYTES + 1),
            ([one, replace(two, number=3)], PART_BYTES + 1),
            ([replace(two, number=0)], 1),
        ):
            with pytest.raises(InvalidRequest):
                await lake.complete_upload(upload, parts, crc(b""), size)
        for number in (0, 10_001):
            with pytest.raises(InvalidRequest):
                await store_part(lake, upload, number, b"x")
        if subject.strict:
            with pytest.raises(IntegrityError):
                await lake.complete_upload(upload, [one, two], crc(b"other"), PART_BYTES + 1)
        with pytest.raises(NotFound):
            await lake.head(b"f")
        await complete(lake, upload, [one, two], b"1" * PART_BYTES + b"2", ALWAYS)


async def test_an_upload_with_a_condition(subject: Subject) -> None:
    async with subject.open() as lake:
        there = await put(lake, b"f", b"there")
        upload = await lake.begin_upload(b"f")
        part = await store_part(lake, upload, 1, b"new")
        with pytest.raises(PreconditionFailed):
            await complete(lake, upload, [part], b"new", ABSENT)
        if subject.strict:
            with pytest.raises(PreconditionFailed):
                await complete(lake, upload, [part], b"new", Condition(version=OTHER))
        assert await body_of(lake, b"f") == b"there"
        # The upload is still there, and can be completed.
        await complete(lake, upload, [part], b"new", Condition(version=there.version))
        assert await body_of(lake, b"f") == b"new"


async def test_an_upload_is_dropped(subject: Subject) -> None:
    async with subject.open() as lake:
        upload = await lake.begin_upload(b"f")
        part = await store_part(lake, upload, 1, b"x")
        for _ in range(2):
            await lake.abort_upload(upload)
        with pytest.raises(NotFound):
            await lake.list_parts(upload)
        if subject.strict:
            with pytest.raises(NotFound):
                await complete(lake, upload, [part], b"x", ALWAYS)
        assert await lake.list_uploads(b"") == []
        with pytest.raises(NotFound):
            await lake.head(b"f")


async def test_uploads_are_listed(subject: Subject) -> None:
    async with subject.open() as lake:
        keys = [b"d/ +%&<a", b"d/b", b"d/b", "d/\u00e9".encode(), b"e"]
        made = [await lake.begin_upload(key) for key in keys]
        assert len({upload.upload_id for upload in made}) == len(made)

        def order(upload: Upload) -> tuple[bytes, bytes]:
            return upload.key, upload.upload_id

        assert sorted(await lake.list_uploads(b""), key=order) == sorted(made, key=order)
        below = await lake.list_uploads(b"d/")
        assert sorted(below, key=order) == sorted(made[:-1], key=order)
        assert await lake.list_uploads(b"d/b/") == []
        for upload in below:
            await lake.abort_upload(upload)
        assert await lake.list_uploads(b"") == made[-1:]


# Deleting and copying


async def test_delete(subject: Subject) -> None:
    async with subject.open() as lake:
        await put(lake, b"d/f", b"x")
        await put(lake, b"d/g", b"x")
        for _ in range(2):
            await lake.delete(b"d/f")
        for key in (b"missing", b"missing/deeper", b"d", b"d/g/h", b"k" * 5000, b"\xff"):
            await lake.delete(key)
        assert await listing(lake, recursive=True) == ([b"d/g"], [])


async def test_delete_of_a_version(subject: Subject) -> None:
    async with subject.open() as lake:
        first = await put(lake, b"f", b"first")
        second = await put(lake, b"f", b"second")
        with pytest.raises(PreconditionFailed):
            await lake.delete(b"f", condition=Condition(version=first.version))
        for _ in range(2):
            await lake.delete(b"f", condition=Condition(version=second.version))
        with pytest.raises(NotFound):
            await lake.head(b"f")


async def test_a_directorys_marker(subject: Subject) -> None:
    async with subject.open() as lake:
        await put(lake, b"d/e/", b"", ABSENT)
        with pytest.raises(PreconditionFailed):
            await put(lake, b"d/e/", b"", ABSENT)
        await put(lake, b"d/e/", b"")
        assert (await lake.head(b"d/e/")).size == 0
        await put(lake, b"d/e/f", b"x")
        await lake.delete(b"d/e/f")
        assert b"d/e/" in (await listing(lake, recursive=True))[0]
        await lake.delete(b"d/e/")
        assert b"d/e/" not in (await listing(lake, recursive=True))[0]


async def test_a_directory_that_is_not_empty_stays(subject: Subject) -> None:
    async with subject.open() as lake:
        await put(lake, b"d/f", b"x")
        await lake.delete(b"d/")
        assert await body_of(lake, b"d/f") == b"x"


async def test_copy(subject: Subject) -> None:
    body = random.Random(5).randbytes(100_000)
    async with subject.open() as lake:
        source = await put(lake, b"a b/+f", body, metadata=METADATA)
        kept = await lake.copy(b"a b/+f", source.version, b"d/kept")
        new = await lake.copy(b"a b/+f", source.version, b"d/new", metadata={"b": "2"})
        for key, written, metadata in (
            (b"d/kept", kept, METADATA),
            (b"d/new", new, {"b": "2"}),
        ):
            found = await lake.head(key)
            assert found.version == written.version
            assert found.metadata in (metadata, None)
            assert await body_of(lake, key) == body
            assert written.checksum is None or written.checksum.value == crc(body)
        await lake.copy(b"a b/+f", source.version, b"a b/+f", metadata={"c": "3"})
        assert (await lake.head(b"a b/+f")).metadata in ({"c": "3"}, None)
        assert await body_of(lake, b"a b/+f") == body
        with pytest.raises(InvalidRequest):
            await lake.copy(b"d/new", new.version, b"d/new")


async def test_only_the_named_version_is_copied(subject: Subject) -> None:
    async with subject.open() as lake:
        first = await put(lake, b"f", b"first")
        await put(lake, b"f", b"second")
        for metadata in (None, {"a": "b"}):
            for source in (b"f", b"missing") if subject.strict else (b"missing",):
                with pytest.raises(PreconditionFailed):
                    await lake.copy(source, first.version, b"g", metadata=metadata)
        with pytest.raises(NotFound):
            await lake.head(b"g")


async def test_a_copy_with_a_condition(subject: Subject) -> None:
    async with subject.open() as lake:
        source = await put(lake, b"f", b"source")
        there = await put(lake, b"g", b"there")
        if subject.strict:
            with pytest.raises(PreconditionFailed):
                await lake.copy(b"f", source.version, b"g", condition=ABSENT)
            with pytest.raises(PreconditionFailed):
                await lake.copy(b"f", source.version, b"g", condition=Condition(version=OTHER))
            assert await body_of(lake, b"g") == b"there"
        await lake.copy(b"f", source.version, b"g", condition=Condition(version=there.version))
        await lake.copy(b"f", source.version, b"h", condition=ABSENT)
        assert [await body_of(lake, key) for key in (b"g", b"h")] == [b"source"] * 2


async def test_a_copy_of_more_than_one_request_may_hold(subject: Subject) -> None:
    body = random.Random(6).randbytes(2 * PART_BYTES + 17)
    mine = {"tierfs-id": "m-18"}
    async with subject.open() as lake:
        lake.limits = replace(lake.limits, single_put_bytes=PART_BYTES)
        upload = await lake.begin_upload(b"f", metadata=METADATA)
        parts = []
        for number, at in enumerate(range(0, len(body), PART_BYTES), start=1):
            piece = body[at : at + PART_BYTES]
            parts.append(await store_part(lake, upload, number, piece))
        source = await complete(lake, upload, parts, body, ALWAYS)
        for target, condition in ((b"g", ABSENT), (b"f", ALWAYS)):
            written = await lake.copy(
                b"f", source.version, target, metadata=mine, condition=condition
            )
            found = await lake.head(target)
            assert (found.version, found.size) == (written.version, len(body))
            assert found.metadata in (mine, None)
            assert written.checksum is None or written.checksum.value == crc(body)
            assert await body_of(lake, target) == body
        with pytest.raises(PreconditionFailed):
            await lake.copy(b"f", OTHER, b"h", metadata=mine)
        if subject.strict:
            there = await lake.head(b"g")
            with pytest.raises(PreconditionFailed):
                await lake.copy(b"g", there.version, b"f", metadata=METADATA, condition=ABSENT)
            assert (await lake.head(b"f")).metadata in (mine, None)
        assert await lake.list_uploads(b"") == []


# The rest


async def test_what_is_written_is_counted(subject: Subject) -> None:
    async with subject.open() as lake:
        before = replace(lake.counters)
        await put(lake, b"f", b"12345")
        upload = await lake.begin_upload(b"g")
        part = await store_part(lake, upload, 1, b"123")
        await complete(lake, upload, [part], b"123", ALWAYS)
        await lake.delete(b"f")
        await lake.abort_upload(upload)
        assert lake.counters.put_requests - before.put_requests == 4
        assert lake.counters.delete_requests - before.delete_requests == 2
        assert lake.counters.bytes_written - before.bytes_written == 8


async def test_many_writers_at_once(subject: Subject) -> None:
    async with subject.open() as lake:
        async with trio.open_nursery() as nursery:
            for n in range(30):
                nursery.start_soon(put, lake, b"d%d/f%d" % (n % 3, n), b"%d" % n * 1000)
        for n in range(30):
            assert await body_of(lake, b"d%d/f%d" % (n % 3, n)) == b"%d" % n * 1000


async def test_a_lake_says_what_it_takes(subject: Subject) -> None:
    async with subject.open() as lake:
        limits = lake.limits
        assert 0 < limits.min_part <= limits.max_part <= limits.object_bytes
        assert limits.max_part <= limits.single_put_bytes or not subject.flat
        assert limits.max_parts >= 10_000


__all__ = [name for name in dir() if name.startswith("test_")]
