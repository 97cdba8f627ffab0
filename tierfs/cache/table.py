"""The table of objects in use.

Waits only where an eviction of the same inode is under way. Everything else is plain functions, so
an object is either in the table with its users counted, or the index alone speaks for it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator

import trio

from tierfs.cache.hot import HotBlocks
from tierfs.cache.objects import (
    CachedObject,
    blocks_known,
    check_version,
    close_descriptor,
    new_object,
    restore,
)
from tierfs.cache.recorder import Recorder
from tierfs.cache.space import Health
from tierfs.cache.store import Store
from tierfs.errors import show
from tierfs.index.cache import CacheIndex
from tierfs.index.records import ObjectRef, overhead_bytes

_log = logging.getLogger(__name__)


class ObjectTable:
    """Objects in use by inode. *freed* is told of bytes that left the disk, *doomed* of an inode
    that should be evicted, now that its last user has left."""

    def __init__(
        self,
        index: CacheIndex,
        store: Store,
        hot: HotBlocks,
        health: Health,
        *,
        freed: Callable[[int], None],
        doomed: Callable[[int], None],
    ) -> None:
        self._index = index
        self._store = store
        self._hot = hot
        self._health = health
        self._freed = freed
        self._doomed = doomed
        self._objects: dict[int, CachedObject] = {}
        self._leaving: dict[int, trio.Event] = {}
        self.pinned: dict[int, int] = {}
        self.recorder = Recorder(index, health, self._settle)

    def get(self, ino: int) -> CachedObject | None:
        """The object, if it is in use."""
        return self._objects.get(ino)

    def in_use(self, ino: int) -> bool:
        """Whether *ino* must stay (C6)."""
        return ino in self._objects or ino in self._leaving or ino in self.pinned

    @contextlib.contextmanager
    def leaving(self, inos: Iterable[int]) -> Iterator[None]:
        """Keep out whoever wants to use *inos*, none of which is in use, until the block ends."""
        done = trio.Event()
        leaving = dict.fromkeys(inos, done)
        self._leaving.update(leaving)
        try:
            yield
        finally:
            for ino in leaving:
                del self._leaving[ino]
            done.set()

    async def acquire(self, ino: int, ref: ObjectRef, size: int) -> CachedObject:
        """Become a user of an object; `release` must follow. Raises StaleVersion if the inode is in
        use as another version. Never raises for trouble with the cache."""
        while ino in self._leaving:
            await self._leaving[ino].wait()
        o = self._objects.get(ino)
        if o is not None:
            check_version(o, ref)
        else:
            o = self._load(ino, ref, size)
            self._objects[ino] = o
        o.users += 1
        return o

    def retain(self, o: CachedObject) -> None:
        """One more user of an object in use."""
        o.users += 1

    def release(self, o: CachedObject) -> None:
        """One user less. Plain and quick: what has to wait goes to a task of its own."""
        o.users -= 1
        if o.users == 0:
            self._settle(o)

    def _load(self, ino: int, ref: ObjectRef, size: int) -> CachedObject:
        try:
            return self._restore(ino, ref, size)
        except Exception as error:
            # Too many open files, a disk or an index that fails: nothing is known to be wrong with
            # the cached copy, so it is left alone and the lake serves this use of the object.
            self._health.failed("open a cached copy", error)
            o = new_object(ino, ref, size)
            o.bypass = True
            return o

    def _restore(self, ino: int, ref: ObjectRef, size: int) -> CachedObject:
        file = self._index.file(ino)
        if file is None:
            return new_object(ino, ref, size)
        o = restore(ino, ref, size, file)
        if file.identity != o.identity or file.size != size:
            _log.warning("the cached copy is of another version, dropped: %s", show(ref.key))
            # Its record stays, and is of the other size.
            overhead = file.overhead_bytes - overhead_bytes(size)
            return self._start_over(o, file.present_bytes + overhead)
        if file.present_bytes == 0:
            return o
        if not o.whole:
            blocks_known(o, self._index.blocks(ino))
        try:
            o.fd = self._store.open(ino)
        except FileNotFoundError:
            _log.warning("the cache file is gone, dropped its records: %s", show(ref.key))
            return self._start_over(o, file.present_bytes)
        return o

    def _start_over(self, o: CachedObject, bytes_: int) -> CachedObject:
        o.remove_all()
        self._freed(bytes_)
        self.recorder.mark(o)
        return o

    def discard(self, o: CachedObject) -> None:
        """Throw away the cached copy of an object in use, which starts over."""
        self._hot.forget(o.ino)
        self._freed(o.remove_all())
        close_descriptor(o)
        self.recorder.mark(o)

    def drop_block(self, o: CachedObject, n: int) -> None:
        """Block *n* of the cached copy is wrong: it goes, and a reader fetches it again."""
        self._hot.drop(o.ino, n)
        self._freed(o.remove(n))
        self.recorder.mark(o)

    def _settle(self, o: CachedObject) -> None:
        """Let go of an object without users whose changes are committed."""
        if o.users or self.recorder.pending(o) or self._objects.get(o.ino) is not o:
            return
        del self._objects[o.ino]
        self._hot.passing.discard(o.ino)
        close_descriptor(o)
        if o.unrecorded:
            self._reconcile(o)
        if o.doomed or o.stale:
            self._doomed(o.ino)

    def _reconcile(self, o: CachedObject) -> None:
        """A commit about *o* failed: from here on the index alone speaks for it, so what it does
        not know of is not counted. Bytes without a record are overwritten by the next fill, or go
        with the file or the extent (`tierfs.cache.eviction`)."""
        try:
            file = self._index.file(o.ino)
        except Exception as error:
            self._health.failed("look into the cache index", error)
            return
        self._freed(o.present_bytes - (0 if file is None else file.present_bytes))

    def close(self) -> None:
        """Close every descriptor; for the end of the process's use of the cache."""
        for o in self._objects.values():
            close_descriptor(o)
        self._objects.clear()
