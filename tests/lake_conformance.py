"""What every lake must do, whichever it is: the suite that fakes and real ones are held to.

A test module makes a fixture ``subject`` of `Subject` and imports the tests from here with ``*``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import pytest
import trio

from tierfs.errors import (
    InvalidRequest,
    LakeError,
    NotFound,
    PreconditionFailed,
)
from tierfs.lake.protocol import Lake, ListPage, ObjectInfo
from tierfs.lake.writing import Storage, WritableLake

#: Keys that only a store without directories can hold, and that it must spell exactly.
AWKWARD = (
    b"a/../b",
    b"a//b",
    b"./x",
    b"x/",
    b"/x",
    b"..",
    b".",
    b"//",
)
#: Keys that every lake can hold.
ORDINARY = (
    b"a?b",
    b"a#b",
    b"a%2Fb",
    b"a+b",
    b"a b",
    b"a&b<c>\"d'",
    b"a\\b",
    b"~",
    b"...",
    "\u00e9/\u65e5\u672c".encode(),
    b"x" * 200,
)


@dataclass
class Subject:
    """A lake under test and how to change it behind its back.

    *flat*: keys are not paths of a file system. *strict*: the store does what the S3 API says of
    checksums, of conditions on copies and of uploads that are gone, in which moto fails.
    *storage_of* says how an object is kept, where the store can tell.
    """

    open: Callable[[], AbstractAsyncContextManager[WritableLake]]
    put: Callable[[bytes, bytes], None]
    delete: Callable[[bytes], None]
    flat: bool
    strict: bool = True
    storage_of: Callable[[bytes], Storage] | None = None


async def pages(
    lake: Lake, prefix: bytes, max_keys: int, recursive: bool, start_after: bytes = b""
) -> list[ListPage]:
    """Every page of a listing."""
    found: list[ListPage] = []
    token = None
    while True:
        page = await lake.list_page(
            prefix,
            token=token,
            max_keys=max_keys,
            recursive=recursive,
            start_after=start_after,
        )
        found.append(page)
        token, start_after = page.next_token, b""
        if token is None:
            return found


async def listing(
    lake: Lake,
    prefix: bytes = b"",
    *,
    max_keys: int = 1000,
    recursive: bool = False,
    start_after: bytes = b"",
) -> tuple[list[bytes], list[bytes]]:
    """All keys and prefixes, sorted, duplicates kept."""
    found = await pages(lake, prefix, max_keys, recursive, start_after)
    objects = sorted(entry.key for page in found for entry in page.objects)
    return objects, sorted(folded for page in found for folded in page.prefixes)


async def find(lake: Lake, key: bytes) -> ObjectInfo:
    """The object *key* as a recursive listing describes it."""
    for page in await pages(lake, b"", 1000, True):
        for entry in page.objects:
            if entry.key == key:
                return entry
    raise AssertionError(f"{key!r} is not listed")


async def test_head_and_listing_agree(subject: Subject) -> None:
    subject.put(b"dir/file", b"hello world")
    async with subject.open() as lake:
        listed = await find(lake, b"dir/file")
        headed = await lake.head(b"dir/file", checksum=True)
        assert (headed.key, headed.size) == (b"dir/file", 11)
        assert (headed.version, headed.mtime_ns) == (listed.version, listed.mtime_ns)
        assert not headed.archived


async def test_ranges_are_exact(subject: Subject) -> None:
    body = bytes(range(256)) * 40
    subject.put(b"f", body)
    async with subject.open() as lake:
        version = (await lake.head(b"f")).version
        for offset, length in ((0, 1), (0, len(body)), (5000, 1234), (len(body) - 1, 1)):
            assert await lake.get(b"f", version, offset, length) == body[offset : offset + length]
        assert (await lake.get_whole(b"f", version, len(body)))[0] == body
        assert await lake.get_whole(b"f", version, len(body), checksum=False) == (body, None)


async def test_a_range_beyond_the_end_is_never_returned_short(subject: Subject) -> None:
    subject.put(b"f", b"0123456789")
    async with subject.open() as lake:
        version = (await lake.head(b"f")).version
        for offset, length in ((0, 11), (10, 1), (100, 5)):
            with pytest.raises(LakeError):
                await lake.get(b"f", version, offset, length)
        with pytest.raises(LakeError):
            await lake.get_whole(b"f", version, 9)
        with pytest.raises(LakeError):
            await lake.get_whole(b"f", version, 11)
        with pytest.raises(LakeError):
            await lake.get_whole(b"f", version, 9, checksum=False)


async def test_an_empty_object(subject: Subject) -> None:
    subject.put(b"empty", b"")
    async with subject.open() as lake:
        found = await lake.head(b"empty")
        assert found.size == 0
        assert (await lake.get_whole(b"empty", found.version, 0))[0] == b""
        assert (await lake.get_whole(b"empty", found.version, 0, checksum=False))[0] == b""


async def test_ranges_that_nobody_may_ask_for(subject: Subject) -> None:
    subject.put(b"f", b"x")
    async with subject.open() as lake:
        version = (await lake.head(b"f")).version
        for offset, length in ((0, 0), (0, -1), (-1, 1)):
            with pytest.raises(InvalidRequest):
                await lake.get(b"f", version, offset, length)
        with pytest.raises(InvalidRequest):
            await lake.list_page(b"no-slash")
        for after in (b"e", b"d/", b"d/e/f"):
            with pytest.raises(InvalidRequest):
                await lake.list_page(b"d/", start_after=after)
        with pytest.raises(InvalidRequest):
            await lake.list_page(b"", token=b"token", start_after=b"e")


async def test_a_changed_object_fails_its_precondition(subject: Subject) -> None:
    subject.put(b"f", b"first version")
    async with subject.open() as lake:
        before = await lake.head(b"f")
        subject.put(b"f", b"other version")
        for checksum in (True, False):
            with pytest.raises(PreconditionFailed):
                await lake.get_whole(b"f", before.version, 13, checksum=checksum)
        with pytest.raises(PreconditionFailed):
            await lake.get(b"f", before.version, 0, 5)
        after = await lake.head(b"f")
        assert after.version != before.version
        assert await lake.get(b"f", after.version, 0, 5) == b"other"


async def test_a_deleted_object_fails_its_precondition(subject: Subject) -> None:
    subject.put(b"f", b"first version")
    async with subject.open() as lake:
        before = await lake.head(b"f")
        subject.delete(b"f")
        with pytest.raises(PreconditionFailed):
            await lake.get(b"f", before.version, 0, 5)
        with pytest.raises(PreconditionFailed):
            await lake.get_whole(b"f", before.version, 13)
        with pytest.raises(NotFound):
            await lake.head(b"f")


async def test_names_that_are_not_there(subject: Subject) -> None:
    subject.put(b"d/f", b"x")
    async with subject.open() as lake:
        for key in (b"missing", b"d", b"d/f/g", b"missing/deeper", b"d/", b"k" * 5000, b"\xff\xfe"):
            with pytest.raises(NotFound):
                await lake.head(key)
        for prefix in (b"missing/", b"d/f/", b"missing/deeper/", b"k" * 5000 + b"/", b"\xff/"):
            page = await lake.list_page(prefix)
            assert (page.objects, page.prefixes, page.next_token) == ([], [], None)


async def test_no_key_leads_out_of_the_root(subject: Subject) -> None:
    subject.put(b"inside", b"x")
    async with subject.open() as lake:
        for key in (b"../outside", b"d/../../outside", b"/etc/passwd", b"..", b"."):
            with pytest.raises(NotFound):
                await lake.head(key)
        for prefix in (b"../", b"/", b"./", b"d/../../"):
            page = await lake.list_page(prefix)
            assert (page.objects, page.prefixes) == ([], [])


async def test_one_level_and_all_levels(subject: Subject) -> None:
    for key in (b"a", b"d/one", b"d/two", b"d/sub/three", b"e/f/g"):
        subject.put(key, key)
    async with subject.open() as lake:
        assert await listing(lake) == ([b"a"], [b"d/", b"e/"])
        assert await listing(lake, b"d/") == ([b"d/one", b"d/two"], [b"d/sub/"])
        everything = [b"a", b"d/one", b"d/sub/three", b"d/two", b"e/f/g"]
        assert await listing(lake, recursive=True) == (everything, [])
        assert await listing(lake, b"d/", recursive=True) == (everything[1:4], [])


@pytest.mark.parametrize("max_keys", [1, 2, 3, 7, 1000])
async def test_pages_give_every_entry_once(subject: Subject, max_keys: int) -> None:
    keys = sorted([b"file-%02d" % n for n in range(9)] + [b"dir-%d/f" % n for n in range(4)])
    for key in keys:
        subject.put(key, b"x")
    async with subject.open() as lake:
        expected = [key for key in keys if b"/" not in key], [b"dir-%d/" % n for n in range(4)]
        assert await listing(lake, max_keys=max_keys) == expected
        assert await listing(lake, max_keys=max_keys, recursive=True) == (keys, [])


@pytest.mark.parametrize("max_keys", [1, 3, 1000])
async def test_a_listing_starts_after_a_name(subject: Subject, max_keys: int) -> None:
    keys = [b"d/%s" % name for name in (b"a", b"b-", b"b0", b"b1", b"c/x", b"c/y", b"c0", b"d")]
    keys += [b"b", b"e", b"d0"]
    if subject.flat:
        keys += [b"d/b", b"d/c", b"d/b/x"]  # Objects beside directories of their names.
    else:
        keys += [b"d/f/x"]
    for key in keys:
        subject.put(key, b"x")
    async with subject.open() as lake:
        for prefix in (b"", b"d/"):
            objects, prefixes = await listing(lake, prefix)
            deep, _ = await listing(lake, prefix, recursive=True)
            names = {key[len(prefix) :].rstrip(b"/") for key in objects + prefixes}
            # Names that are there and that are not; a file's, and that of a directory beside it.
            for name in names | {b"!", b"b!", b"b-0", b"bb", b"c-", b"~"}:
                after = prefix + name
                found = await listing(lake, prefix, max_keys=max_keys, start_after=after)
                assert found == (
                    [key for key in objects if key > after],
                    [key for key in prefixes if key > after],
                ), (prefix, name)
                found = await listing(
                    lake, prefix, max_keys=max_keys, recursive=True, start_after=after
                )
                assert found == ([key for key in deep if key > after], []), (prefix, name)


async def test_a_listing_that_says_it_is_ordered_is(subject: Subject) -> None:
    for key in (b"b", b"a0", b"a", b"a-/x", b"A", b"c/x", b"c0", b"\xc3\xa9"):
        subject.put(key, b"x")
    async with subject.open() as lake:
        if not lake.ordered:
            return
        found = []
        for page in await pages(lake, b"", 1, False):
            found += [info.key for info in page.objects] + page.prefixes
        assert found == sorted([b"b", b"a0", b"a", b"a-/", b"A", b"c/", b"c0", b"\xc3\xa9"])


async def test_a_token_serves_twice(subject: Subject) -> None:
    """A page whose answer got lost is asked for again with the same token."""
    for n in range(9):
        subject.put(b"f%d" % n, b"x")
    async with subject.open() as lake:
        first = await lake.list_page(b"", max_keys=3)
        assert first.next_token is not None
        again = [await lake.list_page(b"", token=first.next_token, max_keys=3) for _ in range(2)]
        assert again[0].objects == again[1].objects
        assert not {o.key for o in first.objects} & {o.key for o in again[0].objects}


async def test_a_token_outlives_its_process(subject: Subject) -> None:
    for n in range(9):
        subject.put(b"f%d" % n, b"x")
    async with subject.open() as lake:
        first = await lake.list_page(b"", max_keys=4)
    found = [o.key for o in first.objects]
    async with subject.open() as lake:
        token = first.next_token
        while token is not None:
            page = await lake.list_page(b"", token=token, max_keys=4)
            found += [o.key for o in page.objects]
            token = page.next_token
    assert sorted(found) == [b"f%d" % n for n in range(9)]


async def test_every_key_is_spelled_exactly(subject: Subject) -> None:
    keys = ORDINARY + (AWKWARD if subject.flat else ())
    for key in keys:
        subject.put(key, b"body of " + key)
    async with subject.open() as lake:
        assert await listing(lake, recursive=True) == (sorted(keys), [])
        for key in keys:
            body = b"body of " + key
            found = await lake.head(key)
            assert found.size == len(body)
            assert await lake.get(key, found.version, 5, len(body) - 5) == body[5:]
            assert (await lake.get_whole(key, found.version, len(body)))[0] == body


async def test_counters_count(subject: Subject) -> None:
    subject.put(b"f", b"0123456789")
    async with subject.open() as lake:
        before = lake.counters.get_requests, lake.counters.bytes_read
        version = (await lake.head(b"f")).version
        await lake.get(b"f", version, 0, 4)
        await lake.get_whole(b"f", version, 10)
        await lake.list_page(b"")
        after = lake.counters.get_requests, lake.counters.bytes_read
        assert (after[0] - before[0], after[1] - before[1]) == (2, 14)
        assert lake.counters.head_requests >= 1
        assert lake.counters.list_requests >= 1


async def test_many_at_once(subject: Subject) -> None:
    body = bytes(range(251)) * 100
    subject.put(b"f", body)
    async with subject.open() as lake:
        version = (await lake.head(b"f")).version
        wrong: list[int] = []

        async def one(offset: int) -> None:
            if await lake.get(b"f", version, offset, 500) != body[offset : offset + 500]:
                wrong.append(offset)

        async with trio.open_nursery() as nursery:
            for n in range(40):
                nursery.start_soon(one, n * 600)
        assert wrong == []


async def test_cancelled_calls_leave_the_lake_usable(subject: Subject) -> None:
    subject.put(b"f", b"0123456789" * 1000)
    async with subject.open() as lake:
        version = (await lake.head(b"f")).version
        for _ in range(5):
            with trio.CancelScope() as scope:
                scope.cancel()
                await lake.get(b"f", version, 0, 10_000)
        assert await lake.get(b"f", version, 10, 10) == b"0123456789"


async def test_check(subject: Subject) -> None:
    subject.put(b"d/f", b"x")
    async with subject.open() as lake:
        await lake.check()


async def test_lake_identity_is_stable(subject: Subject) -> None:
    async with subject.open() as one:
        identity = one.identity
    async with subject.open() as two:
        assert two.identity == identity
        assert two.identity.lake_id == identity.lake_id
        assert len(identity.lake_id) == 16


__all__ = [name for name in dir() if name.startswith("test_")]
