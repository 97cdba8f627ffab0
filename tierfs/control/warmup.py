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
    paths: list[bytes],
    dry_run: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Fetch every object below *paths*; with *dry_run* only count objects, bytes and requests.

    An object that fails is named in the answer and the rest goes on; a full cache ends it, because
    what is fetched from there on would evict what was.
    """
    tally = _Tally(progress)
    full: CacheFull | None = None
    slots = trio.Semaphore(WIDTH)

    async def one(entry: WalkEntry, scope: trio.CancelScope) -> None:
        nonlocal full
        try:
            await front.fetch(entry.ino, entry.reference, entry.size, None, Priority.WARM_UP)
            tally.fetched_objects += 1
            tally.fetched_bytes += entry.size
        except CacheFull as error:
            full = error
            scope.cancel()
        except TierfsError as error:
            tally.failure(entry.path, error)
        finally:
            slots.release()
        await tally.tell()

    async with trio.open_nursery() as nursery:
        for path in paths:
            top = await namespace.resolve(path)
            async for entry in namespace.walk(top.ino):
                tally.objects += 1
                tally.bytes += entry.size
                if front.file_state(entry.ino).complete:
                    tally.cached_objects += 1
                    tally.cached_bytes += entry.size
                else:
                    tally.requests += front.requests_to_fetch(entry.size)
                    if not dry_run:
                        await slots.acquire()
                        nursery.start_soon(one, entry, nursery.cancel_scope)
                await tally.tell()
    if full is not None:
        tally.failure(b"", full)
    return tally.fields()


async def evict_tree(
    namespace: Namespace, front: FrontPort, paths: list[bytes], progress: Progress
) -> tuple[int, int]:
    """Evict what is cached below *paths* and not in use. Returns (files, bytes)."""
    files = size = 0
    for path in paths:
        top = await namespace.resolve(path)
        async for entry in namespace.walk(top.ino):
            freed = await front.evict(entry.ino)
            if freed:
                files += 1
                size += freed
    return files, size
