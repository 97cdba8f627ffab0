"""Commands that go over a subtree: fetch all of it into the cache, or evict it.

Both stream: the tree is walked through the index (listing what is not known yet) while objects are
already being fetched, and nothing is kept a file. A warm-up that was interrupted starts again from
the top and passes over what is complete, at index speed.
"""

from __future__ import annotations

from typing import Any

import trio

from tierfs.cache.budget import Priority
from tierfs.control.server import Progress
from tierfs.errors import CacheFull, TierfsError, show
from tierfs.front.port import FrontPort
from tierfs.namespace import Namespace, WalkEntry
from tierfs.readahead.ahead import Ahead

#: Objects in flight; the lake's own limiter and the memory budget bound the requests below this.
WIDTH = 64
#: Seconds between two progress lines.
PROGRESS_INTERVAL_S = 0.2
#: Failures that are named in the answer; all of them are counted.
FAILURES_LISTED = 20


class _Tally:
    """Running totals of one command, and its progress lines."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._last_s = trio.current_time()
        self.objects = self.bytes = self.requests = 0
        self.cached_objects = self.cached_bytes = 0
        self.fetched_objects = self.fetched_bytes = 0
        self.failures: list[dict[str, str]] = []
        self.failed = 0

    def fields(self) -> dict[str, Any]:
        return {
            "objects": self.objects,
            "bytes": self.bytes,
            "requests": self.requests,
            "cached_objects": self.cached_objects,
            "cached_bytes": self.cached_bytes,
            "fetched_objects": self.fetched_objects,
            "fetched_bytes": self.fetched_bytes,
            "failed": self.failed,
            "failures": self.failures,
        }

    def failure(self, path: bytes, error: TierfsError) -> None:
        self.failed += 1
        if len(self.failures) < FAILURES_LISTED:
            self.failures.append({"path": show(path), "error": str(error)})

    async def tell(self) -> None:
        now = trio.current_time()
        if now - self._last_s >= PROGRESS_INTERVAL_S:
            self._last_s = now
            await self._progress(self.fields())


async def warm_up(
    namespace: Namespace,
    front: FrontPort,
    ahead: Ahead,
    paths: list[bytes],
    dry_run: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Fetch every object below *paths*; with *dry_run* only count objects, bytes and requests.

    An object that fails is named in the answer and the rest goes on; a cache that is full of what
    was warmed up, and not read since, ends it: nothing more is sent for. What was cached before is
    part of what was asked for: *ahead* is told of it, and nothing of it goes for the sake of the
    rest.
    """
    tally = _Tally(progress)
    full: CacheFull | None = None
    slots = trio.Semaphore(WIDTH)

    async def one(entry: WalkEntry) -> None:
        nonlocal full
        ahead.warm_up(entry.ino, entry.size)
        try:
            await front.fetch(entry.ino, entry.reference, entry.size, None, Priority.WARM_UP)
            tally.fetched_objects += 1
            tally.fetched_bytes += entry.size
        except CacheFull as error:
            full = error
        except TierfsError as error:
            tally.failure(entry.path, error)
        finally:
            if not front.file_state(entry.ino).cached_bytes:
                ahead.not_kept(entry.ino, entry.size)
            slots.release()
        await tally.tell()

    async def send_for_all(nursery: trio.Nursery) -> None:
        for path in paths:
            top = await namespace.resolve(path)
            async for entry in namespace.walk(top.ino):
                tally.objects += 1
                tally.bytes += entry.size
                if front.file_state(entry.ino).complete:
                    if not dry_run:
                        ahead.warm_up(entry.ino, entry.size)
                    tally.cached_objects += 1
                    tally.cached_bytes += entry.size
                else:
                    tally.requests += front.requests_to_fetch(entry.size)
                    if not dry_run:
                        await slots.acquire()
                        if full is not None:
                            return
                        nursery.start_soon(one, entry)
                await tally.tell()

    async with trio.open_nursery() as nursery:
        # When it is full, what is under way is awaited: a front does not call it off, and what has
        # come would lose its mark, and then its place to what comes after it.
        await send_for_all(nursery)
    if full is not None:
        remedy = "what fits is there: warm up less of it, or mount with more --cache-size"
        hint = f"{full.hint}; {remedy}"
        tally.failure(b"", CacheFull("warm up all of it", hint=hint))
    return tally.fields()


async def evict_tree(
    namespace: Namespace, front: FrontPort, ahead: Ahead, paths: list[bytes], progress: Progress
) -> tuple[int, int]:
    """Evict what is cached below *paths* and not in use. Returns (files, bytes)."""
    files = size = 0
    for path in paths:
        top = await namespace.resolve(path)
        async for entry in namespace.walk(top.ino):
            ahead.not_kept(entry.ino, entry.size)
            freed = await front.evict(entry.ino)
            if freed:
                files += 1
                size += freed
    return files, size
