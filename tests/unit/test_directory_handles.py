"""READDIR's cursor: continues where the kernel stopped, and can be sought anywhere."""

from __future__ import annotations

import pytest
import trio

from tierfs.fs.handles import KEPT_S, DirectoryHandle, HandleTable
from tierfs.index.records import Kind
from tierfs.namespace import Attributes

ENTRIES = [
    (ino, b"%d" % ino, Attributes(ino, Kind.FILE, 0o644, 0, 0, 1, 0, 60.0)) for ino in range(20, 90)
]


class Source:
    """Serves `ENTRIES` ten at a time and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def load(self, ino: int, after: int) -> list[tuple[int, bytes, Attributes]]:
        self.asked.append(after)
        return [entry for entry in ENTRIES if entry[0] > after][:10]


async def read(handle: DirectoryHandle, source: Source, offset: int, count: int) -> list[int]:
    """What one READDIR with room for *count* entries answers."""
    taken: list[int] = []
    while len(taken) < count:
        entry = await handle.next_entry(offset, source.load)
        if entry is None:
            break
        handle.accept(entry)
        offset = entry[0]
        taken.append(offset)
    return taken


async def test_pieces_join_without_gap_or_repeat_and_pages_are_read_once() -> None:
    handle, source = DirectoryHandle(1), Source()
    seen: list[int] = []
    offset = 0
    while piece := await read(handle, source, offset, 7):
        seen += piece
        offset = piece[-1]
    assert seen == [entry[0] for entry in ENTRIES]
    assert source.asked == [0, 29, 39, 49, 59, 69, 79, 89]


async def test_an_entry_that_did_not_fit_comes_first_next_time() -> None:
    handle, source = DirectoryHandle(1), Source()
    first = await handle.next_entry(0, source.load)
    assert first is not None
    assert await handle.next_entry(0, source.load) == first


@pytest.mark.mockclock
async def test_entries_kept_for_long_are_read_again() -> None:
    """Each carries the time for which it may be believed, as of when it was read."""
    handle, source = DirectoryHandle(1), Source()
    taken = await read(handle, source, 0, 3)
    await trio.sleep(KEPT_S / 2)
    taken += await read(handle, source, taken[-1], 3)
    assert source.asked == [0]
    await trio.sleep(KEPT_S)
    taken += await read(handle, source, taken[-1], 3)
    assert source.asked == [0, 25]
    assert taken == [entry[0] for entry in ENTRIES[:9]]


async def test_rewinddir_starts_again() -> None:
    handle, source = DirectoryHandle(1), Source()
    assert await read(handle, source, 0, 15) == await read(handle, source, 0, 15)


def test_handle_numbers_are_never_used_twice() -> None:
    table = HandleTable()
    first = table.add(DirectoryHandle(1))
    table.remove(first)
    table.remove(first)
    assert table.add(DirectoryHandle(1)) != first
    assert table.get(first) is None
    assert len(table) == 1
