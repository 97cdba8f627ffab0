"""The front in Python: handles, reads, and the port's commands, all on one trio loop.

`PythonFront` wires the parts of `tierfs.cache` together and adds what belongs to handles: which
streams they carry (`tierfs.readahead.streams`) and when an access begins. One read goes
`PythonFront.read` -> `Reader.now`, or `StreamDetector.note` -> `Reader.ahead` and `Reader.read`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio

from tierfs.cache.blocks import Buffer, identity_of
from tierfs.cache.budget import Budget, Priority
from tierfs.cache.completion import Completion
from tierfs.cache.eviction import Evictor
from tierfs.cache.fetch import WHOLE_OBJECT_BYTES, Fetcher
from tierfs.cache.hot import HotBlocks
from tierfs.cache.objects import CachedObject
from tierfs.cache.reader import Reader
from tierfs.cache.space import Capacity, Claim, Health, disk_space_of
from tierfs.cache.store import DISK_THREADS, Store
from tierfs.cache.table import ObjectTable
from tierfs.clock import Clock, SystemClock
from tierfs.errors import CacheError, CacheFull, InvalidRequest, TierfsError, show
from tierfs.front.accesses import AccessLog, OnAccess, OnStall
from tierfs.front.filling import bring, fill
from tierfs.front.port import FileState
from tierfs.index.cache import CacheBatch, CacheIndex
from tierfs.index.records import (
    BLOCK_SIZE,
    BlockRecord,
    CachedFile,
    Extent,
    ObjectRef,
    overhead_bytes,
)
from tierfs.lake.protocol import Lake, LakeCounters
from tierfs.readahead.policy import AdaptivePolicy, EvictionPolicy, Incoming
from tierfs.readahead.streams import (
    MAX_WINDOW_BYTES,
    RANDOM,
    Advice,
    OpenStreams,
    StreamDetector,
)

#: Verified blocks kept in memory, at most, and at most this part of all memory.
HOT_BYTES = 32 << 20
HOT_SHARE = 8
#: How long an end waits for the disk to take what has come from the lake.
KEEP_S = 2.0
#: Files and extents chosen in one go: choosing takes the loop's thread for some 50 us a file.
EVICT_AT_ONCE = 64

_log = logging.getLogger(__name__)


class _Handle:
    __slots__ = ("object", "pid", "streams")

    def __init__(self, o: CachedObject, streams: StreamDetector | None, pid: int) -> None:
        self.object = o
        self.streams = streams
        #: Who opened it.
        self.pid = pid


class PythonFront:
    """A `FrontPort` that also serves handles. `start` before use, `aclose` after.

    *directory* is the lake's own in the cache root; *memory* bounds buffers and requests in flight,
    in bytes; *path_of* names an inode in log lines and may raise a TierfsError.
    """

    def __init__(
        self,
        index: CacheIndex,
        lake: Lake,
        directory: Path,
        background: trio.Nursery,
        *,
        cache_size: int | None,
        min_free: float,
        memory: int,
        max_requests: int = 64,
        path_of: Callable[[int], bytes] | None = None,
        policy: EvictionPolicy | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._index = index
        self._background = background
        self._clock = clock or SystemClock()
        self._path_of = path_of
        self._policy = policy or AdaptivePolicy(index)
        self._accesses = AccessLog(index, self._policy.accessed)
        self._handles: dict[int, _Handle] = {}
        self._next_fh = 1
        self._nursery: trio.Nursery | None = None
        self._ended = trio.Event()
        #: Told of an inode whose bytes, read so far, turned out to be wrong: nobody may keep them.
        self.on_content_dropped: Callable[[int], None] | None = None

        self._hot = HotBlocks(min(HOT_BYTES, memory // HOT_SHARE))
        # What worker threads read into is taken off, too, as far as there is that much.
        workers = min(DISK_THREADS * BLOCK_SIZE, memory // 4)
        self._budget = Budget(memory - self._hot.capacity_bytes - workers, max_requests)
        self._window_bytes = min(MAX_WINDOW_BYTES, self._budget.total_bytes // 8)
        self._streams = OpenStreams(self._window_bytes)
        self._health = Health()
        self._store = Store(directory)
        cached = index.totals()
        if cached.files == 0:
            self._store.start_over()
        root = os.fsencode(directory)
        self._capacity = Capacity(
            cache_size,
            min_free,
            cached.disk_bytes,
            disk=lambda: disk_space_of(root),
            evict=self._make_room,
        )
        self._table = ObjectTable(
            index,
            self._store,
            self._hot,
            self._health,
            freed=self._capacity.freed,
            doomed=self._doomed,
        )
        self._evictor = Evictor(
            index, self._table, self._store, self._hot, self._capacity, self._health
        )
        self._completion = Completion(
            lake,
            self._table,
            index,
            self._store,
            spawn=self._spawn,
            dropped=self._content_dropped,
        )
        self._fetcher = Fetcher(
            lake,
            self._table,
            self._store,
            self._hot,
            self._budget,
            self._capacity,
            self._health,
            spawn=self._spawn,
            filled=self._completion.filled,
        )
        self._reader = Reader(
            index,
            self._table,
            self._store,
            self._hot,
            self._fetcher,
            self._health,
            describe=self._describe,
        )

    # ---- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the tasks that record, report and fetch, in the nursery given."""
        await self._background.start(self._run)

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._table.recorder.run)
                nursery.start_soon(self._accesses.run)
                nursery.start_soon(self._store.sweep)
                nursery.start_soon(self._store.patience.run)
                task_status.started()
        finally:
            self._nursery = None
            self._ended.set()

    async def aclose(self) -> None:
        """Give up what is being fetched, keep what was, close every file. Idempotent."""
        # What readers have been answered from is on its way into the cache.
        with trio.move_on_after(KEEP_S):
            await self._fetcher.settle()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
            await self._ended.wait()
        await self._table.recorder.drain()
        self._accesses.report()
        self._handles.clear()
        self._table.close()
        self._store.close()

    def _spawn(self, fn: Callable[..., Any], *args: Any) -> None:
        if self._nursery is None:
            raise InvalidRequest("use a front that is not running")
        self._nursery.start_soon(fn, *args)

    def _content_dropped(self, ino: int) -> None:
        if self.on_content_dropped is not None:
            self.on_content_dropped(ino)

    def _doomed(self, ino: int) -> None:
        # At the end of the front a copy that should go stays for the policy.
        if self._nursery is not None:
            self._nursery.start_soon(self._evictor.evict_one, ino)

    # ---- handles ------------------------------------------------------------------------------

    async def open(self, ino: int, ref: ObjectRef, size: int, pid: int = 0) -> int:
        """A handle on one version of an object, for a thread or process (0: it is not known).
        Handle numbers are never used twice. A small object (up to a block) that is not cached is
        sent for at once.

        Waits only if the inode is just being evicted. Raises StaleVersion if it is open as another
        version. Whether the lake has the bytes shows at the first read.
        """
        o = await self._table.acquire(ino, ref, size)
        self._begin_access(o, pid)
        if o.fd >= 0:
            if size <= BLOCK_SIZE:
                self._store.will_need(o.fd, 0, size)
            if o.whole and not o.complete:
                self._completion.filled(o)
        if size <= BLOCK_SIZE and not o.whole:
            # Its first read asks for all of it, and comes while the lake is already thinking.
            self._reader.ahead(o, 0, size, BLOCK_SIZE, Priority.DEMAND)
        fh = self._next_fh
        self._next_fh += 1
        streams = self._streams.of(ino, size) if size > BLOCK_SIZE else None
        self._handles[fh] = _Handle(o, streams, pid)
        return fh

    async def read(self, fh: int, offset: int, size: int) -> Buffer:
        """Up to *size* bytes at *offset*, short only at the end of the object. Not to be changed:
        they may be the cache's own.

        Raises StaleVersion, IntegrityError and what the lake raises.
        """
        handle = self._handles.get(fh)
        if handle is None:
            raise InvalidRequest("read", f"handle {fh}")
        o = handle.object
        end = min(offset + size, o.size)
        if offset >= end:
            return b""
        advice = self._advise(handle, offset, end - offset)
        data = self._reader.now(o, offset, end)
        if data is not None:
            return data
        # The handle may be closed meanwhile, and the object is not to be another's by then.
        self._table.retain(o)
        try:
            stalled = partial(self._accesses.stalled, handle.pid)
            return await self._reader.read(
                o, offset, end, whole_blocks=advice.sequential, stalled=stalled
            )
        finally:
            self._table.release(o)

    def _advise(self, handle: _Handle, offset: int, length: int) -> Advice:
        """What a read is, after what is to come beside it was sent for."""
        if handle.streams is None:
            return RANDOM
        o = handle.object
        handle.streams.keep_within(self._window_of(o))
        advice = handle.streams.note(offset, length)
        if advice.ahead_hi > advice.ahead_lo:
            self._read_ahead(o, advice.ahead_lo, advice.ahead_hi, advice.part_bytes)
        return advice

    def _window_of(self, o: CachedObject) -> int:
        """How far ahead of who reads *o* in order may be fetched. Whether it will be kept is not
        known before some of it has come; while there is no room, most is not."""
        passes = o.ino in self._hot.passing
        if passes or not (o.is_kept or self._capacity.has_room(self._window_bytes)):
            return min(self._window_bytes, self._hot.window_bytes)
        return self._window_bytes

    async def release(self, fh: int) -> None:
        """Close a handle; an unknown one is a no-op. Does not wait."""
        handle = self._handles.pop(fh, None)
        if handle is not None:
            self._table.release(handle.object)

    def opened(self, ino: int) -> tuple[ObjectRef, int] | None:
        """The version and size that *ino* is open as, or None."""
        o = self._table.get(ino)
        return None if o is None else (o.ref, o.size)

    def _read_ahead(self, o: CachedObject, lo: int, hi: int, part_bytes: int) -> None:
        # The block that the read ends in comes for the read, and sooner alone.
        lo = -(-lo // BLOCK_SIZE) * BLOCK_SIZE
        if hi > lo:
            self._reader.ahead(o, lo, hi, part_bytes, Priority.READ_AHEAD)

    # ---- the port -----------------------------------------------------------------------------

    def tell_accesses(self, told: OnAccess, stalls: OnStall) -> None:
        """See `FrontPort.tell_accesses`."""
        self._accesses.told, self._accesses.told_stalls = told, stalls

    async def fetch(
        self,
        ino: int,
        ref: ObjectRef,
        size: int,
        extent: tuple[int, int] | None,
        priority: Priority,
    ) -> int:
        """See `FrontPort.fetch`."""
        o = await self._table.acquire(ino, ref, size)
        try:
            o.last_used_s = self._clock.now_ns() // 1_000_000_000
            lo, hi = extent or (0, size)
            return await bring(self._reader, self._fetcher, o, max(lo, 0), min(hi, size), priority)
        finally:
            self._table.release(o)

    async def fill(self, files: Sequence[tuple[int, ObjectRef, int]]) -> int:
        """See `FrontPort.fill`."""
        return await fill(self.fetch, files)

    async def evict(self, ino: int, extents: Sequence[Extent] | None = None) -> int:
        """See `FrontPort.evict`."""
        return await self._evictor.evict_one(ino, extents)

    async def evict_all(self) -> tuple[int, int]:
        """See `FrontPort.evict_all`."""
        return await self._evictor.evict_all()

    async def adopt(
        self, ino: int, ref: ObjectRef, size: int, path: Path, blocks: Mapping[int, BlockRecord]
    ) -> bool:
        """The file at *path*, all of whose *blocks* were compared with what the lake has, becomes
        the cached copy of an object, if there is room. Returns whether it did; if not, the object
        is fetched when it is read."""
        if self._table.in_use(ino):
            return False
        try:
            claim = Claim(ino, Priority.WARM_UP)
            needed = size + overhead_bytes(size)
            reservation = await self._capacity.reserve(needed, claim, written=True)
        except CacheFull:
            return False
        try:
            if self._table.in_use(ino):
                return False
            with self._table.leaving([ino]):
                self._hot.forget(ino)
                old = self._index.file(ino)
                verified = self._store.take_in(ino, path)
                if verified is None:
                    return False
                batch = CacheBatch()
                batch.drop_file(ino)
                batch.put_file(ino, self._adopted(ref, size, verified))
                batch.put_blocks(ino, blocks)
                try:
                    await self._index.commit(batch)
                except CacheError:
                    # Room on the disk that would be in no account.
                    await self._store.unlink([ino])
                    raise
                if old is not None:
                    self._capacity.freed(old.present_bytes + old.overhead_bytes)
                self._capacity.spend(reservation, needed)
                return True
        finally:
            self._capacity.release(reservation)

    def rewritten(self, ino: int) -> None:
        """*ino* is written to: blocks of it in memory are of what it was."""
        self._hot.forget(ino)

    async def renamed(self, ino: int, old: ObjectRef, ref: ObjectRef) -> None:
        """The object *old* is *ref* now, with the same bytes: so is its cached copy."""
        file = self._index.file(ino)
        if self._table.in_use(ino) or file is None or file.identity != identity_of(old):
            return
        with self._table.leaving([ino]):
            batch = CacheBatch()
            batch.put_file(ino, file._replace(identity=identity_of(ref)))
            await self._index.commit(batch)

    def _adopted(self, ref: ObjectRef, size: int, verified: tuple[int, int]) -> CachedFile:
        return CachedFile(
            identity=identity_of(ref),
            size=size,
            present_bytes=0,
            complete=True,
            checksum_ok=True,
            verified_boot=self._completion.boot,
            verified_size=verified[0],
            verified_ctime_ns=verified[1],
            last_used_s=self._clock.now_ns() // 1_000_000_000,
        )

    def pin(self, ino: int) -> None:
        """See `FrontPort.pin`."""
        self._table.pinned[ino] = self._table.pinned.get(ino, 0) + 1

    def unpin(self, ino: int) -> None:
        """See `FrontPort.unpin`."""
        pins = self._table.pinned.get(ino, 0)
        if pins > 1:
            self._table.pinned[ino] = pins - 1
        else:
            self._table.pinned.pop(ino, None)

    async def invalidate(self, ino: int) -> None:
        """See `FrontPort.invalidate`."""
        o = self._table.get(ino)
        if o is not None:
            o.stale = o.doomed = True
        else:
            await self._evictor.evict_one(ino)

    @property
    def capacity(self) -> Capacity:
        """The account of the cache's disk, which what is written shares."""
        return self._capacity

    def cached_bytes(self) -> int:
        """See `FrontPort.cached_bytes`."""
        return self._capacity.used_bytes

    @property
    def limit_bytes(self) -> int | None:
        """See `FrontPort.limit_bytes`."""
        return self._capacity.limit_bytes

    async def resize(self, limit_bytes: int | None) -> None:
        """See `FrontPort.resize`."""
        await self._capacity.resize(limit_bytes)

    def file_state(self, ino: int) -> FileState:
        """See `FrontPort.file_state`."""
        o = self._table.get(ino)
        if o is not None:
            present, whole = o.present_bytes, o.whole
        else:
            file = self._index.file(ino)
            if file is None:
                return FileState(0, False, None)
            present, whole = file.present_bytes, file.present_bytes == file.size
        return FileState(present, whole, os.fsdecode(self._store.path(ino)) if present else None)

    def requests_to_fetch(self, size: int) -> int:
        """See `FrontPort.requests_to_fetch`."""
        return -(-size // WHOLE_OBJECT_BYTES)

    def lake_counters(self) -> LakeCounters:
        """See `FrontPort.lake_counters`: nothing."""
        return LakeCounters()

    def stats(self) -> dict[str, Any]:
        """See `FrontPort.stats`."""
        cached = self._index.totals()
        reader, fetcher, evictor = self._reader, self._fetcher, self._evictor
        return {
            "cached_files": cached.files,
            "cached_bytes": cached.present_bytes,
            "limit_bytes": self.limit_bytes,
            "used_bytes": self._capacity.used_bytes,
            "reserved_bytes": self._capacity.reserved_bytes,
            "hits": reader.hits,
            "misses": reader.misses,
            "hit_bytes": reader.hit_bytes,
            "miss_bytes": reader.miss_bytes,
            "bytes_from_lake": fetcher.bytes_from_lake,
            "bad_blocks": reader.bad_blocks,
            "checksum_failures": fetcher.checksum_failures + self._completion.mismatches,
            "declined": fetcher.declined,
            "declined_bytes": fetcher.declined_bytes,
            "evicted_files": evictor.evicted_files,
            "evicted_extents": evictor.evicted_extents,
            "evicted_bytes": evictor.evicted_bytes,
            "open_handles": len(self._handles),
            "in_flight": fetcher.in_flight,
            "buffer_bytes": self._budget.used_bytes,
            "buffer_limit_bytes": self._budget.total_bytes,
            "waiting_requests": self._budget.waiting,
            "hot_bytes": self._hot.used_bytes,
            "streaming": self._health.streaming,
            "streaming_reason": self._health.reason,
            "disk_errors": self._health.errors,
        }

    # ---- accesses and room --------------------------------------------------------------------

    def _begin_access(self, o: CachedObject, pid: int) -> None:
        now_ns = self._clock.now_ns()
        o.last_used_s = now_ns // 1_000_000_000
        self._accesses.add(o.ino, now_ns, pid)

    async def _make_room(self, bytes_: int, claim: Claim | None) -> bool:
        """See `tierfs.cache.space.Evict`."""
        incoming = None
        if claim is not None:
            incoming = Incoming(
                claim.ino,
                ahead=claim.priority is Priority.FILL,
                warm_up=claim.priority is Priority.WARM_UP,
            )
        freed = 0
        while freed < bytes_:
            try:
                victims = self._policy.choose_victims(
                    bytes_ - freed, EVICT_AT_ONCE, self._table.in_use, incoming
                )
            except Exception as error:
                # The index fails: no room, so reads stream (C8).
                self._health.failed("choose what to evict", error)
                break
            if victims is None:
                return False
            got = await self._evictor.evict(victims)
            if got == 0:
                break
            freed += got
        return True

    def _describe(self, o: CachedObject) -> str:
        if self._path_of is not None:
            try:
                return show(self._path_of(o.ino))
            except TierfsError:
                pass  # A version that no path names any more.
        return show(o.ref.key)
