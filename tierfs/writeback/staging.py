"""Staging files: what is written, on the cache's disk, until it is in the lake and after.

::

    staging/<ino, 16 hexadecimal digits>          the present content of a node: written to, read
    staging/<ino>.blocks                        for a moment: what was sealed of it, for a native
                                                front that makes it a cached copy
    staging/<ino>.<content>                       what was closed once (content: by the lsn of that)
                                                  and was written over since: the publisher's,
                                                  changed by nobody

Names live in the journal alone. Whoever writes on after a commit point that is not published yet
*freezes* the content first: the file is renamed aside, so that a publisher that reads it goes on,
and what goes on being written is a copy (a clone where the file system has them), or empty where it
is cut off anyway. The renamed file's existence is all the record there is: a content is in
``<ino>.<content>`` if that is there, else in ``<ino>``.

Blocking calls run in worker threads, which own a duplicate of the descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import trio

from tierfs.cache.workers import Workers, with_own
from tierfs.errors import CacheError, StagingFull
from tierfs.writeback.holds import Lock
from tierfs.writeback.room import Room

T = TypeVar("T")

#: Threads that may wait for the disk at once.
THREADS = 16
#: Shorter writes go to the page cache from the loop's thread: a thread costs more than they do.
DIRECT_WRITE_BYTES = 64 << 10
_NAME = re.compile(r"([0-9a-f]{16})(?:\.([0-9]+))?")
_MODE = 0o640
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_FICLONE = 0x40049409
_COPY_BYTES = 64 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Live:
    """A node in use: its staging file, and who has it open. Changed on the trio thread only."""

    __slots__ = (
        "awaited", "changed", "fd", "first_write_ns", "handles", "idle", "ino", "kept", "lock",
        "seen", "seen_synced", "synced", "writers", "writes",
    )  # fmt: skip

    def __init__(self, ino: int, fd: int, *, changed: bool) -> None:
        self.ino = ino
        self.fd = fd
        #: Written to since the last commit point, or there was none.
        self.changed = changed
        #: When that began, by the wall clock.
        self.first_write_ns = time.time_ns()
        #: On the disk, as far as it was written.
        self.synced = False
        #: How often it was written to.
        self.writes = 0
        #: Where the kernel writes by itself: size, mtime and ctime at the last commit point and at
        #: the last sync, and the content that was last kept (`PassedThrough`).
        self.seen: tuple[int, int, int] | None = None
        self.seen_synced: tuple[int, int, int] | None = None
        self.kept = 0
        self.handles = 0
        self.writers = 0
        #: How many wait until the lake has it.
        self.awaited = 0
        #: Set while there are no writers, or somebody waits until the lake has it.
        self.idle = trio.Event()
        #: Held while a commit point or a freeze is under way: nobody writes.
        self.lock = Lock()


class Staging:
    """The directory ``staging`` of a lake's directory. Raises CacheError, and StagingFull when the
    disk is full."""

    def __init__(self, directory: Path, room: Room) -> None:
        #: What its files take, and who has to wait for more.
        self.room = room
        self._root = directory / "staging"
        self._root.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._workers = Workers(THREADS)
        #: Where files are made: in one directory, which is locked for each.
        self._makers = Workers(1)
        #: Whether a copy takes no room of its own.
        self._clones = self._can_clone()

    def close(self) -> None:
        """Let the worker threads end."""
        self._workers.close()
        self._makers.close()

    # Names.

    def path(self, ino: int) -> Path:
        """Where the present content of *ino* is."""
        return self._root / f"{ino:016x}"

    def frozen_path(self, ino: int, content: int) -> Path:
        """Where a content of *ino* is once it was written over."""
        return self._root / f"{ino:016x}.{content}"

    def content(self, ino: int, content: int) -> Path:
        """Where a content of *ino* is now."""
        frozen = self.frozen_path(ino, content)
        return frozen if frozen.exists() else self.path(ino)

    def files(self) -> Iterator[tuple[int, int, Path]]:
        """``(ino, content or 0, path)`` of every staging file but those that are half made."""
        for path in self._root.iterdir():
            match = _NAME.fullmatch(path.name)
            if match is not None:
                yield int(match[1], 16), int(match[2] or "0"), path

    def half_made(self) -> list[Path]:
        """What is no staging file yet: a copy that was cut off."""
        return [path for path in self._root.iterdir() if _NAME.fullmatch(path.name) is None]

    # Room.

    def count(self) -> None:
        """Count what is there, at the start."""
        for ino, content, path in self.files():
            self.room.account.known(ino, content, _taken(path.stat()))

    def measure(self, live: Live) -> int:
        """Count what *live* takes now; returns how much more that is."""
        return self.room.account.set(live.ino, 0, _taken(os.fstat(live.fd)))

    def let_go(self, live: Live) -> None:
        """Nobody uses *live* any more."""
        self.measure(live)
        if os.fstat(live.fd).st_nlink == 0:
            self.room.account.gone(live.ino, 0, handed_over=False)
        os.close(live.fd)

    def copied_by_writing(self, ino: int) -> int:
        """How much a copy of the present content of *ino* would take."""
        return 0 if self._clones else self.room.account.of(ino)

    # Files.

    async def create(self, ino: int) -> int:
        """A descriptor of a new, empty file of *ino*."""
        flags = _FLAGS | os.O_CREAT | os.O_EXCL
        path = self.path(ino)
        return await self._run(
            "create a file", ino, lambda: os.open(path, flags, _MODE), self._makers.run_together
        )

    def open(self, ino: int) -> int:
        """A descriptor of the present content of *ino*. Raises OSError."""
        return os.open(self.path(ino), _FLAGS)

    def remove(self, ino: int, content: int = 0) -> None:
        """Delete the present content of *ino*, or a frozen one; it may be gone."""
        path = self.frozen_path(ino, content) if content else self.path(ino)
        try:
            path.unlink()
            handed_over = False
        except FileNotFoundError:
            handed_over = True
        self.room.account.gone(ino, content, handed_over=handed_over)

    def put_aside(self, ino: int, content: int) -> None:
        """The present content is only the log's any more: *ino* has lost its name."""
        with contextlib.suppress(FileNotFoundError):
            self.path(ino).rename(self.frozen_path(ino, content))
            self.room.account.moved(ino, content)

    async def freeze(self, live: Live, content: int, *, empty: bool) -> None:
        """Keep the present content of *live*, which is *content*, and go on with a copy of it or,
        *empty*, without it. The caller holds ``live.lock``. Where it raises, nothing has changed.
        """

        def work() -> int:
            present, frozen = self.path(live.ino), self.frozen_path(live.ino, content)
            fresh = self._root / f"{live.ino:016x}.new"
            fresh.unlink(missing_ok=True)
            fd = os.open(fresh, _FLAGS | os.O_CREAT | os.O_EXCL, _MODE)
            aside = False
            try:
                if not empty:
                    self._copy(live.fd, fd)
                present.rename(frozen)
                aside = True
                fresh.rename(present)
                self._sync_directory()
            except BaseException:
                os.close(fd)
                if aside:
                    # It is what is open, and would be written over under its other name.
                    frozen.rename(present)
                fresh.unlink(missing_ok=True)
                raise
            return fd

        fd = await self._run("keep what was closed", live.ino, work)
        old, live.fd = live.fd, fd
        os.close(old)
        self.room.account.moved(live.ino, content)
        self.measure(live)

    async def keep(self, live: Live, content: int) -> None:
        """Keep the present content of *live*, which is *content*, in a copy: what is open goes on
        with the file that it has."""

        def work(source: int) -> int:
            fresh = self._root / f"{live.ino:016x}.new"
            fresh.unlink(missing_ok=True)
            fd = os.open(fresh, _FLAGS | os.O_CREAT | os.O_EXCL, _MODE)
            try:
                self._copy(source, fd)
                # What it is a copy of may be known to be on the disk.
                os.fdatasync(fd)
                fresh.rename(self.frozen_path(live.ino, content))
                self._sync_directory()
                return _taken(os.fstat(fd))
            except BaseException:
                fresh.unlink(missing_ok=True)
                raise
            finally:
                os.close(fd)

        # Its last handle may be closed meanwhile.
        taken = await self._with_own("keep what was closed", live, work)
        self.room.account.set(live.ino, content, taken)

    def _can_clone(self) -> bool:
        try:
            with (
                tempfile.TemporaryFile(dir=self._root) as source,
                tempfile.TemporaryFile(dir=self._root) as target,
            ):
                source.write(bytes(4096))
                source.flush()
                fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
        except OSError:
            return False
        return True

    def _copy(self, source: int, target: int) -> None:
        try:
            fcntl.ioctl(target, _FICLONE, source)
            self._clones = True
            return
        except OSError as error:
            if error.errno in _FULL:
                raise
            self._clones = False
        size, at = os.fstat(source).st_size, 0
        while at < size:
            copied = os.copy_file_range(source, target, min(_COPY_BYTES, size - at), at, at)
            if copied == 0:
                break
            at += copied
        os.ftruncate(target, size)

    def _sync_directory(self) -> None:
        fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    # Bytes.

    async def read(self, live: Live, offset: int, length: int) -> bytes:
        """Up to *length* bytes at *offset*."""
        buffer = bytearray(length)
        try:
            got = os.preadv(live.fd, [buffer], offset, os.RWF_NOWAIT)
            if got == length or got == 0 or offset + got >= os.fstat(live.fd).st_size:
                await trio.lowlevel.checkpoint()
                return bytes(memoryview(buffer)[:got])
        except OSError:
            pass  # Not in the page cache, or a file system without the flag.
        return await self._with_own("read a file", live, lambda fd: os.pread(fd, length, offset))

    async def write(self, live: Live, offset: int, data: bytes) -> int:
        """Write *data* at *offset*; returns how much, all of it."""

        def work(fd: int) -> int:
            view, at = memoryview(data), offset
            while view:
                written = os.pwrite(fd, view, at)
                view, at = view[written:], at + written
            return len(data)

        if len(data) <= DIRECT_WRITE_BYTES:
            await trio.lowlevel.checkpoint()
            try:
                return work(live.fd)
            except OSError as error:
                raise self._translated("write to a file", live.ino, error) from error
            finally:
                self.measure(live)
        try:
            return await self._with_own("write to a file", live, work)
        finally:
            self.measure(live)

    async def truncate(self, live: Live, size: int) -> None:
        """Cut off, or lengthen with zeros."""
        await self._with_own("truncate a file", live, lambda fd: os.ftruncate(fd, size))
        self.measure(live)

    async def sync(self, live: Live, *, data_only: bool) -> None:
        """Wait until what was written is on the disk."""
        await self._with_own("sync a file", live, os.fdatasync if data_only else os.fsync)

    async def _with_own(self, op: str, live: Live, function: Callable[[int], T]) -> T:
        return await with_own(live.fd, function, lambda work: self._run(op, live.ino, work))

    async def _run(
        self,
        op: str,
        ino: int,
        function: Callable[[], T],
        run: Callable[[Callable[[], T]], Awaitable[T]] | None = None,
    ) -> T:
        # Whoever is cancelled meanwhile still sees it through: half a write is no answer.
        try:
            with trio.CancelScope(shield=True):
                return await (run or self._workers.run)(function)
        except OSError as error:
            raise self._translated(op, ino, error) from error
        raise AssertionError("unreachable: the scope is shielded")

    def _translated(self, op: str, ino: int, error: OSError) -> CacheError:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            hint = f"{reason}: {self._root}; free space there, or give write-back a larger disk"
            return StagingFull(op, f"inode {ino}", hint)
        return CacheError(op, f"inode {ino}", f"{reason}: {self._root}")


def _taken(status: os.stat_result) -> int:
    return status.st_blocks * 512
