"""A directory as a lake (``file://``): the embedded default that needs no server.

A version is the file's identity by stat: modification and change time, size and inode number. Reads
check it before and after, so bytes of two versions never mix. (A file system with coarse timestamps
can hide a rewrite of the same length within one tick, typically 4 ms, of the stat that named the
version.)

Keys are resolved component by component with ``O_NOFOLLOW``, never as a path, so no key and no link
that somebody makes meanwhile leads out of the root. A link to a regular file is shown as that file
if its target lies under the root; other links, and what is neither file nor directory, are
unlistable.

Blocking calls run in worker threads.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import TypeVar

import trio

from tierfs.errors import (
    InvalidRequest,
    LakeDenied,
    LakeMissing,
    LakeProtocolError,
    LakeUnavailable,
    NotFound,
    PreconditionFailed,
)
from tierfs.lake.local_listing import LocalListings, version_of
from tierfs.lake.protocol import (
    Checksum,
    LakeCounters,
    LakeIdentity,
    ListPage,
    ObjectInfo,
    Version,
    check_listing,
)

T = TypeVar("T")

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL})
_DENIED = frozenset({errno.EACCES, errno.EPERM})
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A FIFO under the root must not hang whoever opens it.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class LocalLake:
    """The regular files under one directory. Made by `open`."""

    def __init__(self, root: bytes, *, max_connections: int = 64) -> None:
        self._root = root
        self._real = os.path.realpath(root)
        self._threads = trio.CapacityLimiter(max(1, max_connections))
        self._listings = LocalListings(self._open_directory, self._link_target)
        self.counters = LakeCounters()
        self.ordered = False
        self.identity = LakeIdentity("file", "", "", os.fsdecode(self._real))

    async def head(self, key: bytes, *, checksum: bool = False) -> ObjectInfo:
        """See `Lake.head`. There are no checksums."""

        def once() -> ObjectInfo:
            fd = self._open_file(key)
            try:
                status = os.fstat(fd)
            finally:
                os.close(fd)
            return ObjectInfo(key, status.st_size, status.st_mtime_ns, version_of(status))

        self.counters.head_requests += 1
        return await self._in_thread("look up a file", key, once)

    async def list_page(
        self,
        prefix: bytes,
        *,
        token: bytes | None = None,
        max_keys: int = 1000,
        recursive: bool = False,
        start_after: bytes = b"",
    ) -> ListPage:
        """See `Lake.list_page`. Entries come in the directory's own order."""
        check_listing(prefix, token, start_after)

        def once() -> ListPage:
            try:
                return self._listings.page(prefix, token, max(1, max_keys), recursive, start_after)
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
            if not os.path.isdir(self._root):  # noqa: PTH112 - a bytes path.
                raise _root_missing(self._root)
            return ListPage()

        self.counters.list_requests += 1
        return await self._in_thread("list", prefix, once)

    async def get(self, key: bytes, version: Version, offset: int, length: int) -> bytes:
        """See `Lake.get`."""
        if length <= 0 or offset < 0:
            raise InvalidRequest("a range must hold bytes", key)
        return await self._read(key, version, offset, length, whole=False)

    async def get_whole(
        self, key: bytes, version: Version, size: int, *, checksum: bool = True
    ) -> tuple[bytes, Checksum | None]:
        """See `Lake.get_whole`. There are no checksums."""
        return await self._read(key, version, 0, size, whole=True), None

    async def _read(
        self, key: bytes, version: Version, offset: int, length: int, *, whole: bool
    ) -> bytes:
        def once() -> bytes:
            try:
                fd = self._open_file(key)
            except (NotFound, OSError) as error:
                if isinstance(error, OSError) and error.errno not in _ABSENT:
                    raise
                raise PreconditionFailed("the file is gone", key) from None
            try:
                status = os.fstat(fd)
                if version_of(status) != version:
                    raise PreconditionFailed("the file has changed", key)
                if whole and status.st_size != length:
                    raise LakeProtocolError("the file has another length than asked for", key)
                body = _read_exactly(fd, offset, length)
                if version_of(os.fstat(fd)) != version:
                    raise PreconditionFailed("the file has changed", key)
            finally:
                os.close(fd)
            if len(body) != length:
                raise LakeProtocolError("a range lies beyond the file's end", key)
            return body

        self.counters.get_requests += 1
        body = await self._in_thread("read a file", key, once)
        self.counters.bytes_read += len(body)
        return body

    async def source(self) -> None:
        """See `Lake.source`: none, files are read here."""

    async def source_changed(self) -> None:
        """See `Lake.source_changed`: never."""
        await trio.sleep_forever()

    async def check(self, *, allow_empty: bool = False) -> None:
        """See `Lake.check`. An empty root directory is a lake like any other."""

        def once() -> None:
            try:
                os.close(os.open(self._real, _DIRECTORY))
                with os.scandir(self._real) as entries:
                    next(entries, None)
            except OSError as error:
                if error.errno in _ABSENT:
                    raise _root_missing(self._root) from None
                raise

        await self._in_thread("list", self._root, once)

    async def aclose(self) -> None:
        """See `Lake.aclose`."""
        await trio.to_thread.run_sync(self._listings.close)

    async def _in_thread(self, op: str, subject: bytes, function: Callable[[], T]) -> T:
        def translated() -> T:
            try:
                return function()
            except OSError as error:
                reason = error.strerror or str(error)
                if error.errno in _ABSENT:
                    raise NotFound(op, subject, reason) from None
                if error.errno in _DENIED:
                    raise LakeDenied(op, subject, reason) from None
                raise LakeUnavailable(op, subject, reason) from None

        return await trio.to_thread.run_sync(
            translated, abandon_on_cancel=True, limiter=self._threads
        )

    # In worker threads

    def _open_directory(self, prefix: bytes) -> int:
        """A descriptor of the directory *prefix* (``b""`` or ending in ``/``). Raises OSError."""
        fd = os.open(self._real, _DIRECTORY)
        for part in prefix.split(b"/")[:-1]:
            try:
                if part in (b"", b".", b"..") or b"\0" in part:
                    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
                deeper = os.open(part, _DIRECTORY, dir_fd=fd)
            finally:
                os.close(fd)
            fd = deeper
        return fd

    def _open_file(self, key: bytes) -> int:
        """A descriptor of the regular file that *key* names. Raises NotFound, OSError."""
        fd = self._open_beneath(key)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise NotFound("not a regular file", key)
        return fd

    def _open_beneath(self, key: bytes) -> int:
        head, slash, name = key.rpartition(b"/")
        if name in (b"", b".", b"..") or b"\0" in name:
            raise NotFound("no such file", key)
        directory = self._open_directory(head + slash)
        try:
            try:
                return os.open(name, _FILE, dir_fd=directory)
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
            target = self._link_target(key)
            if target is None:
                raise NotFound("the link leads out of the lake", key)
        finally:
            os.close(directory)
        # The target holds no links, unless one was put there just now: that is refused here.
        head, slash, name = target.rpartition(b"/")
        directory = self._open_directory(head + slash)
        try:
            return os.open(name, _FILE, dir_fd=directory)
        finally:
            os.close(directory)

    def _link_target(self, key: bytes) -> bytes | None:
        """The key of what the link *key* leads to; None if that is not under the root."""
        real = os.path.realpath(self._real + b"/" + key)
        base = self._real.rstrip(b"/") + b"/"
        return real[len(base) :] if real.startswith(base) else None


def _read_exactly(fd: int, offset: int, length: int) -> bytes:
    """*length* bytes at *offset*, or fewer at the file's end."""
    body = os.pread(fd, length, offset)
    if len(body) == length or not body:
        return body
    pieces = [body]
    got = len(body)
    while got < length:
        piece = os.pread(fd, length - got, offset + got)
        if not piece:
            break
        pieces.append(piece)
        got += len(piece)
    return b"".join(pieces)


def _root_missing(root: bytes) -> LakeMissing:
    return LakeMissing("the lake's directory does not exist", root, "create it, or check the URL")
