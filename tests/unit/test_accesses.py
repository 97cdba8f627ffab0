"""Accesses on their way to the policy, the listener and the index."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tierfs.cache.eviction import Victim
from tierfs.front.accesses import REPORT_AT, AccessLog
from tierfs.front.port import Access
from tierfs.index.cache import CacheBatch, CacheIndex
from tierfs.index.index import open_index
from tierfs.index.records import CachedFile
from tierfs.readahead.policy import EvictionPolicy

SECOND = 1_000_000_000


class Heard:
    """A policy that only listens."""

    def __init__(self) -> None:
        self.accesses: list[tuple[int, int]] = []

    def accessed(self, ino: int, job: int = 0) -> Any:
        self.accesses.append((ino, job))

    def choose_victims(self, *_: Any) -> list[Victim] | None:
        raise AssertionError("nothing is evicted here")


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
        policy: EvictionPolicy = Heard()
        log = AccessLog(index.cache, policy, None)
        for ino, at_s in ((16, 5), (17, 6), (16, 9), (99, 9)):
            log.add(ino, at_s * SECOND + 1, 0)
        log.report()
        log.report()
        await record(index.cache, 20)  # What was queued is committed by now.
        assert [last_used_s(index.cache, ino) for ino in (16, 17, 18, 99)] == [9, 6, 3, None]


async def test_nothing_is_written_to_an_index_that_is_anothers() -> None:
    heard = Heard()
    batches: list[list[Access]] = []
    log = AccessLog(None, heard, lambda batch: batches.append(list(batch)))
    log.add(16, 5, 0)
    assert heard.accesses == [(16, 0)]
    assert batches == []
    log.report()
    log.report()
    assert batches == [[Access(16, 5, 0)]]


async def test_reports_are_bounded() -> None:
    batches: list[int] = []
    log = AccessLog(None, Heard(), lambda batch: batches.append(len(batch)))
    for n in range(2 * REPORT_AT + 1):
        log.add(n, n, 0)
    assert batches == [REPORT_AT, REPORT_AT]


async def test_a_process_is_its_job() -> None:
    heard = Heard()
    batches: list[list[Access]] = []
    log = AccessLog(None, heard, lambda batch: batches.append(list(batch)))
    log.add(16, 5, os.getpid())
    log.report()
    (_, job), (access,) = heard.accesses[0], batches[0]
    assert job == access.job != 0
