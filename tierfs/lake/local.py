"""A directory as a lake (``file://``): the embedded default that needs no server.

A version is the file's identity by stat: modification and change time, size and inode number. Reads
check it before and after, so bytes of two versions never mix. (A file system with coarse timestamps
can hide a rewrite of the same length within one tick, typically 4 ms, of the stat that named the
version.)

Keys are resolved component by component with ``O_NOFOLLOW``, never as a path, so no key and no link
that somebody makes meanwhile leads out of the root. A link to a regular file is shown as that file
if its target lies under the root; other links, and what is neither file nor directory, are
unlistable. Writing is in `tierfs.lake.local_writing`; what it keeps in the root is no key.

Blocking calls run in worker threads.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping, Sequence
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
from tierfs.lake.content import Call, Outgoing
from tierfs.lake.local_files import INCOMING, names_in, read_metadata
from tierfs.lake.local_listing import LocalListings, version_of
from tierfs.lake.local_uploads import LocalUploads
from tierfs.lake.local_writing import LocalWriter
from tierfs.lake.protocol import (
    Checksum,
    LakeCounters,
    LakeIdentity,
    ListPage,
    ObjectInfo,
    Version,
    check_listing,
)
from tierfs.lake.writing import (
    ALWAYS,
    AS_USUAL,
    NO_METADATA,
    Condition,
    Content,
    FileRange,
    Part,
    Storage,
    Upload,
    WriteLimits,
    Written,
    check_copy,
    check_delete,
    check_metadata,
    check_number,
    check_parts,
)

T = TypeVar("T")

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A FIFO under the root must not hang whoever opens it.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


#: A file's largest offset; parts are there for those who want them.
_NO_LIMIT = (1 << 63) - 1


class LocalLake:
    """The regular files under one directory. Made by `open`."""

    limits = WriteLimits(_NO_LIMIT, 1, _NO_LIMIT, 10_000, _NO_LIMIT)

    def __init__(self, root: bytes, *, max_connections: int = 128) -> None:
        self._root = root
        self._real = os.path.realpath(root)
        self._threads = trio.CapacityLimiter(max(1, max_connections))
        self._listings = LocalListings(self._open_directory, self._link_target)
        self._writer = LocalWriter(self._real, self._open_directory, self._open_file)
        self._uploads = LocalUploads(self._writer)
        self.counters = LakeCounters()
        self.ordered = False
        self.identity = LakeIdentity("file", "", "", os.fsdecode(self._real))

    async def head(self, key: bytes, *, checksum: bool = False) -> ObjectInfo:
        """See `Lake.head`. There are no checksums."""

        def once() -> ObjectInfo:
            fd = self._open_marker(key) if key.endswith(b"/") else self._open_file(key)
            try:
                status = os.fstat(fd)
                metadata = read_metadata(fd)
            finally:
                os.close(fd)
            size = status.st_size if stat.S_ISREG(status.st_mode) else 0
            version = version_of(status)
            return ObjectInfo(key, size, status.st_mtime_ns, version, metadata=metadata)

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

    async def put(
        self,
        key: bytes,
        content: Content,
        crc64nvme: int,
        *,
        metadata: Mapping[str, str] = NO_METADATA,
        content_type: str = "",
        storage: Storage = AS_USUAL,
        condition: Condition = ALWAYS,
    ) -> Written:
        """See `WritableLake.put`."""
        check_metadata(metadata)
        _check_storage(storage)
        self.counters.put_requests += 1
        with Outgoing(content) as body:
            written = await self._in_thread(
                "write a file",
                key,
                lambda: self._writer.put(key, body, crc64nvme, metadata, condition),
            )
            self.counters.bytes_written += body.length
            return written

    async def begin_upload(
        self,
        key: bytes,
        *,
        metadata: Mapping[str, str] = NO_METADATA,
        content_type: str = "",
        storage: Storage = AS_USUAL,
    ) -> Upload:
        """See `WritableLake.begin_upload`."""
        check_metadata(metadata)
        _check_storage(storage)
        self.counters.put_requests += 1
        return await self._in_thread(
            "begin an upload", key, lambda: self._uploads.begin(key, metadata)
        )

    async def put_part(
        self, upload: Upload, number: int, content: FileRange, crc64nvme: int
    ) -> Part:
        """See `WritableLake.put_part`."""
        check_number(number, self.limits)
        self.counters.put_requests += 1
        with Outgoing(content) as body:
            part = await self._in_thread(
                "write a part",
                upload.key,
                lambda: self._uploads.put_part(upload, number, body, crc64nvme),
            )
            self.counters.bytes_written += body.length
            return part

    async def complete_upload(
        self,
        upload: Upload,
        parts: Sequence[Part],
        crc64nvme: int,
        size: int,
        *,
        condition: Condition = ALWAYS,
    ) -> Written:
        """See `WritableLake.complete_upload`."""
        check_parts(parts, size)
        self.counters.put_requests += 1
        with Call() as call:
            return await self._in_thread(
                "complete an upload",
                upload.key,
                lambda: self._uploads.complete(upload, parts, crc64nvme, condition, call),
            )

    async def abort_upload(self, upload: Upload) -> None:
        """See `WritableLake.abort_upload`."""
        self.counters.delete_requests += 1
        await self._in_thread("drop an upload", upload.key, lambda: self._uploads.abort(upload))

    async def list_uploads(self, prefix: bytes) -> list[Upload]:
        """See `WritableLake.list_uploads`."""
        self.counters.list_requests += 1
        return await self._in_thread(
            "list uploads", prefix, lambda: self._uploads.in_progress(prefix)
        )

    async def list_parts(self, upload: Upload) -> list[Part]:
        """See `WritableLake.list_parts`."""
        self.counters.list_requests += 1
        return await self._in_thread("list parts", upload.key, lambda: self._uploads.parts(upload))

    async def delete(self, key: bytes, *, condition: Condition = ALWAYS) -> None:
        """See `WritableLake.delete`."""
        check_delete(key, condition)
        self.counters.delete_requests += 1
        await self._in_thread("delete a file", key, lambda: self._writer.delete(key, condition))

    async def copy(
        self,
        source: bytes,
        version: Version,
        target: bytes,
        *,
        metadata: Mapping[str, str] | None = None,
        storage: Storage = AS_USUAL,
        condition: Condition = ALWAYS,
    ) -> Written:
        """See `WritableLake.copy`. The copy's checksum is not computed."""
        check_copy(source, target, metadata)
        _check_storage(storage)
        self.counters.put_requests += 1
        with Call() as call:
            return await self._in_thread(
                "copy a file",
                source,
                lambda: self._writer.copy(source, version, target, metadata, condition, call),
            )

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
        if prefix.startswith(INCOMING + b"/"):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
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

    def _open_marker(self, key: bytes) -> int:
        """A descriptor of the directory *key*, if it is listed as its own marker: if it is empty.
        Raises NotFound, OSError."""
        fd = self._open_directory(key)
        if names_in(fd):
            os.close(fd)
            raise NotFound("the directory is not empty", key)
        return fd

    def _open_beneath(self, key: bytes) -> int:
        head, slash, name = key.rpartition(b"/")
        if name in (b"", b".", b"..") or b"\0" in name or key == INCOMING:
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
        """The key of what the link *key* leads to; None if that is not under the root, or not a
        key."""
        real = os.path.realpath(self._real + b"/" + key)
        base = self._real.rstrip(b"/") + b"/"
        if not real.startswith(base) or real.startswith(base + INCOMING + b"/"):
            return None
        return real[len(base) :]


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


def _check_storage(storage: Storage) -> None:
    if storage != AS_USUAL:
        raise InvalidRequest("a directory has no storage classes, tags or KMS keys")


def _root_missing(root: bytes) -> LakeMissing:
    return LakeMissing("the lake's directory does not exist", root, "create it, or check the URL")
