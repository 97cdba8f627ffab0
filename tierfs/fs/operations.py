"""The pyfuse3 front: each FUSE request becomes one call of a domain function, and its answer a
reply.

Nothing is decided here. The boundary is `boundary`: a `TierfsError` becomes its errno, anything
unexpected is logged with its trace and becomes EIO; neither ends pyfuse3's loop, which would hang
the mount.

Facts of the kernel that this module rests on:

F1. FLUSH answered ENOSYS once is never sent again on that mount, and close(2) succeeds all the
    same: right where nothing is ever written, and nowhere else.
F2. An inode number stands for one version of one object (a new version is a new inode), so the page
    cache of an inode is never stale and every open keeps it (``keep_cache``).
F3. ESTALE on OPEN makes the kernel look the path up again and open what it finds.
F4. ``st_ino`` 0 in an entry reply is a cached absence.
"""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import pyfuse3

from tierfs.errors import TierfsError
from tierfs.front.python import PythonFront
from tierfs.fs.attributes import MAX_TTL_S
from tierfs.fs.errno import errno_of, is_quiet
from tierfs.fs.handles import DirectoryHandle, HandleTable
from tierfs.fs.view import KIND_BITS, Names, Opened, View
from tierfs.namespace import Absent, Attributes
from tierfs.writeback.files import WRITE_FLAGS

log = logging.getLogger(__name__)

#: READDIR offsets of the two entries that are in every directory; real ones are inode numbers >=
#: 16.
_DOT, _DOT_DOT = 1, 2
#: The lake has no capacity: `df` shows 1 PiB, all of it free, so that no monitor calls it full.
_STATFS_BYTES = 1 << 50
_STATFS_BLOCK = 4096

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound="Operations")


def boundary(
    handler: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Let nothing but FUSEError (and trio's cancellation) out of a request handler."""

    async def guarded(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await handler(self, *args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except TierfsError as error:
            if not is_quiet(error):
                log.warning("%s: %s", handler.__name__, error)
            raise pyfuse3.FUSEError(errno_of(error)) from None
        except Exception:
            log.exception("%s: unexpected error, answered EIO", handler.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from None

    functools.update_wrapper(guarded, handler)
    return guarded


class Operations(pyfuse3.Operations):
    """The request handlers of one mount. *on_init* is called when the kernel has said INIT."""

    #: Of this front, for `tierfs.control.commands.Serving`.
    name = "python"
    supports_dot_lookup = True
    enable_writeback_cache = False
    #: What a refused change is told.
    why_read_only = "this mount shows the lake read-only"

    def __init__(self, namespace: Names, front: PythonFront, on_init: Callable[[], None]) -> None:
        super().__init__()
        self._namespace = namespace
        self._front = front
        self._on_init = on_init
        self._directories = HandleTable()
        self._view = View(namespace, front, self._opened, why_read_only=self.why_read_only)

    @property
    def open_directories(self) -> int:
        """How many directory handles the kernel holds (a gauge)."""
        return len(self._directories)

    async def describe(self) -> dict[str, Any]:
        """There is nothing more to say of this front."""
        return {}

    def init(self) -> None:
        self._on_init()

    def _opened(self, ino: int) -> Opened | None:
        opened = self._front.opened(ino)
        return None if opened is None else Opened(*opened)

    # ---- names -------------------------------------------------------------------------------

    @boundary
    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        attributes = self._namespace.lookup_cached(parent_inode, name)
        if attributes is None:
            try:
                attributes = await self._namespace.lookup(parent_inode, name)
            except Absent as absent:
                entry = pyfuse3.EntryAttributes()
                entry.st_ino = 0  # F4
                entry.entry_timeout = min(absent.ttl_s, MAX_TTL_S)
                return entry
        return fill(pyfuse3.EntryAttributes(), attributes)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Inode numbers are stable and never reused, so nothing hangs on the kernel's counts."""

    @boundary
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return fill(pyfuse3.EntryAttributes(), self._view.attributes(inode))

    @boundary
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        return self._directories.add(DirectoryHandle(inode))

    @boundary
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        handle = self._directories.get(fh)
        if handle is None:
            raise pyfuse3.FUSEError(errno.EBADF)
        entry = pyfuse3.EntryAttributes()
        reply = pyfuse3.readdir_reply
        position = start_id
        if position < _DOT_DOT:
            own = self._namespace.attributes(handle.ino)
            for number, name in ((_DOT, b"."), (_DOT_DOT, b"..")):
                if position < number:
                    if not reply(token, name, fill(entry, own), number):
                        return
                    position = number
        if position == _DOT_DOT:
            position = 0
        while True:
            found = await handle.next_entry(position, self._namespace.readdir)
            if found is None:
                return
            position, name, attributes = found
            if not reply(token, name, fill(entry, attributes), position):
                return
            handle.accept(found)

    @boundary
    async def releasedir(self, fh: int) -> None:
        self._directories.remove(fh)

    @boundary
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Nothing is dirty."""

    @boundary
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        return await self._namespace.read_link(inode)

    # ---- bytes -------------------------------------------------------------------------------

    @boundary
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        if flags & WRITE_FLAGS:
            self._view.refuse_change(inode, "open for writing")
        found = self._namespace.object_cached(inode)
        if found is None:
            found = await self._namespace.open_object(inode)
        reference, size = found
        fh = await self._front.open(inode, reference, size, ctx.pid)
        return pyfuse3.FileInfo(fh=fh, keep_cache=True)  # F2

    @boundary
    async def read(self, fh: int, off: int, size: int) -> bytes:
        # pyfuse3 takes any buffer, and copies it to the kernel before anything else runs.
        return cast(bytes, await self._front.read(fh, off, size))

    @boundary
    async def flush(self, fh: int) -> None:
        """There is nothing to flush on this mount, and never will be (F1)."""
        raise pyfuse3.FUSEError(errno.ENOSYS)

    @boundary
    async def fsync(self, fh: int, datasync: bool) -> None:
        """Nothing is dirty."""

    @boundary
    async def release(self, fh: int) -> None:
        await self._front.release(fh)

    # ---- attributes --------------------------------------------------------------------------

    @boundary
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = _STATFS_BLOCK
        total_bytes, free_bytes = self._space()
        data.f_blocks = total_bytes // _STATFS_BLOCK
        data.f_bfree = data.f_bavail = free_bytes // _STATFS_BLOCK
        known = self._namespace.entry_count()
        data.f_files = known + (1 << 32)
        data.f_ffree = data.f_favail = 1 << 32
        data.f_namemax = 255
        return data

    def _space(self) -> tuple[int, int]:
        """How much there is room for in all, and how much of it is free, in bytes."""
        return _STATFS_BYTES, _STATFS_BYTES

    @boundary
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        return await self._view.xattr(inode, name, ctx.uid)

    @boundary
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        """Empty on purpose: what a listing shows, ``cp -a`` and ``rsync -X`` copy."""
        return ()

    # ---- everything that would change the lake -----------------------------------------------

    @boundary
    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        self._view.refuse_change(inode, "change attributes")
        raise AssertionError("unreachable")

    async def _refuse_in(self, parent: int, op: str) -> Any:
        self._view.refuse_change(parent, op)

    @boundary
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> Any:
        return await self._refuse_in(parent_inode, "create a file")

    @boundary
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> Any:
        return await self._refuse_in(parent_inode, "create a node")

    @boundary
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> Any:
        return await self._refuse_in(parent_inode, "make a directory")

    @boundary
    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> Any:
        return await self._refuse_in(parent_inode, "remove a file")

    @boundary
    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> Any:
        return await self._refuse_in(parent_inode, "remove a directory")

    @boundary
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> Any:
        return await self._refuse_in(parent_inode, "make a symbolic link")

    @boundary
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> Any:
        return await self._refuse_in(parent_inode_old, "rename")

    @boundary
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> Any:
        return await self._refuse_in(new_parent_inode, "make a hard link")

    @boundary
    async def setxattr(
        self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext
    ) -> Any:
        return await self._refuse_in(inode, "set an extended attribute")

    @boundary
    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> Any:
        return await self._refuse_in(inode, "remove an extended attribute")


def fill(entry: pyfuse3.EntryAttributes, attributes: Attributes) -> pyfuse3.EntryAttributes:
    """Write *attributes* into *entry*, fresh or with its reply already copied out; returns it."""
    ttl_s = attributes.ttl_s
    if ttl_s > MAX_TTL_S:
        ttl_s = MAX_TTL_S
    size = attributes.size
    entry.st_ino = attributes.ino
    entry.entry_timeout = ttl_s
    entry.attr_timeout = ttl_s
    entry.st_mode = KIND_BITS[attributes.kind] | attributes.mode
    entry.st_uid = attributes.uid
    entry.st_gid = attributes.gid
    entry.st_size = size
    entry.st_blocks = (size + 511) >> 9
    mtime_ns = attributes.mtime_ns
    entry.st_mtime_ns = mtime_ns
    entry.st_atime_ns = mtime_ns
    entry.st_ctime_ns = mtime_ns
    return entry
