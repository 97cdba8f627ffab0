"""Accesses on their way to whoever decides, and to the index."""

from __future__ import annotations

import os
from pathlib import Path

from tierfs.front.accesses import REPORT_AT, AccessLog
from tierfs.index.cache import CacheBatch, CacheIndex
from tierfs.index.index import open_index
from tierfs.index.records import CachedFile

SECOND = 1_000_000_000


class Heard:
    def __init__(self) -> None:
        self.accesses: list[tuple[int, int]] = []

    def accessed(self, ino: int, job: int) -> None:
        self.accesses.append((ino, job))


async def record(index: CacheIndex, *inos: int) -> None:
    batch = CacheBatch()
    for ino in inos:
        batch.put_file(ino, CachedFile(bytes(16), 10, 0, False, False, bytes(8), 0, 0, 3))
    await index.commit(batch)


def last_used_s(index: CacheIndex, ino: int) -> int | None:
    file = index.file(ino)
    return None if file is None else file.last_used_s


async def test_the_index_hears_of_the_last_use_of_each_file(tmp_path: Path) -> None:
    async with open_index(tmp_path, "lake") as index:
        await record(index.cache, 16, 17, 18)
        log = AccessLog(index.cache, Heard().accessed)
        for ino, at_s in ((16, 5), (17, 6), (16, 9), (99, 9)):
            log.add(ino, at_s * SECOND + 1, 0)
        log.report()
        log.report()
        await record(index.cache, 20)  # What was queued is committed by now.
        assert [last_used_s(index.cache, ino) for ino in (16, 17, 18, 99)] == [9, 6, 3, None]


async def test_it_hears_before_there_are_too_many(tmp_path: Path) -> None:
    async with open_index(tmp_path, "lake") as index:
        await record(index.cache, *range(REPORT_AT + 1))
        log = AccessLog(index.cache, Heard().accessed)
        for ino in range(REPORT_AT + 1):
            log.add(ino, 9 * SECOND, 0)
        await record(index.cache, REPORT_AT + 1)
        assert [last_used_s(index.cache, ino) for ino in (0, REPORT_AT - 1)] == [9, 9]
        assert last_used_s(index.cache, REPORT_AT) == 3


def test_each_access_is_told_at_once_and_in_order() -> None:
    heard = Heard()
    log = AccessLog(None, heard.accessed)
    for ino in (18, 16, 18):
        log.add(ino, 5, 0)
    assert heard.accesses == [(18, 0), (16, 0), (18, 0)]


def test_a_process_is_its_job() -> None:
    heard = Heard()
    log = AccessLog(None, heard.accessed)
    log.add(16, 5, os.getpid())
    ((_, job),) = heard.accesses
    assert job != 0
