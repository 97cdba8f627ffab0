"""Cache files: ``objects/ab/cd/<ino, 16 hexadecimal digits>``, one sparse file for each object
version.

``ab`` and ``cd`` are the third and the second lowest byte of the inode number: 256 files that were
named one after another share a directory, so that a fill does not spend its time on making
directories. Offsets in the file are offsets in the object; what is not recorded in the index is not
there, whatever the file holds.

Reading tries the page cache on the caller's thread first (``RWF_NOWAIT``). What is not there yet is
waited for with `patience`, and read in a worker thread if that was in vain. Whoever
waits owns a duplicate of the descriptor: a thread that hangs in a dying disk is left behind, and
the number it holds is never reused under it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

import trio

from tierfs import mountinfo
from tierfs.allocation import UNSUPPORTED, punch_hole
from tierfs.cache.blocks import Buffer, seal
from tierfs.cache.patience import Patience
from tierfs.cache.workers import Workers, with_own
from tierfs.index.records import BLOCK_SIZE, BlockRecord, Extent

T = TypeVar("T")
#: A block to be written: its number, its offset in the object, its bytes.
Piece: TypeAlias = "tuple[int, int, Buffer]"

_log = logging.getLogger(__name__)

#: Threads that may wait for the cache disk at once.
DISK_THREADS = 16
#: A disk that does not answer for this long is treated as failing. Worst cases of healthy NVMe
#: under writeback are well under a second, of a spinning disk a few.
PATIENCE_S = 20.0
#: Reads up to this long wait for the page cache before they take a thread: a block.
PATIENT_BYTES = BLOCK_SIZE
#: Writes up to this long are those of small files, of which many come in one turn of the loop.
SMALL_BYTES = 256 << 10

_DIRECTORY_MODE = 0o750
_FILE_MODE = 0o640
_NOT_HERE = frozenset({errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


def cache_path(root: bytes, ino: int) -> bytes:
    """Where the cache file of *ino* is below *root*, which is ``objects`` of a lake's directory."""
    return b"%s/%02x/%02x/%016x" % (root, ino >> 16 & 0xFF, ino >> 8 & 0xFF, ino)


class Store:
    """The files under ``<directory>/objects``. Raises OSError as the operating system gives it."""

    def __init__(self, directory: Path) -> None:
        self._root = os.fsencode(directory / "objects")
        self._workers = Workers(DISK_THREADS)
        #: Whoever uses the store runs it; without that a read that waits takes a thread.
        self.patience = Patience()
        Path(os.fsdecode(self._root)).mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        self._in_memory = _is_in_memory(self._root)
        #: Whether the file system can free a part of a file, as far as is known.
        self.punches = True

    def start_over(self) -> None:
        """Put every cache file aside, for `sweep` to delete: the index knows none of them any
        more."""
        for n in itertools.count():
            aside = self._root + b".old-%d" % n
            try:
                Path(os.fsdecode(self._root)).rename(os.fsdecode(aside))
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                continue
            break
        Path(os.fsdecode(self._root)).mkdir(_DIRECTORY_MODE)

    async def sweep(self) -> None:
        """Delete what `start_over` has put aside, now or before an earlier end of this process."""
        await trio.to_thread.run_sync(self._sweep, abandon_on_cancel=True)

    def _sweep(self) -> None:
        root = Path(os.fsdecode(self._root))
        # What cannot be found or deleted now is left to the next start.
        with contextlib.suppress(OSError):
            for aside in root.parent.glob(root.name + ".old-*"):
                shutil.rmtree(aside, ignore_errors=True)

    def path(self, ino: int) -> bytes:
        """Where the cache file of *ino* is, or would be."""
        return cache_path(self._root, ino)

    def open(self, ino: int) -> int:
        """A read-write descriptor of an existing cache file. Raises FileNotFoundError and
        others."""
        return os.open(self.path(ino), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)

    def take_in(self, ino: int, path: Path) -> tuple[int, int] | None:
        """The file at *path*, on the same file system, becomes the cache file of *ino*; its size
        and ctime in nanoseconds, or None if it is gone."""
        target = Path(os.fsdecode(self.path(ino)))
        target.parent.mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
        try:
            path.rename(target)
        except FileNotFoundError:
            return None
        status = target.stat()
        return status.st_size, status.st_ctime_ns

    async def create(self, ino: int, pieces: Sequence[Piece]) -> tuple[int, dict[int, BlockRecord]]:
        """A descriptor of a new cache file with these blocks (`write_blocks`), and their records;
        what a killed process left there is cut off.

        The caller has recorded the file in the index before (C3).
        """
        given_up: list[bool] = []
        made: list[int] = []
        write = _Write(pieces)

        def work() -> dict[int, BlockRecord]:
            fd = self._create(ino)
            try:
                records = write(fd)
            except BaseException:
                os.close(fd)
                raise
            made.append(fd)
            if given_up:
                _close_last(made)
            return records

        try:
            records = await self._runner_of(write)(work)
        except BaseException:
            # The worker may still come to an end; whoever finds the descriptor closes it.
            given_up.append(True)
            _close_last(made)
            raise
        return made.pop(), records

    def _create(self, ino: int) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        path = self.path(ino)
        try:
            return os.open(path, flags, _FILE_MODE)
        except FileNotFoundError:
            Path(os.fsdecode(path)).parent.mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
            return os.open(path, flags, _FILE_MODE)

    async def unlink(self, inos: Sequence[int]) -> list[int]:
        """Remove cache files; gives those that are gone, whether or not they were there before."""
        return await self._in_thread(lambda: self._unlink(tuple(inos)))

    def _unlink(self, inos: Sequence[int]) -> list[int]:
        gone = []
        for ino in inos:
            try:
                Path(os.fsdecode(self.path(ino))).unlink(missing_ok=True)
            except OSError:
                continue
            gone.append(ino)
        return gone

    async def punch(self, ino: int, extents: Sequence[Extent]) -> None:
        """Free the bytes of *extents* in a cache file that nobody has open; a file that is gone
        has none. Raises OSError; if this file system cannot do it, `punches` is false from then on.
        """
        given_up: list[bool] = []

        def work() -> None:
            # Left behind by its caller, who lets others fill the file again, it punches no more.
            # What it is in the middle of is safe: the kernel lets no write to the file pass it.
            with contextlib.suppress(FileNotFoundError):
                fd = self.open(ino)
                try:
                    for extent in extents:
                        if not given_up:
                            punch_hole(fd, *extent)
                finally:
                    os.close(fd)

        try:
            await self._in_thread(work)
        except OSError as error:
            if error.errno in UNSUPPORTED and self.punches:
                self.punches = False
                _log.warning(
                    "the cache's file system cannot free parts of a file (%s): "
                    "incomplete files are evicted whole",
                    error.strerror,
                )
            raise
        finally:
            given_up.append(True)

    def read_now(self, fd: int, offset: int, length: int) -> bytearray | None:
        """Up to *length* bytes without waiting for a disk, or None if that cannot be had."""
        buffer = bytearray(length)
        try:
            got = os.preadv(fd, [buffer], offset, 0 if self._in_memory else os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in _NOT_HERE:
                return None
            raise
        return buffer if got == length else None

    async def read(self, fd: int, offset: int, length: int) -> Buffer:
        """The bytes at *offset*, fewer than *length* if the file ends. Waits for the page cache if
        that may do, else in a worker thread."""
        if length <= PATIENT_BYTES and not self._in_memory:
            data = await self._read_patiently(fd, offset, length)
            if data is not None:
                return data
        return await with_own(fd, lambda own: _pread(own, offset, length), self._in_thread)

    async def _read_patiently(self, fd: int, offset: int, length: int) -> bytearray | None:
        own = os.dup(fd)
        try:
            read = _Patient(own, offset, length)
            came = read.advance()
            if not came:
                # By itself a read that must not wait starts a small read-ahead at most.
                self.will_need(own, offset, length)
                came = await self.patience.until(read.advance)
        finally:
            os.close(own)
        return read.data if came else None

    async def write_blocks(self, fd: int, pieces: Sequence[Piece]) -> dict[int, BlockRecord]:
        """Write whole blocks and give their records.

        The bytes are in the page cache when this returns (C2), not necessarily on the disk.
        """
        write = _Write(pieces)
        return await with_own(fd, write, self._runner_of(write))

    def close(self) -> None:
        """Let the worker threads end."""
        self._workers.close()

    def will_need(self, fd: int, offset: int, length: int) -> None:
        """Have the kernel start reading; does not wait for the disk, and never raises."""
        try:
            os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)
        except OSError:
            return

    async def _in_thread(self, fn: Callable[[], T]) -> T:
        """Run *fn* in a worker; after `PATIENCE_S` leave it behind and raise ETIMEDOUT."""
        return await self._soon(self._workers.run(fn))

    async def _in_company(self, fn: Callable[[], T]) -> T:
        """As `_in_thread`, for what takes a moment."""
        return await self._soon(self._workers.run_together(fn))

    def _runner_of(self, write: _Write) -> Callable[[Callable[[], T]], Awaitable[T]]:
        return self._in_company if write.small else self._in_thread

    async def _soon(self, result: Awaitable[T]) -> T:
        with trio.move_on_after(PATIENCE_S):
            return await result
        raise OSError(errno.ETIMEDOUT, "the cache disk does not answer")


class _Patient:
    """A read that takes what the page cache has, attempt by attempt."""

    __slots__ = ("_fd", "_offset", "_rest", "data")

    def __init__(self, fd: int, offset: int, length: int) -> None:
        self.data = bytearray(length)
        self._fd = fd
        self._offset = offset
        self._rest = memoryview(self.data)

    def advance(self) -> bool:
        """Whether all of it is here now. Does not wait; raises OSError."""
        try:
            got = os.preadv(self._fd, [self._rest], self._offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in _NOT_HERE:
                return False
            raise
        self._offset += got
        self._rest = self._rest[got:]
        return not self._rest


def _pread(fd: int, offset: int, length: int) -> bytes:
    data = os.pread(fd, length, offset)
    while len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def _close_last(descriptors: list[int]) -> None:
    with contextlib.suppress(IndexError):
        os.close(descriptors.pop())


class _Write:
    """Writes whole blocks to a descriptor, and gives their records.

    They are sealed from memory, before the disk has had a chance to change anything; where they are
    *small*, at once: 12 us for 110 KB, in which a worker thread would give the interpreter lock
    away twice, and the busy loop stand in its way both times.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces
        self.small = sum(len(data) for _, _, data in pieces) <= SMALL_BYTES
        self._records = {n: seal(data) for n, _, data in pieces} if self.small else {}

    def __call__(self, fd: int) -> dict[int, BlockRecord]:
        records = self._records
        for n, offset, data in self._pieces:
            view = memoryview(data)
            if not self.small:
                records[n] = seal(view)
            while view:
                written = os.pwrite(fd, view, offset)
                view = view[written:]
                offset += written
        return records


def _is_in_memory(path: bytes) -> bool:
    """Whether *path* lies on tmpfs, which has no RWF_NOWAIT and needs none."""
    device = Path(os.fsdecode(path)).stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        table = mountinfo.mounts()
    except OSError:
        return False
    return any(e.device == wanted and e.fs_type in (b"tmpfs", b"ramfs") for e in table)
