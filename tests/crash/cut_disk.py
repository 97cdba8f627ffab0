"""A disk whose power can be cut: it forgets what it was not made to keep.

``python -m tests.crash.cut_disk DIRECTORY STATE MIB`` shows one file, ``DIRECTORY/image``, that a
loop device makes a disk of. It keeps two images in STATE: what the file holds *now*, and what is
*durable*: all that was written before the last flush that has returned. On standard input it takes

``cut SEED``
    have ready what a power cut would leave now: what is durable, and of the writes since then some,
    in their order, and some torn between two sectors. Answers the number of these writes, and of
    those that were kept.
``restore``
    the file holds that, and all of it is durable.
``lie``
    from now on no flush makes anything durable.
``quit``

and answers each with a line. One thread does all of it, so a cut falls between two requests.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

import pyfuse3
import trio

_INO = 2
_NAME = b"image"
#: What a disk writes whole or not at all.
SECTOR = 512
#: Of the writes that no flush has followed: those that the disk has written all the same, and, of
#: the others, those that it was writing.
KEPT, TORN = 0.5, 0.2


class Disk:
    """The two images, and the writes between them."""

    def __init__(self, state: Path, size: int) -> None:
        self.size = size
        #: It says that it has flushed, and has not.
        self.lies = False
        self._state = state
        for name in ("now", "durable"):
            with (state / name).open("wb") as file:
                file.truncate(size)
        self._open()

    def _open(self) -> None:
        self.now, self._durable = (
            os.open(self._state / name, os.O_RDWR) for name in ("now", "durable")
        )
        self._pending: list[tuple[int, bytes]] = []

    def write(self, offset: int, data: bytes) -> None:
        _write(self.now, offset, data)
        self._pending.append((offset, data))

    def flush(self) -> None:
        if self.lies:
            return
        for offset, data in self._pending:
            _write(self._durable, offset, data)
        self._pending.clear()

    def cut(self, seed: int) -> tuple[int, int]:
        """See the module; gives (writes that were not durable, those of them that were kept)."""
        choose = random.Random(seed)
        left = self._state / "left"
        _copy(self._state / "durable", left)
        kept = 0
        fd = os.open(left, os.O_RDWR)
        try:
            for offset, data in self._pending:
                if choose.random() < KEPT:
                    kept += 1
                    _write(fd, offset, data)
                elif choose.random() < TORN:
                    _write(fd, offset, data[: SECTOR * choose.randrange(len(data) // SECTOR + 1)])
        finally:
            os.close(fd)
        return len(self._pending), kept

    def restore(self) -> None:
        """See the module."""
        for fd in (self.now, self._durable):
            os.close(fd)
        (self._state / "left").replace(self._state / "now")
        _copy(self._state / "now", self._state / "durable")
        self._open()


def _write(fd: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _copy(source: Path, target: Path) -> None:
    """A copy with the same holes."""
    with source.open("rb") as old, target.open("wb") as new:
        size = os.fstat(old.fileno()).st_size
        new.truncate(size)
        at = 0
        while True:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                return
            end = os.lseek(old.fileno(), at, os.SEEK_HOLE)
            old.seek(at)
            new.seek(at)
            while at < end:
                at += new.write(old.read(min(end - at, 1 << 20)))
            new.flush()


class Operations(pyfuse3.Operations):
    """One file in one directory."""

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self._disk = disk

    async def getattr(self, inode: int, ctx: Any = None) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        is_file = inode == _INO
        entry.st_mode = stat.S_IFREG | 0o600 if is_file else stat.S_IFDIR | 0o700
        entry.st_size = self._disk.size if is_file else 0
        entry.entry_timeout = entry.attr_timeout = 0
        return entry

    async def lookup(
        self, parent_inode: int, name: bytes, ctx: Any = None
    ) -> pyfuse3.EntryAttributes:
        if name != _NAME:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(_INO)

    async def setattr(self, inode: int, *_: Any) -> pyfuse3.EntryAttributes:
        return await self.getattr(inode)

    async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        # Past the page cache: what the device is told it has, and in that order.
        return pyfuse3.FileInfo(fh=1, direct_io=True)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        return os.pread(self._disk.now, size, off)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        self._disk.write(off, bytes(buf))
        return len(buf)

    async def fsync(self, fh: int, datasync: bool) -> None:
        self._disk.flush()

    async def flush(self, fh: int) -> None:
        pass  # Of the file; nothing that a disk hears of.


async def _listen(disk: Disk) -> None:
    """Carry out what comes on standard input, until it ends."""
    received = b""
    async with trio.lowlevel.FdStream(os.dup(0)) as stream:
        while data := await stream.receive_some():
            received += data
            while b"\n" in received:
                line, _, received = received.partition(b"\n")
                words = line.split()
                if words[0] == b"cut":
                    print(*disk.cut(int(words[1])), flush=True)
                elif words[0] == b"restore":
                    disk.restore()
                    print("restored", flush=True)
                elif words[0] == b"lie":
                    disk.lies = True
                    print("lies", flush=True)
                else:
                    return


def main(directory: str, state: str, mib: str) -> None:
    """See the module."""
    Path(state).mkdir(exist_ok=True)
    disk = Disk(Path(state), int(mib) << 20)
    options = {*pyfuse3.default_options, "fsname=cut-disk"}
    pyfuse3.init(Operations(disk), directory, options)

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pyfuse3.main)
            print("ready", flush=True)
            await _listen(disk)
            nursery.cancel_scope.cancel()

    try:
        trio.run(serve)
    finally:
        with contextlib.suppress(RuntimeError):
            pyfuse3.close(unmount=True)
        shutil.rmtree(state, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
